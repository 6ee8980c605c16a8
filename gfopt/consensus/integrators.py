"""How a particle moves in one time step, with the consensus at rest.

    dx = -lambda (x - c) dt + (sigma S(x - c) + delta) dW

``Euler`` is the plain scheme; the others override a part of it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.consensus.particles import Particles
from gfopt.consensus.scalings import Cloud, Scaling
from gfopt.core import schedules
from gfopt.optimizers import vectors
from gfopt.pytree import pytree
from gfopt.types import PyTree


class Motion(NamedTuple):
    """The coefficients of a step.

    Attributes:
        drift: ``lambda``.
        diffusion: ``sigma``.
        floor: ``delta``, of a noise that does not vanish.
        dt: the time step.
        scaling: ``S``.
        cloud: the points of the consensus.
    """

    drift: schedules.Number
    diffusion: schedules.Number
    floor: schedules.Number
    dt: schedules.Number
    scaling: Scaling
    cloud: Cloud

    def noise(self, distance: jax.Array, z: jax.Array) -> jax.Array:
        """Returns ``S(x - c) z``, ``[N, D]``."""
        return self.scaling.scaled(z, distance, self.cloud)


@pytree
class Euler:
    """The Euler-Maruyama scheme.

    Example:
        >>> Euler()
        Euler()
    """

    def moments(self, position: jax.Array) -> PyTree:
        """Returns the first moments of the particles' distances: none here."""
        return ()

    def step(self, motion: Motion, distance: jax.Array, z: jax.Array) -> jax.Array:
        """Returns the step of the particles, ``[N, D]``.

        Args:
            motion: its coefficients.
            distance: ``x - c``, ``[N, D]``.
            z: standard noise, ``[N, D]``.
        """
        # dx = -lambda dt (x - c) + sqrt(dt) (sigma S(x - c) z + delta z)
        spread = motion.diffusion * motion.noise(distance, z) + motion.floor * z
        return -motion.drift * motion.dt * distance + jnp.sqrt(motion.dt) * spread

    def moved(
        self, motion: Motion, particles: Particles, distance: jax.Array, z: jax.Array
    ) -> Particles:
        """Returns the particles after a step to the consensus."""
        x = particles.position + self.step(motion, distance, z)
        return particles._replace(position=x)


@pytree
class Exponential(Euler):
    """Exact for a consensus at rest, and so stable for any ``dt``.

    Sources: Carrillo, Hoffmann, Stuart, Vaes (2022), Studies in Applied Mathematics
    148(3); Fornasier, Huang, Klemenc, Malaspina, arXiv 2602.11677.

    Example:
        >>> Exponential()
        Exponential()
    """

    def step(self, motion: Motion, distance: jax.Array, z: jax.Array) -> jax.Array:
        """Returns the step of the particles, ``[N, D]``."""
        drift, diffusion, dt = motion.drift, motion.diffusion, motion.dt
        decay = jnp.exp(-drift * dt)
        # the constant part is an Ornstein-Uhlenbeck process
        rate = 2 * drift * dt
        spent = jnp.where(rate > 0, -jnp.expm1(-rate) / jnp.where(rate > 0, rate, 1), 1)
        added = motion.floor * jnp.sqrt(dt * spent) * z
        if motion.scaling.is_geometric:
            power = (-drift - diffusion**2 / 2) * dt + diffusion * jnp.sqrt(dt) * z
            return jnp.expm1(jnp.clip(power, -80, 80)) * distance + added
        # x = c + beta (x - c) + sigma sqrt(1 - beta^2) S z,   beta = exp(-lambda dt)
        scale = diffusion * jnp.sqrt(jnp.maximum(1 - decay**2, 0))
        return (decay - 1) * distance + scale * motion.noise(distance, z) + added


@pytree
class Adam(Euler):
    """Euler steps with Adam's mean of the drift, which has no time step.

    Args:
        b1: decay of the mean of ``x - c``.
        b2: decay of the mean of its square.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> Adam(b1=0.8)
        Adam(b1=0.8, b2=0.99)

    Source: Chen, Jin, Lyu, arXiv 2012.04827.
    """

    b1: schedules.Hyperparameter = 0.9
    b2: schedules.Hyperparameter = 0.99

    def __post_init__(self) -> None:
        schedules.set_schedules(self, "b1", "b2", check=checks.share)

    def moments(self, position: jax.Array) -> jax.Array:
        """Returns zeros, ``[N, D]``."""
        return jnp.zeros_like(position)

    def moved(
        self, motion: Motion, particles: Particles, distance: jax.Array, z: jax.Array
    ) -> Particles:
        """Returns the particles after a step to the consensus."""
        x, step = particles.position, motion.cloud.step
        # m, v: means of x - c and of its square;
        # x <- x - lambda m_hat / (sqrt(v_hat) + eps) + noise
        b1, b2 = schedules.at("b1", self.b1, step), schedules.at("b2", self.b2, step)
        m = b1 * particles.first + (1 - b1) * distance
        v = b2 * particles.second + (1 - b2) * distance**2
        count = jnp.maximum(step, 1)
        m_hat = m / jnp.maximum(1 - b1**count, 1e-8)
        v_hat = v / jnp.maximum(1 - b2**count, 1e-8)
        spread = self.step(motion._replace(drift=0.0), distance, z)
        x = x - motion.drift * m_hat / (jnp.sqrt(v_hat) + 1e-8) + spread
        return particles._replace(
            position=x,
            first=m.astype(x.dtype),
            second=jnp.minimum(v, vectors.LIMIT),
        )
