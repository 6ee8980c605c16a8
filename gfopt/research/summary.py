"""What benchmark runs say, as numbers: shares of targets, running times, curves.

Runs are comparable within a section: one suite, dimension, budget and evaluator.
Letters as in ``statistics``: `R` runs, `T` targets, `B` budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gfopt import registry
from gfopt.problems.bbob_functions import BBOB_NAMES
from gfopt.research.finished_runs import Run
from gfopt.research.statistics import (
    TARGETS,
    Interval,
    bootstrap_interval,
    ecdf,
    expected_running_time,
    running_times,
)

#: The five groups of BBOB.
BBOB_GROUPS = {
    "separable": range(1, 6),
    "moderately conditioned": range(6, 10),
    "ill-conditioned": range(10, 15),
    "multi-modal": range(15, 20),
    "weakly structured": range(20, 25),
}
_POINTS = 80  # of a curve


class Section(NamedTuple):
    """Runs that may be compared, and what they have in common.

    Attributes:
        suite: ``"bbob"``, ``"digits"`` or ``"atari"``.
        dimension: ``D``.
        budget: evaluations in all; of games, frames.
        evaluator: as in ``RunKey``.
        runs: at least one.
    """

    suite: str
    dimension: int
    budget: int
    evaluator: str
    runs: tuple[Run, ...]

    @property
    def methods(self) -> list[str]:
        """The methods that ran, in the order of the registry."""
        names = {run.key.method for run in self.runs}
        known = [name for name in registry.METHODS if name in names]
        return known + sorted(names.difference(known))

    @property
    def functions(self) -> list[int]:
        """The functions that were run."""
        return sorted({run.key.function for run in self.runs})

    @property
    def is_balanced(self) -> bool:
        """Whether all methods ran on the same problems."""
        problems = {
            frozenset(r.key._replace(method="") for r in self.of(method=method))
            for method in self.methods
        }
        return len(problems) == 1

    def of(
        self, method: str | None = None, functions: Iterable[int] | None = None
    ) -> list[Run]:
        """Returns the runs of a method, or on some functions, or both."""
        chosen = self.functions if functions is None else list(functions)
        return [
            run
            for run in self.runs
            if method in (None, run.key.method) and run.key.function in chosen
        ]


def sections(runs: Iterable[Run]) -> list[Section]:
    """Sorts runs into sections: by suite, dimension, budget and evaluator."""
    found: dict[tuple[str, int, int, str], list[Run]] = {}
    for run in runs:
        key = run.key
        place = (key.suite, key.dimension, key.budget, key.evaluator)
        found.setdefault(place, []).append(run)
    return [Section(*place, tuple(found[place])) for place in sorted(found)]


def name_of(function: int) -> str:
    """Returns number and name of a BBOB function.

    Example:
        >>> name_of(8)
        'f8 original Rosenbrock'
    """
    name = BBOB_NAMES.get(function, "")
    return f"f{function} {name}".strip()


def times_to_targets(runs: Sequence[Run]) -> np.ndarray:
    """Returns evaluations per dimension to the 51 targets of BBOB: ``[R, T]``."""
    rows = [running_times(*_columns(run)) / run.key.dimension for run in runs]
    return np.reshape(rows, (len(runs), TARGETS.size))


def share_of_targets(runs: Sequence[Run]) -> Interval:
    """Returns the share of BBOB's targets that were reached, with its interval.

    The functions are fixed and the instances a sample: what the bootstrap draws is
    instances, each with all its functions.
    """
    shares = np.isfinite(times_to_targets(runs)).mean(axis=1)
    samples = sorted({(run.key.instance, run.key.seed) for run in runs})
    functions = sorted({run.key.function for run in runs})
    table = np.full((len(samples), len(functions)), np.nan)
    for run, share in zip(runs, shares, strict=True):
        row = samples.index((run.key.instance, run.key.seed))
        table[row, functions.index(run.key.function)] = share
    # a list of instances that differs from function to function leaves holes
    return bootstrap_interval(
        table, lambda sample, axis: np.nanmean(sample, axis=(axis, axis + 1))
    )


def time_to_solve(
    runs: Sequence[Run], target: float = TARGETS[-1]
) -> tuple[float, int]:
    """Returns the ERT to a target in evaluations per dimension, and how many hit it."""
    times = [float(running_times(*_columns(run), [target])[0]) for run in runs]
    hits = np.isfinite(times)
    used = np.where(hits, times, [run.evaluations for run in runs])
    size = np.array([run.key.dimension for run in runs])
    return expected_running_time(used / size, hits), int(hits.sum())


def accuracy(runs: Sequence[Run]) -> Interval:
    """Returns the mean held-out accuracy at the end of the digits' runs."""
    return bootstrap_interval([1 - run.value for run in runs])


def score(runs: Sequence[Run]) -> Interval:
    """Returns the mean score at the end of a game's runs."""
    return bootstrap_interval([-run.value for run in runs])


def ecdf_curve(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of targets reached over evaluations per dimension.

    Returns:
        ``(budgets [B], shares [B])``, budgets from 1 to the runs' own.
    """
    times = times_to_targets(runs)
    last = max(run.key.budget / run.key.dimension for run in runs)
    budgets = np.geomspace(1, max(last, 2), 3 * _POINTS)
    return budgets, ecdf(times, budgets)


class Curve(NamedTuple):
    """Quartiles of the value over the evaluations, each ``[B]``."""

    evaluations: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def convergence(runs: Sequence[Run], *, is_best: bool = True) -> Curve | None:
    """Returns the quartiles of the value over the evaluations of several runs.

    A run that ended keeps its last value. None if a run has no value at all.

    Args:
        runs: of one problem and method.
        is_best: values are improvements, looked at on a logarithmic scale of
            evaluations; otherwise they were measured at the same times in all runs.
    """
    if not all(run.trajectory for run in runs):
        return None
    first = max(run.trajectory[0][0] for run in runs)
    last = max(run.evaluations for run in runs)
    if is_best:
        evaluations = np.unique(np.geomspace(first, max(last, first), _POINTS).round())
    else:
        evaluations = np.unique([n for run in runs for n, _ in run.trajectory])
        evaluations = evaluations[evaluations >= first]
    values = np.stack([_value_at(run, evaluations) for run in runs])
    low, median, high = np.quantile(
        values, [0.25, 0.5, 0.75], axis=0, method="inverted_cdf"
    )
    return Curve(evaluations, low, median, high)


def _value_at(run: Run, evaluations: np.ndarray) -> np.ndarray:
    counts, values = _columns(run)
    return values[np.searchsorted(counts, evaluations, side="right") - 1]


def _columns(run: Run) -> tuple[np.ndarray, np.ndarray]:
    counts, values = np.asarray(run.trajectory, np.float64).reshape(-1, 2).T
    return counts, values
