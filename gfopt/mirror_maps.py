"""Where a solution lies, as a map from numbers without limits: mirror maps.

A method moves dual points ``y``; what is evaluated is ``x = to_primal(y)``, a vector
that satisfies the constraint. For a ball, a sphere and a box that is the nearest point,
``to_dual`` changes nothing; for the simplex it is the softmax.

Source: Bungert, Hoffmann, Kim, Roith (2025), "MirrorCBO", arXiv 2501.12189.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from gfopt import checks

__all__ = ["Ball", "Box", "MirrorMap", "Simplex"]


@runtime_checkable
class MirrorMap(Protocol):
    """A pair of maps on vectors ``[D]``; an object that hashes, such as a dataclass.

    Example:
        >>> isinstance(Ball(2.0), MirrorMap)
        True
    """

    @property
    def to_primal(self) -> Callable[[jax.Array], jax.Array]:
        """From any vector to one that satisfies the constraint."""

    @property
    def to_dual(self) -> Callable[[jax.Array], jax.Array]:
        """From one that satisfies it to one that ``to_primal`` leads back."""


@dataclass(frozen=True)
class Ball:
    """The ball around 0, or its surface: ``x = y radius / max(radius, |y|)``.

    Args:
        radius: above 0.
        surface: all solutions have ``|x| = radius``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a radius that is not above 0.

    Example:
        >>> Ball(1.0).to_primal(jnp.array([3.0, 4.0]))
        Array([0.6, 0.8], dtype=float32)
    """

    radius: float = 1.0
    surface: bool = False

    def __post_init__(self) -> None:
        checks.positive("radius", self.radius)
        checks.instance("surface", self.surface, bool, "True or False")

    def to_primal(self, y: jax.Array) -> jax.Array:
        """Returns the nearest point; for 0 on a sphere, where all are, one of them."""
        largest = jnp.max(jnp.abs(y))
        scaled = jnp.where(largest > 0, y / jnp.maximum(largest, 1e-30), 1)
        direction = scaled / jnp.sqrt(jnp.sum(scaled**2))
        inside = largest * jnp.sqrt(jnp.sum(scaled**2)) <= self.radius
        return jnp.where(inside & (not self.surface), y, self.radius * direction)

    def to_dual(self, x: jax.Array) -> jax.Array:
        """Returns ``x``."""
        return x


@dataclass(frozen=True)
class Box:
    """The box ``lower <= x <= upper``, equal sides for all coordinates.

    Args:
        lower: lower bound.
        upper: upper bound.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: where they are not in order.

    Example:
        >>> Box(-1.0, 1.0).to_primal(jnp.array([3.0, 0.5]))
        Array([1. , 0.5], dtype=float32)
    """

    lower: float = -1.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        checks.below("lower", self.lower, "upper", self.upper)

    def to_primal(self, y: jax.Array) -> jax.Array:
        """Returns the nearest point."""
        return jnp.clip(y, self.lower, self.upper)

    def to_dual(self, x: jax.Array) -> jax.Array:
        """Returns ``x``."""
        return x


@dataclass(frozen=True)
class Simplex:
    """Shares: ``x >= 0``, ``sum x = 1``, by the negative entropy.

    Example:
        >>> Simplex().to_primal(jnp.array([1.0, 1.0]))
        Array([0.5, 0.5], dtype=float32)
    """

    def to_primal(self, y: jax.Array) -> jax.Array:
        """Returns ``exp(y) / sum exp(y)``."""
        return jax.nn.softmax(y)

    def to_dual(self, x: jax.Array) -> jax.Array:
        """Returns ``log x``."""
        return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
