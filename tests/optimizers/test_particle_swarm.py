"""The particle swarm beside its oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from optimizers.peers import X0, falling, turns, uneven

import gfopt
from gfopt.noise import threefry

SIZE, DIMENSION = 5, len(X0)
FACTORS = (0.7298, 1.49618, 1.49618)


def draws(key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a generation draws: ``[P, D]`` normals, ``[P, 2 D]`` uniforms."""
    with jax.enable_x64(True):
        found = threefry.normal_and_uniform(
            key, SIZE, DIMENSION, 2 * DIMENSION, jnp.float64
        )
    return np.asarray(found[0]), np.asarray(found[1])


def test_steps_as_its_oracle() -> None:
    optimizer = gfopt.ParticleSwarm(population_size=SIZE, sigma=0.5)
    oracle = None

    def value(step: int, row: int, x: np.ndarray) -> float:
        failed = (step, row) in ((0, 2), (1, 2), (4, 0), (5, 3))
        return np.nan if failed else uneven(x)

    for turn in turns(optimizer, X0, 15, value):
        z, u = draws(turn.key)
        if oracle is None:
            start = X0 + 0.5 * np.asarray(z)
            start[0] = X0
            oracle = oracles.ParticleSwarm(start, FACTORS)
        else:
            oracle.move(u[:, :DIMENSION], u[:, DIMENSION:])
        np.testing.assert_allclose(turn.solutions, oracle.x, 1e-12, 1e-12)
        oracle.tell(turn.fitness)
        state = turn.after
        np.testing.assert_allclose(state.particles.velocity, oracle.v, 1e-12, 1e-12)
        np.testing.assert_allclose(state.best_positions, oracle.best, 1e-12, 1e-12)
        np.testing.assert_allclose(state.best_fitness, oracle.best_fitness, 1e-12)
    assert oracle.best_fitness.min() < uneven(X0)


def test_a_lost_generation_changes_nothing_later_on() -> None:
    """All fail at step 3: the swarm stays where it was, and moves another way."""
    optimizer = gfopt.ParticleSwarm(population_size=SIZE, sigma=0.5)

    def value(step: int, row: int, x: np.ndarray) -> float:
        return np.nan if step == 3 else uneven(x)

    seen = list(turns(optimizer, X0, 5, value))
    for before, after in zip(seen[3].before[1:], seen[3].after[1:], strict=True):
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(a, b)
    moved = np.any(seen[3].solutions != seen[4].solutions, axis=1)
    assert moved.sum() >= SIZE - 1  # a leader at rest stays where it is


@pytest.mark.parametrize(
    ("fun", "reason"),
    [
        (lambda x: jnp.sum(jnp.abs(x)), "tol_x"),
        (lambda x: jnp.maximum(jnp.sum(x**2), 1.0), "tol_fun"),
    ],
    ids=["tol_x", "tol_fun"],
)
def test_stops(fun: object, reason: str) -> None:
    x0 = np.array([2.0, 3.0])
    result = gfopt.minimize(fun, x0, method="particle_swarm", budget=30_000)
    assert result.success and reason in result.message, result.message


def test_a_search_that_runs_away_stays_finite() -> None:
    state = falling(gfopt.ParticleSwarm(population_size=8, sigma=1e29), 200)
    for leaf in jax.tree.leaves(state):
        assert np.all(np.isfinite(leaf))
    assert state.best_positions.max() == 1e30
