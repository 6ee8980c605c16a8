"""Profiles: how often a method is the fastest, or not much slower than the fastest.

References: E. D. Dolan and J. J. More, "Benchmarking optimization software with
performance profiles", Mathematical Programming 91 (2002); J. J. More and S. M. Wild,
"Benchmarking derivative-free optimization algorithms", SIAM Journal on Optimization 20
(2009). Letters: `M` methods, `N` tasks, `B` points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gfopt.research.finished_runs import Run
from gfopt.research.statistics import ecdf, running_times
from gfopt.research.summary import Section, times_to_targets

#: What a data profile asks for, as in More and Wild (2009).
TOLERANCES = (1e-1, 1e-3, 1e-5, 1e-7)
_POINTS = 240

_Task: TypeAlias = tuple[str, int, int, int]


def performance_profile(section: Section) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of tasks that a method solves within a factor of the fastest.

    A task is a target of a run's problem and instance. With t[p, s] the running time of
    method s on task p, Dolan and More (2002, equations 2.1 and 2.2) take

        r[p, s] = t[p, s] / min_s t[p, s],    rho_s(x) = share of p with r[p, s] <= x

    so that rho_s(1) is how often s is the fastest, and its right end how many targets s
    reaches at all.

    Returns:
        ``(factors [B], shares [M, B])``, methods in the section's order.
    """
    times = _tasks(section, lambda run: times_to_targets([run])[0])
    fastest = times.min(axis=0)
    with np.errstate(invalid="ignore"):
        ratios = times / fastest
    ratios[np.isnan(ratios)] = np.inf  # nobody solved it
    last = ratios.max(where=np.isfinite(ratios), initial=10.0)
    factors = np.geomspace(1, last, _POINTS)
    return factors, np.stack([ecdf(row, factors) for row in ratios])


def data_profile(section: Section, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the share of tasks that a method solves within a budget.

    A task is a problem and an instance. It is solved at the first evaluation whose
    value f fulfils More and Wild's (2009) equation 2.2,

        f <= f_L + tolerance (f_0 - f_L)

    f_L is the optimum, or the best value of all runs on the problem where that is not
    known. f_0 is the median of the methods' first values on the task, as not all of
    them evaluate the point where they start. The budget counts simplex gradients, D + 1
    evaluations (their equation 2.9).

    Args:
        section: runs that may be compared.
        tolerance: between 0 and 1.

    Returns:
        ``(budgets [B], shares [M, B])``, methods in the section's order.
    """
    firsts: dict[_Task, list[float]] = {}
    for run in section.runs:
        if run.trajectory:
            firsts.setdefault(_task(run), []).append(run.trajectory[0][1])
    starts = {task: float(np.median(values)) for task, values in firsts.items()}

    def time(run: Run) -> np.ndarray:
        if not run.trajectory:
            return np.array([np.inf])
        target = tolerance * starts[_task(run)]
        counts, values = zip(*run.trajectory, strict=True)
        return running_times(counts, values, [target]) / (run.key.dimension + 1)

    last = max(run.key.budget / (run.key.dimension + 1) for run in section.runs)
    budgets = np.geomspace(min(1.0, last / 2), last, _POINTS)
    return budgets, np.stack([ecdf(row, budgets) for row in _tasks(section, time)])


def _task(run: Run) -> _Task:
    return run.key.problem, run.key.dimension, run.key.instance, run.key.seed


def _tasks(section: Section, times: Callable[[Run], np.ndarray]) -> np.ndarray:
    """Returns the running times ``[M, N]``, infinite where a method did not run."""
    tasks = {_task(run): None for run in section.runs}
    places = {task: place for place, task in enumerate(tasks)}
    methods = {method: place for place, method in enumerate(section.methods)}
    width = times(section.runs[0]).size
    table = np.full((len(methods), len(tasks), width), np.inf)
    for run in section.runs:
        table[methods[run.key.method], places[_task(run)]] = times(run)
    return table.reshape(len(methods), -1)
