"""HiZOO beside its oracle, and what its diagonal becomes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import gfopt
from gfopt.core.evaluate import judged
from gfopt.lazy import lazy

SCALES = np.array([1.0, 5.0, 25.0])


@pytest.fixture
def x64() -> Any:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


def quadratic(x: Any) -> Any:
    """A quadratic whose Hessian is ``2 SCALES`` on the diagonal."""
    return (SCALES * (x - 0.2) ** 2).sum()


def test_steps_as_its_oracle(x64: None) -> None:
    rate, eps, share = 0.05, 2.0**-10, 0.1
    optimizer = gfopt.HiZOO(learning_rate=rate, eps=eps, hessian_rate=share)
    theta, h = np.array([1.0, -1.0, 0.5]), np.ones(3)
    state = optimizer.init(jax.random.key(0), jnp.asarray(theta))
    tell = jax.jit(optimizer.tell)
    for count in range(6):
        population = optimizer.ask(jax.random.key(count), state)
        assert population.members.sign.tolist() == [0, 1, -1]
        z = np.asarray(
            gfopt.gaussian().sample(state.mean, population.members.seed[1]), float
        )
        rows = [
            lazy.materialise(
                optimizer.decode(state, jax.tree.map(lambda x, r=r: x[r], m))
            )
            for m in [population.members]
            for r in range(3)
        ]
        np.testing.assert_allclose(rows[0], theta, rtol=1e-7)
        # a radius has 12 significant bits
        change = eps / np.sqrt(h) * z
        np.testing.assert_allclose(rows[1] - rows[0], change, rtol=2.0**-11)
        np.testing.assert_allclose(rows[0] - rows[2], change, rtol=2.0**-11)
        losses = [float(quadratic(np.asarray(row))) for row in rows]
        if count > 2:  # each loss is invalid once
            losses[count - 3] = np.nan
        found = judged(jnp.asarray(losses), population.active, ())
        state, info = tell(state, population, found)
        theta, h = oracles.hizoo_step(theta, h, z, losses, eps, rate, share)
        np.testing.assert_allclose(state.mean, theta, rtol=1e-7)
        np.testing.assert_allclose(state.hessian, h, rtol=1e-6)
        assert not info.skipped


def test_the_diagonal_becomes_that_of_the_hessian() -> None:
    # around (D + 2) / 2 times the Hessian, here 2.5 * 2 SCALES
    optimizer = gfopt.HiZOO(learning_rate=0.0, eps=0.5, hessian_rate=0.02)
    result = gfopt.run(
        optimizer,
        lambda x: jnp.sum(jnp.asarray(SCALES) * x**2),
        jnp.zeros(3),
        key=jax.random.key(0),
        generations=4000,
    )
    ratio = np.asarray(result.state.hessian) / (5 * SCALES)
    assert np.all((0.4 < ratio) & (ratio < 2.5)), ratio
    np.testing.assert_array_equal(result.recommended, np.zeros(3))


def test_the_diagonal_stays_finite() -> None:
    """Also where a curvature is as large as numbers get, and where it is 0 for long."""
    optimizer = gfopt.HiZOO(hessian_rate=1.0)
    state = optimizer.init(jax.random.key(0), jnp.ones(3))
    for losses in ([0.0, 1e33, 1e33], [0.0, 1e33, 1e33], [1.0, 1.0, 1.0]):
        population = optimizer.ask(jax.random.key(1), state)
        found = judged(jnp.asarray(losses), population.active, ())
        state, info = optimizer.tell(state, population, found)
        assert not info.skipped
        for leaf in (state.spread, state.hessian, state.mean):
            assert np.all(np.isfinite(leaf)), leaf
        assert np.all(state.spread > 0)


def test_two_invalid_losses_skip_the_step() -> None:
    optimizer = gfopt.HiZOO(learning_rate=0.1)
    state = optimizer.init(jax.random.key(0), jnp.ones(3))
    population = optimizer.ask(jax.random.key(1), state)
    nan, inf = jnp.nan, jnp.inf
    for losses in ([nan, 1.0, inf], [1.0, inf, nan], [nan, nan, 2.0]):
        found = judged(jnp.asarray(losses), population.active, ())
        new, info = optimizer.tell(state, population, found)
        np.testing.assert_array_equal(new.mean, state.mean)
        np.testing.assert_array_equal(new.hessian, state.hessian)
        assert new.step == 1 and info.skipped
        np.testing.assert_array_equal(info.loss, losses[0])
    found = judged(jnp.array([0.0, 3e38, -3e38]), population.active, ())
    new, info = optimizer.tell(state, population, found)  # their difference overflows
    np.testing.assert_array_equal(new.mean, state.mean)
    assert info.skipped
