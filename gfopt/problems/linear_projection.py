"""The toy domains of quality diversity: linear projections of a vector.

The behaviour of ``x`` is the sum of the first half of its numbers and that of the
second, each number brought back to the box of +-5.12 by

    clip(x) = x where |x| <= 5.12, else 5.12 / x

Sums of many numbers are nearly always near 0, so that behaviours at the border of the
grid are hard to find. The value is a sphere, or Rastrigin's function, with its optimum
at ``2.048`` in each number, scaled so that 0 is the best and 100 the corner of the box
that is farthest from it.

Source: Fontaine, Togelius, Nikolaidis, Hoover (2020), arXiv 1912.02400, section 4,
equations 1 to 4.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.core.objective import Objective

EDGE = 5.12
OPTIMUM = 0.4 * EDGE
FUNCTIONS = ("sphere", "rastrigin")


@dataclasses.dataclass(frozen=True)
class LinearProjection:
    """A sphere or Rastrigin's function, with two sums as behaviour.

    Args:
        function: ``"sphere"`` or ``"rastrigin"``.
        dimension: ``D``, even.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> problem = LinearProjection("sphere", 20)
        >>> value, behaviour = problem(problem.x0)
        >>> round(float(value), 2), behaviour.shape, problem.upper
        (8.16, (2,), (51.2, 51.2))
    """

    function: str = "sphere"
    dimension: int = 100

    worst = 100.0

    def __post_init__(self) -> None:
        checks.one_of("function", self.function, FUNCTIONS)
        checks.integer("dimension", self.dimension, 2, even=True)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the value in [0, 100] within the box, and the behaviour ``[2]``."""
        away = jnp.full(self.dimension, -EDGE - OPTIMUM)
        value = self.worst * self._raw(x - OPTIMUM) / self._raw(away)
        is_out = jnp.abs(x) > EDGE
        clipped = jnp.where(is_out, EDGE / jnp.where(is_out, x, 1), x)
        return value, clipped.reshape(2, -1).sum(axis=1)

    def _raw(self, u: jax.Array) -> jax.Array:
        if self.function == "sphere":
            return jnp.sum(u**2)
        return jnp.sum(10 + u**2 - 10 * jnp.cos(2 * jnp.pi * u))

    @property
    def objective(self) -> Objective:
        """The problem as ``gfopt.minimize`` and ``gfopt.run`` take it."""
        return Objective(self, has_aux=True)

    @property
    def x0(self) -> np.ndarray:
        """The center of the box, where searches start: ``float32[D]``."""
        return np.zeros(self.dimension, np.float32)

    @property
    def lower(self) -> tuple[float, float]:
        """The least sums."""
        return (-self.upper[0],) * 2

    @property
    def upper(self) -> tuple[float, float]:
        """The largest sums."""
        return (EDGE * self.dimension / 2,) * 2
