"""Coordinates in which a box is 1 wide, and integers and choices are whole.

Source: Garrido-Merchan and Hernandez-Lobato (2020), Neurocomputing 380, section 3: the
process sees a point as it is evaluated, so that it is constant within an integer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt.core.schedules import Number
from gfopt.optimizers import vectors
from gfopt.optimizers.box import Box
from gfopt.spaces.axis import Axis
from gfopt.spaces.spaces import Space
from gfopt.types import Solution

WIDTH = 5.0  # of a coordinate without bounds, in sigma: bounds are five units apart


class Coordinates(NamedTuple):
    """``x = (y - origin) / width`` for points ``y`` of a search.

    Those of a choice, the largest of which decides, are 0 and ``1 / sqrt(2)`` where it
    is evaluated, so that two choices are 1 apart.

    Attributes:
        center: the starting solution.
        space: with integers and choices, or None.
        origin: ``float[D]``.
        width: ``float[D]``.
        low: where x ends, ``float[D]``; infinite without bounds.
        high: likewise.
    """

    center: Solution
    space: Space | None
    origin: jax.Array
    width: jax.Array
    low: jax.Array
    high: jax.Array

    @property
    def num_parameters(self) -> int:
        """How many numbers and choices there are: a choice counts as one."""
        sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(self.center)]
        choices = self.space.choices if self.space is not None else ()
        return sum(
            size // max(k, 1)
            for size, k in zip(sizes, choices or (0,) * len(sizes), strict=True)
        )

    def inward(self, y: jax.Array) -> jax.Array:
        """Returns x of points ``[..., D]``."""
        return (y - self.origin) / self.width

    def outward(self, x: jax.Array) -> jax.Array:
        """Returns y of points ``[..., D]``."""
        return self.origin + x * self.width

    def evaluated(self, y: jax.Array) -> jax.Array:
        """Returns the points that are evaluated for ``float[N, D]``."""
        if self.space is None:
            return y
        space, like = self.space, self.center

        def whole(row: jax.Array) -> jax.Array:
            solution = space.solution(vectors.unflat(row, like))
            return vectors.flat(space.search(solution)).astype(row.dtype)

        return jax.vmap(whole)(y)

    def to_another(self, y: jax.Array) -> jax.Array:
        """Returns steps of x that are likely to change what is evaluated at y.

        They are 0 for real numbers, ``float[D]``.
        """
        if self.space is None:
            return jnp.zeros_like(y)
        steps = self.space.map(_to_another, vectors.unflat(y, self.center))
        return vectors.flat(steps).astype(y.dtype) / self.width


def coordinates(
    center: Solution, sigma: Number, box: Box | None, space: Space | None
) -> Coordinates:
    """Returns the coordinates of a search that starts at ``center``.

    Args:
        center: the starting solution.
        sigma: a fifth of the width where there are no bounds.
        box: the bounds, or None.
        space: the space with integers and choices, or None.
    """
    x0 = vectors.flat(center)
    low, high = jnp.full_like(x0, -jnp.inf), jnp.full_like(x0, jnp.inf)
    if box is not None:
        low, high = box.sides(center)
    wide = WIDTH * jnp.asarray(sigma, x0.dtype)
    is_closed = jnp.isfinite(low) & jnp.isfinite(high)
    origin = jnp.where(is_closed, low, x0 - wide / 2)
    width = jnp.where(is_closed & (high > low), high - low, wide)
    if space is not None:  # choices are coded 0 and 1 in the search
        marks = space.map(
            lambda axis, y: jnp.full(jnp.shape(y), float(axis.choices > 0)), center
        )
        is_choice = vectors.flat(marks) > 0
        origin, low = jnp.where(is_choice, 0, origin), jnp.where(is_choice, 0, low)
        high = jnp.where(is_choice, 2, high)
        width = jnp.where(is_choice, jnp.asarray(math.sqrt(2), x0.dtype), width)
    return Coordinates(
        center, space, origin, width, (low - origin) / width, (high - origin) / width
    )


def _to_another(axis: Axis, y: jax.Array) -> jax.Array:
    if axis.choices:
        return jnp.full_like(y, math.sqrt(2))
    if axis.integer is None:
        return jnp.zeros_like(y)
    ends = [jnp.where(jnp.isfinite(end), end, 0) for end in axis.steps(y)]
    return 2 * jnp.maximum(*ends)
