"""Steps of quantized leaves' scales, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gfopt.core import schedules, trees
from gfopt.lazy import lazy
from gfopt.noise import noise, sums
from gfopt.optimizers.zeroth_order.zeroth_order import stepped
from gfopt.types import Solution

if TYPE_CHECKING:
    pass


def scales_stepped(
    family: noise.Noise,
    how: str,
    mean: Solution,
    seeds: jax.Array,
    slopes: jax.Array,
    rate: schedules.Number,
    min_scale: schedules.Number,
    relative: bool,
) -> Solution:
    """Returns ``mean - rate * sum_i slopes[i] z_i``; scales do not change their sign.

    Args:
        family: of the noise.
        how: the rounding, ``"nearest"`` or ``"stochastic"``.
        mean: scales of quantized leaves, and perhaps other weights.
        seeds: ``uint32[q]``.
        slopes: ``float[q]``.
        rate: the learning rate.
        min_scale: smallest absolute value of a scale.
        relative: whether the noise of a scale is in units of the scale.
    """

    def added(old: jax.Array, change: jax.Array, words: Any) -> jax.Array:
        return _scale_added(old, change, words, min_scale, relative)

    is_scale = lazy.scale_parts(mean)
    scales, others = (
        jax.tree.map(
            lambda leaf, s, wanted=wanted: leaf if s is wanted else None, mean, is_scale
        )
        for wanted in (True, False)
    )
    others = stepped(family, how, others, seeds, slopes, rate)
    scales = stepped(family, how, scales, seeds, slopes, rate, added)
    return trees.merge(others, scales)


def _scale_added(
    old: jax.Array, change: jax.Array, words: Any, min_scale: Any, relative: bool
) -> jax.Array:
    """Returns scales after a step, with the same sign."""
    change = change * old.astype(change.dtype) if relative else change
    new = sums.added_to(old, change, words)
    least = jnp.asarray(min_scale, old.dtype)
    # Delta <- max(Delta, min_scale), mirrored below 0
    bounded = jnp.where(old < 0, jnp.minimum(new, -least), jnp.maximum(new, least))
    return jnp.where(new == old, old, bounded)


def _added(old: jax.Array, change: jax.Array, words: Any, *rule: Any) -> jax.Array:
    """Returns other weights after a step."""
    return sums.added_to(old, change, words)
