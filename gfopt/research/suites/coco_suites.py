"""COCO's other suites, through the C code of ``coco-experiment``.

``bbob-largescale`` (up to 640-D), ``bbob-mixint`` (four fifths of the numbers are
whole), ``bbob-constrained`` and ``bbob-noisy``. Reference: N. Hansen, A. Auger, R. Ros,
O. Mersmann, T. Tusar and D. Brockhoff, "COCO: a platform for comparing continuous
optimizers in a black-box setting", Optimization Methods and Software 36 (2021).
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gfopt import checks
from gfopt.problems.problem import Problem

#: The suites: dimensions, and the first and the last function.
COCO_SUITES = {
    "bbob-largescale": ((20, 40, 80, 160, 320, 640), 1, 24),
    "bbob-mixint": ((5, 10, 20, 40, 80, 160), 1, 24),
    "bbob-constrained": ((2, 3, 5, 10, 20, 40), 1, 54),
    "bbob-noisy": ((2, 3, 5, 10, 20, 40), 101, 130),
}
_LOOKS = 9  # at a value with Cauchy noise, most of which are without


@dataclass(frozen=True, eq=False)
class CocoProblem(Problem):
    """A function of a suite in a dimension; ``at`` makes one of its instances.

    Attributes:
        suite: one of ``COCO_SUITES``.
        function: its number.
        size: `D`.
    """

    suite: str = ""
    function: int = 0
    size: int = 0

    def at(self, instance: int) -> Problem:
        """Returns an instance, with its optimum, in this process."""
        return _instance(self.suite, self.function, self.size, instance)


def coco_problem(suite: str, function: int, dimension: int) -> CocoProblem:
    """Makes a problem of a suite.

    Raises:
        ImportError: without coco-experiment; it says what to install.
    """
    first = _instance(suite, function, dimension, 1)
    return CocoProblem(
        _nothing,
        first.x0,
        first.bounds,
        name=first.name,
        suite=suite,
        function=function,
        size=dimension,
    )


def _nothing(x: np.ndarray) -> float:
    """Stands where an instance's function will be."""
    raise TypeError("a function of COCO has instances: call problem.at(1).fun")


@functools.lru_cache(maxsize=64)
def _instance(suite: str, function: int, dimension: int, instance: int) -> Problem:
    task, best = _made(suite, function, dimension, instance)
    problem = Problem(
        task,
        bounds=np.stack([task.lower_bounds, task.upper_bounds], axis=1),
        optimum=float(task(best)),
        name=f"f{function}",
        integer=np.arange(dimension) < task.number_of_integer_variables,
    )
    if task.number_of_constraints:
        start = np.array(task.initial_solution)
        return replace(problem, x0=start, constraints=task.constraint)
    if suite != "bbob-noisy":
        return problem
    # one function of three is the same with Cauchy noise, which leaves most values as
    # they are, but for a constant
    twin = 3 * ((function - 101) // 3) + 103
    other = task if twin == function else _made(suite, twin, dimension, instance)[0]
    constant = 10.0 if function <= 106 else 1000.0
    truth = functools.partial(_commonest, other, constant)
    return replace(problem, truth=truth, optimum=truth(best))


def _commonest(task: Any, constant: float, x: np.ndarray) -> float:
    values = [float(task(x)) for _ in range(_LOOKS)]
    return max(values, key=values.count) - constant


def _made(
    suite: str, function: int, dimension: int, instance: int
) -> tuple[Any, np.ndarray]:
    """Returns COCO's problem and its best solution."""
    with checks.needed_by(suite, "coco-experiment", "pip install 'gfopt[bench]'"):
        import cocoex
    place = function, dimension, instance
    made = cocoex.Suite(suite, f"instances: {instance}", f"dimensions: {dimension}")
    task = made.get_problem_by_function_dimension_instance(*place)
    # COCO writes it into the working directory
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        task._best_parameter("print")
        best = np.loadtxt(Path(folder) / "._bbob_problem_best_parameter.txt")
    return task, best
