"""Persistent and noise-reuse ES: no bias from truncation, on a system that has much."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import cheap_jit

import gfopt
from gfopt import shaping
from gfopt.core.evaluate import judged

PARTS, POPULATION, THETA = 8, 50, 0.5
PROBLEM = gfopt.problems.InfluenceBalancing(
    num_states=7, num_positive=3, unroll_length=4
)
# adds up the gradients and moves nothing
KEPT = optax.GradientTransformation(
    jnp.zeros_like, lambda g, total, _: (jnp.zeros_like(g), total + g)
)


def persistent(num_unrolls: int = PARTS, **options: Any) -> gfopt.PersistentES:
    """Returns persistent ES, at one theta for a whole episode."""
    return gfopt.PersistentES(
        population_size=POPULATION,
        num_unrolls=num_unrolls,
        sigma=0.1,
        transform=KEPT,
        **options,
    )


TRUNCATED = gfopt.OpenES(
    population_size=POPULATION, sigma=0.1, shaping=shaping.raw, transform=KEPT
)


@partial(cheap_jit, static_argnames=("num_unrolls", "episodes"))
def gradients(
    optimizer: Any, num_unrolls: int = PARTS, episodes: int = 400
) -> jax.Array:
    """Returns the mean gradient of an episode for several seeds, each ``[]``."""

    def one(key: jax.Array) -> jax.Array:
        result = gfopt.run(
            optimizer,
            PROBLEM.objective(POPULATION, num_unrolls),
            jnp.float32(THETA),
            key=key,
            generations=num_unrolls,
        )
        return result.state.transform / num_unrolls

    return jax.vmap(one)(jax.random.split(jax.random.key(0), episodes))


def off(found: jax.Array, expected: float) -> float:
    """Returns how many standard errors the mean is away."""
    error = np.std(found) / np.sqrt(len(found))
    return float((np.mean(found) - expected) / error)


def test_truncation_has_a_bias_which_persistence_has_not() -> None:
    true = float(jax.grad(partial(PROBLEM.loss, num_unrolls=PARTS))(THETA))
    truncated = gradients(TRUNCATED)
    kept, reused = gradients(persistent()), gradients(persistent(reuses_noise=True))
    # the loss is quadratic: smoothing does not change its gradient
    assert abs(off(kept, true)) < 4 and abs(off(reused, true)) < 4
    assert abs(off(truncated, true)) > 40
    assert true > 0 > np.mean(truncated)  # it points the wrong way
    assert np.var(reused) < 0.5 * np.var(kept)


@pytest.mark.parametrize("reuses_noise", [True, False])
def test_one_part_an_episode_is_plain_es(reuses_noise: bool) -> None:
    # E10: K = 1, all three are the same estimator
    plain = gradients(TRUNCATED, 1, 5)
    own = gradients(persistent(1, reuses_noise=reuses_noise), 1, 5)
    np.testing.assert_allclose(own, plain, 1e-6)


def test_the_sum_is_over_the_noise_of_the_episode() -> None:
    """By hand: a step of SGD with f = row number, for two episodes."""
    optimizer = gfopt.PersistentES(
        population_size=4, num_unrolls=2, sigma=0.5, transform=optax.sgd(1.0)
    )
    state = optimizer.init(jax.random.key(0), jnp.zeros(3))
    fitness = jnp.array([1.0, 4.0, 2.0, 0.0])
    mean, xi = np.zeros(3), np.zeros((4, 3))
    for step in range(4):
        population = optimizer.ask(jax.random.key(step), state)
        decode = jax.vmap(partial(optimizer.decode, state))
        eps = np.asarray(decode(population.members)) - mean
        xi = eps + (0 if step % 2 == 0 else xi)
        found = judged(fitness, population.active, ())
        state, info = optimizer.tell(state, population, found)
        gradient = np.asarray(fitness) @ xi / (4 * 0.5**2)
        mean = mean - gradient
        np.testing.assert_allclose(state.mean, mean, 1e-5, 1e-6)
        assert info.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert np.all(xi != eps)


def test_noise_is_reused_for_an_episode() -> None:
    optimizer = persistent(3, reuses_noise=True)
    state = optimizer.init(jax.random.key(0), jnp.zeros(3))
    seeds = []
    for step in range(6):
        population = optimizer.ask(jax.random.key(step), state)
        seeds.append(np.asarray(population.members.seed))
        found = judged(jnp.ones(POPULATION), population.active, ())
        state, _ = optimizer.tell(state, population, found)
    assert np.all(seeds[0] == seeds[2]) and np.all(seeds[3] == seeds[5])
    assert np.all(seeds[0] != seeds[3])
