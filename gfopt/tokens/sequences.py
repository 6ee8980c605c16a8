"""Token sequences in buffers of a fixed length: one program for all lengths.

A sequence is ``i32[L]``: ids from 0 up, and ``-1`` in the places after its end.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

END = -1


def length_of(tokens: jax.Array) -> jax.Array:
    """Returns how many tokens stand before the end, ``i32[]``.

    Example:
        >>> length_of(jnp.array([5, 0, 2, -1, -1]))
        Array(3, dtype=int32)
    """
    return jnp.sum(tokens >= 0, axis=-1, dtype=jnp.int32)


def followed_by(tokens: jax.Array, length: jax.Array, rest: jax.Array) -> jax.Array:
    """Returns the first ``length`` tokens and ``rest`` after them, ``i32[L + R]``.

    Example:
        >>> followed_by(jnp.array([5, 0, -1]), 2, jnp.array([7, 8]))
        Array([ 5,  0,  7,  8, -1], dtype=int32)
    """
    room = jnp.full(rest.shape, END, jnp.int32)
    row = jnp.concatenate([tokens.astype(jnp.int32), room])
    row = jnp.where(jnp.arange(row.shape[0]) < length, row, END)
    return lax.dynamic_update_slice(row, rest.astype(jnp.int32), (length,))
