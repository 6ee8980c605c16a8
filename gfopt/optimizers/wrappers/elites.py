"""A grid of elites: the best solution of each cell of a space of behaviours.

A behaviour is a vector of ``K`` descriptors and lies in a cell of a grid; what lies
beyond the grid counts for the nearest cell. Each cell has an elite, the best solution
found there, and a threshold ``t``: a candidate enters if its fitness is below that. In
a hard archive ``t`` is the fitness of the elite. In a soft one it follows slowly: when
``k`` candidates of mean fitness ``f`` enter in one step,

    t <- (1 - alpha)^k t + (1 - (1 - alpha)^k) f

Sources: Mouret, Clune (2015), "Illuminating search spaces by mapping elites", arXiv
1504.04909, for the hard archive; Fontaine, Nikolaidis (2023), "Covariance matrix
adaptation MAP-annealing", arXiv 2205.10752, for the soft one, whose rule for batches is
in the appendix. Deviation: a soft archive keeps the best solution of each cell too,
where the paper replaces it by whatever enters.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import schedules, trees
from gfopt.types import Key, Solution


class Elites(NamedTuple):
    """The elites of ``C`` cells, which are numbered row by row.

    Attributes:
        solutions: the solution's tree, leaves ``[C, ...]``; the starting point where
            a cell is empty.
        fitness: ``float[C]``, infinite where a cell is empty.
        descriptors: ``float[C, K]``.
        threshold: ``float[C]``.
    """

    solutions: Solution
    fitness: jax.Array
    descriptors: jax.Array
    threshold: jax.Array

    @property
    def is_filled(self) -> jax.Array:
        """Whether a cell has an elite, ``bool[C]``."""
        return self.fitness < jnp.inf

    @property
    def coverage(self) -> jax.Array:
        """The share of cells that have an elite, ``float[]``."""
        return jnp.mean(self.is_filled)

    def qd_score(self, worst: schedules.Number) -> jax.Array:
        """Returns ``sum (worst - fitness)`` over all elites, ``float[]``."""
        return jnp.sum(jnp.where(self.is_filled, worst - self.fitness, 0))

    def found(self) -> tuple[Solution, np.ndarray, np.ndarray]:
        """Returns the elites of the cells that have one.

        It is for use outside of compiled programs.

        Returns:
            ``(solutions, fitness, descriptors)``, NumPy arrays, leaves ``[n, ...]``.

        Example:
            >>> elites = empty(jnp.zeros(2), 4, 1, jnp.inf)
            >>> elites.found()[0].shape
            (0, 2)
        """
        cells = np.flatnonzero(np.isfinite(self.fitness))
        kept = self.solutions, self.fitness, self.descriptors
        solutions, fitness, descriptors = jax.tree.map(
            lambda leaf: np.asarray(leaf)[cells], kept
        )
        return solutions, fitness, descriptors


class Entry(NamedTuple):
    """What became of the candidates of a step.

    Attributes:
        enters: ``bool[P]``, whether they are better than the threshold of their cell.
        is_new: ``bool[P]``, whether they enter a cell that was empty before.
        value: ``float[P]``, by how much they are better than the threshold, or than 0
            where that is infinite.
    """

    enters: jax.Array
    is_new: jax.Array
    value: jax.Array


def empty(
    start: Solution, num_cells: int, num_descriptors: int, threshold: schedules.Number
) -> Elites:
    """Returns an archive without elites, of which ``start`` is in every place."""
    dtype = trees.wide_dtype(start)
    return Elites(
        solutions=jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_cells, *leaf.shape)) + 0, start
        ),
        fitness=jnp.full(num_cells, jnp.inf, dtype),
        descriptors=jnp.zeros((num_cells, num_descriptors), jnp.float32),
        threshold=jnp.full(num_cells, threshold, dtype),
    )


def cell_of(
    descriptors: jax.Array,
    lower: tuple[float, ...],
    upper: tuple[float, ...],
    shape: tuple[int, ...],
) -> jax.Array:
    """Returns the number of the cell of each behaviour: ``i32[P]``.

    Args:
        descriptors: ``float[P, K]``.
        lower: of each descriptor.
        upper: of each descriptor.
        shape: cells along each descriptor.

    Example:
        >>> points = jnp.array([[0.1, 0.1], [0.9, 0.4], [7.0, -1.0]])
        >>> cell_of(points, (0, 0), (1, 1), (2, 5))
        Array([0, 7, 5], dtype=int32)
    """
    low, width = np.asarray(lower), np.subtract(upper, lower)
    # constants, and few operations: the compiler repeats them wherever a cell is used
    place = jnp.floor((descriptors - low) * (shape / width))
    place = jnp.clip(place, 0, np.subtract(shape, 1)).astype(jnp.int32)
    strides = np.cumprod((1, *shape[:0:-1]), dtype=np.int32)[::-1]
    return jnp.sum(place * strides, axis=1, dtype=jnp.int32)


def insert(
    elites: Elites,
    solutions: Solution,
    fitness: jax.Array,
    descriptors: jax.Array,
    cell: jax.Array,
    valid: jax.Array,
    learning_rate: schedules.Number | None = None,
) -> tuple[Elites, Entry]:
    """Adds the candidates that are below the thresholds of their cells.

    Args:
        elites: before this step.
        solutions: leaves ``[P, ...]``.
        fitness: ``float[P]``.
        descriptors: ``float[P, K]``.
        cell: ``i32[P]``.
        valid: ``bool[P]``; no other row enters.
        learning_rate: ``alpha`` of a soft archive; None for a hard one.

    Returns:
        The archive, and what became of the rows.
    """
    num_rows, num_cells = fitness.size, elites.fitness.size
    fitness = jnp.where(valid, fitness, jnp.inf).astype(elites.fitness.dtype)
    threshold, before = elites.threshold[cell], elites.fitness[cell]
    enters = fitness < threshold
    is_new = enters & jnp.isinf(before)

    # the best of each cell, and of several equal ones the first
    lowest = elites.fitness.at[cell].min(jnp.where(enters, fitness, jnp.inf))
    is_best = enters & (fitness < before) & (fitness == lowest[cell])
    row = jnp.arange(num_rows, dtype=jnp.int32)
    first = jnp.full(num_cells, num_rows, jnp.int32)
    first = first.at[cell].min(jnp.where(is_best, row, num_rows))
    # all others go out of bounds
    place = jnp.where(is_best & (first[cell] == row), cell, num_cells)
    if learning_rate is None:
        new_threshold = jnp.minimum(elites.threshold, lowest)
    else:
        new_threshold = _annealed(elites, fitness, cell, enters, learning_rate)
    new = Elites(
        solutions=jax.tree.map(
            lambda kept, leaf: kept.at[place].set(leaf.astype(kept.dtype), mode="drop"),
            elites.solutions,
            solutions,
        ),
        fitness=lowest,
        descriptors=elites.descriptors.at[place].set(
            descriptors.astype(jnp.float32), mode="drop"
        ),
        threshold=new_threshold,
    )
    value = jnp.where(jnp.isfinite(threshold), threshold, 0) - fitness
    return new, Entry(enters, is_new, value)


def drawn(key: Key, elites: Elites, count: int) -> Solution:
    """Returns elites drawn uniformly, with replacement: leaves ``[count, ...]``.

    Without any they are the starting point.
    """
    number = jnp.cumsum(elites.is_filled, dtype=jnp.int32)
    drawn = jax.random.randint(key, (count,), 0, jnp.maximum(number[-1], 1))
    # the first cell that this many filled ones precede; any where none is filled
    cell = jnp.searchsorted(number, drawn, side="right")
    return jax.tree.map(lambda leaf: leaf[cell], elites.solutions)


def _annealed(
    elites: Elites,
    fitness: jax.Array,
    cell: jax.Array,
    enters: jax.Array,
    learning_rate: schedules.Number,
) -> jax.Array:
    """Returns ``t <- (1 - alpha)^k t + (1 - (1 - alpha)^k) f``, ``float[C]``."""
    zero = jnp.zeros_like(elites.threshold)
    count = zero.at[cell].add(enters.astype(zero.dtype))
    total = zero.at[cell].add(jnp.where(enters, fitness, 0))
    kept = ((1 - learning_rate) ** count).astype(zero.dtype)
    mean = total / jnp.maximum(count, 1)
    return kept * elites.threshold + (1 - kept) * mean
