"""Reasons to stop, and what a method remembers of the fitness to know them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt.types import Evaluation


class FitnessHistory(NamedTuple):
    """The fitness of the last steps.

    Attributes:
        recent: ``float[H]``, the best of each of the last H steps, newest first.
        spread: ``float[]``, the range of the last step.
    """

    recent: jax.Array
    spread: jax.Array


def start(dimension: int, population_size: int, dtype: Any) -> FitnessHistory:
    """Returns a history of ``H = 10 + 30 D / P`` steps, all to come."""
    length = 10 + math.ceil(30 * dimension / population_size)
    infinite = jnp.full((), jnp.inf, dtype)
    return FitnessHistory(jnp.full(length, jnp.inf, dtype), infinite)


def extended(
    history: FitnessHistory, evaluation: Evaluation
) -> tuple[FitnessHistory, jax.Array]:
    """Takes a step in; one without a valid row leaves no trace.

    Returns:
        The new history, and whether the step ranked anything: ``bool[]``, False where
        no two valid rows differ.
    """
    valid = evaluation.valid
    fitness = evaluation.fitness.astype(history.spread.dtype)
    best = jnp.min(jnp.where(valid, fitness, jnp.inf))
    worst = jnp.max(jnp.where(valid, fitness, -jnp.inf))
    new = FitnessHistory(
        jnp.concatenate([best[None], history.recent[:-1]]), worst - best
    )
    seen = jnp.any(valid)
    new = jax.tree.map(lambda a, b: jnp.where(seen, a, b), new, history)
    return new, best < worst


def is_flat(history: FitnessHistory, tol_fun: Any) -> jax.Array:
    """Tells whether the recent steps and the last one hardly differ: ``bool[]``."""
    full = jnp.all(jnp.isfinite(history.recent))
    moved = history.recent.max() - history.recent.min()
    return full & (jnp.maximum(moved, history.spread) < tol_fun)


def reasons(
    history: FitnessHistory, largest_std: jax.Array, tol_x: Any, tol_fun: Any
) -> dict[str, jax.Array]:
    """Returns what any method with standard deviations can say, each ``bool[]``.

    ``tol_x``: all standard deviations are tiny; ``tol_fun``: the best of the recent
    steps and the last generation hardly differ; ``diverged``: a standard deviation is
    not a finite number any more.
    """
    return {
        "tol_x": largest_std < tol_x,
        "tol_fun": is_flat(history, tol_fun),
        "diverged": ~jnp.isfinite(largest_std) | (largest_std > 1e20),
    }
