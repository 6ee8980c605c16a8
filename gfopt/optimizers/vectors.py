"""Candidates as vectors, for the methods that hold matrices of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gfopt.core import trees
from gfopt.core.schedules import Number
from gfopt.types import PyTree, Solution

LIMIT = 1e30  # of a coordinate: sums and differences of such are still finite


def flat(solution: Solution) -> jax.Array:
    """Returns all numbers of a solution, ``[D]``, in float32 or wider."""
    return ravel_pytree(solution)[0].astype(trees.wide_dtype(solution))


def unflat(vector: jax.Array, like: Solution) -> Solution:
    """Returns ``[D]`` numbers as a solution, with the types of ``like``."""
    numbers, unravel = ravel_pytree(like)
    return unravel(vector.astype(numbers.dtype))


def limited(x: jax.Array) -> jax.Array:
    """Bounds the coordinates, so that a diverging search does not overflow to NaN."""
    return jnp.clip(x, -LIMIT, LIMIT)


def has_left(x: jax.Array) -> jax.Array:
    """Tells whether a coordinate has reached the limit: ``bool[]``."""
    return jnp.any(jnp.abs(x) >= LIMIT)


def size(points: jax.Array) -> jax.Array:
    """Returns the longest edge of the box around points ``[N, D]``."""
    return jnp.max(points.max(axis=0) - points.min(axis=0))


def is_small(points: jax.Array, tol_x: Number) -> jax.Array:
    """Tells whether points ``[N, D]`` agree to within ``tol_x`` or rounding."""
    resolution = 4 * jnp.finfo(points.dtype).eps * jnp.abs(points[0])
    edges = points.max(axis=0) - points.min(axis=0)
    return jnp.all(edges <= jnp.maximum(resolution, tol_x))


def is_level(fitness: jax.Array, tol_fun: Number) -> jax.Array:
    """Tells whether the values ``[N]`` are finite and within ``tol_fun``."""
    worst = jnp.max(fitness)
    return jnp.isfinite(worst) & (worst <= jnp.min(fitness) + tol_fun)


def best(points: PyTree, fitness: jax.Array) -> PyTree:
    """Returns the row of ``points`` with the lowest fitness."""
    index = jnp.argmin(fitness)
    return jax.tree.map(lambda leaf: leaf[index], points)
