"""Numbers that are fixed: held, not searched, and in every solution; two readings."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import scipy.optimize

import gfopt
from gfopt import Status
from gfopt.driver.setup.setup import setup
from gfopt.optimizers.wrappers.held import Held

BOUNDS = [(0, 1), (2, 2), (-1, 1)]
CHEAP: dict[str, Any] = {"method": "random_search", "budget": 9}


def seen_by(bounds: Any, x0: Any, **words: Any) -> tuple[gfopt.Result, list[Any]]:
    seen = []

    def fun(x: Any) -> float:
        seen.append(jax.tree.map(np.copy, x))
        return float(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(x)))

    return gfopt.minimize(fun, x0, bounds=bounds, **(CHEAP | words)), seen


@pytest.mark.parametrize(
    "bounds",
    [
        BOUNDS,
        [(0, 1), gfopt.spaces.integer(2, 2), gfopt.spaces.real(-1, 1)],
        scipy.optimize.Bounds([0, 2, -1], [1, 2, 1]),
        gfopt.spaces.Space(np.array([0.0, 2, -1]), np.array([1.0, 2, 1]), np.ones(3)),
    ],
    ids=["pairs", "domains", "scipy", "space"],
)
def test_a_fixed_number_is_in_every_solution(bounds):
    found, seen = seen_by(bounds, [0.5, 2.0, 0.25])
    solutions = np.array([*seen, found.x, found.recommended])
    assert (solutions[:, 1] == 2).all() and len(np.unique(solutions[:9, 0])) == 9
    assert isinstance(found.optimizer, Held)
    assert found.optimizer.inner.space.lower.shape == (2,)  # what is searched


def test_trees_keep_their_form():
    bounds = {
        "a": gfopt.spaces.integer(3, 3),
        "b": gfopt.spaces.real(-1, 1),
        "c": gfopt.spaces.categorical(["only"]),
        "d": gfopt.spaces.categorical(["x", "y", "z"]),
    }
    words = {"method": "cma_es", "sigma0": 0.3}
    found, seen = seen_by(bounds, {"a": 3, "b": np.zeros(2), "c": 0, "d": 1}, **words)
    assert {(float(x["a"]), float(x["c"])) for x in (*seen, found.x)} == {(3, 0)}
    assert all(x["b"].shape == (2,) for x in seen) and found.x["a"].dtype == float
    assert {float(x["d"]) for x in seen} <= {0, 1, 2}
    std = found.optimizer.standard_deviations(found.state)
    assert float(std["a"]) == 0 and (np.asarray(std["b"]) > 0).all()


@pytest.mark.parametrize("name", ["cma_es", "nelder_mead", "mezo"])
def test_compiled_searches_find_the_rest(name):
    words: dict[str, Any] = (
        {"options": {"learning_rate": 0.1}} if name == "mezo" else {}
    )
    found = gfopt.minimize(
        lambda x: ((x - 0.3) ** 2).sum(),
        np.array([0.5, 2.0, 0.9]),
        method=name,
        bounds=BOUNDS,
        budget=400,
        **words,
    )
    assert found.path == "compiled"
    np.testing.assert_allclose(found.x, [0.3, 2, 0.3], atol=0.02)


def test_auto_counts_the_numbers_that_are_free():
    made = setup("auto", np.zeros(45), bounds=[(-1, 1)] * 5 + [(0, 0)] * 40)
    assert isinstance(made.hosted, Held) and isinstance(made.optimizer, Held)
    assert isinstance(gfopt.protocol.innermost(made.hosted), gfopt.LQCMAES)
    sigma = setup("cma_es", np.zeros(2), [0.1, 9.0], [(-1, 1), (0, 0)]).optimizer
    assert sigma.search_space.scale.tolist() == [0.1, 1.0]


@pytest.mark.parametrize("traceable", [False, True])
def test_with_no_number_left_the_start_is_the_answer(traceable):
    fun = gfopt.Objective(lambda x: (x**2).sum(), traceable=traceable)
    words = {"method": "cma_es", "bounds": [(1, 1), (2, 2)]}
    found = gfopt.minimize(fun, [1.0, 2.0], **words)
    assert found.status == Status.COMPLETE and found.success and found.nfev <= 2
    assert (found.fun, found.x.tolist()) == (5.0, [1.0, 2.0])
    assert found.message == "complete: all_fixed = True"


def test_ask_tell_injects_and_goes_on_from_a_result():
    search = gfopt.AskTell("cma_es", [0.5, 2.0, 0.0], bounds=BOUNDS)
    search.inject([[0.3, 2.0, 0.4]], [0.1])
    with pytest.raises(ValueError, match="solutions must lie within bounds"):
        search.inject([[0.3, 2.5, 0.4]], [0.1])
    trials = search.ask()
    search.tell(trials, [float(t.solution @ t.solution) for t in trials])
    assert {t.solution[1] for t in trials} == {2.0}
    again = gfopt.AskTell("cma_es", search.result, bounds=BOUNDS)
    assert {t.solution[1] for t in again.ask()} == {2.0}


def test_x0_must_hold_what_is_fixed():
    with pytest.raises(ValueError, match="x0 must lie within bounds"):
        seen_by(BOUNDS, [0.5, 2.1, 0.0])
    found, _ = seen_by(BOUNDS, None)
    assert found.x[1] == 2
    with pytest.raises(ValueError, match="bounds must have no lower number above"):
        seen_by([(0, 1), (np.inf, np.inf), (0, 1)], [0.5, 2.1, 0.0])


# ---- bounds that can be read two ways


@pytest.mark.parametrize(
    ("bounds", "x0"),
    [
        ([[0, 0], [1, 1]], [0.5, 0.5]),
        ([[0, 0], [1, 1]], None),
        (np.array([[0, 1], [2, 3]]), [0.5, 2.5]),
        (([0, 0], [1, 1]), [0.0, 1.0]),
        ([np.zeros(2), np.ones(2)], [0.0, 1.0]),
    ],
)
def test_what_can_be_read_two_ways_is_refused(bounds, x0):
    words = r"\[\(0, [01]\), .*, with tuples, for pairs, and scipy.optimize.Bounds\(\["
    with pytest.raises(ValueError, match=words):
        seen_by(bounds, x0)


@pytest.mark.parametrize(
    ("bounds", "x0"),
    [
        ([(0, 1), (2, 3)], [0.5, 2.5]),  # tuples are pairs
        ([[0, 5], [0, 5]], [0.5, 2.5]),
        ([[-5, 10], [0, 15]], [0.0, 0.0]),  # the second is no upper bound of x0
        ([[0, 1], [1, 2]], [1.0, 1.0]),  # both say the same
        (np.stack([[0, 0, 0], [1, 1, 1]], axis=1), [0.5] * 3),
    ],
)
def test_what_can_be_read_one_way_is_taken(bounds, x0):
    made = setup("random_search", x0, bounds=bounds)
    expected = [(float(low), float(high)) for low, high in bounds]
    space = made.optimizer.search_space
    assert (
        list(zip(space.lower.tolist(), space.upper.tolist(), strict=True)) == expected
    )


def test_lower_and_upper_bounds_in_two_rows_are_told_how_to_write_them():
    with pytest.raises(ValueError, match=r"or scipy.optimize.Bounds\(lower, upper\)"):
        seen_by([[0, 0, 0], [1, 1, 1]], [0.5] * 3)


@pytest.mark.parametrize(
    ("choices", "error"), [("ab", TypeError), ([], ValueError), (0, ValueError)]
)
def test_choices_are_a_number_or_a_sequence(choices, error):
    with pytest.raises(error, match="choices must be an integer, 1 or above"):
        gfopt.spaces.categorical(choices)
    assert gfopt.spaces.categorical(["a", "b"]) == gfopt.spaces.categorical(2)
