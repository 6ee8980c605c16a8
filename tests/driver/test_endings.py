"""``minimize``: when it ends, who is told on the way, and what comes out."""

from __future__ import annotations

import math
import pickle
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import pytest
from driver.shared import (
    X0,
    Recorded,
    host_plateau,
    minimize,
    plateau,
    same,
    same_result,
)

import gfopt
from gfopt import Status
from gfopt.driver.progress import progress

# ---- the ends


@pytest.mark.parametrize("budget", [1, 3, 4, 5, 9])
def test_a_budget_is_exact(budget):
    fun = Recorded()
    host = minimize(fun, budget=budget)
    assert len(fun.seen) == budget
    for found in (host, minimize(budget=budget)):
        assert found.nfev == budget and found.nit == (budget - 1) // 4
        assert ([1, *found.history["nfev"]])[-1] == budget
        assert found.status == Status.BUDGET and not found.success
        assert found.message == f"budget of {budget} evaluations used"
        assert found.fun == host_plateau(found.x)  # the best is what was evaluated


def test_a_default_budget_follows_the_size():
    assert minimize(budget=None).nfev == 2000


def test_a_target_stops_at_the_first_value_as_good(compiled, hosted):
    fun = Recorded()
    full = minimize(fun, budget=20)
    values = [host_plateau(x) for x in fun.seen]
    index = values.index(min(values[:14]))
    assert index % 4  # in the middle of a generation: x0 is before the first
    found = minimize(host_plateau, target=values[index], budget=20)
    assert (found.status, found.nfev, found.nit) == (
        Status.TARGET,
        index + 1,
        (index - 1) // 4,
    )
    assert found.success and found.fun == values[index]
    assert found.message == f"target reached: {values[index]:.10g}"
    assert found.history["fitness"][-1] == values[index]
    jitted = minimize(target=values[index])
    assert jitted.status == Status.TARGET
    assert jitted.nfev == 1 + 4 * ((index - 1) // 4 + 1)
    assert full.status == Status.BUDGET


def test_a_target_is_met_in_the_precision_of_the_search():
    """0.1 is no float32: the nearest one must count, or the loop never ends."""
    x0 = jnp.array(X0)
    found = minimize(lambda x: jnp.float32(0.1) + 0 * x[0], x0, target=0.1)
    assert (found.status, found.nfev, found.nit) == (Status.TARGET, 1, 0)
    assert "target reached" in str(found)
    found.plot()  # an empty history
    assert minimize(x0=x0, target=-1e300, budget=5).status == Status.BUDGET


def test_time_ends_a_search():
    slow = minimize(
        lambda x: time.sleep(0.02) or host_plateau(x), max_seconds=0.1, budget=None
    )
    assert slow.status == Status.SECONDS and 0 < slow.nfev < 100
    assert "time is up" in slow.message
    none = minimize(max_seconds=0)
    assert (none.status, none.nfev, none.nit) == (Status.SECONDS, 1, 0)
    minimize(budget=50)  # compiles
    long = minimize(max_seconds=2, budget=None)
    assert long.status == Status.SECONDS and long.nfev > 100


def test_a_method_that_stands_still_is_a_success_if_it_has_found_something():
    words: dict[str, Any] = {"method": "cma_es", "budget": 500}
    found = gfopt.minimize(lambda x: 1.0 + 0.0 * float(x), 0.5, **words)
    assert found.status == Status.STALLED and not found.success
    assert found.message == "nothing better than x0: flat = True"
    found = gfopt.minimize(lambda x: float(x == 0.5), 0.5, **words)
    assert found.status == Status.CONVERGED and found.success
    assert found.message == "converged: flat = True"


def test_maximize_turns_every_sign():
    seen = []
    for fun in (plateau, host_plateau):
        found = minimize(fun, maximize=True, callbacks=lambda r: seen.append(r.fun))
        best = found.history["best"]
        assert (
            found.fun == best[-1] == host_plateau(found.x) > host_plateau(np.array(X0))
        )
        assert (np.diff(best) >= 0).all() and best[-1] > best[0] > 0
        assert (found.history["fitness"] <= best).all()
        assert seen[-1] == found.fun and seen == sorted(seen)
        seen.clear()
        reached = minimize(fun, maximize=True, target=float(best[1]))
        assert reached.status == Status.TARGET and reached.fun >= best[1]
        assert reached.nfev < found.nfev
    marked = minimize(gfopt.Objective(plateau, maximize=True))
    assert marked.fun == minimize(maximize=True).fun


# ---- callbacks, progress, batches


@pytest.mark.parametrize("fun", [plateau, host_plateau], ids=["compiled", "host"])
def test_callbacks(fun):
    results: list[gfopt.Result] = []
    full = minimize(fun, callbacks=results.append)
    assert [r.nit for r in results] == list(range(1, full.nit + 1))
    assert all(r.status == Status.RUNNING and not r.success for r in results)
    steps = [int(r.state.step) for r in results]  # none was taken away by the next call
    assert steps == [r.nit for r in results]
    assert [r.recommended.tolist() for r in results[:3]] == [
        minimize(fun, budget=r.nfev).recommended.tolist() for r in results[:3]
    ]

    def stop(result: gfopt.Result) -> Any:
        return result.nit == 2

    def end(result: gfopt.Result) -> None:
        if result.nit == 3:
            raise StopIteration

    def fail(result: gfopt.Result) -> None:
        raise RuntimeError("mine")

    both = minimize(fun, callbacks=[end, stop])
    assert (both.status, both.nit) == (Status.CALLBACK, 2)
    assert minimize(fun, callbacks=(end,)).nit == 3
    with pytest.raises(RuntimeError, match="mine"):
        minimize(fun, callbacks=fail)


def test_progress_on_no_terminal_is_one_line(capsys):
    minimize(progress=True, budget=9)
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "compiling" not in line]
    assert len(lines) <= 2 and "\r" not in error
    assert error.splitlines()[-1].startswith("9 of 9 evaluations, 2 generations, best ")
    minimize(host_plateau, progress=True, budget=None, max_seconds=0.05)
    assert " of " not in capsys.readouterr().err


def test_progress_on_a_terminal_is_a_line_that_changes(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    minimize(progress=True, budget=9)
    error = capsys.readouterr().err
    assert error.startswith("\r") and error.endswith("\n") and error.count("\n") == 1


def test_progress_says_that_it_compiles(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "TICK", 0.001)
    busy = threading.enumerate()

    def slow(x):  # to trace: it waits inside the tracing of this function
        time.sleep(0.5)
        return jnp.sum(x**2)

    with progress.ProgressLine(9.0) as line:
        line.write("3 of 9 evaluations")
        jax.jit(slow)(jnp.zeros(2))
        line.write("9 of 9 evaluations", is_last=True)
    error = capsys.readouterr().err
    assert re.search(r"\r3 of 9 evaluations, compiling for 0 s, \d+ s", error)
    assert re.search(r"\r9 of 9 evaluations, \d+ s *\n$", error)
    assert threading.enumerate() == busy


def with_batch(x: Any, batch: Any) -> Any:
    return jnp.max(jnp.abs(x)) + batch


def on_host(x: Any, batch: Any) -> float:
    return host_plateau(x) + float(batch)


@pytest.mark.parametrize("fun", [with_batch, on_host], ids=["compiled", "host"])
def test_batches(fun):
    data = [np.float64(k) for k in (10, 20, 30)]
    listed = minimize(fun, batches=data)
    assert (
        listed.status == Status.BUDGET and listed.message == "batches came to their end"
    )
    assert (listed.history["fitness"] // 10).tolist() == [1, 2, 3]  # one a generation
    drawn = minimize(fun, batches=(item for item in data))
    same(drawn.history, listed.history)
    called = minimize(fun, batches=lambda step, key: data[min(step, 2)])
    np.testing.assert_array_equal(
        called.history["fitness"][:3], listed.history["fitness"]
    )
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        minimize(fun, batches=[])


def test_batches_are_made_in_the_precision_of_the_search():
    types = []

    def batches(step: Any, key: Any) -> Any:
        types.append(jnp.zeros(()).dtype)
        return np.float64(step)

    minimize(with_batch, batches=batches, budget=9)
    assert set(types) == {np.dtype("float64")}


# ---- the result


def test_a_result_prints_as_a_small_table(compiled):
    text = str(compiled).splitlines()
    names = [line.split()[0] for line in text]
    assert names == "fun x recommended success message nfev method path noise".split()
    assert (
        len({line.index(line.split()[0]) + len(line.split()[0]) for line in text}) == 1
    )
    assert max(map(len, text)) < 120
    assert repr(compiled).startswith("Result(x=") and "history" not in repr(compiled)
    failing = minimize(lambda x: np.nan if float(x[0]) else 0.0, budget=4)
    assert "4 x returned NaN" in str(failing)


def test_few_numbers_are_printed_whatever_holds_them():
    x0 = {"a": np.array([1.5, -0.5]), "b": {"c": 2.0, "d": np.ones((1, 3))}}

    def fun(x: Any) -> float:
        return float(x["a"][0] ** 2 + x["b"]["c"])

    text = str(minimize(fun, x0, budget=1))
    assert "x  a = [ 1.5 -0.5], b/c = 2., b/d = [[1. 1. 1.]]" in text
    many = str(minimize(host_plateau, np.ones(9), budget=1))
    assert "x  1 leaves: (9,)" in many


def test_a_result_plots(compiled, tmp_path):
    path = tmp_path / "run.png"
    figure = compiled.plot(str(path))
    assert isinstance(figure, matplotlib.figure.Figure) and path.stat().st_size > 1000
    drawn = [axes.get_title(loc="left").split(":")[0] for axes in figure.axes]
    assert drawn == ["value", "sigma"]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    best = compiled.history["best"]
    line = figure.axes[0].lines[1].get_ydata()
    expected = np.where(best > best[-1], best - best[-1], np.nan)
    np.testing.assert_array_equal(line, expected)


def test_a_plot_shows_what_the_method_reports(monkeypatch):
    constant = minimize(lambda x: -1.0, budget=8, method="nelder_mead", options={})
    (axes,) = constant.plot().axes
    assert axes.get_yscale() == "linear" and "-1" in axes.get_title(loc="left")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'gfopt\[bench\]'"):
        constant.plot()


def test_a_result_pickles_with_every_bit(compiled, hosted):
    for found in (compiled, hosted):
        again = pickle.loads(pickle.dumps(found))
        same_result(again, found)
        assert again.seconds == found.seconds and again.optimizer == found.optimizer
        leaves = jax.tree.leaves(found.state)
        assert {type(leaf) for leaf in leaves} == {np.ndarray}
        assert np.float64 in {leaf.dtype.type for leaf in leaves}


def test_a_solution_too_large_to_copy_is_only_recommended(monkeypatch):
    monkeypatch.setattr("gfopt.driver.loop.loop.MOST_KEPT", 1)
    for fun in (plateau, host_plateau):
        found = minimize(fun, budget=9)
        assert found.x is None and np.isfinite(found.fun)
        assert "too large to copy" in str(found) and found.recommended.shape == (2,)


def test_threads_can_each_have_a_search(hosted):
    with ThreadPoolExecutor(2) as executor:
        found = list(
            executor.map(lambda fun: minimize(fun), [plateau, host_plateau] * 2)
        )
    assert found[0].fun == found[2].fun and found[1].fun == found[3].fun
    assert math.isfinite(found[0].fun)
