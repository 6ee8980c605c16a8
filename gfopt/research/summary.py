"""What benchmark runs say, as numbers: shares of targets, running times, curves.

Runs are comparable within a section: one suite, budget and evaluator, and one dimension
in suites of ours. Letters as in ``statistics``: `R` runs, `T` targets, `B` budgets.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gfopt import registry
from gfopt.problems.bbob_suite.functions import BBOB_NAMES
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.statistics import (
    TARGETS,
    Interval,
    bootstrap_interval,
    ecdf,
    expected_running_time,
    median_interval_places,
    running_times,
)

#: The five groups of BBOB.
BBOB_GROUPS = {
    name: [f"f{number}" for number in range(first, last + 1)]
    for name, first, last in (
        ("separable", 1, 5),
        ("moderately conditioned", 6, 9),
        ("ill-conditioned", 10, 14),
        ("multi-modal", 15, 19),
        ("weakly structured", 20, 24),
    )
}
#: Those of COCO's suite with constraints, 1e2 to 1e-6: all that cocopp looks at.
CONSTRAINED_TARGETS: np.ndarray = TARGETS[:41]
#: Where the optimum is not known: what is left of the way from the median first value
#: to the best value of all runs, as in data profiles (More and Wild, 2009).
SHARES: np.ndarray = 10.0 ** np.linspace(0, -5, 51)
SHARES.setflags(write=False)
OURS = ("bbob", "digits", "atari")
_POINTS = 80  # of a curve


class Measured(Run):
    """A run whose columns and times are computed once, however often they are read."""

    @functools.cached_property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Evaluations and values of the trajectory."""
        counts, values = np.asarray(self.trajectory, np.float64).reshape(-1, 2).T
        return counts, values

    @functools.cached_property
    def times(self) -> np.ndarray:
        """Evaluations to the targets, ``[T]``, in the unit of the suite."""
        return running_times(*self.columns, targets_of(self)) / unit_of(self)


def _measured(runs: Iterable[Run]) -> list[Measured]:
    return [run if isinstance(run, Measured) else Measured(*run) for run in runs]


@dataclass(frozen=True, eq=False)
class Section:
    """Runs that may be compared, and what they have in common.

    Attributes:
        suite: ``"bbob"``, ``"digits"``, ``"atari"`` or the user's own.
        dimension: ``D``; 0 for own problems, which may differ.
        budget: evaluations in all; of games, frames.
        evaluator: as in ``RunKey``.
        runs: at least one.
    """

    suite: str
    dimension: int
    budget: int
    evaluator: str
    runs: tuple[Run, ...]

    @functools.cached_property
    def methods(self) -> list[str]:
        """The methods that ran, in the order of the registry."""
        names = {run.key.method for run in self.runs}
        known = [name for name in registry.METHODS if name in names]
        return known + sorted(names.difference(known))

    @functools.cached_property
    def problems(self) -> list[str]:
        """The problems that were run; numbers in their order."""
        return sorted({run.key.problem for run in self.runs}, key=_by_number)

    @property
    def knows_optima(self) -> bool:
        """Whether values are distances from the optimum, in all runs."""
        return all(run.optimum is not None for run in self.runs)

    @property
    def is_balanced(self) -> bool:
        """Whether all methods ran on the same problems."""
        problems = {
            frozenset(r.key._replace(method="") for r in self.of(method=method))
            for method in self.methods
        }
        return len(problems) == 1

    def of(
        self, method: str | None = None, problems: Iterable[str] | None = None
    ) -> list[Run]:
        """Returns the runs of a method, or on some problems, or both."""
        methods = self.methods if method is None else [method]
        chosen = self.problems if problems is None else list(problems)
        return [
            run for m in methods for p in chosen for run in self._cells.get((m, p), ())
        ]

    @functools.cached_property
    def _cells(self) -> dict[tuple[str, str], list[Run]]:
        cells: dict[tuple[str, str], list[Run]] = {}
        for run in self.runs:
            cells.setdefault((run.key.method, run.key.problem), []).append(run)
        return cells


def sections(runs: Iterable[Run]) -> list[Section]:
    """Sorts runs into sections: by suite, dimension, budget and evaluator.

    Where an optimum is not known, values become what is left of the way from the
    median first value to the best value of all runs on the problem.
    """
    groups: dict[tuple[str, int, int, str], list[Run]] = {}
    for run in runs:
        key = run.key
        size = key.dimension if key.suite in OURS else 0
        place = (key.suite, size, key.budget, key.evaluator)
        groups.setdefault(place, []).append(run)
    return [Section(*place, _scaled(groups[place])) for place in sorted(groups)]


def colours_of(runs: Sequence[Run]) -> dict[str, int]:
    """Returns the number of each method's colour, the same in all sections."""
    everything = Section("", 0, 0, "", tuple(runs))
    return {method: number for number, method in enumerate(everything.methods)}


def _scaled(runs: Sequence[Run]) -> tuple[Run, ...]:
    ways: dict[str, list[Run]] = {}
    for run in runs:
        if run.optimum is None and run.key.suite not in OURS and run.trajectory:
            ways.setdefault(run.key.problem, []).append(run)
    relative: dict[RunKey, Run] = {}
    for group in ways.values():
        best = min(run.value for run in group)
        way = float(np.median([run.trajectory[0][1] for run in group])) - best
        for run in group:
            left = ((n, (value - best) / (way or 1.0)) for n, value in run.trajectory)
            relative[run.key] = run._replace(trajectory=tuple(left))
    return tuple(_measured(relative.get(run.key, run) for run in runs))


def name_of(key: RunKey) -> str:
    """Returns what tables call a problem: a BBOB function's number and name.

    Example:
        >>> name_of(RunKey("bbob", "f8", 5, 1, "cma_es", 500, 0, "jax"))
        'f8 original Rosenbrock'
    """
    if key.suite != "bbob":
        return key.problem
    name = BBOB_NAMES.get(_by_number(key.problem)[0], "")
    return f"{key.problem} {name}".strip()


def _by_number(problem: str) -> tuple[int, str]:
    """Sorts f2 before f10."""
    digits = problem.removeprefix("f")
    return (int(digits) if digits.isdecimal() else 0, problem)


def targets_of(run: Run) -> np.ndarray:
    """Returns what counts as progress: ``[T]``, values of its trajectory."""
    if run.optimum is None:
        return SHARES
    return CONSTRAINED_TARGETS if run.key.suite == "bbob-constrained" else TARGETS


def unit_of(run: Run) -> int:
    """Returns what evaluations are divided by: `D` on BBOB, else 1."""
    return run.key.dimension if run.key.suite == "bbob" else 1


def times_to_targets(runs: Sequence[Run]) -> np.ndarray:
    """Returns the evaluations to the targets, per dimension on BBOB: ``[R, T]``."""
    return np.stack([run.times for run in _measured(runs)])


def share_of_targets(runs: Sequence[Run]) -> Interval:
    """Returns the share of the targets that were reached, with its interval.

    The problems are fixed and the instances a sample: what the bootstrap draws is
    instances, each with all its problems.
    """
    shares = np.isfinite(times_to_targets(runs)).mean(axis=1)
    rows = _places([(run.key.instance, run.key.seed) for run in runs])
    columns = _places([run.key.problem for run in runs])
    table = np.full((max(rows) + 1, max(columns) + 1), np.nan)
    table[rows, columns] = shares
    # a list of instances that differs from problem to problem leaves holes
    return bootstrap_interval(
        table, lambda sample, axis: np.nanmean(sample, axis=(axis, axis + 1))
    )


def _places(names: Sequence[Hashable]) -> list[int]:
    """Returns for each name the place of its first mention."""
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return [known[name] for name in names]


def time_to_solve(
    runs: Sequence[Run], target: float | None = None
) -> tuple[float, int]:
    """Returns the ERT to a target, the last one if None, and how many runs hit it.

    The unit is that of ``times_to_targets``.
    """
    times = times_to_targets(runs)[:, -1]
    if target is not None:
        counts = [running_times(*run.columns, [target])[0] for run in _measured(runs)]
        times = np.array(counts) / [unit_of(run) for run in runs]
    hits = np.isfinite(times)
    spent = np.array([run.evaluations / unit_of(run) for run in runs])
    return expected_running_time(np.where(hits, times, spent), hits), int(hits.sum())


def accuracy(runs: Sequence[Run]) -> Interval:
    """Returns the mean held-out accuracy at the end of the digits' runs."""
    return bootstrap_interval([1 - run.value for run in runs])


def score(runs: Sequence[Run]) -> Interval:
    """Returns the mean score at the end of a game's runs."""
    return bootstrap_interval([-run.value for run in runs])


def ecdf_curve(runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of targets reached over the evaluations.

    Returns:
        ``(budgets [B], shares [B])``, budgets from 1 to the runs' own.
    """
    times = times_to_targets(runs)
    last = max(run.key.budget / unit_of(run) for run in runs)
    budgets = np.geomspace(1, max(last, 2), 3 * _POINTS)
    return budgets, ecdf(times, budgets)


class Curve(NamedTuple):
    """The median value over the evaluations, and its interval, each ``[B]``."""

    evaluations: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def convergence(runs: Sequence[Run], *, is_best: bool = True) -> Curve | None:
    """Returns the median of several runs over the evaluations, with its 95 % interval.

    The interval is that of the bootstrap over runs, evaluation by evaluation. A run
    that ended keeps its last value. None if a run has no value at all.

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
    values = np.stack([_value_at(run, evaluations) for run in _measured(runs)])
    values.sort(axis=0)
    low, high = median_interval_places(len(values))
    return Curve(evaluations, values[low], values[(len(values) - 1) // 2], values[high])


def _value_at(run: Measured, evaluations: np.ndarray) -> np.ndarray:
    counts, values = run.columns
    return values[np.searchsorted(counts, evaluations, side="right") - 1]
