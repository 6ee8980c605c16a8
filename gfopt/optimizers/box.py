"""Samples within a box: what falls outside is drawn again, and clipped in the end.

Folded at its sides, a function has a kink there that no model follows, and a minimum at
a side is met from one half of the samples only. Drawn again, they have the density of
the normal distribution within the box, which is what the update takes them for, up to
a factor.

Source: Hamano, Saito, Nomura, Uchida, Shirakawa, "CMA-ES with margin" (GECCO 2022),
whose code draws again up to 100 times, then clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from gfopt import checks
from gfopt.core import trees
from gfopt.noise import threefry
from gfopt.spaces.axis import fold
from gfopt.spaces.spaces import Space
from gfopt.types import Key, Solution

ROUNDS = 50  # in which samples are drawn again


class Box(NamedTuple):
    """Its sides in the coordinates of the search, infinite where it is open.

    Attributes:
        lower: tree like the mean; each leaf broadcasts to its leaf.
        upper: the same.
    """

    lower: Solution
    upper: Solution

    @classmethod
    def of(cls, space: Space) -> Box | None:
        """Returns the box of a space with bounds, None for one without."""
        box = cls(*space.edges())
        is_open = not any(np.isfinite(side).any() for side in jax.tree.leaves(box))
        return None if is_open else box

    def sides(self, like: Solution) -> list[jax.Array]:
        """Returns both sides as vectors ``float[D]`` in the type of the search."""
        dtype = trees.wide_dtype(like)

        def spread(side: jax.Array, leaf: jax.Array) -> jax.Array:
            return jnp.broadcast_to(jnp.asarray(side, dtype), jnp.shape(leaf))

        return [ravel_pytree(jax.tree.map(spread, side, like))[0] for side in self]

    def folded(self, solution: Solution) -> Solution:
        """Returns a solution that is reflected at the sides."""
        flat, unravel = ravel_pytree(solution)
        return unravel(fold(flat, *self.sides(solution)))


class _Round(NamedTuple):
    """How often samples were drawn again, and those that there are."""

    number: jax.Array
    z: jax.Array
    y: jax.Array


def check_box(box: object) -> None:
    """Refuses what is neither a box nor None."""
    if box is not None:
        checks.instance("box", box, Box, "a gfopt.optimizers.box.Box")


def drawn_again(
    sides: Sequence[jax.Array],
    key: Key,
    z: jax.Array,
    y: jax.Array,
    mean: jax.Array,
    sigma: jax.Array,
    root: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns samples that lie within the box.

    Args:
        sides: of the box in which ``mean`` lies, ``float[D]`` each.
        key: of the samples; further ones are drawn from it.
        z: standard normal, ``float[P, D]``.
        y: ``A z``, likewise.
        mean: ``m``, ``float[D]``.
        sigma: ``float[]``.
        root: ``A``, lower triangular, ``float[D, D]``.

    Returns:
        The samples ``z`` and ``y = A z``, with ``m + sigma y`` within the box.
    """
    low, high = ((side - mean) / sigma for side in sides)
    size, dimension = z.shape

    def is_outside(y: jax.Array) -> jax.Array:
        return jnp.any((y < low) | (y > high), axis=1)

    def again(carry: _Round) -> _Round:
        new_key = jax.random.fold_in(key, carry.number)
        new = threefry.standard_normal(new_key, (size, dimension), z.dtype)
        lost = is_outside(carry.y)[:, None]
        z_kept = jnp.where(lost, new, carry.z)
        return _Round(carry.number + 1, z_kept, jnp.where(lost, new @ root.T, carry.y))

    def goes_on(carry: _Round) -> jax.Array:
        return (carry.number < ROUNDS) & jnp.any(is_outside(carry.y))

    _, z, y = lax.while_loop(goes_on, again, _Round(jnp.int32(0), z, y))
    inside = jnp.clip(y, low, high)

    def repaired() -> jax.Array:
        exact = solve_triangular(root, inside.T, lower=True).T
        return jnp.where(is_outside(y)[:, None], exact, z)

    return lax.cond(jnp.any(inside != y), repaired, lambda: z), inside
