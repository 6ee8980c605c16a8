"""``AskTell``: any order, parts, late values, wrong calls, pickles."""

from __future__ import annotations

import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driver.shared import SMALL, X0, host_plateau, same, same_result

import gfopt
from gfopt import Status
from gfopt.driver import ask_tell


def session(method: Any = None, x0: Any = X0, **words: Any) -> gfopt.AskTell:
    if method is None:
        method, words = SMALL["method"], {"options": SMALL["options"]} | words
    return gfopt.AskTell(method, x0, **words)


def told(search: gfopt.AskTell, generations: int, fun: Any = host_plateau) -> Any:
    for _ in range(generations):
        trials = search.ask()
        search.tell(trials, [fun(trial.solution) for trial in trials])
    return search


def snapshot(search: gfopt.AskTell) -> bytes:
    """All of a session but its clock."""
    state = search.__getstate__() | {"_began": 0}
    return pickle.dumps(jax.tree.map(lambda leaf: leaf, state))


# ---- the same search


@pytest.mark.parametrize("x0", [X0, jnp.array(X0)], ids=["float64", "float32"])
def test_it_makes_the_search_of_minimize(x0):
    ours = told(session(x0=x0), 6).result
    theirs = gfopt.minimize(host_plateau, x0, budget=25, **SMALL)
    for name in ("x", "recommended", "state", "history"):
        same(getattr(ours, name), getattr(theirs, name))
    assert (ours.fun, ours.nfev, ours.nit) == (theirs.fun, 25, 6)
    assert (ours.path, ours.status, ours.success) == ("ask_tell", Status.RUNNING, False)


def test_any_order_in_parts_by_id_or_one_by_one():
    straight = told(session(), 3)
    parts = session()
    trials = [*parts.ask(1), *parts.ask(2), *parts.ask()]
    assert [trial.id for trial in trials] == [0, 1, 2, 3, 4] and parts.ask() == []
    values = [host_plateau(trial.solution) for trial in trials]
    parts.tell([3, 1, 4], [values[3], values[1], values[4]])
    parts.tell(trials[2], values[2])
    parts.tell([], [])
    assert parts.result.nfev == 4 and parts.result.nit == 0
    assert parts.result.fun == min(values[1:])
    parts.tell(np.int64(0), np.float32(values[0]))
    trials = parts.ask(99)
    assert [trial.id for trial in trials] == [5, 6, 7, 8]
    for trial in reversed(trials):
        parts.tell(trial.id, host_plateau(trial.solution))
    trials = parts.ask(3) + parts.ask(3)
    parts.tell(tuple(trials), (host_plateau(trial.solution) for trial in trials))
    found, expected = parts.result, straight.result
    same(found.x, expected.x)  # the float32 changed a value, not the order
    same(found.recommended, expected.recommended)


def test_maximize():
    search = told(session(maximize=True), 3)
    other = told(session(), 3, lambda x: -host_plateau(x))
    assert search.result.fun == -other.result.fun > 0
    same(search.result.x, other.result.x)
    best = search.result.history["best"]
    assert (np.diff(best) >= 0).all() and best[-1] == search.result.fun


@pytest.mark.parametrize(
    "failed", [None, math.nan, math.inf, -math.inf, np.float32("nan")]
)
def test_failures(failed):
    search = session()
    trials = search.ask()
    search.tell(trials, [failed, failed, 2.0, failed, 3.0])
    found = search.result
    assert (found.fun, found.nfev, found.nit) == (2.0, 5, 1)
    assert found.failures == {"told as failed": 3}
    assert found.history["num_valid"].tolist() == [2]
    same(found.x, trials[2].solution)


def test_a_generation_of_failures():
    search = session()
    search.tell(search.ask(), [None] * 5)
    found = search.result
    assert math.isnan(found.fun) and found.x.tolist() == X0
    assert found.recommended.tolist() == X0 and len(search.ask()) == 4


def test_a_solution_is_the_callers():
    search = session()
    (start, trial, *rest) = search.ask()
    kept = trial.solution.copy()
    trial.solution[:] = 1e9
    search.tell([trial, start, *rest], [-1.0, 2.0, 3.0, 4.0, 5.0])
    same(search.result.x, kept)
    search.result.x[:] = 5
    same(search.result.x, kept)


def test_stop_says_why():
    search = session("cma_es", [0.5], sigma0=0.1, options={"tol_fun": 1e-3})
    assert search.stop() == {}
    while not search.stop():
        # they differ, but by less than the tolerance
        search.tell(trials := search.ask(), [1e-4 * i for i in range(len(trials))])
    assert search.stop()["tol_fun"] == 1e-3
    found = search.result
    assert found.success and found.status == Status.CONVERGED
    assert (
        found.message.startswith("converged: ") and "tol_fun = 0.001" in found.message
    )
    again = pickle.loads(pickle.dumps(search))
    assert again.stop() == search.stop()
    assert len(search.ask()) > 0  # it is the caller's to end


# ---- wrong calls change nothing


@pytest.mark.parametrize(
    ("trials", "values", "error", "words"),
    [
        ([0, 0], [1, 2], ValueError, "named once; got id 0"),
        ([0, 1], [1, 2], ValueError, "got id 1"),  # 1 has its value
        ([3], [1], ValueError, "must have been asked for; got id 3, asked so far: 3"),
        ([99], [1], ValueError, "must have been asked for"),
        ([-1], [1], ValueError, "got id -1"),
        ([0, 2], [1], ValueError, "got 1 for 2 trials"),
        ([0], [1, 2], ValueError, "got 2 for 1 trials"),
        ([0], [[1.0, 2.0]], TypeError, r"got \[1.0, 2.0\] \(list\)"),
        ([0], [np.ones(2)], TypeError, r"ndarray of shape \(2,\)"),
        ([0], [[1.0]], TypeError, r"got \[1.0\] \(list\)"),
        ([0], 1.0, TypeError, "a number or None for each trial"),
        ([0], "1", TypeError, "values must be"),
        ([0], ["1"], TypeError, "values must be"),
        ([0, 2], [None, "1"], TypeError, "values must be"),
        ([0], [1j], TypeError, "values must be"),
        ([0], [[1.0, [2.0]]], (TypeError, ValueError), "values must be"),
        ([0], {0: 1.0}, TypeError, "values must be"),
        ([0], {1.0}, TypeError, "values must be"),
        ([0.0], [1], TypeError, "trials must be trials or their ids"),
        (["a"], [1], TypeError, "trials must be trials or their ids"),
        ("ab", [1, 2], TypeError, "trials must be trials or their ids"),
        ([None], [1], TypeError, "trials must be trials or their ids"),
        ([True], [1], TypeError, "trials must be trials or their ids"),
        (None, None, TypeError, "trials must be"),
        (0, None, None, ""),
        (0, [1.0], (TypeError, ValueError), "values must be"),
        ([[0]], [1], TypeError, "trials must be trials or their ids"),
    ],
)
def test_a_wrong_tell_changes_nothing(trials, values, error, words):
    search = session()
    search.ask(3)
    search.tell(1, 5.0)
    before = snapshot(search)
    if error is None:
        search.tell(trials, values)
        assert search.result.failures == {"told as failed": 1}
        return
    with pytest.raises(error, match=words):
        search.tell(trials, values)
    assert snapshot(search) == before


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True, np.nan])
def test_a_wrong_ask_changes_nothing(n):
    search = session()
    before = snapshot(search)
    with pytest.raises(
        (TypeError, ValueError), match="n must be an integer, 1 or above"
    ):
        search.ask(n)
    assert snapshot(search) == before


# ---- closed generations


def test_close_counts_what_is_missing_as_failed():
    search = session()
    _, *first = search.ask(4)
    search.tell(first[0], 7.0)
    search.close()
    found = search.result
    assert (found.nfev, found.nit, found.fun) == (1, 1, 7.0)
    assert found.history["num_valid"].tolist() == [1]
    assert [trial.id for trial in search.ask()] == [5, 6, 7, 8]
    closed = session()
    closed.tell(closed.ask(), [None, 7.0, None, None, None])
    same(closed.result.state, found.state)


def test_a_late_value_counts_for_the_best_only_and_says_so():
    search = session()
    first = search.ask(3)
    kept = first[1].solution.copy()
    search.tell(first[0], 7.0)
    search.close()
    for _ in range(5):  # long ago
        told(search, 1)
    state = search.result.state
    first[1].solution[:] = 1e9
    with pytest.warns(UserWarning, match="1 value.* came after .* OpenES cannot use"):
        search.tell(first[1], -5.0)
    with pytest.warns(UserWarning, match="closed"):
        search.tell(first[2].id, None)
    found = search.result
    assert (found.fun, found.nfev) == (-5.0, 1 + 20 + 2)
    assert found.failures == {"told as failed": 1}
    same(found.x, kept)
    same(found.state, state)
    for again in (first[1], first[2], first[0], 3):  # told before, or never handed out
        with pytest.raises(ValueError, match="trials must be waiting"):
            search.tell(again, 1.0)


def test_late_and_timely_values_in_one_call():
    search = session()
    late = search.ask(1)
    search.close()
    now = search.ask()
    straight = session()
    straight.close()
    straight.tell(straight.ask(), [4.0, 3.0, 2.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):  # as an error: after all was taken in
            search.tell([*now, *late], [4.0, 3.0, 2.0, 1.0, 9.0])
    same(search.result.state, straight.result.state)
    assert search.result.nfev == 5


class Stale:
    """What the registry would say of a method that can use late values."""

    flags = frozenset({"tolerates_stale"})
    tokens = False


@pytest.mark.parametrize("bounds", [None, (-9, 9)])
def test_a_method_that_tolerates_it_gets_late_values(monkeypatch, bounds):
    def row_of(optimizer: Any) -> Any:
        method = getattr(optimizer, "inner", optimizer)
        return Stale if type(method) is gfopt.RandomSearch else None

    monkeypatch.setattr(ask_tell.registry, "row_of", row_of)
    search = session("random_search", options={"population_size": 4}, bounds=bounds)
    _, *late = search.ask()
    search.close()
    now = search.ask(2)
    search.tell(late[2:3], [-5.0])  # no warning
    found = search.result
    assert (found.fun, found.nfev, found.state.step) == (-5.0, 1, 1)
    same(found.recommended, late[2].solution)  # its best is what came late
    rest = search.ask()
    again = session("random_search", options={"population_size": 4}, bounds=bounds)
    again.close()
    for one, other in zip([*now, *rest], again.ask(), strict=True):
        same(one.solution, other.solution)  # the open generation is as it was
    search.tell([*now, *rest], [1.0, 2.0, 3.0, 4.0])
    assert search.result.state.step == 2 and search.result.fun == -5.0


def test_large_open_rows_are_decoded_as_they_were_asked(monkeypatch):
    """Where solutions are decoded one by one, a late tell must not move them."""
    monkeypatch.setattr(ask_tell.registry, "row_of", lambda optimizer: Stale)
    monkeypatch.setattr("gfopt.driver.engine.turns.DEFAULT_ELEMENTS", 1)
    jax.clear_caches()
    try:
        search = session()
        _, *late = search.ask()
        search.close()
        now = search.ask(2)
        kept = [trial.solution.copy() for trial in now]
        search.tell(late, [1.0, 2.0, 3.0, 4.0])
        assert search.result.recommended.tolist() != X0  # the mean has moved
        search = pickle.loads(pickle.dumps(search))
        search.tell(now[1], -9.0)
        same(search.result.x, kept[1])
    finally:
        jax.clear_caches()


# ---- pickles


@pytest.mark.parametrize("x0", [X0, jnp.array(X0)], ids=["float64", "float32"])
def test_a_pickle_in_the_middle_goes_on_bit_for_bit(x0):
    straight = told(session(x0=x0), 4).result
    search = told(session(x0=x0), 1)
    seen = {}
    for k in range(12):
        search = pickle.loads(pickle.dumps(search))
        if k % 4 == 0:
            late = search.ask(3)
        elif k % 4 == 1:
            late += search.ask()
        for trial in late[k % 4 : k % 4 + 1]:
            seen[trial.id] = trial.solution
            search.tell(trial, host_plateau(trial.solution))
    same_result(search.result, straight)
    assert sorted(seen) == list(range(5, 17))


def test_large_arrays_keep_their_precision(monkeypatch):
    """JAX makes float32 of a float64 array that is unpickled elsewhere."""
    # all arrays are large now
    monkeypatch.setattr("gfopt.driver.engine.packing.LARGE", 1)
    options = {"population_size": 4}
    search, straight = (session("random_search", options=options) for _ in range(2))
    for one in (search, straight):
        one.ask(1)
        one.close()
        one.tell(one.ask(1), [1.0])
    for _ in range(2):
        search = pickle.loads(pickle.dumps(search))
    same(
        (search._search._generation, list(search._trials.late)),
        (straight._search._generation, list(straight._trials.late)),
    )
    for one in (search, straight):
        one.tell(one.ask(), [2.0, 0.5, 3.0])
    same_result(search.result, straight.result)


# ---- many threads, many trials


def test_sixteen_threads_lose_and_double_nothing():
    """With fewer members than threads, so that most of them wait most of the time."""
    search, told = session(), []

    def work(_: int) -> None:
        while len(told) < 480:
            for trial in search.ask(1, timeout=60):
                search.tell(trial, host_plateau(trial.solution))
                told.append(trial.id)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    found = search.result
    assert sorted(told) == list(range(found.nfev)) and found.nfev >= 480
    assert (found.nfev - 1) // 4 == found.nit
    straight = told_one_by_one(found.nfev)
    same_result(found, straight)


def told_one_by_one(count: int) -> gfopt.Result:
    search = session()
    for _ in range(count):
        (trial,) = search.ask(1)
        search.tell(trial, host_plateau(trial.solution))
    return search.result


def test_ask_waits_until_a_generation_opens_or_its_time_is_up():
    search = session()
    trials = search.ask()
    assert search.ask(1, timeout=0.01) == []
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(search.ask, 1, timeout=60)
        search.tell(trials, [host_plateau(trial.solution) for trial in trials])
        assert [trial.id for trial in waiting.result()] == [5]
    with pytest.raises(ValueError, match="timeout"):
        search.ask(1, timeout=-1.0)


def test_a_session_is_pickled_whole_while_others_tell():
    search = session()
    with ThreadPoolExecutor(1) as pool:
        telling = pool.submit(told, search, 60)
        copies = [pickle.loads(pickle.dumps(search)) for _ in range(20)]
        telling.result()
    for copy in copies:
        assert copy.result.nfev == len(copy.result.history["nfev"]) * 4 + (
            copy.result.nfev > 0
        )


def test_trials_that_nobody_tells_are_forgotten(monkeypatch):
    monkeypatch.setattr("gfopt.driver.trials.late_trials.MOST_NUMBERS", 40)
    search = session()
    for _ in range(50):
        trials = search.ask()
        search.tell(trials[0], 1.0)
        search.close()
    size = len(pickle.dumps(search))
    assert sum(len(one.missing) for one in search._trials.late) <= 20
    for _ in range(50):
        search.ask()
        search.close()
    assert len(pickle.dumps(search)) < size + 50 * 8 * 12  # the history alone grows
    with pytest.raises(ValueError, match="closed long ago"):
        search.tell(trials[0].id - 40, 1.0)
    with pytest.warns(UserWarning, match="closed"):
        search.tell(search._trials.open.first_id - 1, -7.0)
    assert search.result.fun == -7.0
