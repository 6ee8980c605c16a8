"""The particles and their consensus, and which particles take part in a step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.noise import law
from gfopt.pytree import pytree, static
from gfopt.types import PyTree, Solution


class Particles(NamedTuple):
    """What a particle is; every leaf has the leading axis ``N``.

    Attributes:
        position: ``float[N, D]``, before the mirror map if there is one.
        fitness: ``float[N]`` of the memory, else of the position; infinite where none.
        memory: ``float[N, D]``, ``()`` without memory.
        first: ``float[N, D]``, Adam's mean of the distances, or ``()``.
        second: ``float[N, D]``, Adam's mean of their squares, or ``()``.
    """

    position: jax.Array
    fitness: jax.Array
    memory: PyTree
    first: PyTree
    second: PyTree


class CBOState(NamedTuple):
    """The particles and their consensus.

    Attributes:
        step: ``i32[]``.
        center: the starting solution.
        particles: where they are; those of the last batch stand first.
        consensus: ``float[D]``.
        alpha: ``float[]``, of the last consensus.
        best_fitness: ``float[]``, the best so far.
        num_stalled: ``i32[]``, steps since it was found.
        is_stagnant: ``bool[]``, whether the next step is a kick.
        num_active: ``i32[]``, particles that are left; they stand first.
        variance: ``float[]``, of the particles, which decides how many are left.
    """

    step: jax.Array
    center: Solution
    particles: Particles
    consensus: jax.Array
    alpha: jax.Array
    best_fitness: jax.Array
    num_stalled: jax.Array
    is_stagnant: jax.Array
    num_active: jax.Array
    variance: jax.Array


@pytree
class Kick:
    """Noise that is added once to all particles when the search stagnates.

    Args:
        strength: its standard deviation for ``dt = 1``, or a schedule.
        distance: the search stagnates when no coordinate of the consensus moves
            further in a step, or a schedule.
        patience: it also does so after this many steps without a better value; None
            for any number.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> Kick(0.5, patience=20)
        Kick(strength=0.5, distance=1e-05, patience=20)
    """

    strength: schedules.Hyperparameter
    distance: schedules.Hyperparameter = 1e-5
    patience: int | None = static(default=None)

    def __post_init__(self) -> None:
        if self.patience is not None:
            checks.integer("patience", self.patience, 1)
        schedules.set_schedules(self, "strength", "distance", check=checks.non_negative)

    def is_due(
        self, change: jax.Array, num_stalled: jax.Array, step: jax.Array
    ) -> jax.Array:
        """Tells whether the search stagnates: ``bool[]``."""
        stagnant = change < schedules.at("distance", self.distance, step)
        if self.patience is not None:
            stagnant |= num_stalled >= self.patience
        return stagnant


@pytree
class Reduction:
    """Particles leave as their variance falls.

    ``N <- N (1 - mu + mu var_new / var_old)``, never more than before.

    Args:
        fraction: ``mu``, from 0 to 1, or a schedule.
        min_particles: how many stay.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> Reduction(0.5)
        Reduction(fraction=0.5, min_particles=10)
    """

    fraction: schedules.Hyperparameter
    min_particles: int = static(default=10)

    def __post_init__(self) -> None:
        checks.integer("min_particles", self.min_particles, 1)
        schedules.set_schedules(self, "fraction", check=checks.share)

    def reduced(self, state: CBOState, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns how many particles stay, and their variance."""
        share = (jnp.arange(len(x)) < state.num_active)[:, None] / state.num_active
        distance = x - jnp.sum(share * x, axis=0)
        variance = jnp.sum(share * distance**2) / x.shape[1]
        ratio = variance / jnp.where(state.variance > 0, state.variance, variance)
        ratio = jnp.where(jnp.isfinite(ratio), jnp.minimum(ratio, 1), 1)
        fraction = schedules.at("fraction", self.fraction, state.step)
        remaining = 1 - fraction * (1 - ratio)
        least = jnp.minimum(self.min_particles, state.num_active)
        count = jnp.round(state.num_active * remaining).astype(jnp.int32)
        return jnp.maximum(count, least), variance.astype(x.dtype)


def order(state: CBOState, seed: jax.Array, batch: jax.Array) -> jax.Array:
    """Returns an order of the rows that puts the next batch first, ``i32[N]``.

    The rows take turns, and are shuffled once all have had theirs.

    Args:
        state: the state before the step.
        seed: ``uint32[]``.
        batch: ``i32[]``, rows that are evaluated at a step.
    """
    live, size = state.num_active, len(state.particles.fitness)
    rows = jnp.arange(size)
    coins = law.noise_rows("gaussian", seed, 1, 0, 1, size)[0]
    shuffled = jnp.argsort(jnp.where(rows < live, coins, jnp.inf))
    turned = jnp.where(rows < live, (rows + batch) % live, rows)
    return jnp.where(state.step % jnp.maximum(live // batch, 1), turned, shuffled)
