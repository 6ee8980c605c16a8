"""The quadratic model: least squares, sizes, and its minimum in a trust region."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from programs import cheap_jit

from gfopt.optimizers.cma import quadratic_model


@pytest.fixture(autouse=True)
def double_precision() -> Any:
    with jax.enable_x64(True):
        yield


def data(dimension: int, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Returns places, points in some of them, and a search distribution."""
    rng = np.random.default_rng(seed)
    places = 2 * quadratic_model.num_coefficients(dimension)
    points = rng.normal(size=(places, dimension)) * 3 + 7
    fitness = np.full(places, np.inf)
    fitness[:count] = rng.normal(size=count) * 10
    root = np.tril(rng.normal(size=(dimension, dimension)))
    root[np.diag_indices(dimension)] = np.arange(1, dimension + 1)
    return points, fitness, root


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_fit_as_its_oracle_at_every_count(dimension: int) -> None:
    """Overdetermined fits only: with fewer points than that the ridge decides."""
    fit = cheap_jit(quadratic_model.fit)
    largest = quadratic_model.num_coefficients(dimension)
    kinds = set()
    for count in range(2 * dimension + 4, 2 * largest + 1):
        points, fitness, root = data(dimension, count, count)
        model = fit(points, fitness, root, 0.7)
        expected, size = oracles.quadratic_fit(points[:count], fitness[:count], root)
        kinds.add(size)
        at = np.concatenate([points[:count], points[:3] + 0.5])
        np.testing.assert_allclose(
            quadratic_model.values(model, at), expected(at), rtol=1e-6, atol=1e-6
        )
    assert largest in kinds


def test_a_quadratic_is_recovered_however_badly_it_is_scaled() -> None:
    scales = 10.0 ** np.arange(-4, 4, 2)
    points, _, root = data(4, 0)
    points = points * scales
    root = root * scales[:, None]

    def f(x: np.ndarray) -> np.ndarray:
        u = x / scales
        return 3 + u[:, 0] * u[:, 1] + (u**2 * np.arange(1, 5)).sum(axis=1)

    model = quadratic_model.fit(points, f(points), root, 0.3)
    fresh = np.random.default_rng(9).normal(size=(20, 4)) * scales
    np.testing.assert_allclose(quadratic_model.values(model, fresh), f(fresh), 1e-5)
    found = quadratic_model.minimum(model, jnp.zeros(4) + scales, 1e6)
    np.testing.assert_allclose(found / scales, np.zeros(4), atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_minimum_is_the_best_of_the_trust_region(seed: int) -> None:
    """No point of the region is lower; half of the models are not convex."""
    points, fitness, root = data(3, 20, seed)
    if seed % 2:
        fitness[:20] = ((points[:20] - 6) ** 2).sum(axis=1) + fitness[:20] / 5
    model = quadratic_model.fit(points, fitness, root, 0.5)
    rng = np.random.default_rng(seed)
    for radius in (0.1, 3.0, 50.0):
        mean = points[1]
        found = quadratic_model.minimum(model, jnp.asarray(mean), radius)
        z = np.linalg.solve(root, (found - mean) / 0.5)
        assert np.linalg.norm(z) <= radius * (1 + 1e-6)
        others = rng.normal(size=(4000, 3))
        others *= (
            radius
            * rng.random((4000, 1)) ** (1 / 3)
            / np.linalg.norm(others, axis=1, keepdims=True)
        )
        near = np.asarray(z) + 1e-3 * radius * rng.normal(size=(1000, 3))
        near *= np.minimum(1, radius / np.linalg.norm(near, axis=1, keepdims=True))
        z_all = np.concatenate([others, near])
        values = quadratic_model.values(model, mean + 0.5 * z_all @ root.T)
        best = quadratic_model.values(model, found[None])[0]
        assert best <= values.min() + 1e-9 * np.abs(values).max()


def test_a_plane_is_descended_to_the_rim() -> None:
    points, fitness, _ = data(2, 4)
    fitness[:4] = points[:4] @ np.array([3.0, 4.0])
    model = quadratic_model.fit(points, fitness, np.eye(2), 1.0)
    found = quadratic_model.minimum(model, jnp.zeros(2), 5.0)
    np.testing.assert_allclose(found, [-3.0, -4.0], atol=1e-4)


def test_no_point_or_equal_points_give_finite_models() -> None:
    points, fitness, root = data(3, 0)
    for count in (0, 1, 5, 20):
        fitness[:count] = 1.0
        for spot in (points, np.zeros_like(points)):
            model = cheap_jit(quadratic_model.fit)(spot, fitness, root, 0.5)
            found = quadratic_model.minimum(model, jnp.ones(3), 2.0)
            assert np.isfinite(found).all(), count
            assert all(np.isfinite(leaf).all() for leaf in model)
