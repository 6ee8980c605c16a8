"""Spaces: bounds and scales per leaf, and the fold that keeps a search inside.

A method searches without bounds in ``y``; the solution is

    x = fold(scale * y),   fold = reflection at the bounds, identity inside,

so a point is never outside, whatever the method proposes.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.types import PyTree, Solution


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["lower", "upper", "scale"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Space:
    """Bounds and scales of a solution, leaf by leaf.

    Args:
        lower: tree like the solution; each leaf broadcasts to its leaf; may be -inf.
        upper: the same, may be inf.
        scale: length of one unit of the search in each coordinate.

    Raises:
        TypeError: for leaves that are not numbers.
        ValueError: for a lower bound not below its upper one, a scale not above 0, or
            trees of different structures.

    Example:
        >>> space = Space(jnp.zeros(2), jnp.full(2, jnp.inf), jnp.ones(2))
        >>> space.solution(jnp.array([-0.25, 3.0]))
        Array([0.25, 3.  ], dtype=float32)
    """

    lower: PyTree
    upper: PyTree
    scale: PyTree

    def __post_init__(self) -> None:
        structure: Any = jax.tree.structure(self.lower)
        for name in ("upper", "scale"):
            came: Any = jax.tree.structure(getattr(self, name))
            if came != structure:
                raise ValueError(
                    f"{name} must have the structure of lower, {structure}; got {came}"
                )
        lower, upper = jax.tree.leaves(self.lower), jax.tree.leaves(self.upper)
        for low, high in zip(lower, upper, strict=True):
            checks.below("lower", low, "upper", high)
        for leaf in jax.tree.leaves(self.scale):
            checks.positive("scale", leaf)

    def solution(self, search: PyTree) -> Solution:
        """Returns ``x = fold(scale * y)``."""

        def leaf(y: Any, low: Any, high: Any, scale: Any) -> jax.Array:
            return fold(y * scale, low, high).astype(y.dtype)

        return jax.tree.map(leaf, search, self.lower, self.upper, self.scale)

    def search(self, solution: Solution) -> PyTree:
        """Returns ``y = x / scale``, the point of a solution that lies inside."""
        return jax.tree.map(
            lambda x, scale: (x / scale).astype(x.dtype), solution, self.scale
        )

    def check(self, solution: Solution) -> None:
        """Refuses a solution that does not fit, or that is known to lie outside.

        Raises:
            ValueError: names what does not fit.
        """
        structure: Any = jax.tree.structure(solution)
        if jax.tree.structure(self.lower) != structure:
            raise ValueError(
                f"space must have the structure of the solution, {structure}; "
                f"got {jax.tree.structure(self.lower)}"
            )
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(solution)]
        for name in ("lower", "upper", "scale"):
            came = [jnp.shape(leaf) for leaf in jax.tree.leaves(getattr(self, name))]
            for shape, expected in zip(came, shapes, strict=True):
                if not _broadcasts(shape, expected):
                    raise ValueError(
                        f"space.{name} must broadcast to a leaf of shape {expected}; "
                        f"got shape {shape}"
                    )
        known = not any(
            isinstance(leaf, jax.core.Tracer)
            for leaf in jax.tree.leaves((solution, self))
        )
        if known and not self.contains(solution):
            raise ValueError(
                "solution must lie within the bounds of its space; "
                f"got {checks.shown(solution)}"
            )

    def contains(self, solution: Solution) -> bool:
        """Tells whether a concrete solution lies inside, in its own precision."""

        def inside(x: Any, low: Any, high: Any) -> bool:
            x = np.asarray(x)
            low, high = np.asarray(low, x.dtype), np.asarray(high, x.dtype)
            return bool(np.all((x >= low) & (x <= high)))

        found = jax.tree.map(inside, solution, self.lower, self.upper)
        return all(jax.tree.leaves(found))


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def fold(x: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """Reflects ``x`` at finite bounds until it lies inside; the identity inside."""
    low, high = jnp.asarray(lower, x.dtype), jnp.asarray(upper, x.dtype)
    both = jnp.isfinite(low) & jnp.isfinite(high)
    width = jnp.where(both, high - low, 1)
    base = jnp.where(jnp.isfinite(low), low, 0)
    # a triangle wave of period 2 * width
    phase = jnp.mod(x - base, 2 * width)
    wave = base + jnp.minimum(phase, 2 * width - phase)
    one_sided = jnp.where(jnp.isfinite(low), base + jnp.abs(x - base), x)
    one_sided = jnp.where(
        jnp.isfinite(high) & ~jnp.isfinite(low), high - jnp.abs(x - high), one_sided
    )
    inside = (x >= low) & (x <= high)  # untouched, to the last bit
    folded = jnp.where(both, wave, one_sided)
    return jnp.where(inside, x, jnp.clip(folded, low, high))


def bounds_of(bounds: Any, x0: Solution) -> tuple[PyTree, PyTree]:
    """Reads bounds in any form that users have.

    Args:
        bounds: ``(low, high)`` pairs for a flat ``x0``, one for each number; a
            ``scipy.optimize.Bounds``; a ``Space``; or a pair of numbers for all.
        x0: the starting solution.

    Returns:
        Trees ``(lower, upper)`` with the shapes of ``x0``.

    Raises:
        TypeError: for another type.
        ValueError: for another shape, NaN, or a lower bound not below the upper one.
    """
    if isinstance(bounds, Space):
        lower, upper = bounds.lower, bounds.upper
    elif hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        lower, upper = bounds.lb, bounds.ub
    elif isinstance(bounds, Sequence | np.ndarray):
        lower, upper = _pairs(bounds, x0)
    else:
        raise TypeError(
            "bounds must be (low, high) pairs, a scipy.optimize.Bounds or a "
            f"gfopt.Space; got {checks.shown(bounds)}"
        )
    return _ordered(_spread("lower", lower, x0), _spread("upper", upper, x0))


def _pairs(bounds: Any, x0: Solution) -> tuple[Any, Any]:
    try:
        pairs = [(_side(low, -np.inf), _side(high, np.inf)) for low, high in bounds]
        pairs_array = np.array(pairs, float)
    except (TypeError, ValueError):
        pairs_array = np.zeros((0, 0))
    if len(bounds) == 2 and all(_is_number(side) for side in bounds):
        return _side(bounds[0], -np.inf), _side(bounds[1], np.inf)
    shape = np.shape(x0) if not isinstance(x0, dict | list | tuple) else None
    flat = np.shape(x0) if shape is not None else np.shape(np.asarray(x0, object))
    if pairs_array.ndim != 2 or flat != (pairs_array.shape[0],):
        raise ValueError(
            f"bounds must be {flat[0] if len(flat) == 1 else 'one'} (low, high) pairs, "
            f"one for each number of a flat x0 of shape {flat}; "
            f"got {checks.shown(bounds)}"
        )
    return pairs_array[:, 0], pairs_array[:, 1]


def _is_number(side: Any) -> bool:
    return side is None or (isinstance(side, numbers.Real) and type(side) is not bool)


def _side(value: Any, infinite: float) -> float:
    return infinite if value is None else float(value)


def _spread(name: str, side: PyTree, x0: Solution) -> PyTree:
    """Broadcasts one side of the bounds to the shapes of ``x0``, in float64."""
    structure: Any = jax.tree.structure(x0)
    leaves, came = jax.tree.flatten(side)
    if came != structure:
        if len(leaves) != 1:
            raise ValueError(
                f"bounds must have the structure of x0, {structure}; "
                f"got {came} for the {name} side"
            )
        leaves = leaves * structure.num_leaves

    def spread(x: Any, bound: Any) -> np.ndarray:
        try:
            return np.broadcast_to(np.asarray(bound, np.float64), np.shape(x)).copy()
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must broadcast to a leaf of shape {np.shape(x)}; "
                f"got {checks.shown(bound)} for the {name} side"
            ) from None

    return jax.tree.map(spread, x0, jax.tree.unflatten(structure, leaves))


def _ordered(lower: PyTree, upper: PyTree) -> tuple[PyTree, PyTree]:
    """Refuses bounds unless every lower number is below its upper one."""

    def check(low: np.ndarray, high: np.ndarray) -> None:
        if not np.all(low < high):  # NaN is below nothing
            raise ValueError(
                "bounds must have every lower number below its upper one, and no NaN; "
                f"got lower {checks.shown(low.tolist())}, "
                f"upper {checks.shown(high.tolist())}"
            )

    jax.tree.map(check, lower, upper)
    return lower, upper
