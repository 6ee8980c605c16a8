"""Checkpoints: after a kill the same call goes on, and pays for nothing twice."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driver import functions
from driver.shared import (
    SMALL,
    X0,
    compilations,
    host_plateau,
    plateau,
    same,
    same_result,
)

import gfopt
from gfopt import Status
from gfopt.driver import checkpoint as checkpoints
from gfopt.driver import storage
from gfopt.driver.storage import read_records


class Killed(BaseException):
    """Leaves on the disk what a SIGKILL leaves: nothing is written any more."""


class Mortal:
    """An objective that is killed in some of its calls, and counts those that end."""

    def __init__(self, fun: Any = host_plateau, *deaths: int):
        self.fun, self.deaths = fun, set(deaths)
        self.began = self.ended = 0

    def __call__(self, x: Any, *args: Any, **words: Any) -> Any:
        jax.tree.map(np.asarray, x)  # a tracer ends here
        self.began += 1
        if self.began in self.deaths:
            raise Killed
        value = self.fun(x, *args, **words)
        self.ended += 1
        return value


def minimize(fun: Any, path: Any = None, x0: Any = X0, **words: Any) -> gfopt.Result:
    return gfopt.minimize(fun, x0, checkpoint=path, **(SMALL | {"budget": 21} | words))


def through_deaths(fun: Any, path: Any, **words: Any) -> gfopt.Result:
    """Calls ``minimize`` again until it is not killed."""
    for _ in range(20):
        try:
            return minimize(fun, path, **words)
        except Killed:
            continue
    raise AssertionError("it was killed again and again")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.gfopt"


@pytest.fixture(params=[False, True], ids=["journal", "snapshots"])
def often(request, monkeypatch):
    """With a snapshot before every generation, and with hardly any."""
    if request.param:
        monkeypatch.setattr("gfopt.driver.minimisation.SAVE_SECONDS", 0.0)
        monkeypatch.setattr("gfopt.driver.minimisation.SAVE_SHARE", math.inf)
    return request.param


@pytest.fixture(scope="module")
def straight():
    return minimize(host_plateau)


# ---- killed


def test_repeated_kills_cost_the_calls_that_they_hit(often, path, straight):
    fun = Mortal(host_plateau, 1, 2, 6, 7, 12, 19, 22)
    found = through_deaths(fun, path)
    same_result(found, straight)
    assert fun.ended == found.nfev == 21 and fun.began == 28


def run_child(tmp_path: Any, body: str) -> int:
    program = "\n".join(
        [
            "import os, signal, gfopt, gfopt.driver.minimisation as module",
            "from driver import functions",
            "from driver.shared import SMALL, X0, plateau",
            body,
        ]
    )
    folders = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": folders},
    )
    return done.returncode


def test_sigkill_on_the_host_path(tmp_path, path):
    log, args = tmp_path / "calls", (str(tmp_path / "calls"), 11)
    code = run_child(
        tmp_path,
        f"gfopt.minimize(functions.logged, X0, budget=21, args={args},"
        f" checkpoint={str(path)!r}, **SMALL)",
    )
    assert code == -signal.SIGKILL and len(log.read_text().splitlines()) == 11
    found = minimize(functions.logged, path, args=args)
    same_result(found, minimize(functions.highest))
    lines = log.read_text().splitlines()
    assert found.nfev == 21 and len(lines) == 22
    assert lines[10] == lines[11]  # the call that was killed is the only one made twice
    assert len(set(lines)) == 21


def test_sigkill_on_the_compiled_path(tmp_path, path):
    code = run_child(
        tmp_path,
        "module.SAVE_SECONDS, module.SAVE_SHARE = 0.0, float('inf')\n"
        "kill = lambda r: r.nit == 4 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "gfopt.minimize(plateau, X0, budget=31, callbacks=kill,"
        f" checkpoint={str(path)!r}, **SMALL)",
    )
    assert code == -signal.SIGKILL
    assert read_records(path).records[0].arrays["state/step"] == 3
    same_result(minimize(plateau, path, budget=31), minimize(plateau, budget=31))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_a_snapshot_is_written(often, path, straight, monkeypatch, when):
    replace, calls = os.replace, []

    def killed(*names: Any) -> None:
        calls.append(names)
        if len(calls) == 2:
            if when == "after":
                replace(*names)
            raise Killed
        replace(*names)

    monkeypatch.setattr(storage.os, "replace", killed)
    fun = Mortal()
    same_result(through_deaths(fun, path), straight)
    assert fun.ended == fun.began == 21 and len(calls) >= 2


def test_a_kill_before_the_first_snapshot(path, straight, monkeypatch):
    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_snapshot", killed)
        with pytest.raises(Killed):
            minimize(host_plateau, path)
    assert read_records(path).records == []
    same_result(minimize(host_plateau, path), straight)


def test_the_probes_call_is_not_paid_for_again(path):
    def fun(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return jnp.sum(x) * 0.0
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return host_plateau(x)

    calls: list[int] = [0] * 4  # the first run is not killed
    straight = minimize(fun)
    calls.clear()
    found = through_deaths(fun, path)
    same_result(found, straight)
    assert found.path == "host" and len(calls) == found.nfev + 1


def test_a_torn_tail_costs_what_it_held(path, straight):
    fun = Mortal(host_plateau, 15)
    with pytest.raises(Killed):
        minimize(fun, path)
    whole = path.read_bytes()
    for cut, lost in ((0, 0), (1, 1), (22, 1), (24, 2)):  # a record has 23 bytes
        path.write_bytes(whole[: len(whole) - cut])
        again = Mortal()
        same_result(minimize(again, path), straight)
        assert again.ended == 7 + lost
    path.write_bytes(whole[:60] + b"?" + whole[61:])
    with pytest.raises(ValueError, match="corrupt|differ|another run"):
        minimize(host_plateau, path)


def test_failures_and_values_that_are_not_finite_are_recorded(often, path):
    def fun(x: Any) -> Any:
        if x[0] > 1.45:
            raise OSError("no disk")
        return np.nan if x[0] > 1.35 else host_plateau(x)

    mortal = Mortal(fun, 3, 8, 14)
    found = through_deaths(mortal, path)
    same_result(found, minimize(Mortal(fun)))
    assert mortal.began - 3 == found.nfev == 21
    assert set(found.failures) == {"OSError: no disk", "returned NaN"}


def test_aux_and_context_go_on(often, path):
    def fun(x: Any, context: Any) -> Any:
        aux = {1: x.copy(), 2: [np.float32(context), (3, None)], 3: ()}
        return host_plateau(x) + float(context), aux

    def update(context: Any, evaluation: Any) -> Any:
        aux = evaluation.aux
        assert isinstance(aux[2][1], tuple) and aux[2][0].dtype == np.float32
        return context + jnp.max(aux[1]) / 3 + aux[2][1][0][0]

    words = {"has_aux": True, "context": np.float64(0.5), "update": update}
    straight = minimize(gfopt.Objective(Mortal(fun), **words))
    mortal = Mortal(fun, 3, 10, 16)
    same_result(through_deaths(gfopt.Objective(mortal, **words), path), straight)
    assert mortal.ended == 21


class Descriptor(NamedTuple):
    x: Any


def test_aux_that_no_record_can_hold_is_refused(path):
    objective = gfopt.Objective(
        lambda x: (host_plateau(x), Descriptor(x)), has_aux=True
    )
    assert minimize(objective).nfev == 21
    with pytest.raises(TypeError, match="aux must be made of dicts, lists, tuples"):
        minimize(objective, path)


def test_an_iterator_of_batches_is_read_on(often, path):
    def data() -> Any:
        for step in range(100):
            yield np.float64(step / 7)

    def fun(x: Any, batch: Any) -> float:
        return host_plateau(x) + float(batch)

    straight = minimize(Mortal(fun), batches=data())
    mortal = Mortal(fun, 5, 6, 13)
    for _ in range(4):
        try:
            found = minimize(mortal, path, batches=data())
        except Killed:
            continue
    same_result(found, straight)
    assert mortal.ended == 21


# ---- finished, and called again


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ({"budget": 20}, Status.BUDGET),
        ({"budget": 18}, Status.BUDGET),  # in the middle of a generation
        ({"budget": 3}, Status.BUDGET),  # of the first
        ({"target": 1.3, "budget": 90}, Status.TARGET),
        ({"batches": [0, 0, 0]}, Status.BUDGET),
    ],
    ids=["budget", "middle", "first", "target", "batches"],
)
@pytest.mark.parametrize("kind", ["compiled", "host"])
def test_a_finished_run_returns_at_once(path, kind, words, status):
    base = plateau if kind == "compiled" else host_plateau
    if "batches" in words:
        fun = Mortal(lambda x, _: host_plateau(x)) if kind == "host" else ignoring
    else:
        fun = Mortal(base) if kind == "host" else base
    first = minimize(fun, path, **words)
    assert first.status == status and first.path == kind
    count = getattr(fun, "ended", 0)
    jax.clear_caches()
    with compilations() as names:
        again = minimize(fun, path, **words)
    same_result(again, first)
    assert names == [] and again.seconds == first.seconds
    assert getattr(fun, "ended", 0) == count
    assert again.optimizer == first.optimizer and again.reason == first.reason


def ignoring(x: Any, batch: Any) -> Any:
    return plateau(x) + 0 * batch


@pytest.mark.parametrize("fun", [plateau, host_plateau], ids=["compiled", "host"])
def test_a_finished_run_within_wrappers_returns_at_once(path, fun):
    """A tree with a fixed leaf, restarts at a larger size, constraints."""
    x0 = {"a": np.array(X0), "b": 2.0}
    words: dict[str, Any] = {
        "bounds": {"a": gfopt.real(-3, 3), "b": gfopt.real(2, 2)},
        "method": gfopt.Restarts(gfopt.CMAES(population_size=4, tol_x=0.1)),
        "options": None,
        "constraints": [lambda x: x["a"][0] - 2],
        "budget": 120,
    }
    first = gfopt.minimize(lambda x: fun(x["a"]), x0, checkpoint=path, **words)
    again = gfopt.minimize(lambda x: fun(x["a"]), x0, checkpoint=path, **words)
    same((again.x, again.state, again.history), (first.x, first.state, first.history))
    assert again.seconds == first.seconds and again.message == first.message


def test_a_finished_run_goes_on_where_it_would_have(path):
    first = minimize(host_plateau, path, budget=9)
    second = minimize(host_plateau, path, budget=None, max_seconds=1e-9)
    assert (first.nfev, second.nfev) == (9, 9) and second.status == Status.SECONDS
    third = minimize(host_plateau, path, budget=13)
    same_result(third, minimize(host_plateau, budget=13))
    met = minimize(host_plateau, path, budget=13, target=1.5)
    assert met.status == Status.TARGET and met.seconds >= third.seconds


def test_a_converged_run_stays_converged(path):
    fun = Mortal(lambda x: float(np.round(x[0] ** 2, 1)))
    words = {"method": "cma_es", "options": None, "budget": 500, "x0": [0.5]}
    first = minimize(fun, path, **words)
    count = fun.ended
    again = minimize(fun, path, **words)
    same_result(again, first)
    assert first.status == Status.CONVERGED and fun.ended == count < 500


@pytest.mark.parametrize("fun", [plateau, host_plateau], ids=["compiled", "host"])
def test_a_larger_budget_goes_on(path, fun):
    straight = minimize(fun, budget=30)
    for budget in (3, 10, 17, 30):
        found = minimize(fun, path, budget=budget)
        assert found.nfev == budget
    same_result(found, straight)
    assert minimize(fun, path, budget=5).nfev >= 5  # a smaller one is used up


def test_a_larger_budget_pays_for_the_rest_only(path):
    fun = Mortal()
    for budget in (3, 10, 17, 30):
        minimize(fun, path, budget=budget)
        assert fun.ended == budget


def test_the_clock_goes_on(path):
    def fun(x: Any) -> float:
        time.sleep(0.05)
        return host_plateau(x)

    first = minimize(fun, path, budget=9)
    again = minimize(fun, path, budget=None, max_seconds=first.seconds / 2)
    assert (again.status, again.nfev) == (Status.SECONDS, 9)
    assert again.seconds > 9 * 0.05  # what the first one slept


def test_a_second_writer_is_refused(often, path, straight):
    refused = []

    def second(result: gfopt.Result) -> None:
        with pytest.raises(RuntimeError, match="held by another writer"):
            minimize(host_plateau, path)
        refused.append(result.nit)

    same_result(minimize(host_plateau, path, callbacks=second), straight)
    assert refused == [1, 2, 3, 4, 5]
