"""Stochastic rounding: up or down at random, so that small steps arrive on average.

    round(x) = s (floor(x / s) + 1)  with probability  x / s - floor(x / s),
               s floor(x / s)        else

with ``s`` the spacing of the narrow type at ``x``. The expected value is ``x``, where
rounding to the nearest loses every step below half a spacing.

Source: Gupta, Agrawal, Gopalakrishnan, Narayanan (ICML 2015), arXiv 1502.02551,
section 3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

ROUNDINGS = ("nearest", "stochastic")


def is_narrow(dtype: DTypeLike) -> bool:
    """Tells whether a type has fewer digits than float32."""
    return bool(jnp.finfo(dtype).nmant < 23)


def stochastic(x: jax.Array, bits: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Rounds float32 numbers to a narrow type, up or down at random.

    Args:
        x: ``float32[...]``.
        bits: ``uint32[...]`` random words, of which the upper 23 bits count.
        dtype: ``bfloat16`` or ``float16``.

    Example:
        >>> x = jnp.full(1000, 1 + 1 / 512, jnp.float32)  # a quarter of a spacing
        >>> bits = jax.random.bits(jax.random.key(0), 1000)
        >>> round(float(stochastic(x, bits, jnp.bfloat16).astype(float).mean()), 3)
        1.002
    """
    info = jnp.finfo(dtype)
    # s = 2 ** (exponent - digits), by the bits of a float32; it is a normal number
    exponent = lax.bitcast_convert_type(x, jnp.uint32) >> np.uint32(23) & np.uint32(255)
    lowest = max(127 + int(info.minexp), info.nmant + 1)
    exponent = jnp.maximum(exponent, np.uint32(lowest)) - np.uint32(info.nmant)
    spacing = lax.bitcast_convert_type(exponent << np.uint32(23), jnp.float32)
    # all exact: the spacing is a power of two
    whole = jnp.floor(x / spacing)
    chance = x / spacing - whole
    up = (bits >> np.uint32(9)).astype(jnp.float32) * np.float32(2**-23) < chance
    rounded = (whole + up) * spacing
    return jnp.where(jnp.isfinite(x), rounded, x).astype(dtype)
