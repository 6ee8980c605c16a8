"""Spaces: bounds, scales and kinds of numbers, and the fold that keeps inside.

A method searches without bounds among real numbers ``y``; the solution is

    x = fold(scale * y)                 a real number
    x = exp(fold(scale * y))            log-scaled
    x = round(fold(scale * y))          an integer; round(exp(...)) if log-scaled
    x = argmax(y_1 .. y_k)              one of k choices

where ``fold`` reflects at the bounds and is the identity inside. A point is never
outside, whatever the method proposes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef

from gfopt import checks, jaxprs
from gfopt.pytree import pytree, static
from gfopt.spaces.axis import Axis
from gfopt.types import PyTree, Solution

MASKS = ("log", "integer")


@pytree
class Space:
    """Bounds, scales and kinds of a solution's numbers, leaf by leaf.

    A solution is in the floating-point type of its leaf throughout: integers and
    choices come as whole numbers.

    Args:
        lower: tree like the solution; each leaf broadcasts to its leaf; may be -inf.
            Where it is equal to ``upper`` the number is fixed.
        upper: the same, may be inf. Both bounds belong to the space.
        scale: length of one unit of the search in each coordinate, in units of
            ``log x`` where that is searched.
        log: where to search in ``log x``, True or False; a tree like ``lower``, one
            value for all, or None for nowhere.
        integer: where x is a whole number; the same.
        choices: for each leaf the number ``k`` of choices, coded 0 to k - 1, whose
            order means nothing; 0 for a leaf of numbers. Empty for numbers only.

    Raises:
        TypeError: for leaves that are not numbers.
        ValueError: for a lower bound above its upper one, a scale not above 0,
            bounds that do not fit the kind of number, or trees of different structures.

    Example:
        >>> space = Space(jnp.array([0.0, 1.0]), jnp.array([jnp.inf, 9.0]),
        ...               jnp.ones(2), integer=jnp.array([False, True]))
        >>> space.solution(jnp.array([-0.25, 3.4]))
        Array([0.25, 3.  ], dtype=float32)
    """

    lower: PyTree
    upper: PyTree
    scale: PyTree
    log: PyTree = None
    integer: PyTree = None
    choices: tuple[int, ...] = static(default=())

    def __post_init__(self) -> None:
        structure: PyTreeDef = jax.tree.structure(self.lower)
        for name in MASKS:
            if isinstance(getattr(self, name), bool | np.bool_):
                spread = [np.asarray(getattr(self, name))] * structure.num_leaves
                object.__setattr__(self, name, jax.tree.unflatten(structure, spread))
        for name in ("upper", "scale", *MASKS):
            came: PyTreeDef = jax.tree.structure(getattr(self, name))
            if came != structure and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} must have the structure of lower, {structure}; got {came}"
                )
        checks.instance("choices", self.choices, tuple, "a tuple of integers")
        if len(self.choices) not in (0, structure.num_leaves):
            raise ValueError(
                f"choices must hold one number for each of {structure.num_leaves} "
                f"leaves; got {checks.shown(self.choices)}"
            )
        for k in self.choices:
            if k != 0:
                checks.integer("choices", k, 1)
        for axis in self._axes():
            axis.check()

    def _axes(self) -> list[Axis]:
        size = len(jax.tree.leaves(self.lower))
        masks = [
            [None] * size if mask is None else jax.tree.leaves(mask)
            for mask in (self.log, self.integer)
        ]
        numbers = map(jax.tree.leaves, (self.lower, self.upper, self.scale))
        choices = self.choices or (0,) * size
        return [Axis(*own) for own in zip(*numbers, *masks, choices, strict=True)]

    def map(self, fun: Callable[..., PyTree], *trees: PyTree) -> PyTree:
        """Maps ``fun(axis, leaf, ..)`` over an ``Axis`` for each leaf and trees."""
        structure: PyTreeDef = jax.tree.structure(self.lower)
        columns = [self._axes(), *map(jax.tree.leaves, trees)]
        mapped = [fun(*row) for row in zip(*columns, strict=True)]
        return jax.tree.unflatten(structure, mapped)

    @property
    def is_discrete(self) -> bool:
        """Whether some leaf may hold integers or choices."""
        return self.integer is not None or any(self.choices)

    @property
    def unit(self) -> jax.Array:
        """The geometric mean of its scales: a step of 1 of the search, in units of x.

        Leaves of choices have none; 1 where there is nothing else.
        """
        scales = [
            jnp.log(jnp.ravel(jnp.asarray(axis.scale, jnp.result_type(float))))
            for axis in self._axes()
            if not axis.choices
        ]
        return jnp.exp(jnp.mean(jnp.concatenate(scales or [jnp.zeros(1)])))

    def solution(self, search: PyTree) -> Solution:
        """Returns the solution of a point of the search."""
        return self.map(Axis.solution, search)

    def search(self, solution: Solution) -> PyTree:
        """Returns a point of the search whose solution is this one, if it lies inside.

        A leaf with k choices becomes ``[..., k]`` numbers: 1 for the one that is
        chosen, 0 for the others.
        """
        return self.map(Axis.search, solution)

    def widths(self) -> PyTree:
        """Returns how wide the search is in each coordinate, for a scale of 1."""
        with jax.enable_x64(True):
            return self.map(Axis.width)

    def edges(self) -> tuple[PyTree, PyTree]:
        """Returns between which bounds the search is not folded, lower and upper.

        They are trees like a point of the search, to which their leaves broadcast;
        infinite where the space is traced.
        """
        if any(map(jaxprs.is_tracer, jax.tree.leaves(self))):
            open_end = self.map(lambda axis: np.array(np.inf))
            return jax.tree.map(np.negative, open_end), open_end
        with jax.enable_x64(True):
            sides = [axis.edges() for axis in self._axes()]
        structure: PyTreeDef = jax.tree.structure(self.lower)
        lower, upper = zip(*sides, strict=True)
        return structure.unflatten(lower), structure.unflatten(upper)

    def check(self, solution: Solution) -> None:
        """Refuses a solution that does not fit, or that is known to lie outside.

        Raises:
            ValueError: names what does not fit.
        """
        structure: PyTreeDef = jax.tree.structure(solution)
        if jax.tree.structure(self.lower) != structure:
            raise ValueError(
                f"space must have the structure of the solution, {structure}; "
                f"got {jax.tree.structure(self.lower)}"
            )
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(solution)]
        for name in ("lower", "upper", "scale", *MASKS):
            if getattr(self, name) is None:
                continue
            came = [jnp.shape(leaf) for leaf in jax.tree.leaves(getattr(self, name))]
            for shape, expected in zip(came, shapes, strict=True):
                if not _broadcasts(shape, expected):
                    raise ValueError(
                        f"space.{name} must broadcast to a leaf of shape {expected}; "
                        f"got shape {shape}"
                    )
        known = not any(map(jaxprs.is_tracer, jax.tree.leaves((solution, self))))
        if known and not self.contains(solution):
            raise ValueError(
                "solution must lie within the bounds of its space, with whole numbers "
                f"for integers and choices; got {checks.shown(solution)}"
            )

    def contains(self, solution: Solution) -> bool:
        """Tells whether a concrete solution lies inside, in its own precision."""
        return all(jax.tree.leaves(self.map(Axis.holds, solution)))


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False
