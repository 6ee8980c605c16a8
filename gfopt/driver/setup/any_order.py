"""Which searches can be told values in the order in which they come."""

from __future__ import annotations

from typing import Any

import jax

from gfopt import checks, registry
from gfopt.core.host.evaluator import HostEvaluator
from gfopt.core.objective import Objective
from gfopt.driver.setup.setup import Setup
from gfopt.protocol import Optimizer, as_method


def check_any_order(optimizer: Optimizer) -> None:
    """Refuses a method that can't be told candidates of earlier steps.

    Raises:
        ValueError: it names those that can.
    """
    if not as_method(optimizer).late_members:
        rows = registry.METHODS.values()
        names = ", ".join(row.name for row in rows if "asynchronous" in row.flags)
        raise ValueError(
            "method must be one that takes values in any order where asynchronous=True:"
            f" {names}, alone or in gfopt.Restarts; got {checks.shown(optimizer)}"
        )


def _with_rows_for(start: Setup, num_workers: int) -> Setup:
    """Returns a setup with as many candidates as workers, unless a number was set.

    With fewer, values are of several steps before, and cost more evaluations.
    """
    method = as_method(start.hosted)
    if method.population_size is not None:
        return start
    with jax.enable_x64(start.x64):
        key = jax.random.key(0)
        population = jax.eval_shape(
            lambda x0: method.ask(key, method.init(key, x0)), start.x0
        )
    if population.active.shape[0] >= num_workers:
        return start
    resized = method.resized(num_workers)
    return start._replace(optimizer=resized, hosted=resized)


def asynchronous_setup(
    start: Setup, objective: Objective, evaluator: object, given: dict[str, Any]
) -> Setup:
    """Returns the setup of an asynchronous ``minimize``.

    Args:
        start: the search.
        objective: what is minimised.
        evaluator: what makes the calls, or None.
        given: arguments that must be empty, by name.

    Raises:
        ValueError: for what has no meaning then; it names the argument.
    """
    given = given | {"constraints": objective.constraints}
    for name, value in given.items():
        if value is not None and value is not False and value != ():
            raise ValueError(
                f"{name} must not be given where asynchronous=True, whose values are "
                f"of different steps; got {checks.shown(value)}"
            )
    if objective.batched or objective.context is not None:
        what = "batched" if objective.batched else "context"
        raise ValueError(
            f"fun must evaluate one solution by itself where asynchronous=True; got an "
            f"Objective with {what}"
        )
    if not isinstance(evaluator, HostEvaluator) or evaluator.workers is None:
        raise ValueError(
            "workers must be a number where asynchronous=True, or evaluator be "
            "gfopt.host(engine, workers=number): so many calls are under way at a time"
        )
    if evaluator.num_spare(100):
        raise ValueError(
            "quorum must be 1 where asynchronous=True, which waits for no call"
        )
    check_any_order(start.hosted)
    return _with_rows_for(start, evaluator.workers)
