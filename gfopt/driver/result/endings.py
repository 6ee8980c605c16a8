"""How a search ends: every status, and every reason of every method."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gfopt.protocol import Optimizer, as_method


class Status(enum.IntEnum):
    """Why a search ended.

    Example:
        >>> Status.TARGET.name, int(Status.CONVERGED), Status.BUDGET.is_success
        ('TARGET', 0, False)
    """

    RUNNING = -1
    CONVERGED = 0
    TARGET = 1
    BUDGET = 2
    SECONDS = 3
    CALLBACK = 4
    INTERRUPTED = 5
    FAILED = 6
    DIVERGED = 7
    PRECISION = 8
    STALLED = 9
    COMPLETE = 10

    @property
    def is_success(self) -> bool:
        """Whether it is what the search was for."""
        return self in (Status.CONVERGED, Status.TARGET, Status.COMPLETE)


#: What each status says; the reasons of a method bring the last four.
STATUSES: Mapping[Status, str] = MappingProxyType(
    {
        Status.RUNNING: "it has not ended",
        Status.CONVERGED: "the method has converged",
        Status.TARGET: "a value as good as `target` was found",
        Status.BUDGET: "`budget`, the data, or a limit of the method is used up",
        Status.SECONDS: "`max_seconds` have passed",
        Status.CALLBACK: "a callback ended it",
        Status.INTERRUPTED: "Ctrl-C ended it",
        Status.FAILED: "there was no valid value",
        Status.DIVERGED: "the search ran away",
        Status.PRECISION: "steps are lost in rounding",
        Status.STALLED: "no progress, and nothing better than `x0`",
        Status.COMPLETE: "everything that was asked for is done",
    }
)


class Reason(NamedTuple):
    """What a method's reason to stop means: a status, and in words."""

    status: Status
    meaning: str


#: The reasons of all methods. One that is not named here counts as convergence.
REASONS: Mapping[str, Reason] = MappingProxyType(
    {
        "tol_x": Reason(
            Status.CONVERGED, "candidates, or standard deviations, are within it"
        ),
        "tol_fun": Reason(Status.CONVERGED, "recent values differ by less"),
        "tol_fun_history": Reason(
            Status.CONVERGED, "the best values of recent steps differ by less"
        ),
        "flat": Reason(
            Status.STALLED, "twice in a row most of a step had the same best value"
        ),
        "stagnation": Reason(
            Status.STALLED, "neither best nor median improved for long"
        ),
        "patience": Reason(
            Status.STALLED, "this many restarts in a row found nothing better"
        ),
        "explored": Reason(
            Status.CONVERGED, "no line has become better in a long time"
        ),
        "no_effect_axis": Reason(Status.PRECISION, "a step along an axis changes no x"),
        "no_effect_coordinate": Reason(
            Status.PRECISION, "a step of a coordinate does not change it"
        ),
        "tol_condition": Reason(Status.PRECISION, "the covariance is degenerate"),
        "tol_up": Reason(
            Status.DIVERGED, "a standard deviation grew by more than this factor"
        ),
        "diverged": Reason(
            Status.DIVERGED, "a number is not finite, or absurdly large"
        ),
        "max_generations": Reason(
            Status.BUDGET,
            "the method makes, or can store, no more generations",
        ),
        "max_tokens": Reason(Status.BUDGET, "this many tokens were read"),
        "max_length": Reason(Status.COMPLETE, "all texts have their length"),
        "all_fixed": Reason(Status.COMPLETE, "no number is free to be searched"),
        "num_sweeps": Reason(
            Status.COMPLETE, "all positions were settled this many times"
        ),
    }
)

_WORDS = {  # where several reasons hold, the first of these decides
    Status.DIVERGED: "diverged",
    Status.CONVERGED: "converged",
    Status.COMPLETE: "complete",
    Status.PRECISION: "out of precision",
    Status.STALLED: "nothing better than x0",
    Status.BUDGET: "used up",
}


def ending_of(
    optimizer: Optimizer, names: list[str], has_value: bool, is_better: bool
) -> tuple[Status, str]:
    """Returns what a method's reasons to stop mean for a search.

    Args:
        optimizer: the method.
        names: of the reasons that hold, at least one.
        has_value: whether there was a valid value.
        is_better: whether it is better than that of ``x0``.

    Returns:
        The status, and a message with the tolerances.

    Example:
        >>> import gfopt
        >>> ending_of(gfopt.CMAES(tol_x=1e-9), ["tol_x"], True, True)
        (<Status.CONVERGED: 0>, 'converged: tol_x = 1e-09')
    """
    unnamed = Reason(Status.CONVERGED, "")
    statuses = {REASONS.get(name, unnamed).status for name in names}
    if is_better and Status.STALLED in statuses:
        statuses = statuses - {Status.STALLED} | {Status.CONVERGED}
    status = next(one for one in _WORDS if one in statuses)
    tolerances = {name: as_method(optimizer).tolerance(name) for name in names}
    listed = ", ".join(f"{name} = {value}" for name, value in tolerances.items())
    if not has_value:
        return Status.FAILED, f"no valid value; {_WORDS[status]}: {listed}"
    return status, f"{_WORDS[status]}: {listed}"
