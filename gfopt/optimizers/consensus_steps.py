"""The step of a particle to a consensus: how far, how noisy, seen through which kernel.

    S(x - c) = |x - c|  isotropic  |  diag(x - c)  anisotropic  |  C^{1/2}  covariance

Functions of vectors ``[N, D]`` without a state; ``consensus.py`` puts them together.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

NOISES = ("anisotropic", "isotropic", "covariance")
INTEGRATORS = ("euler", "exponential", "adam")
KERNELS = ("gaussian", "laplace", "constant", "inverse_quadratic")
CONVENTIONS = {"sqrt_dt": 1.0, "sqrt_2dt": math.sqrt(2)}
_CHUNK = 32  # rows of the [N, N] kernel that are held at a time


def lengths(rows: jax.Array) -> jax.Array:
    """Returns the lengths ``[..., 1]`` of rows ``[..., D]``, safe from overflow."""
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    scaled = rows / jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))


def weighted_mean(weights: jax.Array, points: jax.Array) -> jax.Array:
    """Returns ``sum_i w_i x_i``, in full precision on every device."""
    return jnp.einsum("i,id->d", weights, points, precision=lax.Precision.HIGHEST)


def diffused(
    noise: str, distance: jax.Array, z: jax.Array, longest: Any, root: Any
) -> jax.Array:
    """Returns ``S(x - c) z``, ``[N, D]``.

    Args:
        noise: one of ``NOISES``.
        distance: ``x - c``, ``[N, D]``.
        z: standard noise, ``[N, D]``.
        longest: ``M``, no distance counts as longer; None for any.
        root: ``[D, D]``, of the covariance; None for the other kinds.
    """
    if noise == "covariance":
        return jnp.matmul(z, root, precision=lax.Precision.HIGHEST)
    if noise == "isotropic":
        distance = lengths(distance)
    if longest is not None:
        distance = jnp.clip(distance, -longest, longest)
    return distance * z


def covariance_root(distance: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the symmetric root, ``[D, D]``, of ``sum_i w_i (x_i - c) (x_i - c)^T``.

    Args:
        distance: ``x - c``, ``[N, D]``.
        weights: ``[N]``, those of the consensus.
    """
    scaled = jnp.sqrt(weights)[:, None] * distance
    # by rows that are of order 1, so that squares neither overflow nor vanish
    largest = jnp.max(jnp.abs(scaled))
    scaled = scaled / jnp.where(largest > 0, largest, 1)
    covariance = jnp.matmul(scaled.T, scaled, precision=lax.Precision.HIGHEST)
    squares, basis = jnp.linalg.eigh(covariance)
    root = (basis * jnp.sqrt(jnp.maximum(squares, 0))) @ basis.T
    return largest * root


def moved(
    integrator: str,
    distance: jax.Array,
    noise: jax.Array,
    *,
    drift: Any,
    diffusion: Any,
    floor: Any,
    dt: Any,
    diffuse: Any,
) -> jax.Array:
    """Returns the step of the particles, ``[N, D]``, with ``c`` at rest.

    Args:
        integrator: ``"euler"`` or ``"exponential"``.
        distance: ``x - c``, ``[N, D]``.
        noise: standard noise ``z``, ``[N, D]``.
        drift: ``lambda``.
        diffusion: ``sigma``, times root 2 by the convention.
        floor: ``delta``, of a noise that does not vanish.
        dt: the time step.
        diffuse: the kind of noise, and ``z -> S(x - c) z``.
    """
    kind, scatter = diffuse
    if integrator == "euler":
        # dx = -lambda dt (x - c) + sqrt(dt) (sigma S(x - c) z + delta z)
        spread = diffusion * scatter(noise) + floor * noise
        return -drift * dt * distance + jnp.sqrt(dt) * spread
    decay = jnp.exp(-drift * dt)
    # the constant part is an Ornstein-Uhlenbeck process: exact for any dt
    rate = 2 * drift * dt
    spent = jnp.where(rate > 0, -jnp.expm1(-rate) / jnp.where(rate > 0, rate, 1), 1)
    added = floor * jnp.sqrt(dt * spent) * noise
    if kind == "anisotropic":
        # x - c is a geometric Brownian motion in every coordinate
        power = (-drift - diffusion**2 / 2) * dt + diffusion * jnp.sqrt(dt) * noise
        return jnp.expm1(jnp.clip(power, -80, 80)) * distance + added
    # x = c + beta (x - c) + sigma sqrt(1 - beta^2) S z,   beta = exp(-lambda dt)
    scale = diffusion * jnp.sqrt(jnp.maximum(1 - decay**2, 0))
    return (decay - 1) * distance + scale * scatter(noise) + added


def polarised(
    kernel: str,
    width: Any,
    alpha: jax.Array,
    positions: jax.Array,
    points: jax.Array,
    logs: jax.Array,
    fallback: jax.Array,
) -> jax.Array:
    """Returns a consensus for each particle, ``[N, D]``, in chunks of its rows.

    ``c(x) = sum_j k(x, x_j)^alpha exp(-alpha f_j) x_j``, normalised.

    Args:
        kernel: one of ``KERNELS``.
        width: ``kappa``.
        alpha: the exponent of the kernel.
        positions: ``x``, ``[N, D]``.
        points: ``x_j``, ``[N, D]``.
        logs: ``-alpha f_j``, ``[N]``, -inf for failures.
        fallback: ``[D]``, for a particle that sees no other.
    """

    def consensus(x: jax.Array) -> jax.Array:
        r = lengths(points - x)[:, 0] / width
        if kernel == "gaussian":
            exponents = logs - alpha * r**2 / 2
        elif kernel == "laplace":
            exponents = logs - alpha * r
        elif kernel == "inverse_quadratic":
            exponents = logs - alpha * jnp.log1p(r**2)
        else:
            exponents = jnp.where(r <= 1, logs, -jnp.inf)
        highest = jnp.max(exponents)
        seen = jnp.isfinite(highest)
        weights = jnp.exp(exponents - jnp.where(seen, highest, 0))
        weights /= jnp.maximum(jnp.sum(weights), 1e-30)
        return jnp.where(seen, weighted_mean(weights, points), fallback)

    return lax.map(consensus, positions, batch_size=min(_CHUNK, len(positions)))
