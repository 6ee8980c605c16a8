"""Random search beside a loop that keeps the best."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import gfopt
from gfopt.core.evaluate import judged

X0 = jnp.array([1.0, -2.0, 0.5])


def test_keeps_the_best_sample() -> None:
    optimizer = gfopt.RandomSearch(population_size=8, sigma=lambda step: 1 / (1 + step))
    state = optimizer.init(jax.random.key(0), X0)
    best, lowest = np.asarray(X0), np.inf
    for step in range(6):
        population = optimizer.ask(jax.random.key(step), state)
        fitness = np.zeros(8, np.float32)
        for row in range(8):
            # x0 + sigma z, from the noise of the member's seed
            z = optimizer.noise.sample(X0, population.members.seed[row])
            x = np.asarray(
                X0 + gfopt.noise.threefry.round_significant(1 / (1 + step)) * z
            )
            fitness[row] = np.sum((x - 0.5) ** 2)
            if row == 3:
                fitness[row] = -np.inf  # a failure, whatever it says
            elif fitness[row] < lowest:
                best, lowest = x, fitness[row]
        found = judged(jnp.asarray(fitness), population.active, ())
        state, info = optimizer.tell(state, population, found)
        np.testing.assert_array_equal(optimizer.recommend(state), best)
        assert info.best_fitness == state.best_fitness == lowest
    assert lowest < np.sum((X0 - 0.5) ** 2)


def test_remembers_no_solution() -> None:
    """The best is kept as a seed: the state has no array beside the center."""
    x0 = {"w": jnp.zeros((30, 40))}
    state = gfopt.RandomSearch().init(jax.random.key(0), x0)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes == [1, 1, 1, 1, 1200]
