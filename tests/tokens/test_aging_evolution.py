"""Aging evolution beside a queue in Python, and what the age is good for."""

from __future__ import annotations

from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from programs import cheap_jit

import gfopt
from gfopt.core.evaluate import judged
from gfopt.noise import threefry
from gfopt.research.statistics import bootstrap_interval
from gfopt.tokens import AgingEvolution

KEY = jax.random.key(3)
VOCABULARY = np.array([2, 3, 5, 7, 11])
START = np.zeros(4, np.int32)


@pytest.mark.parametrize("size", [1, 3])
def test_it_is_a_queue_from_which_the_oldest_leaves(size: int) -> None:
    method = AgingEvolution(
        VOCABULARY, size, num_living=6, tournament_size=3, mutation_rate=0.2
    )
    rng = np.random.default_rng(0)
    queue: deque[tuple[float, tuple[int, ...]]] = deque(maxlen=6)
    ask, tell = cheap_jit(method.ask), cheap_jit(method.tell)
    state, born, best = method.init(KEY, START), 0, (np.inf, ())
    ring: list[Any] = [None] * 6
    for step in range(24):
        key = jax.random.key(step)
        u = np.asarray(threefry.standard_uniform(key, (size, 6 + 1 + 3 * 4)))
        expected = [
            oracles.aging_child(ring, born + i < 6, 3, 0.2, VOCABULARY, row)
            for i, row in enumerate(u.astype(float))
        ]
        population = ask(key, state)
        np.testing.assert_array_equal(population.members, expected)
        values = rng.normal(size=size)
        values[rng.uniform(size=size) < 0.2] = np.nan
        found = judged(jnp.asarray(values, jnp.float32), population.active, ())
        state, _ = tell(state, population, found)
        for value, child in zip(values, expected, strict=True):
            if np.isfinite(value):
                queue.append((value, tuple(child)))
                best = min(best, queue[-1])
                born += 1
        for age, one in enumerate(reversed(queue)):
            ring[(born - 1 - age) % 6] = one
        rows = [tuple(row) for row in state.living.tolist()]
        assert rows[: len(queue)] == [one[1] for one in ring if one]
        assert int(state.num_born) == born
        assert tuple(state.best.tolist()) == best[1]
    assert born > 12 * size


def test_with_everyone_competing_and_no_age_it_is_greedy() -> None:
    method = AgingEvolution(2, 4, num_living=8, tournament_size=8, aging=False)
    ask, tell = cheap_jit(method.ask), cheap_jit(method.tell)
    state = method.init(KEY, jnp.zeros(12, int))
    for step in range(60):
        population = ask(jax.random.key(step), state)
        if step > 1:  # every child is one change away from the best
            away = np.sum(population.members != state.best, axis=1)
            assert np.all(away == 1)
        ones = jnp.sum(population.members, axis=1).astype(jnp.float32)
        # of equal ones the first stays the best
        values = ones + jnp.arange(4) * 0.01 + 0.001 * step
        state, _ = tell(state, population, judged(values, population.active, ()))
    assert int(state.best.sum()) == 0


def test_under_noise_the_old_must_die() -> None:
    """Of 60 ones, with noise as large as ten: how many the living have at the end."""
    noisy = gfopt.Objective(
        lambda key, x: -jnp.sum(x) + 5 * jax.random.normal(key), takes_key=True
    )

    def ones(aging: bool) -> Any:
        method = AgingEvolution(2, 8, num_living=50, tournament_size=10, aging=aging)

        @cheap_jit
        @jax.vmap
        def study(key: jax.Array) -> Any:
            x0 = jnp.zeros(60, int)
            found = gfopt.run(method, noisy, x0, key=key, generations=250)
            return jnp.mean(jnp.sum(found.state.living, axis=1))

        return study(jax.random.split(KEY, 12))

    assert bootstrap_interval(ones(True) - ones(False), np.mean).low > 0


def test_positions_have_choices_of_their_own() -> None:
    choices = (1, 2, 5, 3)
    method = AgingEvolution(
        choices=choices, population_size=50, num_living=50, mutation_rate=0.5
    )
    ask, tell = cheap_jit(method.ask), cheap_jit(method.tell)
    state, seen = method.init(KEY, START), []
    for step in range(3):
        population = ask(jax.random.key(step), state)
        seen.append(np.asarray(population.members))
        values = jnp.arange(50.0) % 7
        state, _ = tell(state, population, judged(values, population.active, ()))
    tokens = np.concatenate(seen)
    assert [len(np.unique(column)) for column in tokens.T] == list(choices)
    with pytest.raises(ValueError, match="^choices must have a number for each of th"):
        AgingEvolution(choices=(2, 2)).init(KEY, START)


def test_a_mutation_of_the_users_own_starts_from_x0() -> None:
    def rotated(key: jax.Array, tokens: jax.Array) -> jax.Array:
        return jnp.roll(tokens, jax.random.randint(key, (), 1, 3))

    method = AgingEvolution(9, 8, num_living=20, mutate=rotated, is_near=True)
    found = gfopt.minimize(
        lambda x: float(x[0] + x[1]), [8, 7, 1, 2, 6], method=method, budget=80, seed=1
    )
    assert found.fun == 3 and found.x.tolist() == [1, 2, 6, 8, 7]


def test_more_competitors_than_living_are_refused() -> None:
    with pytest.raises(ValueError, match="^tournament_size must be at most num_living"):
        AgingEvolution(5, num_living=10, tournament_size=11)
