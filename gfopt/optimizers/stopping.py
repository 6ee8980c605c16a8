"""Reasons to stop, and what a method remembers of the fitness to know them."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from gfopt.core import trees
from gfopt.core.schedules import Number
from gfopt.types import Evaluation

SAMPLED = 5  # steps from one entry of the long memory to the next


class FitnessHistory(NamedTuple):
    """The fitness of the last steps.

    Attributes:
        recent: ``float[H]``, the best of each of the last H steps, newest first.
        spread: ``float[]``, the range of the last step.
        best: ``float[]``, the best so far.
        since_best: ``i32[]``, steps since then.
        num_flat: ``i32[]``, steps in a row whose best three quarters were equal.
        bests: ``float[2 L]``, the best of every fifth step, newest first.
        medians: ``float[2 L]``, the median of every fifth step, newest first.
        is_stagnant: ``bool[]``, whether neither has improved lately.
    """

    recent: jax.Array
    spread: jax.Array
    best: jax.Array
    since_best: jax.Array
    num_flat: jax.Array
    bests: jax.Array
    medians: jax.Array
    is_stagnant: jax.Array


def start(dimension: int, population_size: int, dtype: DTypeLike) -> FitnessHistory:
    """Returns an empty history of ``H = 10 + 30 D / P`` steps."""
    length = 10 + math.ceil(30 * dimension / population_size)
    memory = 2 * max(50, 10 + min(2000, int(10 * dimension**1.5 / population_size)))

    def infinite(*shape: int) -> jax.Array:
        return jnp.full(shape, jnp.inf, dtype)

    return FitnessHistory(
        recent=infinite(length),
        spread=infinite(),
        best=infinite(),
        since_best=jnp.int32(0),
        num_flat=jnp.int32(0),
        bests=infinite(memory),
        medians=infinite(memory),
        is_stagnant=jnp.zeros((), bool),
    )


def extended(
    history: FitnessHistory, evaluation: Evaluation, step: jax.Array
) -> tuple[FitnessHistory, jax.Array]:
    """Adds a step; one without a valid row changes nothing.

    Args:
        history: before the step.
        evaluation: of this step.
        step: ``i32[]``, a counter shared by a batch of runs.

    Returns:
        The new history, and whether the step ranked anything: ``bool[]``, False where
        no two valid rows differ.
    """
    valid = evaluation.valid
    fitness = evaluation.fitness.astype(history.spread.dtype)
    best = jnp.min(jnp.where(valid, fitness, jnp.inf))
    worst = jnp.max(jnp.where(valid, fitness, -jnp.inf))
    num_best = jnp.sum(valid & (fitness == best))
    is_flat = jnp.isfinite(best) & (4 * num_best > 3 * jnp.sum(valid))
    is_flat &= num_best > 1
    long = history.bests, history.medians, history.is_stagnant
    bests, medians, is_stagnant = lax.cond(
        step % SAMPLED == 0, _sampled, lambda history, *_: long, history, fitness, valid
    )
    new = FitnessHistory(
        recent=jnp.concatenate([best[None], history.recent[:-1]]),
        spread=worst - best,
        best=jnp.minimum(best, history.best),
        since_best=jnp.where(best < history.best, 0, history.since_best + 1),
        num_flat=jnp.where(is_flat, history.num_flat + 1, 0),
        bests=bests,
        medians=medians,
        is_stagnant=is_stagnant,
    )
    return trees.select(jnp.any(valid), new, history), best < worst


def _sampled(
    history: FitnessHistory, fitness: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Adds a step to the long memory and compares its two halves."""
    ordered = jnp.sort(jnp.where(valid, fitness, jnp.inf))
    count = jnp.sum(valid)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    bests = jnp.concatenate([ordered[:1], history.bests[:-1]])
    medians = jnp.concatenate([median[None], history.medians[:-1]])
    halves = jnp.stack([bests, medians]).reshape(2, 2, -1)
    newer, older = jnp.median(halves, axis=2).T
    full = jnp.all(jnp.isfinite(halves))
    is_old = history.since_best > SAMPLED * halves.shape[2]
    return bests, medians, full & is_old & jnp.all(newer >= older)


def is_flat(history: FitnessHistory, tol_fun: Number) -> jax.Array:
    """Tells whether the recent steps and the last one hardly differ: ``bool[]``."""
    full = jnp.all(jnp.isfinite(history.recent))
    change = history.recent.max() - history.recent.min()
    return full & (jnp.maximum(change, history.spread) < tol_fun)


def reasons(
    history: FitnessHistory,
    largest_std: jax.Array,
    tol_x: Number,
    tol_fun: Number,
) -> dict[str, jax.Array]:
    """Returns the reasons of any method with standard deviations, each ``bool[]``.

    ``tol_x``: all standard deviations are tiny; ``tol_fun``: the best of the recent
    steps and the last generation hardly differ; ``diverged``: a standard deviation is
    no longer finite.
    """
    return {
        "tol_x": largest_std < tol_x,
        "tol_fun": is_flat(history, tol_fun),
        "diverged": ~jnp.isfinite(largest_std) | (largest_std > 1e20),
    }
