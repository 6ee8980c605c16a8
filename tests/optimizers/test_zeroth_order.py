"""MeZO beside its oracle, and the reference checks of zeroth-order gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import gfopt
from gfopt.core import shaping
from gfopt.core.evaluate import judged, vmapped
from gfopt.core.objective import Inputs, Objective
from gfopt.optimizers.zeroth_order import MeZO

X0 = np.array([1.0, -2.0, 0.5, 0.25])
GAUSSIAN, SIGNS = gfopt.gaussian(), gfopt.rademacher()


@pytest.fixture
def x64() -> Any:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


def draw(optimizer: MeZO, population: Any, size: int = len(X0)) -> np.ndarray:
    """Returns the step's noise, drawn from its seed alone."""
    like = jnp.zeros(size)
    return np.asarray(optimizer.noise.sample(like, population.members.seed[0]))


@partial(jax.jit, static_argnames="fun")
def step(optimizer: MeZO, key: jax.Array, state: Any, fun: Any) -> Any:
    """Returns population, evaluation, new state and info of one step."""
    population = optimizer.ask(key, state)
    evaluation = vmapped()(key, Objective(fun), optimizer, state, population, Inputs())
    return population, evaluation, *optimizer.tell(state, population, evaluation)


def quadratic(x: jax.Array) -> jax.Array:
    """An uneven quadratic."""
    return jnp.sum(jnp.arange(1, x.size + 1) * (x - 0.3) ** 2)


@pytest.mark.parametrize("noise", [GAUSSIAN, SIGNS], ids=["gaussian", "rademacher"])
def test_steps_as_its_oracle(x64: None, noise: gfopt.Noise) -> None:
    rate, eps = 0.01, 2.0**-10
    optimizer = MeZO(learning_rate=rate, eps=eps, noise=noise)
    state, theta = optimizer.init(jax.random.key(0), jnp.asarray(X0)), X0
    for count in range(8):
        key = jax.random.key(count)
        population, evaluation, state, info = step(optimizer, key, state, quadratic)
        z = np.asarray(draw(optimizer, population), np.float64)
        losses = tuple(quadratic(theta + sign * eps * z).item() for sign in (1, -1))
        # 1e-10: the oracle's theta has gone there and back, ours has not
        np.testing.assert_allclose(evaluation.fitness, losses, rtol=1e-10)
        theta = oracles.mezo_step(theta, z, losses, eps, rate)
        np.testing.assert_allclose(state.mean, theta, rtol=1e-7)
        np.testing.assert_allclose(info.loss, np.mean(losses), rtol=1e-9)
        assert not info.skipped
    assert quadratic(theta) < quadratic(X0)


def test_a_quadratic_has_one_slope_whatever_eps(x64: None) -> None:
    # Z3: the two-sided difference of a quadratic is its derivative along z, exactly
    found = []
    for eps in (2.0**-1, 2.0**-6, 2.0**-10):
        optimizer = MeZO(eps=eps)
        state = optimizer.init(jax.random.key(0), jnp.asarray(X0))
        population, _, _, info = step(optimizer, jax.random.key(1), state, quadratic)
        found.append(info.projected_gradient)
    z = draw(optimizer, population)
    np.testing.assert_allclose(found, jax.grad(quadratic)(X0) @ z, rtol=1e-8)


def test_a_linear_objective_moves_along_the_noise(x64: None) -> None:
    # Z4: p = c'z, and the step is a multiple of z
    c = np.array([1.0, -3.0, 0.5, 2.0])
    optimizer = MeZO(learning_rate=0.1)
    state = optimizer.init(jax.random.key(0), jnp.asarray(X0))
    key = jax.random.key(1)
    population, _, new, info = step(optimizer, key, state, lambda x: c @ x)
    z = draw(optimizer, population)
    np.testing.assert_allclose(info.projected_gradient, c @ z, rtol=1e-6)
    np.testing.assert_allclose(new.mean - state.mean, -0.1 * (c @ z) * z, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nothing_drifts(dtype: Any) -> None:
    # Z5: nothing is added to the weights and taken away: rate 0 leaves every bit
    optimizer = MeZO(learning_rate=0.0, eps=0.1)
    x0 = jnp.linspace(-3, 3, 1001).astype(dtype)
    result = gfopt.run(
        optimizer,
        lambda x: jnp.sum(x.astype(jnp.float32) ** 2),
        x0,
        key=jax.random.key(0),
        generations=20,
    )
    np.testing.assert_array_equal(result.x, x0)
    assert np.all(result.history.info.projected_gradient != 0)


def test_a_log_of_scalars_replays_a_run() -> None:
    # Z6: the weights follow from (seed, p, rate) alone, to the last bit
    optimizer = MeZO(learning_rate=0.02)
    x0 = {"w": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    state = replayed = optimizer.init(jax.random.key(0), x0)

    def fun(x: Any) -> jax.Array:
        return jnp.sum((x["w"] - 0.3) ** 2) + jnp.sum((x["b"] - 0.1) ** 2)

    @jax.jit
    def evaluated(key: jax.Array, state: Any) -> Any:
        population = optimizer.ask(key, state)
        return population, vmapped()(
            key, Objective(fun), optimizer, state, population, Inputs()
        )

    tell, log = jax.jit(optimizer.tell), []
    for count in range(200):
        population, evaluation = evaluated(jax.random.key(count), state)
        state, _ = tell(state, population, evaluation)
        log.append((population.members.seed[0], np.asarray(evaluation.fitness)))
    for seed, fitness in log:
        members = population.members._replace(seed=jnp.stack([seed, seed]))
        logged = population._replace(members=members)
        replayed, _ = tell(replayed, logged, judged(fitness, logged.active, ()))
    jax.tree.map(np.testing.assert_array_equal, replayed, state)
    assert fun(state.mean) < 0.1 * fun(x0)


def test_is_one_antithetic_pair_of_an_evolution_strategy(x64: None) -> None:
    # Z8: SPSA's step is OpenES's with N = 2, raw fitness and the same noise
    eps, rate = 2.0**-7, 0.05
    optimizer = MeZO(learning_rate=rate, eps=eps)
    strategy = gfopt.OpenES(
        population_size=2, sigma=eps, shaping=shaping.raw, transform=optax.sgd(rate)
    )
    key, x0 = jax.random.key(4), jnp.asarray(X0)
    state, other = (each.init(key, x0) for each in (optimizer, strategy))
    for count in range(3):
        key = jax.random.key(count)
        _, _, state, _ = step(optimizer, key, state, quadratic)
        _, _, other, _ = step(strategy, key, other, quadratic)
        np.testing.assert_allclose(state.mean, other.mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("noise", "factor"), [(GAUSSIAN, 22), (SIGNS, 20)], ids=["gaussian", "rademacher"]
)
def test_the_estimate_is_unbiased_and_as_noisy_as_known(
    noise: gfopt.Noise, factor: float
) -> None:
    # Z1, Z2: on a quadratic E[p z] is the gradient; E|p z|^2 / |gradient|^2 is d + 2
    # for normal noise and d for signs
    d, count = 20, 40_000
    x0 = jnp.linspace(-1, 1, d)
    optimizer = MeZO(learning_rate=1.0, eps=2.0**-4, noise=noise)
    state = optimizer.init(jax.random.key(0), x0)

    @jax.jit
    @jax.vmap
    def estimate(key: jax.Array) -> jax.Array:
        population = optimizer.ask(key, state)
        z = optimizer.noise.sample(x0, population.members.seed[0])
        losses = [jnp.sum((x0 + s * optimizer.eps * z) ** 2) for s in (1, -1)]
        found = judged(jnp.stack(losses), population.active, ())
        new, _ = optimizer.tell(state, population, found)
        return state.mean - new.mean

    g = np.asarray(estimate(jax.random.split(jax.random.key(1), count)), np.float64)
    true = np.asarray(2 * x0, np.float64)
    error = np.linalg.norm(g.mean(axis=0) - true) / np.linalg.norm(true)
    assert error < 4 * np.sqrt((d + 2) / count)
    ratio = np.sum(g**2, axis=1) / np.sum(true**2)
    # its mean to four standard errors of what was drawn
    spread = 4 * ratio.std() / np.sqrt(count)
    assert abs(ratio.mean() - factor) < spread < 0.05 * factor


def test_an_invalid_loss_skips_the_step() -> None:
    optimizer = MeZO(learning_rate=0.1)
    state = optimizer.init(jax.random.key(0), jnp.asarray(X0, jnp.float32))
    population = optimizer.ask(jax.random.key(1), state)
    for losses in ([1.0, jnp.nan], [-jnp.inf, 1.0], [3e38, -3e38]):
        found = judged(jnp.asarray(losses), population.active, ())
        new, info = optimizer.tell(state, population, found)
        np.testing.assert_array_equal(new.mean, state.mean)
        assert new.step == 1 and info.skipped and jnp.isnan(info.loss)
        assert info.projected_gradient == 0
