"""A quadratic model of an objective, fitted to its evaluated points.

    f(u) = c + g^T u + 1/2 u^T H u,   u = T (x - x_best)

``T`` whitens by the search distribution, so that the coordinates have one scale however
badly the problem is scaled. The model is linear, then diagonal, then full, as
the number of points allows. Better points weigh more.

Sources: Hansen, "A global surrogate assisted CMA-ES" (GECCO 2019), section 2, for sizes
and weights; More and Sorensen, "Computing a trust region step" (1983) for the minimum.
Deviations: the coordinates are whitened; normal equations with refinement replace the
pseudo-inverse; and the minimum is within a trust region, so that it also exists for a
model that is not convex.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

MOST_FULL = 30  # dimension up to which there are mixed terms
HEAVIEST = 20.0  # weight of the best point relative to the last
GROWTH = 1.1  # points per coefficient before the model grows
USED = 0.75  # fraction of the points, the best ones, to which a model is fitted
PARTS, CUTS = 128, 7  # of the damping's interval: down to 128**-7 of it


class QuadraticModel(NamedTuple):
    """A fitted model.

    Attributes:
        coefficients: ``float[M]`` of 1, u_i, u_i^2 and u_i u_j.
        center: ``x_best``, ``float[D]``.
        whitening: ``T``, ``float[D, D]``.
        unit: ``float[]``, the length in u of one standard deviation of the search.
    """

    coefficients: jax.Array
    center: jax.Array
    whitening: jax.Array
    unit: jax.Array


def num_coefficients(dimension: int) -> int:
    """Returns the number of coefficients of the largest model."""
    mixed = dimension * (dimension - 1) // 2 if dimension <= MOST_FULL else 0
    return 1 + 2 * dimension + mixed


def flat(center: jax.Array) -> QuadraticModel:
    """Returns the model that is 0 everywhere."""
    dimension, dtype = center.size, center.dtype
    coefficients = jnp.zeros(num_coefficients(dimension), dtype)
    return QuadraticModel(
        coefficients, center, jnp.eye(dimension, dtype=dtype), jnp.ones((), dtype)
    )


def fit(
    points: jax.Array, fitness: jax.Array, root: jax.Array, sigma: jax.Array
) -> QuadraticModel:
    """Fits the largest model that the points allow.

    Args:
        points: ``float[A, D]``.
        fitness: ``float[A]``, infinite for places that hold no point.
        root: ``A`` of the search distribution, ``float[D, D]``, lower triangular.
        sigma: ``float[]``.
    """
    (size, dimension), dtype = points.shape, points.dtype
    count = jnp.sum(jnp.isfinite(fitness))
    order = jnp.argsort(fitness)
    points, fitness = points[order], fitness[order]
    # huge values must not overflow a sum of squares
    largest_value = jnp.finfo(dtype).max / 1e12
    finite = jnp.clip(fitness, -largest_value, largest_value)

    largest = num_coefficients(dimension)
    sizes = np.array([dimension + 1, 2 * dimension + 1, largest])
    allowed = jnp.asarray(sizes)[1:] * GROWTH <= USED * count
    num_fitted = jnp.asarray(sizes)[jnp.sum(allowed)]
    used = jnp.maximum(num_fitted + 2, (USED * (count + 1)).astype(jnp.int32))
    used = jnp.minimum(used, count)
    rank = jnp.arange(size)
    is_used = rank < used
    slope = (HEAVIEST - 1) / jnp.maximum(used - 1, 1)
    weights = jnp.where(is_used, HEAVIEST - slope * rank, 0).astype(dtype)

    center = points[0]
    inverse = solve_triangular(root, jnp.eye(dimension, dtype=dtype), lower=True)
    u = (points - center) @ (inverse / sigma).T
    total = jnp.sum(jnp.where(is_used, jnp.sum(u * u, axis=1), 0))
    unit = jnp.sqrt(dimension * jnp.maximum(used - 1, 1) / jnp.maximum(total, 1e-30))
    # far outliers, as after a jump of the search, must not overflow
    u = jnp.where(is_used[:, None], u * unit, 0)

    in_model = jnp.arange(largest) < num_fitted
    table = weights[:, None] * jnp.where(in_model, _features(u), 0)
    lowest = finite[0]
    height = jnp.where(is_used, finite - lowest, 0)
    scale = jnp.maximum(jnp.max(height), jnp.finfo(dtype).tiny)
    goal = weights * (height / scale)
    solved = scale * _least_squares(table, goal, in_model)
    solved = solved.at[0].add(jnp.where(count > 0, lowest, 0))
    return QuadraticModel(solved, center, inverse * (unit / sigma), unit)


def values(model: QuadraticModel, points: jax.Array) -> jax.Array:
    """Returns the model's values at ``points [P, D]``: ``float[P]``."""
    u = (points - model.center) @ model.whitening.T
    return _features(u) @ model.coefficients


def minimum(
    model: QuadraticModel, mean: jax.Array, radius: float | jax.Array
) -> jax.Array:
    """Returns the model's minimum within a trust region: ``float[D]``.

    Args:
        model: the model.
        mean: center of the region, ``float[D]``.
        radius: its radius, in standard deviations of the search.
    """
    dimension = mean.size
    gradient, hessian = _derivatives(model.coefficients, dimension)
    start = model.whitening @ (mean - model.center)
    reach = radius * model.unit
    curvature, axes = jnp.linalg.eigh(hessian)
    slope = axes.T @ (gradient + hessian @ start)

    def step(damping: jax.Array) -> jax.Array:
        total = curvature + damping[..., None]
        return -slope / jnp.where(total > 0, total, jnp.inf)

    # |s(mu)| = |(H + mu I)^{-1} g| falls with mu, from the least that is convex
    low = jnp.maximum(0, -curvature[0] * (1 + 1e-9))
    high = low + jnp.linalg.norm(slope) / reach

    share = jnp.linspace(0, 1, PARTS + 1, dtype=slope.dtype)

    def cut(_: int, sides: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = sides
        dampings = low + share * (high - low)
        is_far = jnp.linalg.norm(step(dampings), axis=1) > reach
        part = jnp.sum(is_far[1:-1])  # |s| falls: those that are far come first
        return dampings[part], dampings[part + 1]

    is_inside = (curvature[0] > 0) & (jnp.linalg.norm(step(low)) <= reach)
    sides = jax.lax.fori_loop(0, CUTS, cut, (low, high))
    best = step(jnp.where(is_inside, low, sides[1]))
    u = start + axes @ best
    # T is triangular, as the inverse of the root is
    return model.center + solve_triangular(model.whitening, u, lower=True)


def _features(u: jax.Array) -> jax.Array:
    """Returns ``1, u_i, u_i^2, u_i u_j`` for rows ``u [A, D]``: ``float[A, M]``."""
    dimension = u.shape[1]
    columns = [jnp.ones_like(u[:, :1]), u, u * u]
    if dimension <= MOST_FULL:
        first, second = np.triu_indices(dimension, 1)
        columns.append(u[:, first] * u[:, second])
    return jnp.concatenate(columns, axis=1)


def _derivatives(
    coefficients: jax.Array, dimension: int
) -> tuple[jax.Array, jax.Array]:
    """Returns ``g [D]`` and ``H [D, D]``."""
    gradient = coefficients[1 : dimension + 1]
    hessian = jnp.diag(2 * coefficients[dimension + 1 : 2 * dimension + 1])
    if dimension <= MOST_FULL:
        first, second = np.triu_indices(dimension, 1)
        mixed = coefficients[2 * dimension + 1 :]
        hessian = hessian.at[first, second].set(mixed).at[second, first].set(mixed)
    return gradient, hessian


def _least_squares(table: jax.Array, goal: jax.Array, used: jax.Array) -> jax.Array:
    """Solves ``min |table x - goal|`` for the columns in use, the others 0.

    A tiny ridge makes the normal equations regular, and refinement takes its effect
    away wherever the columns are independent.
    """
    norm = jnp.linalg.norm(table, axis=0)
    norm = jnp.where(norm > 0, norm, 1)
    table = table / norm
    ridge = 1e3 * table.shape[0] * jnp.finfo(table.dtype).eps
    damped = table.T @ table + jnp.diag(jnp.where(used, ridge, 1))
    # (L L^T)^-1 b = L^-T (L^-1 b)
    inverse = solve_triangular(
        jnp.linalg.cholesky(damped), jnp.eye(norm.size, dtype=norm.dtype), lower=True
    )
    x = jnp.zeros_like(norm)
    for _ in range(3):
        x += inverse.T @ (inverse @ (table.T @ (goal - table @ x)))
    return jnp.where(used, x / norm, 0)
