"""From what people pass to what a search needs: start, method, scale, bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from gfopt import checks, registry
from gfopt.core import trees
from gfopt.driver.setup.arguments import check_reach
from gfopt.driver.setup.costly import MOST_SURROGATE, Plan, for_costly
from gfopt.driver.setup.method import choose
from gfopt.driver.setup.scale import scaled, within
from gfopt.driver.setup.start import spread, start_of
from gfopt.optimizers.wrappers.held import Free, Held, filled, free_numbers, reduced
from gfopt.protocol import Optimizer, as_method
from gfopt.spaces.spaces import Space
from gfopt.types import PyTree, Solution


class Setup(NamedTuple):
    """A search that is ready to start.

    Attributes:
        optimizer: the method, with its scale and bounds.
        x0: the starting solution in the precision of the search.
        x64: whether it is double precision.
        hosted: the method where the objective is called in Python: another one for
            ``"auto"``, which spares such calls.
    """

    optimizer: Optimizer
    x0: Solution
    x64: bool
    hosted: Optimizer

    def wrapped(self, wrap: Callable[[Optimizer], Optimizer]) -> Setup:
        """Returns the setup with a wrapper around the method."""
        return self._replace(optimizer=wrap(self.optimizer), hosted=wrap(self.hosted))


def setup(
    method: str | Optimizer,
    x0: PyTree,
    sigma0: PyTree = None,
    bounds: PyTree = None,
    options: Mapping[str, object] | None = None,
    *,
    allows_model: bool = True,
    restarts: bool = False,
    any_order: bool = False,
    budget: int | None = None,
    batch_size: int = 1,
) -> Setup:
    """Makes a search of what ``minimize`` and ``AskTell`` are given.

    ``x0`` decides the precision: what is not a JAX array, and float64, is searched in
    double precision. The first step size is ``sigma0``; without it a fifth of finite
    bounds, else ``0.3 max(1, rms(x0))`` for methods that hold vectors and the method's
    own default for those that hold seeds, which are made for networks. A step size that
    is set in ``options``, or in an optimizer that is passed as ``method``, counts in
    fifths of the widths of finite bounds, and in units of x elsewhere. Where ``x0`` is
    the ``Result`` of a run, the search goes on from what that recommends, with the
    standard deviations that it had at its end.

    Args:
        method: a name, ``"auto"``, or an optimizer.
        x0: the starting solution; ``int32[L]`` for a method of token sequences, which
            takes no bounds.
        sigma0: first standard deviation, or None.
        bounds: bounds in any form, or None.
        options: fields of the method, or None.
        allows_model: values are noise-free and unconstrained, so that ``"auto"`` may
            take a method with a surrogate.
        restarts: a search by ``"auto"`` that has converged begins again elsewhere.
        any_order: values come in any order, which no surrogate takes.
        budget: the largest number of evaluations, if it is known.
        batch_size: how many evaluations are made at once.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value out of range; the message names the argument.
    """
    start = start_of(x0, bounds, registry.takes_tokens(method))
    if not isinstance(method, str):
        kind = "a method's name or a gfopt optimizer"
        checks.instance("method", method, Optimizer, kind)
    space = start.space
    free = None if space is None else free_numbers(space)
    part = start
    if (
        space is not None and free is not None
    ):  # numbers are fixed: the others are searched
        if sigma0 is not None:
            sigma0 = reduced(spread("sigma0", sigma0, start.x0), free)
        if not jax.tree.leaves(reduced(start.x0, free)):
            nothing = registry.method("random_search", {"population_size": 1})
            held = Held(nothing, start.x0, space, free)
            return Setup(held, start.x0, start.x64, held)
        part = start.reduced(free)
    dimension = trees.num_parameters(part.x0)
    chosen = choose(method, options, dimension, any_order)
    optimizer = within(*scaled(chosen, part, sigma0))
    check_reach(optimizer, part.x0)
    hosted = optimizer
    if method == "auto" and (allows_model or any_order) and not options:
        if dimension <= MOST_SURROGATE:
            plan = Plan(restarts, any_order, budget, batch_size)
            hosted = for_costly(part, dimension, sigma0, plan)
    whole = Setup(optimizer, start.x0, start.x64, hosted)
    if space is None or free is None:
        return whole
    return whole.wrapped(lambda inner: _held(inner, start.x0, space, free))


def _held(optimizer: Optimizer, x0: Solution, space: Space, free: Free) -> Optimizer:
    """Returns a search over the free numbers as one over all of them."""
    units = as_method(optimizer).search_space.scale
    ones = jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), x0)
    with jax.enable_x64(True):
        scale = jax.tree.map(np.asarray, filled(units, free, ones))
    return Held(optimizer, x0, dataclasses.replace(space, scale=scale), free)
