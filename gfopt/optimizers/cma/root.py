"""The root of CMA-ES' covariance matrix: when and how it takes its updates in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from gfopt.optimizers.cma.parameters import (
    constants,
)


def root_gap(dimension: int, population_size: int) -> int:
    """Returns the number of steps between two updates of the root.

    Section B.2 updates ten times as often. While the root is not older than this, eq.
    50 keeps C positive definite: each step subtracts at most n c_mu sum |w-| <=
    n (c_1 + c_mu) of it, measured in the root that made the candidates.
    """
    c = constants(dimension, population_size)
    return max(1, int(1 / (dimension * (c.c_1 + c.c_mu))))


def renewed(
    root: jax.Array, learnt: jax.Array, path_sigma: jax.Array, path_c: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Moves the updates into the root: ``A <- A L``, ``L L^T = W``, ``W <- I``.

    ``p_c`` is a step, and becomes ``L^{-1} p_c``. ``p_sigma`` consists of whitened
    steps and keeps its length; it rotates by ``L^{-1} W^{1/2}``, the rotation from this
    root to the next. ``(I + W) / 2`` is ``W^{1/2}`` up to a second-order term. The
    search thus does not depend on the order of the parameters, as it would with a
    triangular root alone.
    """
    identity = jnp.eye(learnt.shape[0], dtype=learnt.dtype)
    factor = jnp.linalg.cholesky(learnt)
    # rounding can only spoil W if the fitness is noise; W is then discarded
    fine = jnp.all(jnp.isfinite(factor))
    factor = jnp.where(fine, factor, identity)
    steps = jnp.stack([path_sigma + learnt @ path_sigma, path_c], axis=1)
    turned, path_c = solve_triangular(factor, steps, lower=True).T
    norm = jnp.linalg.norm(turned)
    turned *= jnp.linalg.norm(path_sigma) / jnp.where(norm > 0, norm, 1)
    return root @ factor, identity, turned, path_c


def condition_number(root: jax.Array) -> jax.Array:
    """Returns the condition number of ``C``, from the singular values of its root."""
    values = jnp.linalg.svd(root, compute_uv=False)
    return (values[0] / jnp.maximum(values[-1], jnp.finfo(root.dtype).tiny)) ** 2
