"""SNES beside its oracle, and the reference checks of the family."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from optimizers.peers import X0, turns, uneven

import gfopt
from gfopt import shaping
from gfopt.core.evaluate import decode_rows, judged
from gfopt.noise import noise


@pytest.fixture
def x64() -> Any:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


def value(step: int, row: int, x: np.ndarray) -> float:
    """An uneven quadratic; a failed row, a failed half of a pair, and ties."""
    if (step, row) in {(2, 1), (2, 4)}:
        return np.nan
    return round(uneven(x), 0 if step == 3 else 9)


def drawn(population: Any) -> np.ndarray:
    """Returns what the members of SNES stand for, ``[P, D]`` with their signs."""
    like = jnp.zeros(len(X0))
    draw = jax.vmap(lambda seed: noise.gaussian().sample(like, seed))
    z = np.asarray(jax.jit(draw)(population.members.seed), np.float64)
    return z * population.members.sign[:, None]


@pytest.mark.parametrize("antithetic", [False, True])
def test_snes_steps_as_its_oracle(antithetic: bool) -> None:
    optimizer = gfopt.SNES(population_size=8, sigma=0.5, antithetic=antithetic)
    oracle = oracles.SNES(X0, 0.5)
    for turn in turns(optimizer, X0, 6, value):
        z = drawn(turn.population)
        if antithetic:
            np.testing.assert_array_equal(z[::2], -z[1::2])
        np.testing.assert_allclose(turn.solutions, oracle.candidates(z), 2e-4, 2e-4)
        oracle.tell(z, turn.fitness)
        np.testing.assert_allclose(turn.after.mean, oracle.mean, 1e-6, 1e-7)
        np.testing.assert_allclose(turn.after.std, oracle.std, 1e-6)
    assert np.ptp(oracle.std) > 0.01


def told(optimizer: Any, x0: Any, fun: Any) -> tuple[Any, Any]:
    """Returns the first state and the one after a step, eagerly."""
    state = optimizer.init(jax.random.key(0), x0)
    population = optimizer.ask(jax.random.key(1), state)
    fitness = fun(decode_rows(optimizer, state, population.members))
    found = judged(fitness, population.active, ())
    return state, optimizer.tell(state, population, found)[0]


def test_a_constant_objective_moves_nothing() -> None:
    # E3; utilities of ties sum to 0 up to rounding only
    before, after = told(gfopt.SNES(), jnp.asarray(X0), lambda x: jnp.full(len(x), 0.1))
    assert after.step == 1
    for old, new in zip(before[1:-1], after[1:-1], strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_even_objective_leaves_the_mean_of_pairs_where_it_is() -> None:
    # E3: f(m + s z) = f(m - s z), so both halves have the same utility
    optimizer = gfopt.SNES(population_size=12, antithetic=True)
    before, after = told(optimizer, jnp.zeros(4), lambda x: jnp.sum(x**2, axis=1))
    np.testing.assert_array_equal(before.mean, after.mean)
    assert np.all(before.std != after.std)


def test_utilities_sum_to_nothing() -> None:
    # E9
    for size in (2, 3, 7, 100):
        utilities = shaping.nes_utilities(jnp.arange(size) * 1.0, jnp.ones(size, bool))
        assert abs(float(jnp.sum(utilities))) < 1e-7
        expected = oracles.nes_utilities(np.arange(size) * 1.0)
        np.testing.assert_allclose(utilities, expected, 1e-5, 1e-7)


def test_snes_converges_linearly_on_the_sphere(x64: None) -> None:
    # E9: log f falls by as much in each third, and sigma keeps pace with the distance
    def start(key: jax.Array) -> Any:
        result = gfopt.run(
            gfopt.SNES(sigma=1.0),
            lambda x: jnp.sum(x**2),
            jnp.ones(10),
            key=key,
            generations=240,
        )
        ratio = jnp.mean(result.state.std) / jnp.linalg.norm(result.recommended)
        return jnp.log(result.history["fitness"]), ratio

    logs, ratio = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), 8))
    falls = -np.diff(np.mean(logs[:, 59::60], axis=0))
    assert np.all(falls > 5)
    assert np.max(falls) < 1.25 * np.min(falls)
    assert np.all((ratio > 0.02) & (ratio < 2))


def test_stops_where_it_has_converged() -> None:
    result = gfopt.minimize(
        lambda x: (x**2).sum(), [1.0, 2.0], method="snes", sigma0=0.5, budget=20_000
    )
    assert result.fun < 1e-15
    assert "tol_" in result.message


def test_snes_adapts_each_weight_of_a_network() -> None:
    """Leaves of any shape; what a leaf's scale is, its deviations become."""
    x0 = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    optimizer = gfopt.SNES(population_size=20, sigma=0.1, antithetic=True)
    result = jax.jit(
        lambda key: gfopt.run(
            optimizer,
            lambda x: jnp.sum((x["w"] - 1) ** 2) + 1e4 * jnp.sum((x["b"] - 1) ** 2),
            x0,
            key=key,
            generations=150,
        )
    )(jax.random.key(0))
    np.testing.assert_allclose(result.recommended["w"], 1, atol=1e-2)
    np.testing.assert_allclose(result.recommended["b"], 1, atol=1e-3)
    assert result.state.std["w"].min() > 10 * result.state.std["b"].max()


def test_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="population_size must be an even integer"):
        gfopt.SNES(population_size=7, antithetic=True)
    with pytest.raises(ValueError, match="std_learning_rate"):
        gfopt.SNES(std_learning_rate=-1.0)
