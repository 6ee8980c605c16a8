"""OpenES beside its oracle, and the reference checks of evolution strategies."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import gfopt
from gfopt import shaping
from gfopt.core.evaluate import decode_rows, judged

X0 = np.array([1.0, -2.0, 0.5, 0.25])
DIMENSION = len(X0)


def noise_of(optimizer: gfopt.OpenES, population: Any) -> np.ndarray:
    """Returns the noise of each row, ``[P, D]``, drawn from its seed alone."""
    like = jnp.zeros(DIMENSION)
    draw = jax.jit(jax.vmap(lambda seed: optimizer.noise.sample(like, seed)))
    return np.asarray(draw(population.members.seed), np.float64)


def objective(x: np.ndarray) -> float:
    """An uneven quadratic with a kink."""
    return float(np.sum(np.arange(1, DIMENSION + 1) * (x - 0.3) ** 2) + abs(x[0]))


@pytest.fixture
def x64() -> Any:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("descent", ["adam", "sgd"])
@pytest.mark.parametrize("noise", [gfopt.gaussian(), gfopt.rademacher()], ids=str)
def test_steps_as_its_oracle(
    x64: None, antithetic: bool, descent: str, noise: gfopt.noise.Noise
) -> None:
    own = {"adam": oracles.Adam(0.1), "sgd": oracles.SGD(0.1)}[descent]
    oracle = oracles.OpenES(X0, 0.25, own, weight_decay=0.01)
    optimizer = gfopt.OpenES(
        population_size=10,
        sigma=0.25,
        learning_rate=0.1 if descent == "adam" else None,
        weight_decay=0.01,
        noise=noise,
        antithetic=antithetic,
        transform=None if descent == "adam" else optax.sgd(0.1),
    )
    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    decode = jax.jit(lambda s, p: decode_rows(optimizer, s, p.members))
    state = optimizer.init(jax.random.key(0), jnp.asarray(X0))
    for step in range(8):
        population = ask(jax.random.key(step), state)
        z = noise_of(optimizer, population)
        signs = [1, -1] * 5 if antithetic else [1] * 10
        candidates = oracle.candidates(z, signs)
        np.testing.assert_allclose(decode(state, population), candidates, 1e-6, 1e-7)
        fitness = np.array([objective(x) for x in candidates])
        if step == 3:
            fitness[[1, 4]] = np.nan  # failures: two pairs count no more
        if step == 4:
            fitness[2:5] = fitness[2]  # ties share their rank
        oracle.tell(z, signs, fitness)
        found = judged(jnp.asarray(fitness), population.active, ())
        state, _ = tell(state, population, found)
        np.testing.assert_allclose(optimizer.recommend(state), oracle.theta, 1e-6, 1e-7)
    assert objective(oracle.theta) < objective(X0)


def test_centered_ranks() -> None:
    # E1: their sum is 0, they end at -.5 and .5, std = sqrt((n + 1) / (12 (n - 1)))
    fitness = np.random.default_rng(0).normal(size=101).astype(np.float32)
    ranks = shaping.centered_rank(jnp.asarray(fitness), jnp.ones(101, bool))
    np.testing.assert_allclose(ranks, oracles.centered_ranks(fitness), atol=1e-6)
    assert abs(float(jnp.sum(ranks))) < 1e-5
    assert (float(ranks.min()), float(ranks.max())) == (-0.5, 0.5)
    np.testing.assert_allclose(np.std(ranks), np.sqrt(102 / (12 * 100)), rtol=1e-6)


def gradient(
    optimizer: gfopt.OpenES, fun: Any, x0: np.ndarray = X0, key: int = 0
) -> np.ndarray:
    """Returns the search gradient of one step: what ``sgd(1)`` moves by, turned."""

    @jax.jit
    def moved(key: jax.Array) -> jax.Array:
        state = optimizer.init(key, jnp.asarray(x0))
        population = optimizer.ask(key, state)
        fitness = jax.vmap(fun)(decode_rows(optimizer, state, population.members))
        found = judged(fitness, population.active, ())
        return state.mean - optimizer.tell(state, population, found)[0].mean

    return np.asarray(moved(jax.random.key(key)))


def raw_es(population_size: int, **options: Any) -> gfopt.OpenES:
    """Returns the plain estimator: raw fitness, steps of -g."""
    return gfopt.OpenES(
        population_size=population_size,
        shaping=shaping.raw,
        transform=optax.sgd(1.0),
        **options,
    )


def drawn(optimizer: gfopt.OpenES, key: int = 0) -> Any:
    """Returns the population that ``gradient`` draws."""
    state = optimizer.init(jax.random.key(key), jnp.asarray(X0))
    return optimizer.ask(jax.random.key(key), state)


def test_a_linear_objective_gives_its_gradient(x64: None) -> None:
    # E2: f = c'x, raw fitness: g is the mean of (c'z) z, so c on average
    c = np.array([1.0, -3.0, 0.5, 2.0])
    optimizer = raw_es(4096, sigma=0.5)
    found = gradient(optimizer, lambda x: c @ x)
    # 2048 pairs: the standard error of an entry is at most |c| sqrt(2 / 2048)
    np.testing.assert_allclose(found, c, atol=4 * np.linalg.norm(c) / 32)
    # it is exactly that mean, and sigma does not matter
    z = noise_of(optimizer, drawn(optimizer))
    np.testing.assert_allclose(found, np.mean((z @ c) * z.T, axis=1), rtol=1e-6)
    other = gradient(raw_es(4096, sigma=0.125), lambda x: c @ x)
    np.testing.assert_allclose(found, other, rtol=1e-6)


@pytest.mark.parametrize("shape", [shaping.centered_rank, shaping.raw])
def test_even_and_constant_objectives_move_nothing(shape: Any) -> None:
    # E3: the halves of a pair cancel, whatever the seed (at 0 they mirror exactly)
    optimizer = gfopt.OpenES(
        population_size=8, sigma=0.5, shaping=shape, transform=optax.sgd(1.0)
    )
    for fun in (lambda x: jnp.float32(3.0), lambda x: jnp.sum(x**4)):
        for key in range(3):
            found = gradient(optimizer, fun, np.zeros(4), key)
            np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize(
    "shape", [shaping.centered_rank, shaping.nes_utilities, shaping.standardised]
)
def test_one_sided_samples_of_a_constant_move_nothing(shape: Any) -> None:
    """Not even by what rounding leaves: Adam would make it a whole step."""
    optimizer = gfopt.OpenES(population_size=7, antithetic=False, shaping=shape)
    found = gradient(optimizer, lambda x: jnp.float32(0.1))
    np.testing.assert_array_equal(found, 0)


def test_a_streamed_gradient_is_the_materialised_one() -> None:
    # E5: sum_p w_p z_p, never held, equals the matrix product to summation order
    optimizer = raw_es(64, sigma=0.1)
    population = drawn(optimizer)
    z = noise_of(optimizer, population) * np.asarray(population.members.sign)[:, None]
    fitness = np.sum(np.sin(3 * (X0 + np.float32(0.1) * z)), axis=1)
    found = gradient(optimizer, lambda x: jnp.sum(jnp.sin(3 * x)))
    expected = fitness @ z / (64 * 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_transform_of_ones_own_makes_the_whole_step() -> None:
    """The default learning rate is 1 beside it; it is 0.01 beside our Adam."""

    def moved(optimizer: gfopt.OpenES) -> np.ndarray:
        return gradient(optimizer, lambda x: jnp.sum(x**2))

    plain = gfopt.OpenES(population_size=4)
    swapped = dataclasses.replace(plain, transform=optax.adam(0.01))
    np.testing.assert_allclose(moved(plain), moved(swapped), rtol=1e-6)
    assert np.max(np.abs(moved(plain))) > 0.009
