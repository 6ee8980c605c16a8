"""The margin: chances that stay, against the paper written as a loop, and its use."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.stats import norm

import gfopt
from gfopt.driver.setup.setup import setup
from gfopt.optimizers.wrappers.margin import _near_choices, _with_margin
from gfopt.spaces.bounds import space_of

ALPHA = 0.02
corrected = jax.jit(_with_margin, static_argnums=4)


@pytest.mark.parametrize("std", [3.0, 0.4, 0.05, 1e-4])
def test_chances_are_the_papers(std: float) -> None:
    """Means in an inner interval and in the two outer ones, of integers 0 to 9."""
    with jax.enable_x64(True):
        m = jnp.array([4.3, 3.9, 5.0, -0.4, 0.2, 8.7, 9.4])
        x = jnp.round(m)
        below = jnp.where(x > 0, m - (x - 0.5), jnp.inf)
        above = jnp.where(x < 9, x + 0.5 - m, jnp.inf)
        found = corrected(m, jnp.full(7, std), below, above, ALPHA)
    mean, factor = (np.asarray(part) for part in found)
    m, x = np.asarray(m), np.asarray(x)
    for i in range(7):
        expected = oracles.margin(float(m[i]), std, 0, 9, ALPHA)
        np.testing.assert_allclose((mean[i], std * factor[i]), expected, rtol=1e-9)
    s = std * np.asarray(factor)
    low, high = (
        norm.cdf((np.asarray(x) - 0.5 - mean) / s),
        norm.sf((np.asarray(x) + 0.5 - mean) / s),
    )
    low, high = np.where(x > 0, low, 0), np.where(x < 9, high, 0)
    assert np.all(low + high >= ALPHA - 1e-9)
    inner = (x > 0) & (x < 9)
    assert np.all(low[inner] >= ALPHA / 2 - 1e-9) and np.all(
        high[inner] >= ALPHA / 2 - 1e-9
    )


def test_what_has_its_margin_is_left_alone() -> None:
    ends = jnp.array([0.3, jnp.inf]), jnp.array([0.7, jnp.inf])
    mean, factor = corrected(jnp.array([4.3, 2.0]), jnp.full(2, 1.0), *ends, ALPHA)
    np.testing.assert_array_equal(mean, jnp.array([4.3, 2.0]))
    np.testing.assert_array_equal(factor, 1)


def test_every_choice_has_its_chance() -> None:
    m, s = jnp.array([[3.0, 1.0, 2.9], [0.0, 0.0, 9.0]]), jnp.full((2, 3), 0.1)
    found = np.asarray(_near_choices(m, s, ALPHA))
    gaps = found.max(axis=1, keepdims=True) - found
    assert np.all(norm.sf(gaps / np.sqrt(0.02)) >= ALPHA * 0.999)
    np.testing.assert_array_equal(found[0, [0, 2]], m[0, jnp.array([0, 2])])
    np.testing.assert_array_equal(found.argmax(axis=1), m.argmax(axis=1))


@pytest.mark.parametrize("method", ["cma_es", "snes", "cross_entropy"])
def test_integers_go_on_changing(method: str) -> None:
    """On a function of the other coordinates alone, which makes sigma tiny."""
    bounds = [gfopt.spaces.integer(0, 9), gfopt.spaces.integer(0, 1), (-1, 1), (-1, 1)]
    made = setup(method, np.array([4.0, 0.0, 0.5, 0.5]), bounds=bounds)
    assert isinstance(made.optimizer.inner, gfopt.Margin)

    def step(carry: Any, key: jax.Array) -> Any:
        state = carry
        population = made.optimizer.ask(key, state)
        x = jax.vmap(lambda m: made.optimizer.decode(state, m))(population.members)
        fitness = jnp.sum(x[:, 2:] ** 2, axis=1)
        told = gfopt.Evaluation(fitness, jnp.ones(len(fitness), bool))
        return made.optimizer.tell(state, population, told)[0], x

    with jax.enable_x64(True):
        state = made.optimizer.init(jax.random.key(0), made.x0)
        keys = jax.random.split(jax.random.key(1), 300)
        state, x = jax.jit(lambda state: jax.lax.scan(step, state, keys))(state)
    late = np.asarray(x)[-100:]  # [100, P, D]
    assert late[:, :, 2:].std() < 1e-2
    size = late.shape[1]
    for i in range(2):
        values, counts = np.unique(late[:, :, i], return_counts=True)
        share = 1 - counts.max() / late[:, :, i].size
        # alpha = 1 / (4 P): 25 leave it in 100 generations
        assert len(values) > 1 and share > 0.5 / (4 * size)


def test_a_method_without_a_distribution_rounds() -> None:
    bounds = gfopt.spaces.integer(0, 9)
    made = setup("differential_evolution", np.array([1.0, 2.0]), bounds=bounds)
    assert isinstance(made.optimizer.inner, gfopt.DifferentialEvolution)
    space = space_of(bounds, made.x0)
    with pytest.raises(TypeError, match="inner must be a method with a normal"):
        gfopt.Margin(gfopt.DifferentialEvolution(), space)
    with pytest.raises(TypeError, match="space must be a gfopt.spaces.Space"):
        gfopt.Margin(gfopt.CMAES(), (0, 9))


def test_reasons_to_stop_and_their_tolerances_come_through() -> None:
    result = gfopt.minimize(
        lambda x: jnp.sum((x - 2.2) ** 2), [1.0, 1.0], bounds=gfopt.spaces.integer(0, 9)
    )
    # all candidates round to the same point
    assert result.message == "converged: flat = True" and result.success
    np.testing.assert_array_equal(result.x, [2, 2])


def test_a_method_with_a_model_rounds() -> None:
    found = gfopt.minimize(
        lambda x: float((x[0] - 3.3) ** 2 + (x[1] - 1.5) ** 2),
        [5.0, 3.0],
        method="lq_cma_es",
        bounds=[gfopt.spaces.integer(0, 9), (0, 5)],
        budget=80,
    )
    assert found.x[0] == 3.0 and abs(found.x[1] - 1.5) < 0.1
