"""Where a search begins: the starting solution, its precision and its bounds."""

from __future__ import annotations

import dataclasses
import numbers
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from gfopt import checks
from gfopt.driver.result.result import Result
from gfopt.driver.setup.arguments import as_solution, as_tokens, in_precision
from gfopt.driver.setup.warm_start import continued
from gfopt.optimizers.wrappers.held import Free, reduced, reduced_space
from gfopt.spaces.bounds import middle_of, space_of
from gfopt.spaces.spaces import Space
from gfopt.types import PyTree, Solution


class Start(NamedTuple):
    """Where a search begins.

    Attributes:
        x0: the starting solution in the precision of the search.
        x64: whether that is double precision.
        space: the bounds, or None.
        has_scale: whether the space was given with its scale.
        sigma: the standard deviations at the end of an earlier run, or None.
    """

    x0: Solution
    x64: bool
    space: Space | None
    has_scale: bool
    sigma: PyTree

    def reduced(self, free: Free) -> Start:
        """Returns the start of a search over the numbers that are free."""
        if self.space is None:
            return self
        return self._replace(
            x0=jax.tree.map(np.asarray, reduced(self.x0, free)),
            space=reduced_space(self.space, free),
            sigma=None if self.sigma is None else reduced(self.sigma, free),
        )


def start_of(x0: PyTree, bounds: PyTree, is_for_tokens: bool) -> Start:
    """Reads ``x0`` and ``bounds``.

    Args:
        x0: as ``minimize`` takes it: also a ``Result``, or None for the middle of the
            bounds.
        bounds: as ``minimize`` takes them.
        is_for_tokens: whether solutions are token sequences ``int32[L]``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value out of range; the message names the argument.
    """
    sigma = None
    if isinstance(x0, Result):
        x0, sigma = continued(x0)
    if x0 is None and bounds is not None:
        x0 = middle_of(bounds)
    if is_for_tokens:
        return Start(as_tokens(x0, bounds), False, None, False, sigma)
    x0, x64 = in_precision(as_solution(x0))
    if bounds is None:
        return Start(x0, x64, None, False, sigma)
    space = space_of(bounds, x0)
    if not space.contains(x0):
        raise ValueError(
            "x0 must lie within bounds, with whole numbers for integers and choices; "
            f"got {checks.shown(x0)}"
        )
    if isinstance(bounds, Space):
        scale = spread("bounds.scale", bounds.scale, x0)
        space = dataclasses.replace(space, scale=scale)
    return Start(x0, x64, space, isinstance(bounds, Space), sigma)


def spread(name: str, sigma: PyTree, x0: Solution) -> PyTree:
    """Returns ``sigma``, a number or a tree like ``x0``, as a tree like ``x0``.

    Raises:
        TypeError: for another form.
        ValueError: for a number that is not above 0 and finite.
    """
    expected = "a finite number above 0, or such numbers in the form of x0"
    came = checks.shown(sigma)
    if any(np.asarray(s).dtype.kind == "b" for s in jax.tree.leaves(sigma)):
        raise TypeError(f"{name} must be {expected}; got {came}")
    if isinstance(sigma, numbers.Real):
        sigma = jax.tree.map(lambda _: float(sigma), x0)
    elif isinstance(sigma, list | tuple) and not isinstance(x0, list | tuple):
        sigma = np.asarray(sigma)

    def leaf(x: np.ndarray, s: ArrayLike) -> np.ndarray:
        return np.broadcast_to(np.asarray(s, np.float64), np.shape(x))

    try:
        tree = jax.tree.map(leaf, x0, sigma)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {expected}; got {came}") from None
    for sizes in jax.tree.leaves(tree):
        if not np.all((sizes > 0) & np.isfinite(sizes)):
            raise ValueError(f"{name} must be {expected}; got {checks.shown(sizes)}")
    return tree
