"""What the tests of single methods share: a host loop in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gfopt
from gfopt.core.evaluate import decode_rows, judged
from gfopt.protocol import Optimizer
from gfopt.types import Population

X0 = np.array([1.0, -2.0, 0.5, 0.25])


def uneven(x: np.ndarray) -> float:
    """An uneven quadratic with a kink."""
    return float(np.sum(np.arange(1, len(x) + 1) * (x - 0.3) ** 2) + abs(x[0]))


class Turn(NamedTuple):
    """One generation.

    Attributes:
        before: the state that was asked.
        key: with which it was asked.
        population: what it proposed.
        solutions: ``[P, D]``.
        fitness: ``[P]``, NaN for failures and for rows that were not evaluated.
        after: the state that was told.
    """

    before: Any
    key: jax.Array
    population: Population
    solutions: np.ndarray
    fitness: np.ndarray
    after: Any


def turns(
    optimizer: Optimizer,
    x0: np.ndarray,
    generations: int,
    value: Callable[[int, int, np.ndarray], float],
) -> Iterator[Turn]:
    """Runs a method; ``value`` is called with step, row and solution."""
    with jax.enable_x64(True):
        ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
        decode = jax.jit(lambda s, m: decode_rows(optimizer, s, m))
        state = optimizer.init(jax.random.key(0), jnp.asarray(x0))
        for step in range(generations):
            key = jax.random.key(step)
            population = ask(key, state)
            solutions = np.asarray(decode(state, population.members))
            rows = np.flatnonzero(population.active)
            fitness = np.full(len(solutions), np.nan)
            for row in rows:
                fitness[row] = value(step, row, solutions[row])
            found = judged(jnp.asarray(fitness), population.active, ())
            after, _ = tell(state, population, found)
            numbers = jax.tree.map(np.asarray, (state, population, after))
            yield Turn(numbers[0], key, numbers[1], solutions, fitness, numbers[2])
            state = after


@partial(jax.jit, static_argnames="generations")
def falling(optimizer: Optimizer, generations: int) -> Any:
    """Returns the last state of a search that runs away, from next to its limit."""
    return gfopt.run(
        optimizer,
        lambda x: -1e-2 * jnp.sum(x),
        jnp.full(3, 1e29),
        key=jax.random.key(0),
        generations=generations,
    ).state
