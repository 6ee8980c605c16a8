"""What the scripts on COCO's other suites share: optimal values and paired shares."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any

import cocoex
import numpy as np

from gfopt.research.statistics import paired_difference_interval

Solver = Callable[[Any, int, int], float]  # (problem, seed, budget) -> best value


class Enough(Exception):
    """Ends a run of a peer's at its budget."""


def optimal_value(suite: cocoex.Suite, index: int) -> float:
    """Returns f_opt of a problem, by COCO's own record of the best solution."""
    problem = suite[index]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        problem._best_parameter("print")
        best = np.loadtxt("._bbob_problem_best_parameter.txt")
    value = problem(best)
    problem.free()
    return float(value)


def solved(
    suite: cocoex.Suite, solvers: dict[str, Solver], per_dimension: int, seed: int
) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Runs every solver on every problem.

    Returns:
        The share of the 51 targets f_opt + 10^2 .. 10^-8 that each run hit, by solver
        ``[problems]``, and ``(function, dimension)`` of each problem.
    """
    targets = 10.0 ** np.linspace(2, -8, 51)
    found: dict[str, list[float]] = {name: [] for name in solvers}
    places = []
    for index in range(len(suite)):
        optimum = optimal_value(suite, index)
        for name, solve in solvers.items():
            problem = suite[index]
            budget = per_dimension * problem.dimension
            best = solve(problem, 1000 * seed + 7 * problem.id_instance + 1, budget)
            found[name].append(float(np.mean(best - optimum <= targets)))
            place = problem.id_function, problem.dimension
            problem.free()
        places.append(place)
        if index % 24 == 23:
            print(f"{index + 1} of {len(suite)} problems", flush=True)
    return {name: np.array(shares) for name, shares in found.items()}, places


def comparisons(found: dict[str, np.ndarray], ours: str) -> list[dict[str, Any]]:
    """Returns ours against each peer, paired by problem, losses first."""
    rows = []
    for name, shares in found.items():
        if name != ours:
            difference = paired_difference_interval(found[ours], shares)
            both = [float(found[ours].mean()), float(shares.mean())]
            rows.append({"peer": name, "solved": both, "difference": difference})
    return sorted(rows, key=lambda row: row["difference"].estimate)


def table(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Returns the comparisons as rows of text."""
    return [
        [
            row["peer"],
            *row["solved"],
            row["difference"].estimate,
            "[{:+.3f}, {:+.3f}]".format(*row["difference"][1:]),
        ]
        for row in rows
    ]


HEADER = ["peer", "ours", "peer's", "difference", "95 % interval"]
