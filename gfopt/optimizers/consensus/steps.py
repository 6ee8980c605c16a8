"""The step of a particle to a consensus: how far, how noisy.

    S(x - c) = |x - c|  isotropic  |  diag(x - c)  anisotropic  |  C^{1/2}  covariance

Functions of vectors ``[N, D]``; the last one, ``moved``, puts them together. The first
one refuses isotropic noise by which they fly apart.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.optimizers import vectors
from gfopt.optimizers.consensus import weights as weighing
from gfopt.optimizers.consensus.particles import (
    CBOState,
    Particles,
    at,
    num_evaluated,
    primal,
)

NOISES = ("anisotropic", "isotropic", "covariance")
INTEGRATORS = ("euler", "exponential", "adam")
CONVENTIONS = {"sqrt_dt": 1.0, "sqrt_2dt": math.sqrt(2)}


def refuse_explosive(method: Any, dimension: int) -> None:
    """Refuses isotropic noise with ``2 lambda <= D sigma^2``, where it is known."""
    found = [checks.concrete(a) for a in (method.drift, method.diffusion)]
    numbers = [number for number in found if number is not None]
    if (
        method.noise != "isotropic"
        or method.is_forced
        or method.longest is not None
        or len(numbers) < 2  # a schedule or a tracer
    ):
        return
    drift, diffusion = (float(number) for number in numbers)
    strength = dimension * (CONVENTIONS[method.convention] * diffusion) ** 2
    if 2 * drift <= strength:
        limit = math.sqrt(2 * drift / dimension) / CONVENTIONS[method.convention]
        raise ValueError(
            f"diffusion must be below {limit:.3g} for isotropic noise in {dimension} "
            f"dimensions and a drift of {drift:g}, or the particles fly apart; "
            f"got {diffusion:g}. Take noise='anisotropic', or is_forced=True"
        )


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
        distance = weighing.lengths(distance)
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


def _step(
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


def moved(
    method: Any, state: CBOState, particles: Particles, draws: list[jax.Array]
) -> Particles:
    """Returns the particles after one time step, with the consensus at rest."""
    x = particles.position
    drift, dt = at(method, "drift", state), at(method, "dt", state)
    rows = jnp.arange(len(x))
    counts = jnp.isfinite(particles.fitness) & (rows < num_evaluated(method, state))
    logs = weighing.log_weights(particles.fitness, counts, state.alpha)
    weights = jnp.exp(logs) / jnp.maximum(jnp.sum(jnp.exp(logs)), 1)
    solutions, target = jax.vmap(partial(primal, method))(x), state.consensus
    points = solutions if method.memory is None else particles.memory
    if method.kernel is not None:
        target = weighing.polarised(
            method.kernel,
            at(method, "kernel_width", state),
            state.alpha,
            solutions,
            points,
            logs,
            target,
        )
    scale: Any = CONVENTIONS[method.convention]
    if method.is_sampling:
        scale = scale * jnp.sqrt(1 + state.alpha)
    diffusion = at(method, "diffusion", state)
    floor = at(method, "floor", state)
    if method.kick is not None:
        floor = floor + at(method, "kick", state) * state.is_stagnant
    longest = None if method.longest is None else at(method, "longest", state)
    pull = at(method, "memory_drift", state)
    shake = pull * diffusion
    if method.memory_diffusion is not None:
        shake = at(method, "memory_diffusion", state)

    def step(
        distance: jax.Array, z: jax.Array, drift: Any, diffusion: Any, floor: Any
    ) -> jax.Array:
        def scatter(z: jax.Array) -> jax.Array:
            root = None
            if method.noise == "covariance":
                root = covariance_root(points - state.consensus, weights)
            return diffused(method.noise, distance, z, longest, root)

        return _step(
            "exponential" if method.integrator == "exponential" else "euler",
            distance,
            z,
            drift=drift,
            diffusion=scale * diffusion,
            floor=scale * floor,
            dt=dt,
            diffuse=(method.noise, scatter),
        )

    distance = solutions - target
    if method.integrator == "adam":
        # m, v: means of x - c and of its square;
        # x <- x - lambda m_hat / (sqrt(v_hat) + eps) + noise
        b1, b2 = at(method, "first_decay", state), at(method, "second_decay", state)
        m = b1 * particles.first + (1 - b1) * distance
        v = b2 * particles.second + (1 - b2) * distance**2
        count = jnp.maximum(state.step, 1)
        m_hat = m / jnp.maximum(1 - b1**count, 1e-8)
        v_hat = v / jnp.maximum(1 - b2**count, 1e-8)
        spread = step(distance, draws[0], 0.0, diffusion, floor)
        x = x - drift * m_hat / (jnp.sqrt(v_hat) + 1e-8) + spread
        particles = particles._replace(
            first=m.astype(x.dtype), second=jnp.minimum(v, vectors.LIMIT)
        )
    else:
        x = x + step(distance, draws[0], drift, diffusion, floor)
    if method.memory is not None:
        # a second step, to the particle's own memory, as CBXpy's
        distance = jax.vmap(partial(primal, method))(x) - particles.memory
        x = x + step(distance, draws[1], pull, shake, 0.0)
    return particles._replace(position=x)
