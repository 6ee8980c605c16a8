"""Nelder-Mead is scipy's, evaluation by evaluation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from optimizers.peers import falling, turns

import gfopt
from gfopt.optimizers import nelder_mead

EVALUATIONS = 150


def valley(x: np.ndarray) -> float:
    """Rosenbrock's function and a bowl, so that it works in one dimension, too."""
    return float(scipy.optimize.rosen(x) + np.sum((x - 0.3) ** 2))


def ripples(x: np.ndarray) -> float:
    """Smooth with many minima: a simplex has to shrink."""
    return float(np.sum(x**2 - 3 * np.cos(5 * x)))


def half(x: np.ndarray) -> float:
    """The first, defined where the first coordinate is below 0.4."""
    return valley(x) if x[0] < 0.4 else np.inf


def ours(
    optimizer: gfopt.NelderMead, x0: np.ndarray, fun: Callable[[np.ndarray], float]
) -> tuple[np.ndarray, set[int]]:
    """Returns the points in the order in which they were evaluated, and all stages.

    One that failed is evaluated twice in a row, and is returned once.
    """
    seen: list[np.ndarray] = []
    failed: list[bool] = []
    stages = set()

    def value(step: int, row: int, x: np.ndarray) -> float:
        is_second = bool(seen) and failed[-1] and np.array_equal(x, seen[-1])
        answer = fun(x)
        if is_second:
            failed[-1] = False  # a third time would be one too many
        else:
            seen.append(x)
            failed.append(np.isinf(answer))
        return answer

    for turn in turns(optimizer, x0, EVALUATIONS, value):
        stages.add(int(turn.before.stage) % nelder_mead.AGAIN)
        active = np.asarray(turn.population.active)
        if turn.before.stage == nelder_mead.START:
            assert active.all()
        elif turn.before.stage == nelder_mead.SHRINK:
            assert active.sum() == len(x0) and not active[-1]
        else:
            assert active.sum() == 1
        if len(seen) >= EVALUATIONS:
            break
    return np.array(seen[:EVALUATIONS]), stages


def peers(
    optimizer: gfopt.NelderMead, x0: np.ndarray, fun: Callable[[np.ndarray], float]
) -> np.ndarray:
    """Returns scipy's points from the same simplex."""
    seen: list[np.ndarray] = []

    def value(x: np.ndarray) -> float:
        seen.append(x.copy())
        return fun(x)

    edges = optimizer.sigma * np.eye(len(x0))
    options = {
        "initial_simplex": np.concatenate([x0[None], x0 + edges]),
        "adaptive": optimizer.adaptive,
        "maxfev": EVALUATIONS,
        "xatol": 0,
        "fatol": 0,
    }
    scipy.optimize.minimize(value, x0, method="Nelder-Mead", options=options)
    return np.array(seen)


@pytest.mark.parametrize(
    ("adaptive", "dimension"),  # the adaptive one of scipy shrinks to a point in 1-D
    [(False, 1), (False, 2), (False, 5), (True, 2), (True, 5)],
    ids=["classic-1", "classic-2", "classic-5", "adaptive-2", "adaptive-5"],
)
def test_is_scipy_evaluation_by_evaluation(dimension: int, adaptive: bool) -> None:
    optimizer = gfopt.NelderMead(sigma=0.5, adaptive=adaptive)
    x0 = np.linspace(-1.0, 0.25, dimension)
    stages: set[int] = set()
    for fun in (valley, ripples, half):
        found, of_this = ours(optimizer, x0, fun)
        expected = peers(optimizer, x0, fun)
        # at a minimum, values are equal to rounding before the points are
        found, expected = found[: len(expected)], expected[: len(found)]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        stages |= of_this
    assert stages == set(range(6 if dimension < 5 else 5))


def test_a_failure_at_random_changes_nothing_but_the_count() -> None:
    straight, _ = ours(gfopt.NelderMead(), np.ones(3), valley)
    tried: set[bytes] = set()

    def once(x: np.ndarray) -> float:
        """Fails in every first call for a point, after those of the first simplex."""
        is_known = len(tried) < 4 or x.tobytes() in tried
        tried.add(x.tobytes())
        return valley(x) if is_known else np.inf

    found, stages = ours(gfopt.NelderMead(), np.ones(3), once)
    assert nelder_mead.SHRINK not in stages and len(found) > 70
    np.testing.assert_array_equal(found, straight[: len(found)])


def test_without_a_value_it_asks_for_the_same_simplex() -> None:
    def value(step: int, row: int, x: np.ndarray) -> float:
        return np.nan if step < 2 else valley(x)

    first, second, third, fourth = turns(gfopt.NelderMead(), np.ones(3), 4, value)
    for turn in (second, third):
        np.testing.assert_array_equal(turn.solutions, first.solutions)
    assert fourth.population.active.sum() == 1


@pytest.mark.parametrize("x0", [[0.5], [300.0, -200.0, 1.0]])
def test_stops_where_its_vertices_are_one(x0: list[float]) -> None:
    """In single precision, too, where numbers cannot be closer than their spacing."""
    result = gfopt.minimize(
        lambda x: jnp.sum((x - 301.0) ** 2),
        jnp.array(x0, jnp.float32),
        method="nelder_mead",
        sigma0=10.0,
        budget=3_000,
    )
    assert result.success and "tol_x" in result.message, result.message
    np.testing.assert_allclose(result.x, 301.0, rtol=1e-3)


def test_too_many_numbers_are_refused() -> None:
    x0 = jax.ShapeDtypeStruct((20_001,), jnp.float32)
    with pytest.raises(ValueError, match="at most 20000 parameters; got .* 20001"):
        jax.eval_shape(gfopt.NelderMead().init, jax.random.key(0), x0)


def test_a_search_that_runs_away_stays_finite() -> None:
    state = falling(gfopt.NelderMead(sigma=1e29), 60)
    assert np.all(np.isfinite(state.simplex)) and state.simplex.max() == 1e30


def test_one_dimension_does_not_shrink_to_a_point() -> None:
    # 1 - 1/D is 0 there: with it, one shrink would end the search
    result = gfopt.minimize(
        lambda x: float(10 + x[0] ** 2 - 10 * np.cos(2 * np.pi * x[0])),
        [3.3],
        method="nelder_mead",
    )
    assert result.nfev > 11 and abs(np.sin(2 * np.pi * result.x[0])) < 0.5
    slope = 2 * result.x[0] + 20 * np.pi * np.sin(2 * np.pi * result.x[0])
    assert abs(slope) < 1e-2  # a minimum, if a local one


def test_old_vertices_are_measured_again_before_a_reflection() -> None:
    straight, _ = ours(gfopt.NelderMead(), np.ones(2), valley)
    method, moves, again = gfopt.NelderMead(max_age=7), [], 0

    def value(step: int, row: int, x: np.ndarray) -> float:
        return valley(x)

    for turn in turns(method, np.ones(2), 150, value):
        rows = turn.solutions[turn.population.active]
        age = turn.before.step - turn.before.measured
        if turn.before.stage == nelder_mead.REFRESH:
            old = turn.before.simplex[age > 7]
            np.testing.assert_array_equal(rows, old)
            assert set(turn.after.measured[turn.after.measured == turn.before.step])
            again += 1
        else:
            moves.extend(rows)
            if turn.before.stage == nelder_mead.REFLECTION:
                assert age.max() <= 7
    # without drift the old values were right: it goes where it goes without a limit
    count = min(len(moves), len(straight))
    np.testing.assert_array_equal(moves[:count], straight[:count])
    assert again > 10 and count > 100


def test_it_follows_a_function_that_drifts() -> None:
    def value(step: int, row: int, x: np.ndarray) -> float:
        return float(np.sum((x - 0.02 * step) ** 2))

    def furthest(**options: object) -> float:
        method = gfopt.NelderMead(**options)
        late = list(turns(method, np.zeros(2), 200, value))[100:]
        return max(
            np.abs(t.after.simplex[0] - 0.02 * t.before.step).max() for t in late
        )

    assert furthest() > 3.5
    assert furthest(min_size=0.05, max_age=6) < 0.5


def test_a_simplex_that_is_too_small_is_made_anew_around_its_best_vertex() -> None:
    method, rebuilt = gfopt.NelderMead(min_size=0.01), 0
    for turn in turns(method, np.ones(2), 200, lambda step, row, x: valley(x)):
        if turn.before.step and turn.before.stage == nelder_mead.START:
            np.testing.assert_allclose(np.ptp(turn.solutions, axis=0), 0.02)
            rebuilt += 1
    assert rebuilt > 3 and np.ptp(turn.after.simplex, axis=0).max() > 0.005


@pytest.mark.parametrize("always", [False, True])
def test_an_old_vertex_that_fails_is_asked_for_once_more(always: bool) -> None:
    def value(step: int, row: int, x: np.ndarray) -> float:
        fails = row == 0 and (step == 5 or (always and step == 6))
        return np.nan if fails else valley(x)

    *_, first, second = turns(gfopt.NelderMead(max_age=4), np.ones(2), 7, value)
    assert first.before.stage == nelder_mead.REFRESH
    assert second.before.stage == nelder_mead.REFRESH + nelder_mead.AGAIN
    assert second.population.active.sum() == 1
    np.testing.assert_array_equal(second.solutions[0], first.solutions[0])
    assert np.isinf(second.after.fitness).any() == always
