"""Fitness shaping: from fitness to weights, larger for better, failures at 0.

Every function takes ``(fitness[P], valid[P])`` and returns ``weights[P]``. Failures
are honoured here and nowhere else: an invalid row has weight 0 and does not count
for the ranks of the others. Equal fitness shares its weight, so that a constant
objective moves nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from gfopt import checks

__all__ = [
    "Shaping",
    "centered_rank",
    "nes_utilities",
    "raw",
    "softmin",
    "standardised",
    "truncation",
]

# Up to this size rows are ranked by comparing each with each, half the time to compile.
COMPARED = 128

Shaping: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


KIND = "a function (fitness, valid) -> weights, such as gfopt.shaping.centered_rank"


def by_rank(
    fitness: jax.Array,
    valid: jax.Array,
    table: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Weights that depend on the rank only; ties share the mean of their weights.

    Args:
        fitness: ``float[P]``, lower is better.
        valid: ``bool[P]``.
        table: ``(rank [P], num_valid []) -> weight [P]``, rank 0 is the best.

    Returns:
        ``float[P]`` in the dtype of ``fitness``.
    """
    size = fitness.shape[0]
    count = jnp.sum(valid)
    rank = jnp.arange(size)
    weight = jnp.where(rank < count, table(rank, count), 0).astype(fitness.dtype)
    fitness = jnp.where(valid, fitness, jnp.inf)
    if size <= COMPARED:
        first = jnp.sum(fitness < fitness[:, None], axis=1)[:, None]
        end = jnp.sum(fitness <= fitness[:, None], axis=1)[:, None]
        total = jnp.sum(jnp.where((first <= rank) & (rank < end), weight, 0), axis=1)
        return jnp.where(valid, total / (end - first)[:, 0], 0).astype(weight.dtype)
    order = jnp.argsort(fitness)
    ranked = fitness[order]
    first = jnp.concatenate([jnp.ones(1, bool), ranked[1:] != ranked[:-1]])
    group = jnp.cumsum(first) - 1
    total = jax.ops.segment_sum(weight, group, size)
    members = jax.ops.segment_sum(jnp.ones_like(weight), group, size)
    shared = (total / jnp.maximum(members, 1))[group]
    return jnp.zeros_like(weight).at[order].set(jnp.where(rank < count, shared, 0))


def _differs(fitness: jax.Array, valid: jax.Array) -> jax.Array:
    """Tells whether any two valid rows differ.

    Where none do, weights that sum to 0 are 0, and not what rounding left of them: an
    optimizer that normalises its steps, such as Adam, would make that a whole step.
    """
    lowest = jnp.min(jnp.where(valid, fitness, jnp.inf))
    return lowest < jnp.max(jnp.where(valid, fitness, -jnp.inf))


def centered_rank(fitness: jax.Array, valid: jax.Array) -> jax.Array:
    """Ranks spread evenly from 1/2 (best) to -1/2 (worst), summing to 0.

    Source: Salimans et al. (2017), arXiv 1703.03864, section 2; there ties keep the
    order of their index, here they share their rank.

    Example:
        >>> centered_rank(jnp.array([3.0, 1.0, 2.0]), jnp.ones(3, bool))
        Array([-0.5,  0.5,  0. ], dtype=float32)
    """

    def table(rank: jax.Array, count: jax.Array) -> jax.Array:
        return 0.5 - rank / jnp.maximum(count - 1, 1)

    return jnp.where(_differs(fitness, valid), by_rank(fitness, valid, table), 0)


def nes_utilities(fitness: jax.Array, valid: jax.Array) -> jax.Array:
    """Utilities of natural evolution strategies, summing to 0.

    ``u_k = max(0, ln(n/2 + 1) - ln k) / sum_j(...) - 1/n``, best first from k = 1.

    Source: Wierstra et al. (2014), JMLR 15, section 3.1.

    Example:
        >>> weights = nes_utilities(jnp.array([3.0, 1.0, 2.0]), jnp.ones(3, bool))
        >>> [round(float(weight), 2) for weight in weights]
        [-0.33, 0.47, -0.14]
    """

    def table(rank: jax.Array, count: jax.Array) -> jax.Array:
        raw = jnp.log(count / 2 + 1) - jnp.log(rank + 1)
        raw = jnp.where(rank < count, jnp.maximum(raw, 0), 0)
        return raw / jnp.sum(raw) - 1 / jnp.maximum(count, 1)

    return jnp.where(_differs(fitness, valid), by_rank(fitness, valid, table), 0)


def standardised(fitness: jax.Array, valid: jax.Array) -> jax.Array:
    """``(mean - f) / std`` over the valid rows; 0 where all are equal.

    Example:
        >>> standardised(jnp.array([3.0, 1.0]), jnp.ones(2, bool))
        Array([-1.,  1.], dtype=float32)
    """
    count = jnp.maximum(jnp.sum(valid), 1)
    safe = jnp.where(valid, fitness, 0)
    centered = jnp.where(valid, jnp.sum(safe) / count - fitness, 0)
    std = jnp.sqrt(jnp.sum(centered**2) / count)
    usable = _differs(fitness, valid) & (std > 0)
    return jnp.where(usable, centered / jnp.where(usable, std, 1), 0)


def raw(fitness: jax.Array, valid: jax.Array) -> jax.Array:
    """``-f``: no shaping, only failures at 0.

    Example:
        >>> raw(jnp.array([3.0, jnp.nan]), jnp.array([True, False]))
        Array([-3.,  0.], dtype=float32)
    """
    return jnp.where(valid, -fitness, 0)


@functools.cache  # equal shapings are one object, so that they share a program
def truncation(fraction: float = 0.5) -> Shaping:
    """Returns a shaping that gives equal weights, summing to 1, to the best share.

    Args:
        fraction: share of the valid rows that is kept, at least one of them.

    Raises:
        ValueError: where it is not from 0 to 1.

    Example:
        >>> truncation(0.5)(jnp.array([3.0, 1.0, 2.0, 4.0]), jnp.ones(4, bool))
        Array([0. , 0.5, 0.5, 0. ], dtype=float32)
    """
    checks.share("fraction", fraction)
    return lambda fitness, valid: truncated(fitness, valid, fraction)


def truncated(
    fitness: jax.Array, valid: jax.Array, fraction: jax.Array | float
) -> jax.Array:
    """Returns the weights of ``truncation``, for a fraction that may be traced."""

    def table(rank: jax.Array, count: jax.Array) -> jax.Array:
        kept = jnp.maximum(jnp.floor(fraction * count), 1)
        return (rank < kept) / kept

    return by_rank(fitness, valid, table)


@functools.cache
def softmin(temperature: float = 1.0) -> Shaping:
    """Returns a shaping with weights ``exp(-f / temperature)``, summing to 1.

    Raises:
        ValueError: where the temperature is not a finite number above 0.

    Example:
        >>> softmin(1.0)(jnp.array([0.0, 0.0, jnp.nan]), jnp.array([True, True, False]))
        Array([0.5, 0.5, 0. ], dtype=float32)
    """
    checks.positive("temperature", temperature)

    def shape(fitness: jax.Array, valid: jax.Array) -> jax.Array:
        lowest = jnp.min(jnp.where(valid, fitness, jnp.inf))
        lowest = jnp.where(jnp.isfinite(lowest), lowest, 0)
        scaled = jnp.where(valid, jnp.exp((lowest - fitness) / temperature), 0)
        return scaled / jnp.maximum(jnp.sum(scaled), jnp.finfo(scaled.dtype).tiny)

    return shape


def failures_last(
    fitness: jax.Array, valid: jax.Array, active: jax.Array, at_random: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Puts failed rows behind all valid ones, where there are any.

    At the edge of a region that fails, a method that leaves failures out is drawn into
    it: what it sees of its candidates is only the better half. Ranked last, they push
    it back. Failures that come at random push it anywhere: left out, they cost less.

    Args:
        fitness: ``float[P]``, lower is better.
        valid: ``bool[P]``.
        active: ``bool[P]``, rows that were evaluated.
        at_random: share of failures up to which they are left out.

    Returns:
        Fitness and rows that count, ``(float[P], bool[P])``.

    Example:
        >>> rows = failures_last(jnp.array([2.0, jnp.nan, 1.0]),
        ...                      jnp.array([True, False, True]), jnp.ones(3, bool))
        >>> [round(float(utility), 2) for utility in nes_utilities(*rows)]
        [-0.14, -0.33, 0.47]
    """
    worst = jnp.max(jnp.where(valid, fitness, -jnp.inf))
    behind = jnp.nextafter(worst, jnp.full_like(worst, jnp.inf))
    behind = jnp.where(jnp.isfinite(behind), behind, worst)
    is_edge = jnp.sum(active & ~valid) > at_random * jnp.sum(active)
    counts = active & jnp.any(valid) & (valid | is_edge)
    return jnp.where(valid, fitness, behind), counts


def pairs_valid(valid: jax.Array) -> jax.Array:
    """Marks antithetic pairs ``(2i, 2i + 1)``: one invalid half spoils both."""
    return jnp.repeat(valid.reshape(-1, 2).all(axis=1), 2)
