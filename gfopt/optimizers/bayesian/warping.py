"""What a Gaussian process is told of values, which are far from normal as they come.

Below the median a value counts as it is, above it its logarithm: how bad a bad value is
says little about where the best one lies. With v the distance of the best value to the
median,

    u = (f - median) / v,   z = u for u < 0, log(1 + u) else

then z is brought to mean 0 and variance 1. What failed has the mean.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def warped(fitness: jax.Array) -> jax.Array:
    """Returns ``z`` of values ``float[A]``, infinite for what failed."""
    known = jnp.isfinite(fitness)
    count = jnp.maximum(jnp.sum(known), 1)
    u = jnp.where(known, fitness - _median(fitness), 0) / spread(fitness)
    z = jnp.where(u > 0, jnp.log1p(jnp.maximum(u, 0)), u)
    apart = jnp.where(known, z - jnp.sum(z) / count, 0)
    variance = jnp.sum(apart**2) / count
    return apart / jnp.sqrt(jnp.where(variance > 0, variance, 1))


def spread(fitness: jax.Array) -> jax.Array:
    """Returns ``v``; the distance of the best to the worst, or 1, where it is 0."""
    known = jnp.isfinite(fitness)
    best = jnp.where(jnp.any(known), jnp.min(fitness), 0)
    worst = jnp.max(jnp.where(known, fitness, best))
    v = _median(fitness) - best
    v = jnp.where(v > 0, v, worst - best)
    return jnp.where(v > 0, v, 1)


def _median(fitness: jax.Array) -> jax.Array:
    count = jnp.sum(jnp.isfinite(fitness))
    return jnp.where(count > 0, jnp.sort(fitness)[count // 2], 0)
