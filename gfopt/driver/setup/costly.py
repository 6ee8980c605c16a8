"""What ``"auto"`` takes where the objective is called in Python, and calls are dear."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from gfopt.driver.setup.method import choose
from gfopt.driver.setup.scale import reach, scaled, within
from gfopt.driver.setup.start import Start
from gfopt.optimizers.gaussian import default_population_size
from gfopt.optimizers.wrappers.restarts import Restarts
from gfopt.optimizers.wrappers.separable import Separable
from gfopt.protocol import Optimizer
from gfopt.types import PyTree

MOST_SURROGATE = 40  # numbers up to which there is a model of the objective
MOST_BAYESIAN = 10  # evaluations of each number up to which that is a Gaussian process
MOST_KNOWN = 200  # and in all: a step takes as long as their number cubed
MOST_INTEGER = 100  # evaluations of each number up to which it does with integers
MOST_GROWTH = 32  # times the default, the largest population of a restart
# explorations of a line without an improvement, before something else is tried, and
# before the search ends
MOST_PATIENCE, LEAST_PATIENCE = 128, 16


class Plan(NamedTuple):
    """How a search will be run.

    Attributes:
        restarts: what has converged begins again elsewhere.
        any_order: values come in any order.
        budget: the largest number of evaluations, if it is known.
        batch_size: how many evaluations are made at once.
    """

    restarts: bool
    any_order: bool
    budget: int | None
    batch_size: int


def for_costly(start: Start, dimension: int, sigma0: PyTree, plan: Plan) -> Optimizer:
    """Returns Bayesian optimization or CMA-ES, with a model where that pays."""
    fields: dict[str, object]
    most = _most_bayesian(start, dimension, plan)
    if plan.budget is not None and plan.budget <= most:
        fields = {"num_points": max(plan.budget, 4), "batch_size": plan.batch_size}
        chosen = choose("bayesian_optimization", fields, dimension)
        return within(*scaled(chosen, start, sigma0))
    first_size = default_population_size(dimension)
    size = min(plan.batch_size, first_size)
    has_model = _has_model(start, dimension, plan)
    # neither a start far away nor a sigma0 that is much too small should end it
    fields = {"tol_up": 1e20}
    if has_model:
        fields["batch_size"] = size
    name = "lq_cma_es" if has_model else "cma_es"
    optimizer, space = scaled(choose(name, fields, dimension), start, sigma0)
    if plan.restarts:
        largest = MOST_GROWTH * first_size
        optimizer = Restarts(optimizer, largest_size=largest, reach=reach(space))
    if has_model:
        patience = MOST_PATIENCE if plan.restarts else LEAST_PATIENCE
        optimizer = Separable(optimizer, size, patience, stops=not plan.restarts)
    return within(optimizer, space)


def _most_bayesian(start: Start, dimension: int, plan: Plan) -> int:
    """Returns up to how many evaluations each is worth a long thought; 0 for none.

    A Gaussian process looks all over the bounds, which must be finite.
    """
    if plan.any_order or start.space is None:
        return 0
    widths = jax.tree.leaves(start.space.widths())
    is_closed = all(np.all(np.isfinite(width)) for width in widths)
    return min(MOST_BAYESIAN * dimension, MOST_KNOWN) if is_closed else 0


def _has_model(start: Start, dimension: int, plan: Plan) -> bool:
    """Tells whether a model pays.

    It is of values in the order of their generations. And it has no margin, without
    which a search stays with its first choices, and with its integers after a while.
    """
    space = start.space
    if plan.any_order:
        return False
    if space is None or not space.is_discrete:
        return True
    if any(space.choices) or plan.budget is None:
        return False
    return plan.budget <= MOST_INTEGER * dimension
