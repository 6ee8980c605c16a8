"""The strategy parameters, weights and cumulation of the CMA-ES methods.

Source: Hansen, "The CMA evolution strategy: a tutorial" (2016), arXiv 1604.00772, whose
equation numbers are given. Deviations: ``c_mu`` has 1/4 more in its numerator, ``c_1``
the factor ``min(1, P / 6)`` and ``c_sigma`` 3 for 5 in its denominator, as pycma 4.5
sets them.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gfopt import shaping
from gfopt.core.schedules import Number
from gfopt.types import Evaluation, State


class Constants(NamedTuple):
    """Strategy parameters: functions of dimension and population size alone."""

    weights: jax.Array | np.ndarray
    mu_eff: Number
    c_sigma: Number
    d_sigma: Number
    c_c: Number
    c_1: Number
    c_mu: Number
    chi: float


def constants(
    dimension: int, population_size: int, diagonal: bool = False
) -> Constants:
    """Computes the default strategy parameters, tutorial table 1.

    Args:
        dimension: ``D``.
        population_size: ``P``, the number of weights.
        diagonal: for a diagonal matrix, which learns (D + 2) / 3 times as fast.

    Example:
        >>> c = constants(10, 10)
        >>> round(c.mu_eff, 4), round(c.c_1, 6), round(c.c_mu, 6), round(c.c_c, 6)
        (3.1673, 0.015284, 0.023552, 0.29499)
    """
    row = _table(dimension, population_size, diagonal)[-1]
    rank = np.arange(1, population_size + 1)
    return _with_weights(row, rank, dimension, np)


def constants_of_valid(
    dimension: int,
    population_size: int,
    valid: jax.Array,
    dtype: DTypeLike,
    diagonal: bool = False,
) -> Constants:
    """Computes the parameters of a population of the candidates that have a value.

    Those are the ones in use that did not fail. With the rates of the whole population,
    steps of fewer candidates are too long: on Rosenbrock's function 20 % of failures
    then cost 1.6 times the evaluations.

    Args:
        dimension: ``D``.
        population_size: ``P``, the number of weights.
        valid: ``bool[P]``, the candidates that have a value.
        dtype: of the parameters.
        diagonal: as for ``constants``.
    """
    table = jnp.asarray(_table(dimension, population_size, diagonal), dtype)
    count = jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 2)
    rank = np.arange(1, population_size + 1)
    return _with_weights(table[count - 2], rank, dimension, jnp)


def _with_weights(row: Any, rank: np.ndarray, dimension: int, xp: Any) -> Constants:
    """Returns the parameters of a row of the table, with its weights by rank."""
    size, middle, up, down, *rates = row
    # eq. 49: w_i' = ln((P + 1) / 2) - ln i
    raw = middle - np.log(rank).astype(row.dtype)
    weights = xp.where(rank <= size, xp.where(raw > 0, raw * up, raw * down), 0)
    n = dimension
    chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    own = rates if xp is jnp else map(float, rates)
    return Constants._make([weights, *own, chi])


@functools.cache
def _table(dimension: int, population_size: int, diagonal: bool) -> np.ndarray:
    """Returns a row for each population size from 2 on: ``float[P - 1, 10]``.

    Its numbers are the size, ``ln((P + 1) / 2)``, the factors of positive and of
    negative ``w'``, and the fields of ``Constants`` but the first and the last.
    """
    n, lam = dimension, np.arange(2, max(population_size, 2) + 1)
    middle, num_up = np.log((lam + 1) / 2), (lam + 1) // 2
    logs = np.log(np.arange(1, lam[-1] + 1))
    sums, squares = np.cumsum(logs), np.cumsum(logs**2)

    def moments(count: Any, first: Any, second: Any) -> tuple[Any, Any]:
        """Sum and sum of squares of w', of ``count`` ranks with these of ln i."""
        return (
            count * middle - first,
            count * middle**2 - 2 * middle * first + second,
        )

    up = sums[num_up - 1], squares[num_up - 1]
    positive, positive_2 = moments(num_up, *up)
    negative, negative_2 = moments(
        lam - num_up, sums[lam - 1] - up[0], squares[lam - 1] - up[1]
    )
    mu_eff, mu_eff_minus = positive**2 / positive_2, negative**2 / negative_2
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)  # eq. 56
    c_1 = np.minimum(1, lam / 6) * 2 / ((n + 1.3) ** 2 + mu_eff)  # eq. 57
    c_mu = 2 * (mu_eff - 1.75 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff)  # eq. 58
    if diagonal:
        c_1, c_mu = c_1 * (n + 2) / 3, c_mu * (n + 2) / 3
    c_mu = np.clip(c_mu, 0, 1 - c_1)
    c_sigma = (mu_eff + 2) / (n + mu_eff + 3)
    crowd = np.maximum(0, np.sqrt(np.maximum(mu_eff - 1, 0) / (n + 1)) - 1)
    d_sigma = 1 + 2 * crowd + c_sigma  # eq. 55
    # eq. 50-53: the negative weights' sum keeps C positive definite
    rate = np.maximum(c_mu, 1e-30)
    limits = 1 + c_1 / rate, (1 - c_1 - c_mu) / (n * rate)
    scale = np.minimum(1 + 2 * mu_eff_minus / (mu_eff + 2), np.minimum(*limits))
    columns = lam, middle, 1 / positive, -scale / negative
    rates = mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu
    return np.stack([*columns, *rates], axis=1)


def recombination_weights(
    table: jax.Array | np.ndarray, evaluation: Evaluation, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """Returns recombination weights by rank, 0 for failures, and their valid share.

    Failed rows rank last but are left out of the sums: with k valid rows the best k
    positive weights count, renormalised to sum 1.
    """
    weights = shaping.by_rank(
        evaluation.fitness.astype(dtype),
        evaluation.valid,
        lambda rank, _: jnp.asarray(table),
    )
    positive = jnp.maximum(weights, 0)
    total = jnp.sum(positive)
    # ties can spread negative weight to the best: its weight is then smaller
    positive = positive / jnp.where(total > 0, total, 1)
    return positive + jnp.minimum(weights, 0), jnp.minimum(total, 1)


def cumulated(
    c: Constants,
    state: State,
    age: jax.Array,
    z_w: jax.Array,
    y_w: jax.Array,
    share: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Updates step size and paths, eq. 43-45.

    Args:
        c: strategy parameters.
        state: with ``sigma``, ``path_sigma`` and ``path_c``.
        age: ``i32[]``, steps of this run so far.
        z_w: ``float[D]``, the weighted mean of ``z``.
        y_w: ``float[D]``, the weighted mean of ``y``.
        share: ``float[]``, of the weights that count.

    Returns:
        ``(sigma, path_sigma, path_c, h_sigma)``.
    """
    # eq. 43: p_s <- (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu_eff) C^{-1/2} y_w
    path_sigma = (1 - c.c_sigma) * state.path_sigma
    path_sigma += jnp.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * z_w
    length = jnp.linalg.norm(path_sigma)
    # eq. 44, with pycma's limit of one e-fold a step
    change = c.c_sigma / c.d_sigma * (length / c.chi - 1) * share
    sigma = state.sigma * jnp.exp(jnp.minimum(change, 1.0))

    # eq. 45, with h_s stalling the path while p_s is long
    bias = 1 - (1 - c.c_sigma) ** (2 * (age.astype(length.dtype) + 1))
    stall = length / jnp.sqrt(bias) < (1.4 + 2 / (z_w.size + 1)) * c.chi
    path_c = (1 - c.c_c) * state.path_c
    path_c += stall * jnp.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * y_w
    return sigma, path_sigma, path_c, stall


def longest(dimension: int) -> float:
    """Returns a length that samples rarely exceed.

    ``sqrt(D) + 2 D / (D + 2)``: Hansen, "Injecting external solutions into CMA-ES"
    (2011), arXiv 1110.4181, ``c_y``.
    """
    return math.sqrt(dimension) + 2 * dimension / (dimension + 2)


def shortened(z: jax.Array) -> jax.Array:
    """Returns ``z [D]``, of at most the ``longest`` length."""
    limit, length = longest(z.size), jnp.linalg.norm(z)
    return z * jnp.minimum(1, limit / jnp.maximum(length, limit))


def scaled_negative(weights: jax.Array, z: jax.Array) -> jax.Array:
    """Returns the weights, negative ones times ``D / |C^{-1/2} y|^2``, eq. 46."""
    norms = jnp.maximum(jnp.sum(z * z, axis=1), jnp.finfo(z.dtype).tiny)
    return jnp.where(weights < 0, weights * z.shape[1] / norms, weights)
