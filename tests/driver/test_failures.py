"""Objectives that raise, hang, crash, return nonsense, or are not what they seem."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import loky
import numpy as np
import pytest
from driver import functions
from driver.shared import SMALL, X0, Recorded, host_plateau, plateau, same

import gfopt
from gfopt import Status


def minimize(fun: Any, x0: Any = X0, **words: Any) -> gfopt.Result:
    return gfopt.minimize(fun, x0, **(SMALL | {"budget": 20} | words))


def sometimes(outcome: Any) -> Any:
    """An objective that misbehaves where the first number is large: in some calls."""

    def fun(x: Any) -> Any:
        if float(x[0]) > 1.55:
            return outcome(x) if callable(outcome) else outcome
        return host_plateau(x)

    return fun


def raises(x: Any) -> Any:
    raise OSError("no disk")


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (raises, "OSError: no disk"),
        (lambda x: [][1], "IndexError: list index out of range"),
        (lambda x: exec("raise SystemError()"), "SystemError"),
        (np.nan, "returned NaN"),
        (-np.inf, "returned an infinity"),
        (np.float32(np.inf), "returned an infinity"),
        (None, "returned no real number, such as None (NoneType)"),
        (np.ones(2), "such as array([1., 1.]) (ndarray of shape (2,))"),
        ([1.0, [2.0]], "such as [1.0, [2.0]] (list)"),
        (1j, "such as 1j (complex)"),
        ("1.0", "such as '1.0' (str)"),
        ((1.0, {}), "(tuple)"),
    ],
)
def test_a_failed_evaluation_is_a_failed_candidate_with_its_reason(outcome, reason):
    fun = Recorded(sometimes(outcome))
    found = minimize(fun)
    failed = sum(x[0] > 1.55 for x in fun.seen)
    assert 0 < failed < 20 and found.nfev == 20
    ((said, count),) = found.failures.items()
    assert count == failed and reason in said
    assert np.isfinite(found.fun) and found.fun == host_plateau(found.x)
    assert 19 - found.history["num_valid"].sum() == failed  # x0 is in no generation
    assert f"{failed} x " in str(found)


def test_of_each_type_of_exception_the_first_traceback_is_shown(caplog):
    raised = iter([OSError("no disk"), OSError("no net"), KeyError(1)] * 99)

    def fails(x: Any) -> Any:
        if x[1] > -0.5:
            raise next(raised)
        return host_plateau(x)

    found = minimize(fails)
    assert sum(found.failures.values()) > len(caplog.records) == 2
    for record, error in zip(caplog.records, ("no disk", "KeyError: 1"), strict=True):
        lines = record.getMessage().splitlines()
        assert lines[0].startswith("an evaluation failed") and error in lines[-1]
        assert "raise next(raised)" in record.getMessage()
        assert record.levelname == "WARNING" and record.name.startswith("gfopt.")


def test_workers_and_probes_show_a_traceback_too(caplog):
    found = minimize(functions.fails_on_the_right, budget=12, workers=2)
    assert found.failures["ValueError: too far right"] > 1
    (record,) = caplog.records
    assert "in fails_on_the_right" in record.getMessage()
    caplog.clear()

    def fails_for_real(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return jnp.sum(x)
        raise OSError("no disk")

    assert minimize(fails_for_real).failures == {"OSError: no disk": 20}
    assert len(caplog.records) == 1


def test_all_that_fails_ends_early_and_says_why():
    found = minimize(sometimes(raises), [5.0, 0.0], budget=1000)
    assert found.status == Status.FAILED and not found.success
    assert (found.nfev, found.nit) == (41, 10)
    assert found.message == (
        "no valid value in 40 evaluations; most often: OSError: no disk"
    )
    assert np.isnan(found.fun) and found.x.tolist() == [5.0, 0.0]
    assert found.recommended.tolist() == [5.0, 0.0]
    assert np.isnan(found.history["best"]).all()


@pytest.mark.parametrize(
    "method", ["lq_cma_es", "snes", "xnes", "cr_fm_nes", "cma_es", "sep_cma_es"]
)
def test_failures_push_a_search_back_from_the_edge_of_a_region_that_fails(method):
    """The optimum lies on the edge: half of what is near to it fails."""
    found = gfopt.minimize(
        lambda x: jnp.where(x[0] > 0, jnp.nan, jnp.sum(x**2)),
        [-3.0, -2.0],
        bounds=[(-5, 5)] * 2,
        method=method,
        budget=2000,
    )
    assert found.fun < 1e-12 and found.status == Status.CONVERGED
    assert found.failures["returned NaN or an infinity"] > 30


def test_what_was_valid_once_is_not_given_up():
    """A long row of failures says nothing of the next ones."""
    found = minimize(lambda x: jnp.where(x[0] == X0[0], 1.0, jnp.nan), budget=200)
    assert (found.path, found.status, found.nfev) == ("compiled", Status.BUDGET, 200)
    assert found.fun == 1 and found.failures["returned NaN or an infinity"] == 199


def test_all_that_is_nan_ends_early_when_compiled_too():
    found = minimize(lambda x: jnp.nan * x[0], budget=1000)
    assert (found.path, found.status, found.nfev) == ("compiled", Status.FAILED, 41)
    assert found.failures == {"returned NaN or an infinity": 41}  # the probe's, too
    assert np.isnan(found.fun) and found.x.tolist() == X0


def test_the_first_value_of_a_search_counts_as_the_best():
    """What the probe paid for: also where the host path runs after it."""

    def fun(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return jnp.sum(x) * 0.0
        return -100.0 if x.tolist() == X0 else host_plateau(x)

    found = minimize(fun, budget=9)
    assert found.path == "host" and "a real call gave -100" in found.reason
    assert (found.fun, found.nfev) == (-100.0, 9) and found.x.tolist() == X0
    assert found.history["best"].tolist() == [-100.0] * 2
    ended = minimize(fun, target=-100.0)
    assert (ended.status, ended.nfev) == (Status.TARGET, 1)


def test_an_objective_may_write_into_its_argument():
    def vandal(x: Any) -> float:
        value = host_plateau(x)
        x[:] = 1e9
        return value

    found = minimize(vandal)
    same(found.x, minimize(host_plateau).x)
    x0 = {"a": np.array(X0)}
    tree = minimize(lambda x: [host_plateau(x["a"]), x["a"].fill(7)][0], x0)
    same(tree.x, minimize(lambda x: host_plateau(x["a"]), x0).x)


class Impure:
    """Counts its calls: traceable, and yet to be called for real each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any) -> Any:
        if not isinstance(x, jax.core.Tracer):
            self.calls += 1
            return plateau(x)
        self.calls += 0.5  # a trace, which is no evaluation
        return plateau(x)


def test_a_function_that_counts_is_called_for_real():
    fun = Impure()
    found = minimize(fun)
    assert found.path == "host" and "changes variables" in found.reason
    assert fun.calls == found.nfev + 1  # two traces


def test_numpy_randomness_is_drawn_anew_each_time():
    generator = np.random.default_rng(0)
    found = minimize(lambda x: plateau(x) * 0 + generator.normal())
    assert found.path == "host" and "two programs" in found.reason
    assert len(np.unique(found.history["fitness"])) == 5


# ---- aux


def with_aux(aux: Any) -> Any:
    return gfopt.Objective(lambda x: (host_plateau(x), aux(x)), has_aux=True)


def test_a_failure_has_no_aux_and_the_others_keep_theirs():
    seen = []

    def update(context: Any, evaluation: Any) -> Any:
        seen.append((np.asarray(evaluation.valid), evaluation.aux))
        return context + 1

    def fun(x: Any, context: Any) -> Any:
        if float(x[0]) > 1.6 or 1 <= context <= 2:
            raise OSError
        return host_plateau(x), {"x": x, "n": 3}

    objective = gfopt.Objective(fun, has_aux=True, context=0, update=update)
    found = minimize(objective)
    assert found.nit == len(seen) == 4
    for valid, aux in seen:  # also of a generation without one valid row
        assert aux["x"].shape == (4, 2) and aux["n"].tolist() == (3 * valid).tolist()
    assert [valid.sum() for valid, _ in seen[1:3]] == [0, 0] and seen[0][0].any()


def test_aux_before_anything_was_valid():
    calls = []

    def update(context: Any, evaluation: Any) -> Any:
        calls.append(evaluation.aux["x"].shape)
        return context

    objective = gfopt.Objective(
        lambda x, context: float(x[0]) * [][0],
        has_aux=True,
        context=0,
        update=update,
    )
    found = minimize(objective)
    assert found.status == Status.BUDGET and calls == []  # nobody knows its form


@pytest.mark.parametrize(
    "aux",
    [
        lambda x: np.zeros(1 if x[0] > 1.5 else 2),
        lambda x: {"a": 1} if x[0] > 1.5 else {"b": 1},
        lambda x: "a word",
        lambda x: object(),
    ],
    ids=["shape", "structure", "text", "object"],
)
def test_aux_must_be_of_one_form(aux):
    with pytest.raises((TypeError, ValueError), match="aux must be"):
        minimize(with_aux(aux))


def sometimes_a_pair(x: Any) -> Any:
    value = host_plateau(x)
    return (value, x) if value <= 1.5 else value


def test_what_is_no_pair_is_refused_or_a_failure():
    with pytest.raises(ValueError, match=r"a \(number, aux\) pair; got 1.5"):
        minimize(gfopt.Objective(host_plateau, has_aux=True), budget=4)
    fun = gfopt.Objective(sometimes_a_pair, has_aux=True)
    ((reason, count),) = minimize(fun, budget=30).failures.items()
    assert reason.startswith("returned no (number, aux) pair, such as ") and count > 2


def test_a_call_for_many_rows_fails_as_a_whole():
    calls: list[int] = []

    def fun(x: Any) -> Any:
        x = np.asarray(x)
        calls.append(len(x))
        if len(calls) == 3:
            raise OSError("no disk")
        return np.where(x[:, 0] > 1.55, np.nan, np.max(np.abs(x), axis=1))

    found = minimize(gfopt.Objective(fun, batched=True))
    assert found.nfev == 20 and found.failures["OSError: no disk"] == 4
    assert set(found.failures) == {"OSError: no disk", "returned NaN"}
    wrong = gfopt.Objective(lambda x: np.zeros(1 + len(np.asarray(x))), batched=True)
    with pytest.raises(ValueError, match=r"an array of 1 real numbers; got .*\(2,\)"):
        minimize(wrong)


# ---- workers and executors


@pytest.fixture(scope="module")
def inline():
    return minimize(functions.highest, budget=12)


def test_workers_make_the_same_search(inline):
    found = minimize(functions.highest, budget=12, workers=2)
    same(
        (found.x, found.recommended, found.state),
        (inline.x, inline.recommended, inline.state),
    )
    assert "were asked for" in found.reason


def test_calls_that_hang_or_die_cost_themselves_only():
    evaluator = gfopt.host(workers=2, timeout=1.0)
    words = {"budget": 4, "evaluator": evaluator, "seed": 3}
    hung = minimize(functions.slow_on_the_right, **words)
    dead = minimize(functions.deadly_on_the_right, **words)
    evaluator.close()
    fun = Recorded()
    minimize(fun, budget=4, seed=3)
    large = sum(x[0] > 1.5 for x in fun.seen)
    assert 0 < large < 4
    assert hung.failures == {"no result within 1 s": large}
    ((reason, count),) = dead.failures.items()
    assert count == large and "ended with exit code 3" in reason
    same(hung.x, dead.x)


def test_stragglers_are_cut_off_and_count_as_failures() -> None:
    def straggles(x: np.ndarray) -> float:
        time.sleep(0.5 if x[0] > 1.5 else 0.0)
        return functions.highest(x)

    fun = Recorded()
    minimize(fun, budget=9, seed=3)
    large = sum(x[0] > 1.5 for x in fun.seen[1:])
    assert 0 < large < 8
    with ThreadPoolExecutor(16) as threads:
        evaluator = gfopt.host(threads, quorum=0.5)
        result = minimize(straggles, budget=9, seed=3, evaluator=evaluator)
    assert result.nfev == 9 and sum(result.failures.values()) >= 1
    assert all("cut off: enough others" in reason for reason in result.failures)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="quorum must be"):
            gfopt.host(quorum=wrong)


def test_executors(inline):
    with ThreadPoolExecutor(2) as threads:
        found = minimize(functions.highest, budget=12, workers=threads)
        same(found.recommended, inline.recommended)
        assert threads.submit(int).result() == 0  # it is the caller's to shut down
    executor = loky.get_reusable_executor(max_workers=2, timeout=20)
    shipped = minimize(lambda x: host_plateau(x), budget=12, workers=executor)
    same(shipped.recommended, inline.recommended)
    executor.shutdown(wait=True, kill_workers=True)


def test_a_function_that_workers_cannot_load_is_refused():
    with pytest.raises(ValueError, match="fun must be picklable"):
        minimize(lambda x: 0.0, workers=2)


@pytest.mark.parametrize("in_threads", [False, True])
def test_a_retry_gets_what_the_first_attempt_got(in_threads: bool) -> None:
    seen: list[tuple[float, ...]] = []

    def writes_and_fails(x: np.ndarray) -> float:
        is_first = tuple(x) not in seen
        seen.append(tuple(x))
        x -= 1.0
        if is_first:
            raise OSError("busy")
        return float(np.sum((x + 1.0) ** 2))

    executor = ThreadPoolExecutor(1) if in_threads else None
    result = gfopt.minimize(
        writes_and_fails,
        np.array([3.0, 3.0]),
        evaluator=gfopt.host(executor, retries=1),
        budget=8,
    )
    assert result.fun == pytest.approx(np.sum(result.x**2))
    assert len(seen) == 16 and len(set(seen)) == 8
