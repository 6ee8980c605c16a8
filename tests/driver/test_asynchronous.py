"""Workers that never wait: values in any order, and the same from the journal."""

from __future__ import annotations

import pickle
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driver import functions
from driver.shared import same, same_result

import gfopt
from gfopt import Status, registry
from gfopt.driver.loop.value_records import record_to_value
from gfopt.driver.storage.storage import read_records
from gfopt.protocol import as_method
from gfopt.types import Evaluation

FLAGGED = [
    name for name, row in registry.METHODS.items() if "asynchronous" in row.flags
]
X0 = [1.5, -0.5, 0.25]


def value(x: Any) -> float:
    return float(np.sum((np.asarray(x) - 1.0) ** 2))


def start(name: str) -> dict[str, Any]:
    """The arguments of a search by a method, with six candidates a generation."""
    if name == "restarts":  # after every generation, of 6, 12 and again 12
        inner = gfopt.CMAES(sigma=0.5, tol_x=1e9)
        sizes: dict[str, Any] = {"first_size": 6, "largest_size": 12}
        return {"method": gfopt.Restarts(inner, bipop=False, **sizes), "x0": X0}
    options: dict[str, Any] = {"population_size": 6}
    if registry.METHODS[name].tokens:
        options["vocabulary"] = 9
        return {"method": name, "x0": [4, 5, 6, 7], "options": options}
    return {"method": name, "x0": X0, "sigma0": 0.5, "options": options}


def session(name: str = "cma_es", **words: Any) -> gfopt.AskTell:
    return gfopt.AskTell(**(start(name) | {"seed": 1, "asynchronous": True} | words))


def minimize(fun: Any, name: str = "cma_es", workers: int = 1, **words: Any) -> Any:
    given = start(name) | {"seed": 1, "budget": 30, "asynchronous": True} | words
    with ThreadPoolExecutor(workers) as threads:
        evaluator = gfopt.host(threads, workers=workers)
        return gfopt.minimize(fun, evaluator=evaluator, **given)


def test_the_flag_is_the_hook():
    for name, row in registry.METHODS.items():
        options = {"vocabulary": 5} if row.tokens else {}
        says = bool(as_method(registry.method(name, options)).late_members)
        assert says == ("asynchronous" in row.flags), name
    assert {"cma_es", "random_search", "differential_evolution"} <= set(FLAGGED)


@pytest.mark.parametrize("name", FLAGGED)
def test_in_order_it_is_the_search_of_generations(name):
    search, other = session(name), session(name, asynchronous=False)
    for _ in range(20):
        (one,), (two,) = search.ask(1), other.ask(1)
        same(one, two)
        for each in (search, other):
            each.tell(one, value(one.solution))
    same(search.result.state, other.result.state)
    same_result(search.result, other.result)


@pytest.mark.parametrize("bounds", [None, (-9, 9)])
@pytest.mark.parametrize("name", FLAGGED)
def test_late_values_are_told_as_the_protocol_says(name, bounds):
    """The second generation holds the last candidates of the first step."""
    if bounds and registry.METHODS[name].tokens:
        return
    search = session(name, bounds=bounds)
    trials = search.ask(13)
    if not registry.METHODS[name].tokens and name != "differential_evolution":
        trials = trials[1:]  # x0, which is none of its candidates
    first, second = trials[:6], [*reversed(trials[6:12])]
    search.tell(first, [value(trial.solution) for trial in first])
    middle = search.result
    method, state = as_method(middle.optimizer), middle.state
    values = [value(trial.solution) for trial in second]
    search.tell(second[:5], values[:5])
    assert search.result.state.step == 1 and search.result.nit == 1
    search.tell(second[5], values[5])
    with jax.enable_x64(True):
        population = method.ask(jax.random.key(0), state)
        if method.late_members == "encoded":
            told = [method.encode(state, trial.solution) for trial in second]
            members = jax.tree.map(lambda *leaves: jnp.stack(leaves), *told)
        else:  # in their rows: the order in which they came does not matter
            values = values[::-1]
            found = [trial.solution for trial in second[::-1]]
            if name == "random_search":  # a seed is not to be had from outside
                best = found[int(np.argmin(values))]
                np.testing.assert_allclose(search.result.x, search.result.recommended)
                assert value(search.result.x) <= value(best)
                return
            space = method.search_space
            found = found if space is None else [space.search(x) for x in found]
            members = jnp.stack([jnp.asarray(x) for x in found])
        evaluation = Evaluation(jnp.asarray(values), jnp.ones(6, bool))
        expected, _ = method.tell(
            state, population._replace(members=members), evaluation
        )
    for one, other in zip(
        jax.tree.leaves(search.result.state), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FLAGGED)
def test_it_finds_what_it_looks_for_among_stale_values(name):
    search = session(name)
    waiting = search.ask(12)
    rng = np.random.default_rng(3)
    for _ in range(200):
        trial = waiting.pop(rng.integers(12))
        search.tell(trial, None if rng.random() < 0.1 else value(trial.solution))
        waiting += search.ask(1)
    result = search.result
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.recommended))
    assert result.fun < 0.25 * value(start(name)["x0"])
    assert result.nfev == 200 and result.failures["told as failed"] > 5


def test_trials_are_never_used_up_and_each_is_told_once():
    search = session()
    trials = [*search.ask(), *search.ask(20)]
    assert [trial.id for trial in trials] == list(range(26))
    search.tell(trials[3].id, 1.0)
    for wrong, message in [(3, "has a value"), (26, "must have been asked for")]:
        with pytest.raises(ValueError, match=message):
            search.tell([5, wrong], [1.0, 2.0])
    assert search.result.nfev == 1  # nothing of it was taken in
    search.close()  # told with five failures
    assert (search.result.nit, search.result.state.step) == (1, 1)
    search.tell([trial.id for trial in trials[4:]], [1.0] * 22)
    assert (search.result.nfev, search.result.nit) == (23, 4)


def test_what_was_injected_takes_half_a_generation_at_most():
    search = session()
    search.inject([[1.0, 1.0, 1.1]] * 5, [0.01] * 5)
    found = search.result
    assert (found.fun, found.nfev, found.nit) == (0.01, 0, 0)
    for expected in (1, 2, 3):
        trials = search.ask(7)[-4:]
        search.tell(trials, [9.0] * 4)
        assert search.result.nit >= min(expected, 2)
    assert search.result.nfev == 12
    with pytest.warns(UserWarning, match="cannot learn from injected"):
        session("differential_evolution").inject([X0], [1.0])


def test_a_session_is_pickled_with_its_trials_and_forgets_the_oldest(monkeypatch):
    search = session()
    trials = search.ask(15)
    search.tell(trials[2:12], [value(trial.solution) for trial in trials[2:12]])
    copy = pickle.loads(pickle.dumps(search))
    for each in (search, copy):
        each.tell(trials[12:], [1.0, 2.0, 3.0])
    same(search.ask(3), copy.ask(3))
    monkeypatch.setattr("gfopt.driver.trials.any_order.MOST_NUMBERS", 30)
    monkeypatch.setattr("gfopt.driver.trials.any_order.ALWAYS", 4)
    kept = search.ask(10)
    with pytest.raises(ValueError, match="closed long ago"):
        search.tell(trials[0], 1.0)
    search.tell(kept[-4:], [1.0] * 4)


def test_one_worker_makes_the_search_of_generations():
    fun = Counted()
    found = gfopt.minimize(
        fun, **start("cma_es"), seed=1, budget=30, workers=1, asynchronous=True
    )
    expected = gfopt.minimize(fun, **start("cma_es"), seed=1, budget=30, workers=1)
    same_result(found, expected)
    assert found.path == "host" and len(fun.seen) == 60


class Counted:
    """Remembers what it was called with; ends the run by ``error`` at a call."""

    def __init__(self, at: int = -1, error: Any = None, pause: float = 0.0):
        self.seen: list[bytes] = []
        self._at, self._error, self._pause = at, error, pause
        self._lock = threading.Lock()

    def __call__(self, x: np.ndarray) -> float:
        if self._pause:
            time.sleep(self._pause * (x.tobytes()[0] % 7))
        with self._lock:
            self.seen.append(x.tobytes())
            if len(self.seen) == self._at:
                self._error()
        return value(x)


def killed(*_: Any) -> None:
    raise SystemExit  # which nothing catches, as a kill


KILLED = ["cma_es", "random_search", "differential_evolution", "restarts"]


@pytest.mark.parametrize("name", KILLED)
@pytest.mark.parametrize("at", [2, 17])
def test_a_killed_run_goes_on_as_if_nothing_had_been(name, at, tmp_path):
    straight = minimize(Counted(), name)
    fun = Counted(at, killed)
    words = {"workers": 1, "checkpoint": tmp_path / "run"}
    given = start(name) | {"seed": 1, "budget": 30, "asynchronous": True} | words
    with pytest.raises(SystemExit):
        gfopt.minimize(fun, **given)
    found = gfopt.minimize(fun, **given)
    same_result(found, straight)
    assert len(fun.seen) == 31  # the call that was killed is made again


def journal(path: Path) -> list[tuple[int, int, float]]:
    """The values in a checkpoint in the order in which they came."""
    records = [one for one in read_records(path).records if one.kind == "value"]
    return [
        (int(one.arrays["step"]), int(one.arrays["row"]), record_to_value(one).fitness)
        for one in records
    ]


def test_the_journal_is_the_search(tmp_path, monkeypatch):
    """Threads, in an order that nobody knows before; then twice from the journal."""
    monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SECONDS", 1e9)
    path, fun = tmp_path / "run", Counted(pause=0.001)
    with pytest.raises(SystemExit):
        minimize(fun, workers=8, checkpoint=path, callbacks=stop_at(5), budget=100)
    told = journal(path)
    assert 30 <= len(told) <= 38 and any(
        step < i // 6 for i, (step, *_) in enumerate(told)
    )
    copies = [tmp_path / name for name in ("one", "two")]
    for copy in copies:
        shutil.copy(path, copy)
    again = Counted()
    budget = 1 + len(told)
    results = [
        minimize(again, workers=w, checkpoint=copy, budget=budget)
        for w, copy in zip((8, 3), copies, strict=True)
    ]
    assert not again.seen and results[0].nfev == budget
    same_result(*results)

    search = session()  # the same, by the caller's own loop
    search.tell(search.ask(1), [value(X0)])
    trials: dict[tuple[int, int], gfopt.Trial] = {}
    for step, row, fitness in told:
        while (step, row) not in trials:
            now = int(search.result.state.step)
            assert now == step
            count = sum(known[0] == now for known in trials)
            (trials[now, count],) = search.ask(1)
        missing = [r for s, r, _ in told if s == search.result.state.step]
        now = int(search.result.state.step)
        while missing and (now, max(missing)) not in trials:
            count = sum(known[0] == now for known in trials)
            (trials[now, count],) = search.ask(1)
        search.tell(trials[step, row], fitness)
    same(search.result.state, results[0].state)
    # and it goes on, with another number of workers
    more = minimize(again, workers=2, checkpoint=copies[0], budget=budget + 20)
    assert len(again.seen) == 20 and more.nfev == budget + 20
    assert not set(again.seen) & set(fun.seen[:1])


def test_a_snapshot_holds_what_came_early(tmp_path, monkeypatch):
    """Written at every generation, among values of later ones."""
    monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SHARE", 1e9)
    path, fun = tmp_path / "run", Counted(pause=0.001)
    with pytest.raises(SystemExit):
        minimize(fun, workers=8, checkpoint=path, budget=100, callbacks=stop_at(6))
    shutil.copy(path, tmp_path / "other")
    again = Counted()
    words = {"budget": 60, "workers": 1}
    one = minimize(again, checkpoint=path, **words)
    paid = len(again.seen)
    other = minimize(again, checkpoint=tmp_path / "other", **words)
    same_result(one, other)
    assert len(again.seen) == 2 * paid and len(fun.seen) + paid >= 60
    assert not set(again.seen) & set(fun.seen[:36])  # nothing is paid for twice


def test_a_run_is_told_no_candidate_of_the_run_before():
    search = session("restarts")
    trials = search.ask(12)[1:]  # without x0
    search.tell(trials[:6], [9.0] * 6)
    state = search.result.state
    assert (state.step, state.num_restarts, state.num_active) == (1, 1, 12)
    search.tell(trials[6:], [0.5] * 5)  # counts, and may be the best
    assert (search.result.fun, search.result.nfev) == (0.5, 11)
    search.tell(search.ask(11), [8.0] * 11)
    same(search.result.state, state)
    search.tell(search.ask(1), [8.0])
    found = search.result
    assert (found.nfev, found.nit, found.state.fitness) == (23, 2, 8.0)
    assert found.history["nfev"].tolist() == [6, 23]


def test_restarts_come_again_from_the_journal(tmp_path, monkeypatch):
    monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SECONDS", 1e9)
    path, fun = tmp_path / "run", Counted(pause=0.001)
    given = {"name": "restarts", "checkpoint": path}
    with pytest.raises(SystemExit):
        minimize(fun, workers=8, callbacks=stop_at(4), budget=100, **given)
    budget = 1 + len(journal(path))
    shutil.copy(path, tmp_path / "copy")
    again = Counted()
    one = minimize(again, workers=3, budget=budget, **given)
    given["checkpoint"] = tmp_path / "copy"
    same_result(one, minimize(again, budget=budget, **given))
    assert not again.seen and one.state.num_restarts == one.nit >= 4


def stop_at(generation: int) -> Any:
    """A callback that ends the run as a kill does."""

    def stop(result: gfopt.Result) -> None:
        if result.nit == generation:
            raise SystemExit

    return stop


def test_worker_processes_that_hang_or_die_cost_their_calls():
    given = start("cma_es") | {"seed": 3, "budget": 12, "asynchronous": True}
    evaluator = gfopt.host(workers=2, timeout=0.5)
    for fun in (functions.slow_on_the_right, functions.deadly_on_the_right):
        found = gfopt.minimize(fun, **given, evaluator=evaluator)
        assert found.nfev == 12 and 0 < sum(found.failures.values()) < 12
    evaluator.close()


def test_a_run_of_generations_is_another_run(tmp_path):
    minimize(value, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="asynchronous: expected nothing, found True"):
        minimize(value, checkpoint=tmp_path / "run", asynchronous=False)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_loses_nothing_that_was_told(times, tmp_path):
    def press() -> None:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)

    fun = Counted(at=17, error=press)
    words = {"workers": 1, "checkpoint": tmp_path / "run", "callbacks": ()}
    given = start("cma_es") | {"seed": 1, "budget": 40, "asynchronous": True} | words
    found = gfopt.minimize(fun, **given)
    assert (found.status, found.nfev) == (Status.INTERRUPTED, 18 - times)
    after = gfopt.minimize(fun, **given)
    same_result(after, minimize(value, budget=40))
    assert len(fun.seen) == 39 + times


def test_once_it_waits_for_what_is_under_way():
    def fun(x: np.ndarray) -> float:
        with lock:
            calls.append(0)
            number = len(calls)
        if number > 9:
            time.sleep(0.1)
        return value(x)

    lock, calls = threading.Lock(), list[int]()

    def press(result: gfopt.Result) -> None:
        if result.nit == 1:
            signal.raise_signal(signal.SIGINT)

    found = minimize(fun, workers=8, budget=100, callbacks=press)
    assert found.status == Status.INTERRUPTED
    assert found.nfev == len(calls) > 7


def test_failures_and_limits():
    def fails(x: np.ndarray) -> float:
        if x[0] > 1.5:
            raise ValueError("too far")
        time.sleep(0.001)
        return value(x)

    found = minimize(fails, workers=4, budget=60)
    assert found.nfev == 60 and found.failures["ValueError: too far"] > 3
    assert found.history["nfev"].tolist()[-1] == 60
    assert minimize(value, workers=4, target=0.5, budget=200).status == Status.TARGET
    slow = minimize(lambda x: time.sleep(0.02) or value(x), workers=4, max_seconds=0.2)
    assert slow.status in (Status.SECONDS, Status.BUDGET)
    with pytest.raises(ValueError, match="fun must return a real number"):
        minimize(lambda x: "wrong", workers=4)


def test_keys_aux_and_frozen_leaves():
    seen: list[tuple[int, ...]] = []

    def fun(key: Any, x: dict[str, Any], shift: float) -> tuple[float, dict[str, Any]]:
        seen.append(tuple(np.asarray(key).tolist()))
        assert x["fixed"].tolist() == [7.0]
        return value(x["free"]) + shift, {"far": np.float64(x["free"][0])}

    x0 = {"free": np.array(X0), "fixed": np.array([7.0])}
    free, frozen = gfopt.partition(x0, lambda path, leaf: "free" in str(path))
    objective = gfopt.Objective(fun, takes_key=True, has_aux=True)
    found = minimize(objective, workers=4, x0=free, frozen=frozen, args=(2.0,))
    assert found.fun > 2.0 and len(set(seen)) >= 29


def test_the_population_is_as_large_as_the_workers_are_many():
    words = {"options": None, "budget": 40}
    assert minimize(value, workers=12, **words).optimizer.population_size == 12
    assert minimize(value, workers=3, **words).optimizer.population_size is None
    assert minimize(value, workers=12, budget=40).optimizer.population_size == 6


@pytest.mark.parametrize("size, expected", [(3, "cma_es"), (1_500, "sep_cma_es")])
def test_auto_takes_a_method_that_can(size, expected):
    words = {"x0": np.ones(size), "budget": 3, "options": None, "sigma0": None}
    found = minimize(value, workers=2, method="auto", **words).optimizer
    assert registry.row_of(found).name == expected
    names = [type(layer).__name__ for layer in gfopt.protocol.layers(found)]
    assert ("Restarts" in names) == (size == 3)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            {"method": "open_es"},
            "method must be one that takes values in any order.*cma",
        ),
        ({"noisy": True}, "noisy must not be given where asynchronous=True"),
        ({"constraints": lambda x: x[0] - 2}, "constraints must not be given"),
        ({"batches": lambda step, key: 1}, "batches must not be given"),
        ({"evaluator": gfopt.host(workers=1, quorum=0.5)}, "quorum must be 1 where"),
        ({"evaluator": gfopt.host()}, "workers must be a number where asynchronous"),
        ({"evaluator": None}, "workers must be a number where asynchronous"),
        ({"fun": gfopt.Objective(value, batched=True)}, "Objective with batched"),
    ],
)
def test_what_has_no_meaning_is_refused(words, message):
    given = start("cma_es") | {"fun": value, "asynchronous": True} | words
    if "method" in words:
        given["options"] = None
    with pytest.raises(ValueError, match=message):
        gfopt.minimize(**({"evaluator": gfopt.host(workers=1)} | given))
    if "method" in words:
        with pytest.raises(ValueError, match=message):
            gfopt.AskTell("open_es", X0, asynchronous=True)


def test_programs_share_a_study_without_generations(tmp_path):
    path = tmp_path / "study.db"
    given = start("cma_es") | {"seed": 1, "asynchronous": True, "budget": 25}
    one = gfopt.Study(path, **given)
    order: list[int] = []

    def work(number: int) -> None:
        def fun(x: np.ndarray) -> float:
            time.sleep(0.002 * number)
            order.append(number)
            return value(x)

        gfopt.Study(path).work(fun)

    with ThreadPoolExecutor(8) as threads:  # more hands than candidates
        list(threads.map(work, range(8)))
    result = one.result
    assert (result.nfev, len(order)) == (25, 25) and result.status == Status.BUDGET
    same(result.state, gfopt.Study(path).result.state)  # read from the log
