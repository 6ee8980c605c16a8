"""How far a search looks first: step size and the unit of each coordinate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from gfopt import checks
from gfopt.driver.setup.method import Choice
from gfopt.driver.setup.start import Start, spread
from gfopt.methods_table import Row
from gfopt.optimizers.wrappers.bounded import Bounded, refuse_slopes
from gfopt.optimizers.wrappers.margin import Margin
from gfopt.protocol import Optimizer, as_method, innermost, with_innermost
from gfopt.spaces.spaces import Space
from gfopt.types import PyTree, Solution

MOST_SIGMA = 1e10  # beyond this, and below its inverse, it is the unit of the search


def scaled(
    choice: Choice, start: Start, sigma0: PyTree
) -> tuple[Optimizer, Space | None]:
    """Returns a method with its first step size, and the space that it searches.

    Args:
        choice: the method.
        start: where it begins.
        sigma0: a number or a tree like ``x0``, or None.

    Returns:
        The method, and the space with its scale; None where it searches x itself.

    Raises:
        TypeError: for a ``sigma0`` of another form.
        ValueError: for one that is not above 0, or where the method has no step size.
    """
    optimizer, row, space = choice.optimizer, choice.row, start.space
    if row is None or row.sigma is None:
        if sigma0 is not None:
            raise ValueError(
                f"sigma0 must be None for {choice.name}, which has no such step size; "
                f"got {checks.shown(sigma0)}"
            )
        return optimizer, _in_fifths(start) if row is None else space
    if choice.is_sized and sigma0 is None:
        return optimizer, _in_fifths(start)
    if choice.is_sized and choice.options is not None:
        raise ValueError(
            f"sigma0 must be None where options has {row.sigma!r}; "
            f"got {checks.shown(sigma0)}"
        )
    sigma0 = start.sigma if sigma0 is None else sigma0
    sigma = 1.0
    if sigma0 is not None or not start.has_scale:
        sigma, space = _sized(_scale(row, start, sigma0), start)
    change: Any = dataclasses.replace  # a dataclass with this field
    inner = change(innermost(optimizer), **{row.sigma: sigma})
    return with_innermost(optimizer, inner), space


def within(optimizer: Optimizer, space: Space | None) -> Optimizer:
    """Returns a method that keeps to the space, with a margin where it can have one."""
    if space is None:
        return optimizer
    if space.is_discrete:
        refuse_slopes(optimizer, "bounds with integers or choices", "method")
    method = innermost(optimizer)
    if space.is_discrete and as_method(method).has_margin:
        optimizer = with_innermost(optimizer, Margin(method, space))
    return Bounded(as_method(optimizer).drawn_within(space), space)


def reach(space: Space | None) -> float:
    """Returns how many sigma from x0 a restart may start: anywhere in finite bounds."""
    if space is None:
        return 2.0
    units = jax.tree.map(lambda w, s: np.max(w / s), space.widths(), space.scale)
    widest = max(map(float, jax.tree.leaves(units)))
    return max(2.0, widest) if math.isfinite(widest) else 2.0


def _sized(scale: PyTree, start: Start) -> tuple[float, Space | None]:
    """Returns a step size and a space in which it is ``scale`` in each coordinate."""
    x0, space = start.x0, start.space
    sizes = np.unique(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(scale)]))
    if space is None and sizes.size == 1 and 1 / MOST_SIGMA < sizes[0] < MOST_SIGMA:
        return float(sizes[0]), None
    # one unit of the search is a standard deviation of each coordinate
    if space is None:
        space = Space(_filled(-np.inf, x0), _filled(np.inf, x0), scale)
    return 1.0, dataclasses.replace(space, scale=scale)


def _scale(row: Row, start: Start, sigma0: PyTree) -> PyTree:
    """Returns the first standard deviation of each coordinate, like ``x0``."""
    if sigma0 is not None:
        return spread("sigma0", sigma0, start.x0)
    default = 0.3 * max(1.0, _rms(start.x0))
    if "seeds" in row.flags:
        default = getattr(row.cls, str(row.sigma))  # of the dataclass
    if start.space is None:
        return _filled(default, start.x0)
    return _fifths(start.space, default)


def _in_fifths(start: Start) -> Space | None:
    """Returns a space whose unit is a fifth of the width, 1 where it has no width."""
    if start.space is None or start.has_scale:
        return start.space
    return dataclasses.replace(start.space, scale=_fifths(start.space, 1.0))


def _fifths(space: Space, default: float) -> PyTree:
    """Returns a fifth of each coordinate's width, or ``default`` for an open one."""

    def leaf(width: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(width), width / 5, default)

    return jax.tree.map(leaf, space.widths())


def _rms(x0: Solution) -> float:
    """Returns the root mean square of all numbers of a solution."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x0)]
    largest = max(float(np.max(np.abs(leaf), initial=0.0)) for leaf in leaves)
    if largest == 0:
        return 0.0
    total = sum(float(np.sum((leaf / largest) ** 2)) for leaf in leaves)
    return largest * math.sqrt(total / sum(leaf.size for leaf in leaves))


def _filled(value: float, x0: Solution) -> PyTree:
    return jax.tree.map(lambda x: np.full(np.shape(x), value), x0)
