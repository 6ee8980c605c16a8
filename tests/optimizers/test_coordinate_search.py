"""Coordinate search is a plain loop over lists, evaluation by evaluation."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from oracles import coordinate_search

import gfopt
from gfopt.optimizers.wrappers.separable import LINES, _divisions


def ripples(x: np.ndarray) -> float:
    """Many minima along each coordinate, of different curvature."""
    scale = np.arange(1, len(x) + 1)
    return float(np.sum(scale * (x - 0.3) ** 2 - np.cos(5 * (x - 0.3)) + 1))


def steps(x: np.ndarray) -> float:
    """Level on one side: values that repeat."""
    return float(np.sum(np.abs(np.minimum(x, 1.5) - 1.5)))


def valley(x: np.ndarray) -> float:
    """Not a sum: what is known along one coordinate changes with the others."""
    return float(np.sum((x[1:] - x[:-1] ** 2) ** 2) + np.sum((x - 1) ** 2))


def asked(fun, x0, method, budget, **options):
    """Returns the points that a search evaluates, and its result."""
    seen: list[np.ndarray] = []

    def value(x):
        seen.append(np.array(x))
        return fun(x)

    objective = gfopt.Objective(value, traceable=False)
    result = gfopt.minimize(objective, x0, method=method, budget=budget, **options)
    return np.array(seen), result


@pytest.mark.parametrize("fun", [ripples, steps, valley])
def test_it_is_the_plain_loop(fun):
    x0 = np.array([2.7, -3.6, 1.2])
    search = gfopt.CoordinateSearch(sigma=2.0)
    found, _ = asked(fun, x0, search, 90)
    expected = coordinate_search(fun, x0, 2.0, 90)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_find_the_minimum_of_a_sum(batch_size):
    x0 = np.array([2.7, -3.6, 1.2, 0.1, -2.2])
    search = gfopt.CoordinateSearch(sigma=2.0, batch_size=batch_size)
    _, result = asked(ripples, x0, search, 300, target=1e-8)
    assert result.success
    assert np.allclose(result.x, 0.3, atol=1e-3)


def test_a_joint_step_that_fails_leaves_a_true_best():
    x0 = np.array([2.7, -3.6, 1.2, 0.1])
    search = gfopt.CoordinateSearch(sigma=1.0, batch_size=4)
    _, result = asked(valley, x0, search, 400)
    assert valley(result.state.x) == result.state.fitness
    assert result.fun < valley(x0) / 10


def test_separable_takes_the_lines_only_for_a_sum():
    x0 = np.array([2.7, -3.6, 1.2, 0.1, -2.2])
    inner = gfopt.Restarts(gfopt.LQCMAES(sigma=2.0))
    search = gfopt.Separable(inner)
    points, result = asked(ripples, x0, search, 250, target=1e-8)
    assert result.success
    # after x0, the third and fourth candidates have halves of the first two
    points = points[1:]
    halves = _divisions(5)[0]
    np.testing.assert_allclose(points[2], np.where(halves, points[0], points[1]))
    np.testing.assert_allclose(points[3], np.where(halves, points[1], points[0]))
    # later divisions part what was together, and cost two evaluations each
    assert all(np.any(_divisions(5)[:, i] != _divisions(5)[:, 0]) for i in range(1, 5))
    _, plain = asked(ripples, x0, inner, 250, target=1e-8)
    assert result.nfev < plain.nfev

    state = gfopt.minimize(valley, x0, method=search, budget=40).state
    assert int(state.phase) != LINES


@pytest.mark.parametrize(
    "method",
    [
        gfopt.CoordinateSearch(sigma=2.0),
        gfopt.Separable(gfopt.Restarts(gfopt.LQCMAES(sigma=2.0))),
    ],
)
def test_what_fails_is_asked_for_again(method):
    count = 0

    def fails_often(x):  # among them two of the first four candidates
        nonlocal count
        count += 1
        return np.nan if count % 4 == 3 else ripples(x)

    x0 = np.array([2.7, -3.6, 1.2, 0.1, -2.2])
    _, result = asked(fails_often, x0, method, 400, target=1e-8)
    _, plain = asked(ripples, x0, method, 400, target=1e-8)
    assert result.success and result.nfev < 1.6 * plain.nfev


def test_a_region_that_fails_costs_few_evaluations():
    def walled(x):
        return np.nan if x[0] < 2.5 else ripples(x)

    x0 = np.array([2.7, -3.6, 1.2])
    search = gfopt.CoordinateSearch(sigma=2.0)
    _, result = asked(walled, x0, search, 200)
    assert sum(result.failures.values()) < 80
    assert np.allclose(result.x[1:], 0.3, atol=1e-2)


def test_a_function_with_few_levels_is_no_sum():
    def levels(x):
        return float(np.round(np.sum(np.abs(x)), 0))

    search = gfopt.Separable(gfopt.LQCMAES(sigma=2.0))
    for seed in range(10):
        result = gfopt.minimize(
            levels, np.full(6, 3.0), method=search, budget=6, seed=seed
        )
        assert int(result.state.phase) == 0


def test_it_goes_on_with_the_method_inside():
    def kink(x):  # a sum whose minimum no line leaves, with a failure beside it
        return float(np.sum(np.abs(x))) if x[0] < 5 else np.nan

    search = gfopt.Separable(gfopt.Restarts(gfopt.LQCMAES(sigma=2.0)), patience=3)
    result = gfopt.minimize(kink, np.array([2.0, 3.0]), method=search, budget=300)
    assert int(result.state.phase) == 0
    assert result.fun < 1e-3
    ends = gfopt.Separable(gfopt.LQCMAES(sigma=2.0), patience=3, stops=True)
    result = gfopt.minimize(kink, np.array([2.0, 3.0]), method=ends)
    assert result.status.name == "CONVERGED" and "explored" in result.message


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="patience"):
        gfopt.CoordinateSearch(patience=0)
    with pytest.raises(TypeError, match="stops"):
        gfopt.Separable(gfopt.LQCMAES(), stops=1)
    with pytest.raises(TypeError, match="inner"):
        gfopt.Separable(jnp.sum)
