"""How well two evaluations of the same candidates agree in rank."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rank_agreement(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compares the ranks of two values of the same candidates.

    Args:
        first: ``float[P]``, NaN where there is none.
        second: the same.

    Returns:
        The agreement ``float32[]``, and whether there were ranks to compare.

    Example:
        >>> first = jnp.array([1.0, 2.0, 3.0, 4.0])
        >>> rank_agreement(first, jnp.array([1.0, 2.0, jnp.nan, jnp.nan]))[0]
        Array(1., dtype=float32)
    """
    values = jnp.concatenate([first, second])
    known = jnp.isfinite(values)
    ordered = jnp.sort(jnp.where(known, values, jnp.inf))
    # equal values share the mean of their ranks
    below = jnp.searchsorted(ordered, values, side="left")
    upto = jnp.searchsorted(ordered, values, side="right")
    ranks = (below + upto - 1).astype(jnp.float32) / 2
    a, b = jnp.split(ranks, 2)
    both = known[: first.size] & known[first.size :]
    changes = jnp.where(both, jnp.maximum(jnp.abs(a - b) - 1, 0), 0)
    pairs, count = jnp.sum(both), jnp.sum(known)
    # two random ranks of n differ by (n + 1) / 3 on average
    mean = jnp.sum(changes) / jnp.maximum(pairs, 1)
    return 1 - 3 * mean / jnp.maximum(count - 2, 1), (pairs > 0) & (count > 2)
