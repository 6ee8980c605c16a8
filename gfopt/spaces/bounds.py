"""Bounds as people write them, read into a space."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import astuple

import jax
import numpy as np
from jax.tree_util import PyTreeDef
from jax.typing import ArrayLike, DTypeLike

from gfopt import checks
from gfopt.spaces.domains import Domain
from gfopt.spaces.spaces import Space
from gfopt.types import PyTree, Solution

_FIELDS = ("lower", "upper", "log", "integer")


def space_of(bounds: PyTree, x0: Solution) -> Space:
    """Reads bounds in any form that users have.

    Args:
        bounds: ``(low, high)`` pairs or domains for a flat ``x0``, one for each number;
            a tree of domains like ``x0``; one domain or pair of numbers for all; a
            ``scipy.optimize.Bounds``; a ``Space``.
        x0: the starting solution.

    Returns:
        A space with the shapes of ``x0``, and 1 for its scale.

    Raises:
        TypeError: for another type.
        ValueError: for another shape, NaN, a lower bound above the upper one, or an
            array or lists that are pairs as well as lower and upper bounds.
    """
    if isinstance(bounds, Space):
        masks = bounds.log, bounds.integer
        return _made(x0, bounds.lower, bounds.upper, *masks, choices=bounds.choices)
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        return _made(x0, bounds.lb, bounds.ub)
    if isinstance(bounds, Sequence | np.ndarray):
        if len(bounds) == 2 and all(_is_number(side) for side in bounds):
            return _made(x0, *_row(bounds)[:2])
        if not _is_like(bounds, x0):
            return _made(x0, **_columns(bounds, x0))
    elif not _is_tree(bounds):
        raise TypeError(
            "bounds must be (low, high) pairs, domains such as "
            "gfopt.spaces.integer(0, 9), a "
            f"scipy.optimize.Bounds or a gfopt.spaces.Space; got {checks.shown(bounds)}"
        )
    domains, structure = jax.tree.flatten(bounds)
    choices = tuple(domain.choices for domain in domains)
    if len(choices) == 1:
        choices *= len(jax.tree.leaves(x0))
    fields: dict[str, PyTree] = {
        name: jax.tree.unflatten(structure, [getattr(d, name) for d in domains])
        for name in _FIELDS
    }
    return _made(x0, **fields, choices=choices if any(choices) else ())


def middle_of(bounds: PyTree) -> Solution:
    """Returns the middle of a space that is written as domains, pairs or ``Bounds``.

    Raises:
        ValueError: for a form without shapes, or an open side.
    """
    if _is_tree(bounds) and not isinstance(bounds, list | tuple):
        return jax.tree.map(lambda domain: domain.middle, bounds)
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        sides = np.broadcast_arrays(*np.atleast_1d(bounds.lb, bounds.ub))
        bounds = list(zip(*sides, strict=True))
    try:
        rows = [_row(item) for item in bounds]
    except (TypeError, ValueError):
        raise ValueError(
            "x0 must be given unless bounds are (low, high) pairs or domains, one for "
            f"each number or leaf; got x0=None for bounds {checks.shown(bounds)}"
        ) from None
    return np.array([Domain(*row).middle for row in rows])


def _row(item: PyTree) -> tuple[float, float, bool, bool, int]:
    """Returns the fields of a domain, for a ``(low, high)`` pair, too."""
    if isinstance(item, Domain):
        return astuple(item)
    low, high = item
    return _side(low, -np.inf), _side(high, np.inf), False, False, 0


def _columns(bounds: PyTree, x0: Solution) -> dict[str, PyTree]:
    """Returns lower, upper, log and integer of a flat ``x0``'s numbers."""
    shape = np.shape(x0) if not isinstance(x0, dict | list | tuple) else None
    flat = np.shape(x0) if shape is not None else np.shape(np.asarray(x0, object))
    try:
        rows = [_row(item) for item in bounds]
    except (TypeError, ValueError):
        rows = []
    if not rows or flat != (len(rows),):
        raise ValueError(
            f"bounds must be {flat[0] if len(flat) == 1 else 'one'} (low, high) pairs, "
            f"one for each number of a flat x0 of shape {flat}, or "
            f"scipy.optimize.Bounds(lower, upper); got {checks.shown(bounds)}"
        )
    if len(rows) == 2 and not any(isinstance(item, tuple | Domain) for item in bounds):
        _refuse_two_readings(bounds, x0, *(row[:2] for row in rows))
    *columns, choices = [np.array(column) for column in zip(*rows, strict=True)]
    if np.any(choices):
        raise ValueError(
            "bounds must not hold categorical numbers in an array: make each a leaf of "
            'its own, such as x0 = {"which": 0, "size": 1.0}; '
            f"got {checks.shown(bounds)}"
        )
    return dict(zip(_FIELDS, columns, strict=True))


def _refuse_two_readings(
    bounds: PyTree,
    x0: Solution,
    first: tuple[float, float],
    second: tuple[float, float],
) -> None:
    """Refuses two rows of two that may be lower and upper bounds, and differ as such.

    Tuples are always pairs.
    """
    low, high, x = np.array(first), np.array(second), np.asarray(x0, np.float64)
    is_possible = np.all((low <= x) & (x <= high)) and np.any(low < high)
    if is_possible and low[1] != high[0]:
        pairs = ", ".join(f"({a:g}, {b:g})" for a, b in (first, second))
        raise ValueError(
            f"bounds must say what two lists of two numbers are: write [{pairs}], with "
            f"tuples, for pairs, and scipy.optimize.Bounds({low.tolist()}, "
            f"{high.tolist()}) for lower and upper bounds; got {checks.shown(bounds)}"
        )


def _made(
    x0: Solution,
    lower: PyTree,
    upper: PyTree,
    log: PyTree = None,
    integer: PyTree = None,
    choices: tuple[int, ...] = (),
) -> Space:
    """Returns the space with its fields broadcast to the shapes of ``x0``."""
    low, high = _spread("lower", lower, x0), _spread("upper", upper, x0)
    jax.tree.map(_check_order, low, high)
    ones = jax.tree.map(lambda x: np.ones(np.shape(x)), x0)
    masks = _mask("log", log, x0), _mask("integer", integer, x0)
    return Space(low, high, ones, *masks, choices)


def _mask(name: str, mask: PyTree, x0: Solution) -> PyTree:
    """Broadcasts a mask; None where nothing is marked, which then costs nothing."""
    if not any(np.any(leaf) for leaf in jax.tree.leaves(mask)):
        return None
    return _spread(name, mask, x0, bool)


def _spread(
    name: str, side: PyTree, x0: Solution, dtype: DTypeLike = np.float64
) -> PyTree:
    """Broadcasts one field of the bounds to the shapes of ``x0``, in float64."""
    structure: PyTreeDef = jax.tree.structure(x0)
    leaves, came = jax.tree.flatten(side)
    if came != structure:
        if len(leaves) != 1:
            raise ValueError(
                f"bounds must have the structure of x0, {structure}; "
                f"got {came} for the {name} side"
            )
        leaves = leaves * structure.num_leaves

    def spread(x: ArrayLike, bound: ArrayLike) -> np.ndarray:
        try:
            return np.broadcast_to(np.asarray(bound, dtype), np.shape(x)).copy()
        except (TypeError, ValueError):
            raise ValueError(
                f"bounds must broadcast to a leaf of shape {np.shape(x)}; "
                f"got {checks.shown(bound)} for the {name} side"
            ) from None

    return jax.tree.map(spread, x0, jax.tree.unflatten(structure, leaves))


def _check_order(low: np.ndarray, high: np.ndarray) -> None:
    # NaN is below nothing
    if not np.all((low <= high) & (low < np.inf) & (high > -np.inf)):
        raise ValueError(
            "bounds must have no lower number above its upper one, and no NaN; "
            f"got lower {checks.shown(low.tolist())}, "
            f"upper {checks.shown(high.tolist())}"
        )


def _is_tree(bounds: PyTree) -> bool:
    leaves = jax.tree.leaves(bounds)
    return bool(leaves) and all(isinstance(leaf, Domain) for leaf in leaves)


def _is_like(bounds: PyTree, x0: Solution) -> bool:
    structure: PyTreeDef = jax.tree.structure(bounds)
    return _is_tree(bounds) and structure == jax.tree.structure(x0)


def _is_number(side: object) -> bool:
    return side is None or (
        not isinstance(side, bool) and isinstance(side, numbers.Real)
    )


def _side(value: float | None, infinite: float) -> float:
    return infinite if value is None else float(value)
