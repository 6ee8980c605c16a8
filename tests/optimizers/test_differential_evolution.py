"""Differential evolution beside its oracle, and what its parts promise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from optimizers.peers import X0, falling, turns, uneven

import gfopt
from gfopt.noise import threefry
from gfopt.optimizers import differential_evolution

SIZE, DIMENSION = 7, len(X0)


def draws(key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a generation draws: ``[P, D]`` normals, ``[P, D + 5]`` uniforms."""
    found = threefry.normal_and_uniform(
        key, SIZE, DIMENSION, DIMENSION + 5, jnp.float64
    )
    return np.asarray(found[0]), np.asarray(found[1])


@pytest.mark.parametrize("strategy", ["best1bin", "rand1bin"])
def test_steps_as_its_oracle(strategy: str) -> None:
    optimizer = gfopt.DifferentialEvolution(
        population_size=SIZE, strategy=strategy, sigma=0.5, crossover_rate=0.6
    )
    oracle = None

    def value(step: int, row: int, x: np.ndarray) -> float:
        failed = (step, row) in ((0, 2), (3, 1), (3, 4))
        return np.nan if failed else round(uneven(x), 1)  # ties, too

    for turn in turns(optimizer, X0, 12, value):
        with jax.enable_x64(True):
            z, u = draws(turn.key)
        if oracle is None:
            start = X0 + 0.5 * np.asarray(z)
            start[0] = X0
            oracle = oracles.DifferentialEvolution(start, strategy, 0.6)
            expected = start
        else:
            factor = 0.5 + 0.5 * u[0, DIMENSION + 4]
            picks, fill = u[:, DIMENSION : DIMENSION + 3], u[:, DIMENSION + 3]
            expected = oracle.candidates(u[:, :DIMENSION], picks, fill, factor)
        np.testing.assert_allclose(turn.solutions, expected, 1e-12, 1e-12)
        oracle.tell(expected, turn.fitness)
        np.testing.assert_allclose(turn.after.positions, oracle.x, 1e-12, 1e-12)
        np.testing.assert_array_equal(turn.after.fitness, oracle.fitness)
    assert np.isfinite(oracle.fitness).all() and oracle.fitness.min() < uneven(X0)


def test_three_others_are_drawn_evenly() -> None:
    rows = np.random.default_rng(0).uniform(size=(20_000, 5, 3)).astype(np.float32)
    found = jax.jit(jax.vmap(differential_evolution._others))(rows)
    triples = np.stack(found, axis=-1)  # [20000, 5, 3]
    itself = np.arange(5)[:, None]
    assert np.all(triples != itself) and triples.min() == 0 and triples.max() == 4
    assert np.all([len(set(t)) == 3 for t in triples[:500].reshape(-1, 3)])
    for row in range(5):
        _, counts = np.unique(triples[:, row], axis=0, return_counts=True)
        assert len(counts) == 24  # ordered triples of the four others
        np.testing.assert_allclose(counts, 20_000 / 24, atol=5 * np.sqrt(20_000 / 24))


@pytest.mark.parametrize(("x0", "scale"), [([0.0] * 2, 1.0), ([300.0] * 2, 1e-3)])
def test_stops_where_its_members_are_one(x0: list[float], scale: float) -> None:
    """In single precision, too, where numbers cannot be closer than their spacing."""

    def valley(x: jax.Array) -> jax.Array:
        return scale * jnp.sum((x - 301.0) ** 4)

    start = jnp.array(x0, jnp.float32)
    options = {"population_size": 12, "tol_fun": 0.0}
    result = gfopt.minimize(
        valley,
        start,
        method="differential_evolution",
        options=options,
        sigma0=200.0,
        budget=30_000,
    )
    assert result.success and "tol_x" in result.message, result.message
    np.testing.assert_allclose(result.x, 301.0, rtol=1e-3)


def test_stops_where_its_values_are_one() -> None:
    result = gfopt.minimize(
        lambda x: jnp.maximum(jnp.sum(x**2), 1.0),
        np.array([2.0, 3.0]),
        method="differential_evolution",
        budget=10_000,
    )
    assert result.success and "tol_fun" in result.message, result.message
    assert result.fun == 1.0


def test_a_search_that_runs_away_stays_finite() -> None:
    optimizer = gfopt.DifferentialEvolution(population_size=8, sigma=1e29)
    state = falling(optimizer, 60)
    assert np.all(np.isfinite(state.positions)) and state.positions.max() == 1e30
