"""Results without an engine: of a run that has ended, and of one that never began.

A checkpoint holds the result of its run: called again, it is read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from gfopt.core import trees
from gfopt.core.objective import Objective
from gfopt.core.sense import Sense
from gfopt.driver.result.endings import Status
from gfopt.driver.result.history import History
from gfopt.driver.result.result import MOST_KEPT, Result
from gfopt.driver.setup.setup import Setup
from gfopt.driver.storage.records import Record
from gfopt.driver.storage.tree_records import (
    record_to_tree,
    tree_to_record,
    with_table,
    without_table,
)
from gfopt.protocol import as_method
from gfopt.types import PyTree

#: After which a call with the same limits would do something.
OPEN = (Status.RUNNING, Status.CALLBACK, Status.INTERRUPTED)
#: After which a call with a larger budget, or more time, goes on.
LIMITED = (Status.BUDGET, Status.SECONDS, Status.TARGET)
INTERRUPTED = "interrupted by Ctrl-C"
_PLAIN = ("message", "nfev", "nit", "failures", "path", "reason", "seconds")


class Ends(NamedTuple):
    """What a run may use, and what it looks for; None for no limit."""

    budget: float | None
    max_seconds: float | None
    target: float | None

    @property
    def most_evaluations(self) -> float:
        """The budget, infinity for none."""
        return math.inf if self.budget is None else self.budget

    @property
    def most_seconds(self) -> float:
        """The time, infinity for none."""
        return math.inf if self.max_seconds is None else self.max_seconds


def to_record(result: Result, ends: Ends) -> Record:
    """Returns the record of a result."""
    meta = {name: getattr(result, name) for name in _PLAIN}
    more = {
        "fun": None if math.isnan(result.fun) else result.fun,
        "status": int(result.status),
        "ends": list(ends),
        "tier": as_method(result.optimizer).tier,
        "has_x": result.x is not None,
    }
    x = () if result.x is None else result.x
    tree = {name: getattr(result, name) for name in ("recommended", "state", "context")}
    record = tree_to_record("result", {"x": x, **tree}, meta | more)
    return with_table(record, result.history)


def from_record(
    record: Record, ends: Ends, setup: Setup, objective: Objective
) -> Result | None:
    """Returns the result, None where a call with these ends would go on.

    Nothing is compiled: shapes and types are those of an abstract run.
    """
    record, history = without_table(record)
    meta = record.meta
    status, before = Status(meta["status"]), Ends(*meta["ends"])
    if before.target != ends.target or (status in LIMITED and before != ends):
        return None
    optimizer = setup.hosted if meta["path"] == "host" else setup.optimizer
    if meta["tier"]:
        optimizer = as_method(optimizer).at_tier(meta["tier"])
    with jax.enable_x64(setup.x64):
        state = jax.eval_shape(
            lambda x0: optimizer.init(jax.random.key(0), x0), setup.x0
        )
        template: dict[str, PyTree] = {
            "x": setup.x0 if meta["has_x"] else (),
            "recommended": jax.eval_shape(optimizer.recommend, state),
            "state": state,
            "context": jax.tree.map(np.asarray, objective.context),
        }
        tree = record_to_tree(record, _as_numpy(template))
    return Result(
        x=tree["x"] if meta["has_x"] else None,
        fun=math.nan if meta["fun"] is None else meta["fun"],
        recommended=tree["recommended"],
        success=status.is_success,
        status=status,
        history=history,
        state=tree["state"],
        optimizer=optimizer,
        context=tree["context"],
        maximize=objective.sense.maximize,
        **{name: meta[name] for name in _PLAIN},
    )


def _as_numpy(template: PyTree) -> PyTree:
    """Returns NumPy arrays of these shapes and types, which hold no memory."""
    return jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), template
    )


def unstarted(
    setup: Setup, reason: str, seconds: float, history: History | None = None
) -> Result:
    """Returns the result of a search that was interrupted before it began."""
    history = History(Sense()) if history is None else history
    x0, first = jax.tree.map(np.array, setup.x0), history.first_value
    return Result(
        x=x0 if trees.num_parameters(x0) <= MOST_KEPT else None,
        fun=math.nan if first is None else first,
        recommended=x0,
        success=False,
        status=Status.INTERRUPTED,
        message=f"{INTERRUPTED} before the first generation",
        nfev=history.nfev,
        nit=0,
        failures={},
        history=history.table(),
        state=None,
        optimizer=setup.optimizer,
        path="none",
        reason=reason,
        seconds=seconds,
    )
