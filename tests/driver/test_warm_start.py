"""A start from points that are known, and from the result of a run."""

from __future__ import annotations

import numpy as np
import pytest

import gfopt

SHIFT = np.array([1.0, -2.0])


def fun(x: np.ndarray) -> float:
    return float(np.sum((x - SHIFT) ** 2 * [1, 100]))


def test_mean_and_spread_of_the_good_points():
    x = np.random.default_rng(1).uniform(-4, 4, (40, 2))
    y = np.sum((x - SHIFT) ** 2, axis=1)
    good = x[np.argsort(y)[:4]]
    found = gfopt.warm_start(x, y)
    np.testing.assert_allclose(found.x0, good.mean(axis=0))
    expected = good.var(axis=0) + (0.1 * (x.max(axis=0) - x.min(axis=0))) ** 2
    np.testing.assert_allclose(found.sigma0**2, expected)
    largest = gfopt.warm_start([*x, [0, 0]], [*-y, np.nan], maximize=True)
    np.testing.assert_array_equal(largest.x0, found.x0)
    np.testing.assert_array_equal(
        gfopt.warm_start(x, y, fraction=0).x0, x[np.argmin(y)]
    )


def test_it_saves_evaluations():
    x = np.random.default_rng(2).uniform(-4, 4, (200, 2))
    x0, sigma0 = gfopt.warm_start(x, [fun(point) for point in x])
    words = {"target": 1e-6, "method": "cma_es"}
    cold = [gfopt.minimize(fun, [0, 0], seed=s, **words).nfev for s in range(8)]
    warm = [
        gfopt.minimize(fun, x0, sigma0=sigma0, seed=s, **words).nfev for s in range(8)
    ]
    assert np.median(warm) < np.median(cold)


@pytest.mark.parametrize(
    "x, y, match",
    [
        ([[1, 2], [3, 4]], [1], "values must be one for each of 2 solutions"),
        ([1, 2], [1, 2], "solutions must be an array of numbers with 2 axes"),
        ([["a"]], [1], "solutions must be an array"),
        ([[1, 2], [1, 4]], [1, 2], "coordinate 0"),
        ([[1, 2], [3, 4]], [np.nan, np.inf], "values must hold a finite number"),
    ],
)
def test_wrong_arguments(x, y, match):
    with pytest.raises((TypeError, ValueError), match=match):
        gfopt.warm_start(x, y)


@pytest.mark.parametrize("bounds", [None, [(-3, 5), (-20, 4)]])
def test_a_result_is_a_start(bounds):
    words = {"seed": 1, "bounds": bounds, "method": "cma_es"}
    first = gfopt.minimize(fun, [0, 0], budget=150, **words)
    second = gfopt.minimize(fun, first, budget=6, **words)
    std = first.history["max_std"][-1]
    if bounds:
        assert second.optimizer.inner.sigma == 1
        scale = first.optimizer.space.scale
        mean = np.exp(np.mean(np.log(scale)))  # the unit of the history
        np.testing.assert_allclose(second.optimizer.space.scale, scale / mean * std)
    else:
        assert second.optimizer.sigma == std
    assert abs(second.history["fitness"][0] - first.fun) < 1
    search = gfopt.AskTell("cma_es", first, sigma0=0.5, bounds=bounds)
    np.testing.assert_array_equal(search.result.recommended, first.recommended)


def test_a_result_of_a_method_without_sigma():
    first = gfopt.minimize(fun, [0, 0], method="nelder_mead", budget=20)
    second = gfopt.minimize(fun, first, method="cma_es", budget=12)
    rms = np.sqrt(np.mean(first.recommended**2))
    assert second.optimizer.sigma == pytest.approx(0.3 * max(1, rms))
    gfopt.minimize(fun, second, method="mezo", budget=12)
