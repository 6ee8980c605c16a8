"""Sketches of the gradients of single samples, from values alone.

Source: Nguyen et al. (2025), arXiv 2407.19580 (coresets by such sketches).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core import trees
from gfopt.noise import law, noise, threefry
from gfopt.types import Key, PyTree, Solution


def per_sample_directional_derivatives(
    losses: Callable[[PyTree], jax.Array],
    params: Solution,
    key: Key,
    num_directions: int,
    *,
    eps: float = 1e-3,
    directions: str = "gaussian",
) -> jax.Array:
    """Returns a sketch of each sample's gradient: its slopes along random directions.

    ``E[C C^T] / m`` is the Gram matrix of the samples' gradients, so that distances
    between rows are those between gradients: what a coreset is chosen by.

    Args:
        losses: ``params -> [B]``, a loss for each sample.
        params: pytree of floating-point arrays.
        key: a key from ``jax.random.key``.
        num_directions: columns of the sketch, m, one for each direction.
        eps: how far to go.
        directions: ``"gaussian"`` or ``"rademacher"``.

    Returns:
        ``float[B, m]``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> x = jnp.eye(3)
        >>> sketch = per_sample_directional_derivatives(
        ...     lambda w: x @ w, jnp.zeros(3), jax.random.key(0), 2000)
        >>> bool(jnp.abs(sketch @ sketch.T / 2000 - jnp.eye(3)).max() < 0.2)
        True
    """
    checks.is_callable("losses", losses)
    checks.integer("num_directions", num_directions, 1)
    checks.positive("eps", eps)
    checks.one_of("directions", directions, law.KINDS)
    params = trees.as_inexact(params)
    family, wide = noise.Noise(directions), trees.wide_dtype(params)
    scale = threefry.round_significant(jnp.asarray(eps, wide))

    def slopes(seed: jax.Array) -> jax.Array:
        plus, minus = (losses(family.add(params, seed, s * scale)) for s in (1, -1))
        return (plus - minus) / (2 * scale)

    return lax.map(slopes, threefry.seeds(key, num_directions)).T
