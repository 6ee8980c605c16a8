"""A covariance of a scale for each parameter and one direction: ``d (I + v v^T) d``.

``d`` and ``v`` are vectors (``d`` is written as a diagonal where it is a matrix), so
that sampling and learning take time and memory linear in D.

Source: Akimoto, Auger, Hansen (2014), "Comparison-based natural gradient optimization
in high dimension" (VD-CMA), GECCO.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LIMIT = 0.7  # of a step, relative to an element of d and to |v|


def _unit(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns ``|v|`` and ``v / |v|``."""
    norm = jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)
    return norm, v / norm


def stretched(v: jax.Array, z: jax.Array) -> jax.Array:
    """Returns ``y = (I + v v^T)^{1/2} z`` of a vector or of rows ``[P, D]``."""
    norm, unit = _unit(v)
    gain = norm**2 / (jnp.sqrt(1 + norm**2) + 1)  # sqrt(1 + |v|^2) - 1
    return z + gain * jnp.expand_dims(z @ unit, -1) * unit


def learnt(
    d: jax.Array, v: jax.Array, y: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns ``d`` and ``v`` after a step along the natural gradient.

    Args:
        d: ``float[D]``, the scales before.
        v: ``float[D]``, the direction before.
        y: ``float[N, D]``, what to learn from, in the coordinates of the scales.
        weights: ``float[N]``, with learning rates.
    """
    along_d, along_v = _natural_gradient(v, y, weights)
    # without this limit, VD-CMA's, |v| runs away where it is large and D small
    longest = jnp.maximum(
        jnp.max(jnp.abs(along_d)),
        jnp.linalg.norm(along_v) / _unit(v)[0],
    )
    part = LIMIT / jnp.maximum(longest, LIMIT)
    scale = d * (1 + part * along_d)
    direction = v + part * along_v
    # det(d (I + v v^T) d) <- 1
    log_det = 2 * jnp.sum(jnp.log(scale)) + jnp.log1p(jnp.sum(direction**2))
    return scale * jnp.exp(-log_det / (2 * scale.size)), direction


def _natural_gradient(
    v: jax.Array, y: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the natural gradient by ``log d`` and ``v``, as VD-CMA has it.

    They are linear in two vectors, ``s`` and ``t``, which are quadratic in ``y``; so
    these are summed first, and all that follows takes O(D). ``a`` interpolates the
    Fisher matrix towards its diagonal as far as it must to stay invertible.
    """
    norm, unit = _unit(v)
    square, gamma = norm**2, 1 + norm**2
    unit2 = unit**2
    along = y @ unit
    weighted = (weights * along) @ y  # sum w (y . vbar) y
    total = jnp.sum(weights)
    s = weights @ y**2 - square / gamma * unit * weighted - total
    t = weighted - unit * (weights @ along**2 + gamma * total) / 2

    # a = min(1, sqrt(|v|^4 + (2 gamma - sqrt(gamma)) / max vbar^2) / (2 + |v|^2))
    room = (2 * gamma - jnp.sqrt(gamma)) / jnp.max(unit2)
    # 1 - a^2, without the difference of large numbers
    rest = jnp.maximum(4 * gamma - room, 0) / (2 + square) ** 2
    a2 = 1 - rest
    a = jnp.sqrt(a2)
    b = 2 * a2 - rest * square**2 / gamma
    h = 2 - (b + 2 * a2) * unit2
    inner = (2 + square) * unit * t - square * unit2 * (unit @ t)
    s = s - a / gamma * inner
    ratio = unit2 / h
    s = s / h - b / (1 + b * (unit2 @ ratio)) * ratio * (ratio @ s)
    t = t - a * ((2 + square) * unit * s - unit * (unit2 @ s))
    return s, t / norm
