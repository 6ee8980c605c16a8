"""Agents that seek novelty: step by step against NumPy, and what they are for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import gfopt
from gfopt.types import Evaluation


def objective(x: Any) -> Any:
    return jnp.sum(x**2), x[:2]


def agents(**options: Any) -> gfopt.NoveltyAgents:
    inner = gfopt.OpenES(
        population_size=6,
        sigma=0.25,
        learning_rate=0.5,
        transform=optax.scale(-1.0),
    )
    return gfopt.NoveltyAgents(inner, num_descriptors=2, **options)


# weights at which no two different pairs of ranks have equal mixtures
@pytest.mark.parametrize(
    ("weight", "change", "patience"), [(0.0, 0.0, 9), (0.37, 0.0, 9), (1.0, 0.21, 2)]
)
def test_against_the_oracle(weight: float, change: float, patience: int) -> None:
    optimizer = agents(
        num_agents=3,
        num_neighbours=2,
        archive_size=8,
        weight=weight,
        weight_change=change,
        patience=patience,
        initial_std=1.0,
    )
    start = jnp.ones((3, 1))
    state = optimizer.init(jax.random.key(0), start)
    slow = oracles.NoveltyAgents(
        np.asarray(state.agents.mean, float).reshape(3, 3),
        sigma=0.25,
        rate=0.5,
        neighbours=2,
        places=8,
        weight=weight,
        change=change,
        patience=patience,
    )
    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    decode = jax.jit(jax.vmap(optimizer.decode, (None, 0)))
    weights = []
    for step in range(8):
        population = ask(jax.random.key(step), state)
        x = np.asarray(decode(state, population.members), float).reshape(21, 3)
        np.testing.assert_allclose(x[18:], slow.theta, rtol=1e-5, atol=1e-6)
        # a reward that misleads: the means get worse now and then
        fitness = np.sum(x**2, axis=1) + np.sin(7 * x[:, 0])
        told = Evaluation(
            jnp.asarray(fitness, jnp.float32),
            jnp.ones(21, bool),
            jnp.asarray(x[:, :2], jnp.float32),
        )
        state, info = tell(state, population, told)
        noise = (x[:18].reshape(3, 6, 3) - slow.theta[:, None]) / 0.25
        slow.step(
            noise,
            fitness[:18].reshape(3, 6),
            x[:18, :2].reshape(3, 6, 2),
            fitness[18:],
            x[18:, :2],
        )
        mean = np.asarray(state.agents.mean).reshape(3, 3)
        np.testing.assert_allclose(mean, slow.theta, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(info.weight, slow.weight, rtol=1e-6)
        weights.append(float(info.weight))
    kept = np.asarray(state.archive.descriptors)
    order = np.lexsort(kept.T)
    expected = np.array(slow.archive)
    np.testing.assert_allclose(
        kept[order], expected[np.lexsort(expected.T)], rtol=1e-4, atol=1e-5
    )
    assert int(info.num_kept) == 24
    if change:
        assert min(weights) < 1 and len(set(weights)) > 2


def test_agents_start_apart_or_together() -> None:
    start = {"w": jnp.ones((4, 5)), "b": jnp.full(5, 2.0)}
    together = agents(num_agents=4).init(jax.random.key(0), start)
    apart = agents(num_agents=4, initial_std=1.0).init(jax.random.key(0), start)
    for leaf in jax.tree.leaves(together.agents.mean):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    w = np.asarray(apart.agents.mean["w"]).reshape(4, -1)
    assert len(np.unique(w[:, 0])) == 4 and 0.3 < w.std() < 0.7
    np.testing.assert_array_equal(apart.agents.mean["b"], np.full((4, 5), 2.0))


def test_novelty_goes_where_the_reward_does_not() -> None:
    def reach(weight: float) -> float:
        # at one point, candidates x +- s z would be equally far from the archive
        optimizer = agents(num_agents=3, weight=weight, initial_std=1.0)
        result = gfopt.run(
            optimizer,
            gfopt.Objective(lambda x: objective(x[:, 0]), has_aux=True),
            jnp.zeros((2, 1)),
            key=jax.random.key(1),
            generations=40,
        )
        return float(jnp.linalg.norm(result.state.agents.mean, axis=1).mean())

    assert reach(0.0) > 3 and reach(1.0) < 0.5


def test_the_best_that_was_evaluated_is_recommended() -> None:
    result = gfopt.run(
        agents(num_agents=2, weight=1.0),
        gfopt.Objective(objective, has_aux=True),
        jnp.ones(2),
        key=jax.random.key(2),
        generations=15,
    )
    best = np.asarray(result.history["fitness"]).min()
    np.testing.assert_allclose(jnp.sum(result.recommended**2), best, rtol=1e-5)
    np.testing.assert_allclose(result.state.best_fitness, best, rtol=1e-6)


@pytest.mark.parametrize(
    "inner", [gfopt.PGPE(population_size=8), gfopt.SNES(population_size=8)]
)
def test_other_strategies_and_failures(inner: Any) -> None:
    def lost(x: Any) -> Any:
        return jnp.where(x[0] > 1.05, jnp.nan, jnp.sum(x**2)), x

    optimizer = gfopt.NoveltyAgents(inner, num_descriptors=2, num_agents=2)
    result = gfopt.run(
        optimizer,
        gfopt.Objective(lost, has_aux=True),
        jnp.ones(2),
        key=jax.random.key(0),
        generations=5,
        evaluator=gfopt.chunked(3),
    )
    assert np.asarray(result.history["num_valid"]).min() < 18
    means = jax.vmap(inner.recommend)(result.state.agents)
    assert np.all(np.isfinite(means)) and np.all(np.isfinite(result.recommended))


def test_wrong_arguments_are_named() -> None:
    for name, value in {
        "num_agents": 0,
        "weight": 1.5,
        "weight_change": -0.1,
        "patience": 0,
        "archive_size": 4,
        "initial_std": 0.0,
        "num_neighbours": 0,
    }.items():
        with pytest.raises(ValueError, match=f"^{name} must"):
            agents(**{name: value})
    with pytest.raises(TypeError, match="^inner must"):
        gfopt.NoveltyAgents("open_es", num_descriptors=2)
    with pytest.raises(ValueError, match=r"^descriptor must return 3 numbers"):
        gfopt.run(
            gfopt.NoveltyAgents(agents().inner, num_descriptors=3),
            gfopt.Objective(objective, has_aux=True),
            jnp.ones(2),
            key=jax.random.key(0),
            generations=1,
        )
