"""The building blocks of the BBOB functions: instance data and transformations.

The first part runs once per problem, on the host, in NumPy double precision: the
random numbers of the suite and what is drawn with them, the optima among it. They
follow the generator with which the suite was published in 2009, number for number,
since an instance *is* its random numbers. The last part are the transformations of the
search space and of the objective: pure `jax.numpy`, in the precision of their argument.

Reference: N. Hansen, S. Finck, R. Ros and A. Auger, "Real-Parameter Black-Box
Optimization Benchmarking 2009: Noiseless Functions Definitions", RR-6829, INRIA, 2009.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.types import Array

# The first rotation of an instance, R, is drawn this far from the second one, Q.
R_SEED_OFFSET = 1_000_000

_MODULUS = 2**31 - 1
_SHUFFLE = 32  # entries of the shuffle table


class Peaks(NamedTuple):
    """The peaks of Gallagher's functions, with `K` the number of peaks.

    Attributes:
        centers: `[K, D]`, the peaks y_i in rotated coordinates, R y_i.
        scales: `[K, D]`, the diagonals of the matrices C_i.
    """

    centers: Array
    scales: Array


# --- instance data, on the host -------------------------------------------------------


def uniform(seed: int, count: int) -> np.ndarray:
    """Draws `[count]` numbers from the open unit interval.

    A multiplicative congruential generator, s <- 16807 s mod (2^31 - 1), whose output
    is shuffled through a table of 32 entries (Bays and Durham).
    """
    state = max(abs(seed), 1)
    warm_up = []
    for _ in range(8 + _SHUFFLE):
        state = 16807 * state % _MODULUS
        warm_up.append(state)
    # The table is filled from its end; the eight first numbers are thrown away.
    table = warm_up[:7:-1]
    chosen = table[0]
    drawn = []
    for _ in range(count):
        state = 16807 * state % _MODULUS
        # The number that was given out last says which entry goes out next.
        slot = chosen // 67108865
        chosen, table[slot] = table[slot], state
        drawn.append(chosen)
    return np.asarray(drawn, np.float64) / _MODULUS


def gaussian(seed: int, count: int) -> np.ndarray:
    """Draws `[count]` standard normal numbers (Box and Muller, cosine half)."""
    u = uniform(seed, 2 * count).tolist()
    # The math module, since NumPy's log and cos differ from the C library's in the
    # last bit on some processors, and `rotation` multiplies such differences.
    return np.asarray(
        [
            math.sqrt(-2 * math.log(radial)) * math.cos(2 * math.pi * angular)
            for radial, angular in zip(u[:count], u[count:], strict=True)
        ]
    )


def _inner(a: np.ndarray, b: np.ndarray) -> np.floating:
    """Returns the inner product, summed from the first entry to the last."""
    return np.cumsum(a * b)[-1]


def rotation(seed: int, dimension: int) -> np.ndarray:
    """Draws an orthogonal matrix `[D, D]`: Gram-Schmidt on columns of normals.

    The order of the operations is part of the definition: in 40 dimensions another one
    moves the entries by 1e-14, and values of f16 and f19 by more than 1e-9 of them.
    """
    columns = gaussian(seed, dimension**2).reshape(dimension, dimension)
    for i in range(dimension):
        for j in range(i):
            columns[i] -= _inner(columns[i], columns[j]) * columns[j]
        columns[i] /= np.sqrt(_inner(columns[i], columns[i]))
    return columns.T.copy()


def optimal_value(seed: int) -> float:
    """Draws f_opt: a Cauchy number, 100 N / N, with two decimals, in [-1000, 1000]."""
    ratio = gaussian(seed, 1)[0] / gaussian(seed + 1, 1)[0]
    return float(np.clip(np.floor(1e4 * ratio + 0.5) / 100, -1000, 1000))


def gallagher_locations(seed: int, dimension: int, num_peaks: int) -> np.ndarray:
    """Draws the peaks' locations y_i as `[K, D]`, the global optimum first."""
    # 101 peaks are spread over [-5, 5], 21 over [-4.9, 4.9].
    half = 5.0 if num_peaks == 101 else 4.9
    u = uniform(seed, num_peaks * dimension).reshape(num_peaks, dimension)
    y = 2 * half * u - half
    y[0] *= 0.8  # keeps the optimum off the boundary
    return y


def gallagher_peaks(seed: int, dimension: int, num_peaks: int) -> Peaks:
    """Draws the peaks and their shapes.

    C_i = Lambda^(alpha_i) / alpha_i^(1/4) with its diagonal permuted: the entries are
    a^(j/(D-1) - 1/2), a = alpha_i^(1/2). The a of the local optima are the numbers
    1000^(j/(K-2)), j = 0 .. K-2, in random order; the global one has its own.
    """
    y = gallagher_locations(seed, dimension, num_peaks)
    order = np.argsort(uniform(seed, num_peaks - 1), kind="stable")
    global_condition = np.sqrt(1000.0) if num_peaks == 101 else 1000.0
    a = np.concatenate([[global_condition], 1000.0 ** (order / (num_peaks - 2))])
    exponents = [
        np.argsort(uniform(seed + 1000 * i, dimension), kind="stable") / (dimension - 1)
        - 0.5
        for i in range(num_peaks)
    ]
    return Peaks(
        centers=y @ rotation(seed, dimension).T,
        scales=a[:, None] ** np.asarray(exponents),
    )


# --- the optima: x_opt [D] from the seed of the instance ------------------------------


def shift(seed: int, dimension: int) -> np.ndarray:
    """Draws a location from [-4, 4], on a grid of steps of 0.0008, never 0."""
    x = 8 * np.floor(1e4 * uniform(seed, dimension)) / 1e4 - 4
    return np.where(x == 0, -1e-5, x)


def odd_positive(seed: int, dimension: int) -> np.ndarray:
    """Draws f4's optimum: positive in coordinates 1, 3, 5, ..., the steeper ones."""
    x_opt = shift(seed, dimension)
    x_opt[::2] = np.abs(x_opt[::2])
    return x_opt


def corner(seed: int, dimension: int) -> np.ndarray:
    """Draws f5's optimum: a corner of [-5, 5]^D."""
    return 5 * np.sign(shift(seed, dimension))


def three_quarters(seed: int, dimension: int) -> np.ndarray:
    """Draws f8's optimum: nearer to the center, so that the valley fits the box."""
    return 0.75 * shift(seed, dimension)


def from_ones(seed: int, dimension: int) -> np.ndarray:
    """Solves z = 1 for the optimum of f9 and f19: R' 1 / (2 max(1, sqrt(D)/8))."""
    return rotation(seed, dimension).sum(axis=0) / (2 * widening(dimension))


def shift_of_r(seed: int, dimension: int) -> np.ndarray:
    """Draws f12's optimum, with the seed of the rotation R."""
    return shift(seed + R_SEED_OFFSET, dimension)


def schwefel_signs(seed: int, dimension: int) -> np.ndarray:
    """Draws f20's optimum: signs times 4.2096874637 / 2.

    The report's last digits are 33. The suite computes with 37, which shows in the
    tenth digit of f(x); at both points the value is f_opt in double precision.
    """
    return np.where(uniform(seed, dimension) < 0.5, -0.5, 0.5) * 4.2096874637


def first_of_101(seed: int, dimension: int) -> np.ndarray:
    """Draws f21's optimum, its highest peak."""
    return gallagher_locations(seed, dimension, 101)[0]


def first_of_21(seed: int, dimension: int) -> np.ndarray:
    """Draws f22's optimum, its highest peak."""
    return gallagher_locations(seed, dimension, 21)[0]


def lunacek_signs(seed: int, dimension: int) -> np.ndarray:
    """Draws f24's optimum: signs times mu_0 / 2 = 1.25."""
    return np.where(gaussian(seed, dimension) < 0, -1.25, 1.25)


# --- transformations, in jax.numpy ----------------------------------------------------


def widening(dimension: int) -> float:
    """Returns max(1, sqrt(D)/8): how far Rosenbrock's valley is stretched."""
    return max(1.0, math.sqrt(dimension) / 8)


def ramp(x: jax.Array) -> jax.Array:
    """Returns 0, 1/(D-1), ..., 1 as `[D]`, in the dtype of `x: [D]`."""
    return jnp.asarray(np.arange(x.shape[0]) / (x.shape[0] - 1), x.dtype)


def powers(base: float, x: jax.Array) -> jax.Array:
    """Returns `base^(i/(D-1))`, i = 0 .. D-1, as `[D]`, in the dtype of `x: [D]`."""
    size = x.shape[0]
    return jnp.asarray(float(base) ** (np.arange(size) / (size - 1)), x.dtype)


def conditioning(alpha: float, x: jax.Array) -> jax.Array:
    """Multiplies by Lambda^alpha = diag(alpha^(i / (2 (D-1)))), i = 0 .. D-1."""
    return powers(np.sqrt(alpha), x) * x


def rotate(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """Returns `matrix @ x` in full precision, which accelerators do not default to."""
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def oscillate(x: jax.Array) -> jax.Array:
    """T_osz: adds smooth ripples, symmetric in shape but not in sign, elementwise."""
    # The logarithm of 0 never enters: 0 stays 0 by its sign below.
    log = jnp.log(jnp.where(x == 0, 1, jnp.abs(x)))
    c1 = jnp.where(x > 0, 10.0, 5.5).astype(x.dtype)
    c2 = jnp.where(x > 0, 7.9, 3.1).astype(x.dtype)
    # T_osz(x) = sign(x) exp(log|x| + 0.049 (sin(c1 log|x|) + sin(c2 log|x|)))
    return jnp.sign(x) * jnp.exp(log + 0.049 * (jnp.sin(c1 * log) + jnp.sin(c2 * log)))


def asymmetric(beta: float, x: jax.Array) -> jax.Array:
    """T_asy^beta: stretches the positive half axes, later coordinates more."""
    positive = jnp.where(x > 0, x, 1)
    # T_asy(x_i) = x_i^(1 + beta (i-1)/(D-1) sqrt(x_i)) where x_i > 0, else x_i
    return jnp.where(x > 0, positive ** (1 + beta * ramp(x) * jnp.sqrt(positive)), x)


def penalty(x: jax.Array) -> jax.Array:
    """f_pen: the squared distance to the box [-5, 5]^D."""
    # f_pen(x) = sum_i max(0, |x_i| - 5)^2
    return jnp.sum(jnp.maximum(0, jnp.abs(x) - 5) ** 2)


def round_half_up(x: jax.Array) -> jax.Array:
    """Rounds to the nearest integer, halves up: floor(x + 1/2)."""
    return jnp.floor(x + 0.5)
