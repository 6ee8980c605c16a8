"""A Gaussian process: what values are likely at a point, given those at others.

With the Matern kernel of a distance in which each coordinate has its length l_i,

    k(r) = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r)
    r^2 = sum_i ((x_i - x'_i) / l_i)^2
    K = k(X, X) + noise I
    mean(x) = mu + k(x)^T K^-1 (z - mu)
    var(x)  = s^2 (1 - k(x)^T K^-1 k(x))

``mu`` and ``s^2`` are the likeliest, with a little of a prior. Lengths and noise are
the likeliest under priors, by steps of Adam from those of the point before: they change
little from one point to the next.

Sources: Rasmussen and Williams, "Gaussian processes for machine learning" (2006),
equations 4.17, 2.25, 2.26 and 5.9; for a prior of the lengths that grows with the
dimension Hvarfner, Hellsten and Nardi (ICML 2024), arXiv 2402.02229, section 4.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.typing import DTypeLike

SHORT = -0.7  # log of a length's median, for one coordinate, in widths of the box
NOISE = math.log(1e-3)  # of the noise's median, in variances of the values
NOISE_SPREAD = 2.0  # standard deviation of its logarithm
MOST_LENGTH = 8.0  # log of the largest length
MEAN_PRECISION = 1e-3  # of the prior of mu: that of a thousandth of a value
VARIANCE_COUNT = 2.0  # of the prior of s^2, whose mean is 1: so many values
NUM_STEPS, RATE = 20, 0.15  # of Adam at each fit


class Hyperparameters(NamedTuple):
    """Logarithms of the lengths, ``float[D]``, and of the noise, ``float[]``."""

    lengths: jax.Array
    noise: jax.Array


class GaussianProcess(NamedTuple):
    """A process that knows some values.

    Attributes:
        parameters: lengths and noise.
        origin: ``float[D]``, the first point, from which the others are seen.
        points: ``float[A, D]``, from there, in units of the lengths.
        is_known: ``bool[A]``, which of them have a value.
        root: ``L`` with ``L L^T = K``, ``float[A, A]``; the identity for the others.
        weights: ``K^-1 (z - mu)``, ``float[A]``.
        mean: ``mu``.
        variance: ``s^2``.
    """

    parameters: Hyperparameters
    origin: jax.Array
    points: jax.Array
    is_known: jax.Array
    root: jax.Array
    weights: jax.Array
    mean: jax.Array
    variance: jax.Array


def prior(dimension: int, dtype: DTypeLike) -> Hyperparameters:
    """Returns the medians of the priors, which are log-normal."""
    lengths = jnp.full(dimension, SHORT + 0.5 * math.log(dimension), dtype)
    return Hyperparameters(lengths, jnp.full((), NOISE, dtype))


def conditioned(
    parameters: Hyperparameters,
    points: jax.Array,
    values: jax.Array,
    is_known: jax.Array,
) -> GaussianProcess:
    """Returns the process that knows ``values`` at ``points``.

    Args:
        parameters: lengths and noise.
        points: ``float[A, D]``; distances round least around the first.
        values: ``z``, ``float[A]``, of about mean 0 and variance 1.
        is_known: ``bool[A]``, which rows count.
    """
    x = (points - points[0]) / jnp.exp(parameters.lengths)
    both = is_known[:, None] & is_known
    diagonal = jnp.where(is_known, jnp.exp(parameters.noise), 1)
    k = jnp.where(both, _kernel(_distances(x, x)), 0) + jnp.diag(diagonal)
    root = jnp.linalg.cholesky(k)
    z = jnp.where(is_known, values, 0)
    one = is_known.astype(z.dtype)
    solved = cho_solve((root, True), jnp.stack([z, one], axis=1))
    mean = one @ solved[:, 0] / (one @ solved[:, 1] + MEAN_PRECISION)
    weights = solved[:, 0] - mean * solved[:, 1]
    square = (z - mean * one) @ weights + MEAN_PRECISION * mean**2
    variance = (square + VARIANCE_COUNT) / (jnp.sum(one) + VARIANCE_COUNT)
    return GaussianProcess(
        parameters, points[0], x, is_known, root, weights, mean, variance
    )


def predicted(
    process: GaussianProcess, points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns mean and standard deviation at points ``[N, D]``, ``float[N]`` each."""
    x = (points - process.origin) / jnp.exp(process.parameters.lengths)
    k = jnp.where(process.is_known, _kernel(_distances(x, process.points)), 0)
    mean = process.mean + k @ process.weights
    reduced = solve_triangular(process.root, k.T, lower=True)
    left = jnp.maximum(1 - jnp.sum(reduced * reduced, axis=0), _least_noise(k.dtype))
    return mean, jnp.sqrt(process.variance * left)


def fitted(
    parameters: Hyperparameters,
    points: jax.Array,
    values: jax.Array,
    is_known: jax.Array,
) -> Hyperparameters:
    """Returns likelier lengths and noise.

    Args:
        parameters: where to start.
        points: ``float[A, D]``.
        values: ``float[A]``.
        is_known: ``bool[A]``.
    """
    import optax  # takes a tenth of a second: imported only where it is used

    adam = optax.adam(optax.linear_schedule(RATE, RATE / 10, NUM_STEPS))
    least = math.log(_least_noise(values.dtype))
    center = prior(points.shape[1], points.dtype)

    def step(_: int, carry: tuple[Hyperparameters, Any]) -> Any:
        now, moments = carry
        process = conditioned(now, points, values, is_known)
        lengths, noise = _slope(process)
        # where rounding has left K no root, more noise gives it one
        lengths = jnp.where(jnp.isfinite(lengths), lengths, 0)
        noise = jnp.where(jnp.isfinite(noise), noise, -1)
        slope = jax.tree.map(
            jnp.add, Hyperparameters(lengths, noise), _prior_slope(now, center)
        )
        move, moments = adam.update(slope, moments)
        lengths, noise = optax.apply_updates(now, move)
        bounded = Hyperparameters(
            jnp.clip(lengths, -MOST_LENGTH, MOST_LENGTH), jnp.clip(noise, least, 0)
        )
        return bounded, moments

    carry = parameters, adam.init(parameters)
    return jax.lax.fori_loop(0, NUM_STEPS, step, carry)[0]


def _slope(process: GaussianProcess) -> Hyperparameters:
    """Returns the derivatives of the negative logarithm of the likelihood.

    dL/dt = 1/2 tr(K^-1 dK/dt) - 1/(2 s^2) w^T dK/dt w,  w = K^-1 (z - mu); those of mu
    and s^2 are 0.
    """
    x, w = process.points, process.weights
    identity = jnp.eye(w.size, dtype=w.dtype)
    outer = cho_solve((process.root, True), identity)
    outer -= w[:, None] * w / process.variance
    both = process.is_known[:, None] & process.is_known
    # dk/dlog l_i = 5/3 (1 + sqrt(5) r) exp(-sqrt(5) r) (x_i - x'_i)^2 / l_i^2
    r = math.sqrt(5) * jnp.sqrt(_distances(x, x))
    part = jnp.where(both, outer * (5 / 3 * (1 + r) * jnp.exp(-r)), 0)
    # sum_ab M_ab (x_a - x_b)^2 for each coordinate, M symmetric
    squares = 2 * (jnp.sum(part, axis=1) @ (x * x) - jnp.sum(x * (part @ x), axis=0))
    noise = jnp.sum(outer * jnp.diag(process.is_known.astype(w.dtype)))
    return Hyperparameters(squares / 2, noise * jnp.exp(process.parameters.noise) / 2)


def _prior_slope(now: Hyperparameters, center: Hyperparameters) -> Hyperparameters:
    return Hyperparameters(
        now.lengths - center.lengths, (now.noise - center.noise) / NOISE_SPREAD**2
    )


def _distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the squared distances of rows: ``[N, D], [M, D] -> [N, M]``."""
    squares = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)
    return jnp.maximum(squares - 2 * a @ b.T, 0)


def _kernel(squared: jax.Array) -> jax.Array:
    r = math.sqrt(5) * jnp.sqrt(squared)
    return (1 + r + r * r / 3) * jnp.exp(-r)


def _least_noise(dtype: DTypeLike) -> float:
    return max(1e-8, 100 * float(jnp.finfo(dtype).eps))
