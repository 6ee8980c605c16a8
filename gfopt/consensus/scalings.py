"""How noise scales with a particle's distance from the consensus: ``S(x - c)``.

    diag(x - c)  anisotropic  |  |x - c|  isotropic  |  C^{1/2}  covariance

Sources: Pinnau, Totzeck, Tse, Martin (2017), M3AS 27 (isotropic); Carrillo, Jin, Li,
Zhu (2021), ESAIM COCV 27 (anisotropic); Carrillo, Hoffmann, Stuart, Vaes (2022),
Studies in Applied Mathematics 148(3) (covariance, sampling); Fornasier, Richtarik,
Riedl, Sun, arXiv 2310.16610 (truncated distances).
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.consensus.weights import lengths
from gfopt.core import schedules
from gfopt.pytree import pytree, static


class Cloud(NamedTuple):
    """The points of a consensus at one step.

    Attributes:
        step: ``i32[]``.
        points: ``x_i``, ``[N, D]``.
        consensus: ``c``, ``[D]``.
        weights: ``w_i``, ``[N]``.
    """

    step: jax.Array
    points: jax.Array
    consensus: jax.Array
    weights: jax.Array


@runtime_checkable
class Scaling(Protocol):
    """What all scalings have in common."""

    @property
    def is_geometric(self) -> bool:
        """Whether each coordinate of ``x - c`` is a geometric Brownian motion."""
        return False

    def scaled(self, z: jax.Array, distance: jax.Array, cloud: Cloud) -> jax.Array:
        """Returns ``S(x - c) z``, ``[N, D]``.

        Args:
            z: standard noise, ``[N, D]``.
            distance: ``x - c``, ``[N, D]``.
            cloud: the points of the consensus.
        """

    def strength(self, alpha: jax.Array) -> schedules.Number:
        """Returns the factor of all noise at this inverse temperature."""
        return 1.0

    def diffusion_limit(self, drift: schedules.Hyperparameter, dimension: int) -> float:
        """Returns the diffusion from which the particles are known to fly apart."""
        return math.inf


@pytree
class Anisotropic(Scaling):
    """``S = diag(x - c)``: each coordinate has its own noise; for any dimension.

    Args:
        max_distance: ``M``: a larger distance counts as ``M``; a number, a schedule, or
            None for any distance.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> Anisotropic(max_distance=1)
        Anisotropic(max_distance=1.0)
    """

    max_distance: schedules.Hyperparameter | None = None

    def __post_init__(self) -> None:
        schedules.set_schedules(self, "max_distance", check=checks.non_negative)

    @property
    def is_geometric(self) -> bool:
        """True while no distance is truncated."""
        return self.max_distance is None

    def scaled(self, z: jax.Array, distance: jax.Array, cloud: Cloud) -> jax.Array:
        """Returns ``diag(x - c) z``, ``[N, D]``."""
        return _truncated(distance, self.max_distance, cloud.step) * z


@pytree
class Isotropic(Scaling):
    """``S = |x - c|``: the same noise in all directions.

    Args:
        max_distance: as for ``Anisotropic``.
        allow_divergence: accept ``2 drift <= D diffusion^2``, for which the particles
            provably fly apart.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> Isotropic(allow_divergence=True)
        Isotropic(max_distance=None, allow_divergence=True)
    """

    max_distance: schedules.Hyperparameter | None = None
    allow_divergence: bool = static(default=False)

    def __post_init__(self) -> None:
        schedules.set_schedules(self, "max_distance", check=checks.non_negative)
        value = self.allow_divergence
        checks.instance("allow_divergence", value, bool, "True or False")

    def scaled(self, z: jax.Array, distance: jax.Array, cloud: Cloud) -> jax.Array:
        """Returns ``|x - c| z``, ``[N, D]``."""
        return _truncated(lengths(distance), self.max_distance, cloud.step) * z

    def diffusion_limit(self, drift: schedules.Hyperparameter, dimension: int) -> float:
        """Returns ``sqrt(2 drift / D)``, infinity where the drift is not a number."""
        value = checks.concrete(drift)  # None for a schedule or a tracer
        if self.allow_divergence or self.max_distance is not None or value is None:
            return math.inf
        return math.sqrt(2 * float(value) / dimension)


@pytree
class Covariance(Scaling):
    """``S = C^{1/2}``, of the weighted covariance of the particles.

    A rotated problem is the same problem.

    Args:
        is_sampling: multiply all noise by ``sqrt(1 + alpha)``: the particles then
            sample ``exp(-f)``.

    Raises:
        TypeError: for an argument of the wrong type.

    Example:
        >>> Covariance(is_sampling=True)
        Covariance(is_sampling=True)
    """

    is_sampling: bool = static(default=False)

    def __post_init__(self) -> None:
        checks.instance("is_sampling", self.is_sampling, bool, "True or False")

    def scaled(self, z: jax.Array, distance: jax.Array, cloud: Cloud) -> jax.Array:
        """Returns ``C^{1/2} z``, ``[N, D]``."""
        root = _covariance_root(cloud)
        return jnp.matmul(z, root, precision=lax.Precision.HIGHEST)

    def strength(self, alpha: jax.Array) -> schedules.Number:
        """Returns ``sqrt(1 + alpha)`` for sampling, else 1."""
        return jnp.sqrt(1 + alpha) if self.is_sampling else 1.0


def _truncated(
    distance: jax.Array,
    max_distance: schedules.Hyperparameter | None,
    step: jax.Array,
) -> jax.Array:
    if max_distance is None:
        return distance
    limit = schedules.at("max_distance", max_distance, step)
    return jnp.clip(distance, -limit, limit)


def _covariance_root(cloud: Cloud) -> jax.Array:
    """Returns the symmetric root ``[D, D]`` of ``sum_i w_i (x_i - c) (x_i - c)^T``."""
    scaled = jnp.sqrt(cloud.weights)[:, None] * (cloud.points - cloud.consensus)
    # by rows that are of order 1, so that squares neither overflow nor vanish
    largest = jnp.max(jnp.abs(scaled))
    scaled = scaled / jnp.where(largest > 0, largest, 1)
    covariance = jnp.matmul(scaled.T, scaled, precision=lax.Precision.HIGHEST)
    squares, basis = jnp.linalg.eigh(covariance)
    root = (basis * jnp.sqrt(jnp.maximum(squares, 0))) @ basis.T
    return largest * root
