"""What each particle remembers: the points of which the consensus is then made.

A particle makes a second step, to its own memory.

Sources: Grassi, Pareschi (2021), M3AS 31; Riedl, arXiv 2211.12184.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.consensus.particles import Particles
from gfopt.core import schedules
from gfopt.core.schedules import Number
from gfopt.pytree import pytree


@pytree
class BestMemory:
    """The best point that the particle has seen.

    Args:
        drift: strength of the pull to the memory, or a schedule.
        diffusion: the same of its noise; None for ``drift`` times that of ``CBO``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> BestMemory(drift=0.2)
        BestMemory(drift=0.2, diffusion=None)
    """

    drift: schedules.Hyperparameter = 0.4
    diffusion: schedules.Hyperparameter | None = None

    def __post_init__(self) -> None:
        schedules.set_schedules(self, "drift", "diffusion", check=checks.non_negative)

    def updated(
        self,
        particles: Particles,
        x: jax.Array,
        fitness: jax.Array,
        dt: Number,
        step: jax.Array,
    ) -> Particles:
        """Returns the particles with their memory of points ``x [N, D]``."""
        known, valid = particles.fitness, jnp.isfinite(fitness)
        rate = self._rate(known, fitness, dt, step)
        # a particle that has seen nothing takes its memory along
        rate = jnp.where(valid, jnp.clip(rate, 0, 1), 0)
        rate = jnp.where(jnp.isinf(known), 1, rate).astype(x.dtype)
        y = particles.memory + rate[:, None] * (x - particles.memory)
        mixed = (1 - rate) * known + rate * fitness
        mixed = jnp.where(rate == 0, known, jnp.where(rate == 1, fitness, mixed))
        return particles._replace(fitness=mixed, memory=y)

    def _rate(
        self, known: jax.Array, fitness: jax.Array, dt: Number, step: jax.Array
    ) -> jax.Array:
        """Returns how far each memory moves to its particle, from 0 to 1."""
        return jnp.where(fitness < known, 1.0, 0.0)


@pytree
class SmoothMemory(BestMemory):
    """A mean of good points that the particle has seen.

    ``y <- y + kappa dt (x - y) (1 + tanh(beta (f(y) - f(x)))) / 2``

    ``f(y)`` is not evaluated: it follows ``f(x)`` at the rate at which ``y`` follows
    ``x``.

    Args:
        drift: strength of the pull to the memory, or a schedule.
        diffusion: the same of its noise; None for ``drift`` times that of ``CBO``.
        rate: ``kappa``, how fast the memory follows, or a schedule.
        sharpness: ``beta``, how clear it must be that a point is better, or a schedule.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> SmoothMemory(rate=0.5)
        SmoothMemory(drift=0.4, diffusion=None, rate=0.5, sharpness=30.0)
    """

    rate: schedules.Hyperparameter = 1.0
    sharpness: schedules.Hyperparameter = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "rate", "sharpness"
        schedules.set_schedules(self, *names, check=checks.non_negative)

    def _rate(
        self, known: jax.Array, fitness: jax.Array, dt: Number, step: jax.Array
    ) -> jax.Array:
        both = jnp.isfinite(fitness) & jnp.isfinite(known)
        gain = jnp.where(both, known - fitness, 0)
        sharpness = schedules.at("sharpness", self.sharpness, step)
        follow = schedules.at("rate", self.rate, step) * dt
        return follow * (1 + jnp.tanh(sharpness * gain)) / 2
