"""The formulas of the 24 noiseless BBOB functions, and how their optima are drawn.

Each function below is its formula in the notation of the report: x_opt and f_opt are
the optimum and its value, R and Q two rotations, Lambda^alpha a diagonal matrix of
condition sqrt(alpha), T_osz, T_asy and f_pen the transformations of `transforms`.
All of them return f(x) - f_opt. The table at the end says for each function how its
optimum is drawn.

Reference: N. Hansen, S. Finck, R. Ros and A. Auger, "Real-Parameter Black-Box
Optimization Benchmarking 2009: Noiseless Functions Definitions", RR-6829, INRIA, 2009.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.problems.bbob_suite import transforms as draw
from gfopt.problems.bbob_suite.transforms import (
    Peaks,
    asymmetric,
    conditioning,
    oscillate,
    penalty,
    powers,
    ramp,
    rotate,
    round_half_up,
    widening,
)


class Instance(Protocol):
    """What a formula reads of a problem."""

    @property
    def x_opt(self) -> jax.Array:
        """The optimum, `[D]`."""

    @property
    def rotation_r(self) -> jax.Array:
        """The rotation R, `[D, D]`, where the function has one."""

    @property
    def rotation_q(self) -> jax.Array:
        """The rotation Q, `[D, D]`, where the function has one."""

    @property
    def peaks(self) -> Peaks:
        """The peaks of f21 and f22."""


def _sphere(p: Instance, x: jax.Array) -> jax.Array:
    # ||x - x_opt||^2
    return jnp.sum((x - p.x_opt) ** 2)


def _ellipsoid(z: jax.Array) -> jax.Array:
    # sum_i 10^(6 (i-1)/(D-1)) z_i^2
    return jnp.sum(powers(1e6, z) * z**2)


def _separable_ellipsoid(p: Instance, x: jax.Array) -> jax.Array:
    # z = T_osz(x - x_opt)
    return _ellipsoid(oscillate(x - p.x_opt))


def _rotated_ellipsoid(p: Instance, x: jax.Array) -> jax.Array:
    # z = T_osz(R (x - x_opt))
    return _ellipsoid(oscillate(rotate(p.rotation_r, x - p.x_opt)))


def _rastrigin(z: jax.Array) -> jax.Array:
    # 10 (D - sum_i cos(2 pi z_i)) + ||z||^2
    return 10 * (z.size - jnp.sum(jnp.cos(2 * np.pi * z))) + jnp.sum(z**2)


def _separable_rastrigin(p: Instance, x: jax.Array) -> jax.Array:
    # z = Lambda^10 T_asy^0.2(T_osz(x - x_opt))
    return _rastrigin(conditioning(10, asymmetric(0.2, oscillate(x - p.x_opt))))


def _bueche_rastrigin(p: Instance, x: jax.Array) -> jax.Array:
    t = oscillate(x - p.x_opt)
    # z_i = s_i T_osz(x_i - x_opt_i), s_i = 10^((i-1)/(2 (D-1))), and ten times that
    # where z_i > 0 and i = 1, 3, 5, ...
    is_odd = np.arange(x.size) % 2 == 0
    z = conditioning(10, jnp.where((t > 0) & is_odd, 10 * t, t))
    return _rastrigin(z) + 100 * penalty(x)


def _linear_slope(p: Instance, x: jax.Array) -> jax.Array:
    # z_i = x_i if x_opt_i x_i < 5^2, else x_opt_i: flat beyond the optimum.
    # (Written the other way round, so that a NaN in x stays one.)
    z = jnp.where(p.x_opt * x >= 25, p.x_opt, x)
    # s_i = sign(x_opt_i) 10^((i-1)/(D-1))
    s = jnp.sign(p.x_opt) * powers(10, x)
    # sum_i 5 |s_i| - s_i z_i
    return jnp.sum(5 * jnp.abs(s) - s * z)


def _attractive_sector(p: Instance, x: jax.Array) -> jax.Array:
    # z = R Lambda^10 Q (x - x_opt)
    z = rotate(p.rotation_r, conditioning(10, rotate(p.rotation_q, x - p.x_opt)))
    # s_i = 10^2 if z_i x_opt_i > 0, else 1
    s = jnp.where(z * p.x_opt > 0, 100, 1)
    # T_osz(sum_i (s_i z_i)^2)^0.9
    return oscillate(jnp.sum((s * z) ** 2)) ** 0.9


def _step_ellipsoid(p: Instance, x: jax.Array) -> jax.Array:
    # z^ = Lambda^10 Q (x - x_opt)
    hat = conditioning(10, rotate(p.rotation_q, x - p.x_opt))
    # z~_i = floor(0.5 + z^_i) if |z^_i| > 0.5, else floor(0.5 + 10 z^_i) / 10
    tilde = jnp.where(
        jnp.abs(hat) > 0.5, round_half_up(hat), round_half_up(10 * hat) / 10
    )
    # z = R z~
    z = rotate(p.rotation_r, tilde)
    # 0.1 max(|z^_1| / 10^4, sum_i 10^(2 (i-1)/(D-1)) z_i^2) + f_pen(x)
    steps = jnp.sum(powers(100, z) * z**2)
    return 0.1 * jnp.maximum(jnp.abs(hat[0]) / 1e4, steps) + penalty(x)


def _rosenbrock(z: jax.Array) -> jax.Array:
    # The D-1 summands, 100 (z_i^2 - z_(i+1))^2 + (z_i - 1)^2
    return 100 * (z[:-1] ** 2 - z[1:]) ** 2 + (z[:-1] - 1) ** 2


def _original_rosenbrock(p: Instance, x: jax.Array) -> jax.Array:
    # z = max(1, sqrt(D)/8) (x - x_opt) + 1
    return jnp.sum(_rosenbrock(widening(x.size) * (x - p.x_opt) + 1))


def _rotated_rosenbrock(p: Instance, x: jax.Array) -> jax.Array:
    # z = max(1, sqrt(D)/8) R x + 1/2; this rotation is drawn as Q is elsewhere.
    return jnp.sum(_rosenbrock(widening(x.size) * rotate(p.rotation_q, x) + 0.5))


def _discus(p: Instance, x: jax.Array) -> jax.Array:
    # z = T_osz(R (x - x_opt))
    z = oscillate(rotate(p.rotation_r, x - p.x_opt))
    # 10^6 z_1^2 + sum_(i>1) z_i^2
    return 1e6 * z[0] ** 2 + jnp.sum(z[1:] ** 2)


def _bent_cigar(p: Instance, x: jax.Array) -> jax.Array:
    # z = R T_asy^0.5(R (x - x_opt))
    z = rotate(p.rotation_r, asymmetric(0.5, rotate(p.rotation_r, x - p.x_opt)))
    # z_1^2 + 10^6 sum_(i>1) z_i^2
    return z[0] ** 2 + 1e6 * jnp.sum(z[1:] ** 2)


def _sharp_ridge(p: Instance, x: jax.Array) -> jax.Array:
    # z = R Lambda^10 Q (x - x_opt)
    z = rotate(p.rotation_r, conditioning(10, rotate(p.rotation_q, x - p.x_opt)))
    # z_1^2 + 100 sqrt(sum_(i>1) z_i^2)
    return z[0] ** 2 + 100 * jnp.sqrt(jnp.sum(z[1:] ** 2))


def _different_powers(p: Instance, x: jax.Array) -> jax.Array:
    # z = R (x - x_opt)
    z = rotate(p.rotation_r, x - p.x_opt)
    # sqrt(sum_i |z_i|^(2 + 4 (i-1)/(D-1)))
    return jnp.sqrt(jnp.sum(jnp.abs(z) ** (2 + 4 * ramp(z))))


def _rotated_rastrigin(p: Instance, x: jax.Array) -> jax.Array:
    # z = R Lambda^10 Q T_asy^0.2(T_osz(R (x - x_opt)))
    t = asymmetric(0.2, oscillate(rotate(p.rotation_r, x - p.x_opt)))
    return _rastrigin(rotate(p.rotation_r, conditioning(10, rotate(p.rotation_q, t))))


def _weierstrass(p: Instance, x: jax.Array) -> jax.Array:
    # z = R Lambda^(1/100) Q T_osz(R (x - x_opt))
    t = oscillate(rotate(p.rotation_r, x - p.x_opt))
    z = rotate(p.rotation_r, conditioning(1 / 100, rotate(p.rotation_q, t)))
    # f_0 = sum_(k=0)^11 2^-k cos(2 pi 3^k / 2): every 3^k is odd, every cosine -1
    amplitudes = jnp.asarray(0.5 ** np.arange(12), x.dtype)
    frequencies = jnp.asarray(3.0 ** np.arange(12), x.dtype)
    f_0 = -jnp.sum(amplitudes)
    # 10 (1/D sum_i sum_k 2^-k cos(2 pi 3^k (z_i + 1/2)) - f_0)^3 + 10/D f_pen(x)
    waves = jnp.cos(2 * np.pi * (z[:, None] + 0.5) * frequencies)
    inner = jnp.sum(amplitudes * waves) / x.size - f_0
    return 10 * inner**3 + 10 / x.size * penalty(x)


def _schaffers(alpha: float, p: Instance, x: jax.Array) -> jax.Array:
    # z = Lambda^alpha Q T_asy^0.5(R (x - x_opt))
    t = asymmetric(0.5, rotate(p.rotation_r, x - p.x_opt))
    z = conditioning(alpha, rotate(p.rotation_q, t))
    # s_i = sqrt(z_i^2 + z_(i+1)^2)
    s = jnp.sqrt(z[:-1] ** 2 + z[1:] ** 2)
    # (1/(D-1) sum_i sqrt(s_i) (1 + sin^2(50 s_i^(1/5))))^2 + 10 f_pen(x)
    mean = jnp.mean(jnp.sqrt(s) * (1 + jnp.sin(50 * s**0.2) ** 2))
    return mean**2 + 10 * penalty(x)


def _schaffers_10(p: Instance, x: jax.Array) -> jax.Array:
    return _schaffers(10, p, x)


def _schaffers_1000(p: Instance, x: jax.Array) -> jax.Array:
    return _schaffers(1000, p, x)


def _griewank_rosenbrock(p: Instance, x: jax.Array) -> jax.Array:
    # z = max(1, sqrt(D)/8) R x + 1/2; this rotation is drawn as Q is elsewhere.
    s = _rosenbrock(widening(x.size) * rotate(p.rotation_q, x) + 0.5)
    # 10/(D-1) sum_i (s_i/4000 - cos s_i) + 10
    return 10 * jnp.mean(s / 4000 - jnp.cos(s)) + 10


def _schwefel(p: Instance, x: jax.Array) -> jax.Array:
    # x^ = 2 sign(x_opt) x
    hat = 2 * jnp.sign(p.x_opt) * x
    twice = 2 * jnp.abs(p.x_opt)
    # z^_1 = x^_1, z^_(i+1) = x^_(i+1) + 0.25 (x^_i - 2 |x_opt_i|)
    skewed = hat.at[1:].add(0.25 * (hat[:-1] - twice[:-1]))
    # z = 100 (Lambda^10 (z^ - 2 |x_opt|) + 2 |x_opt|)
    z = 100 * (conditioning(10, skewed - twice) + twice)
    # -1/(100 D) sum_i z_i sin(sqrt|z_i|) + 4.189828872724339 + 100 f_pen(z / 100)
    waves = jnp.mean(z * jnp.sin(jnp.sqrt(jnp.abs(z))))
    return 4.189828872724339 - waves / 100 + 100 * penalty(z / 100)


def _gallagher(p: Instance, x: jax.Array) -> jax.Array:
    # w_1 = 10, w_i = 1.1 + 8 (i-2)/(K-2) for i = 2 .. K
    w = np.append(10.0, np.linspace(1.1, 9.1, len(p.peaks.centers) - 1))
    # 10 - max_i w_i exp(-1/(2D) (x - y_i)' R' C_i R (x - y_i))
    offsets = rotate(p.rotation_q, x) - p.peaks.centers
    distances = jnp.sum(p.peaks.scales * offsets**2, axis=1)
    heights = jnp.asarray(w, x.dtype) * jnp.exp(-distances / (2 * x.size))
    # T_osz(that)^2 + f_pen(x)
    return oscillate(10 - jnp.max(heights)) ** 2 + penalty(x)


def _katsuura(p: Instance, x: jax.Array) -> jax.Array:
    # z = R Lambda^100 Q (x - x_opt)
    z = rotate(p.rotation_r, conditioning(100, rotate(p.rotation_q, x - p.x_opt)))
    # sum_(j=1)^32 |2^j z_i - [2^j z_i]| / 2^j
    scales = jnp.asarray(2.0 ** np.arange(1, 33), x.dtype)
    scaled = scales * z[:, None]
    sums = jnp.sum(jnp.abs(scaled - round_half_up(scaled)) / scales, axis=1)
    # 10/D^2 prod_i (1 + i sum_j ...)^(10/D^1.2) - 10/D^2 + f_pen(x)
    product = jnp.prod(1 + jnp.arange(1, x.size + 1, dtype=x.dtype) * sums)
    return 10 / x.size**2 * (product ** (10 / x.size**1.2) - 1) + penalty(x)


def _lunacek(p: Instance, x: jax.Array) -> jax.Array:
    # mu_0 = 2.5, d = 1, s = 1 - 1/(2 sqrt(D+20) - 8.2), mu_1 = -sqrt((mu_0^2 - d)/s)
    mu_0, s = 2.5, 1 - 1 / (2 * float(np.sqrt(x.size + 20)) - 8.2)
    mu_1 = -float(np.sqrt((mu_0**2 - 1) / s))
    # x^ = 2 sign(x_opt) x, z = R Lambda^100 Q (x^ - mu_0)
    hat = 2 * jnp.sign(p.x_opt) * x
    z = rotate(p.rotation_r, conditioning(100, rotate(p.rotation_q, hat - mu_0)))
    # min(sum_i (x^_i - mu_0)^2, d D + s sum_i (x^_i - mu_1)^2)
    # + 10 (D - sum_i cos(2 pi z_i)) + 10^4 f_pen(x)
    near, far = jnp.sum((hat - mu_0) ** 2), jnp.sum((hat - mu_1) ** 2)
    ripples = 10 * (x.size - jnp.sum(jnp.cos(2 * np.pi * z)))
    return jnp.minimum(near, x.size + s * far) + ripples + 1e4 * penalty(x)


class _Row(NamedTuple):
    """A function: its formula, and what is drawn for it."""

    name: str
    formula: Callable[[Instance, jax.Array], jax.Array]
    optimum: Callable[[int, int], np.ndarray] = draw.shift
    rotations: str = ""  # which of R and Q the formula uses
    peaks: int = 0
    seed_of: int = 0  # the function that lends its random numbers, where not its own


BBOB_FUNCTIONS = {
    1: _Row("sphere", _sphere),
    2: _Row("separable ellipsoid", _separable_ellipsoid),
    3: _Row("separable Rastrigin", _separable_rastrigin),
    4: _Row("Bueche-Rastrigin", _bueche_rastrigin, draw.odd_positive, seed_of=3),
    5: _Row("linear slope", _linear_slope, draw.corner),
    6: _Row("attractive sector", _attractive_sector, rotations="RQ"),
    7: _Row("step ellipsoid", _step_ellipsoid, rotations="RQ"),
    8: _Row("original Rosenbrock", _original_rosenbrock, draw.three_quarters),
    9: _Row("rotated Rosenbrock", _rotated_rosenbrock, draw.from_ones, rotations="Q"),
    10: _Row("rotated ellipsoid", _rotated_ellipsoid, rotations="R"),
    11: _Row("discus", _discus, rotations="R"),
    12: _Row("bent cigar", _bent_cigar, draw.shift_of_r, rotations="R"),
    13: _Row("sharp ridge", _sharp_ridge, rotations="RQ"),
    14: _Row("different powers", _different_powers, rotations="R"),
    15: _Row("rotated Rastrigin", _rotated_rastrigin, rotations="RQ"),
    16: _Row("Weierstrass", _weierstrass, rotations="RQ"),
    17: _Row("Schaffers F7, condition 10", _schaffers_10, rotations="RQ"),
    18: _Row(
        "Schaffers F7, condition 1000", _schaffers_1000, rotations="RQ", seed_of=17
    ),
    19: _Row(
        "Griewank-Rosenbrock", _griewank_rosenbrock, draw.from_ones, rotations="Q"
    ),
    20: _Row("Schwefel", _schwefel, draw.schwefel_signs),
    21: _Row("Gallagher 101 peaks", _gallagher, draw.first_of_101, "Q", peaks=101),
    22: _Row("Gallagher 21 peaks", _gallagher, draw.first_of_21, "Q", peaks=21),
    23: _Row("Katsuura", _katsuura, rotations="RQ"),
    24: _Row("Lunacek bi-Rastrigin", _lunacek, draw.lunacek_signs, rotations="RQ"),
}


#: The names of the functions by their numbers, 1 to 24.
BBOB_NAMES: dict[int, str] = {
    number: row.name for number, row in BBOB_FUNCTIONS.items()
}
