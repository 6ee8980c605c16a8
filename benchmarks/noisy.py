"""Noisy BBOB functions against pycma, with and without its noise handler.

COCO's suite ``bbob-noisy``, functions 101 to 121 (moderate and severe noise on five
unimodal functions), 5-D, 1000 D evaluations, each run from the suite's start with
sigma0 = 2. The suite reports noisy values only. The true value is taken from its twin
with Cauchy noise, which is the same function and instance: there the most frequent of
nine values is the true one plus a constant.

A target is solved by the point that a method recommends at the end (its mean). Beside
that, as COCO counts, by any candidate that was evaluated.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cma
import cocoex
import common
import numpy as np

import gfopt
from gfopt.research.statistics import paired_difference_interval

DIMENSION = 5
BUDGET = 1000 * DIMENSION
SIGMA = 2.0
TARGETS = 10.0 ** np.arange(2, -8.1, -0.2)
#: twin with Cauchy noise, and the constant that it adds
TWINS = {
    function: (3 * ((function - 101) // 3) + 103, 10.0 if function <= 106 else 1000.0)
    for function in range(101, 122)
}


class Problem:
    """A noisy function that also knows the true values of its candidates."""

    def __init__(self, suite: Any, function: int, instance: int):
        twin, self._offset = TWINS[function]
        place = (DIMENSION, instance)
        get = suite.get_problem_by_function_dimension_instance
        self._noisy, self._twin = get(function, *place), get(twin, *place)
        self._lowest = self.true(best_parameter(self._noisy))
        self.gaps: list[float] = []

    def __call__(self, x: np.ndarray) -> float:
        """Returns the noisy value."""
        self.gaps.append(self.gap(x))
        return float(self._noisy(x))

    def true(self, x: np.ndarray) -> float:
        """Returns the value without noise."""
        values = [float(self._twin(x)) for _ in range(9)]
        return max(set(values), key=values.count) - self._offset

    def gap(self, x: np.ndarray) -> float:
        """Returns the true distance from the optimal value."""
        return self.true(x) - self._lowest


def best_parameter(problem: Any) -> np.ndarray:
    """Returns the optimum, which COCO writes to a file in the working directory."""
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            problem._best_parameter("print")
            return np.loadtxt("._bbob_problem_best_parameter.txt")
        finally:
            os.chdir(before)


def ours(noisy: bool) -> Callable[..., Any]:
    """Returns gfopt's CMA-ES with its defaults."""

    def search(fun: Problem, x0: np.ndarray, seed: int) -> np.ndarray:
        return gfopt.minimize(
            gfopt.Objective(fun, traceable=False),
            x0,
            method="cma_es",
            sigma0=SIGMA,
            budget=BUDGET,
            seed=seed,
            noisy=noisy,
        ).recommended

    return search


def pycmas(handles_noise: bool) -> Callable[..., Any]:
    """Returns pycma's CMA-ES with its defaults, and its handler's as in its docs."""

    def search(fun: Problem, x0: np.ndarray, seed: int) -> np.ndarray:
        handler = cma.NoiseHandler(DIMENSION, maxevals=[1, 1, 30])
        options = {"maxfevals": BUDGET, "seed": seed + 1, "verbose": -9}
        np.random.seed(seed)  # its handler draws from the global generator
        _, es = cma.fmin2(
            fun, x0, SIGMA, options, noise_handler=handler if handles_noise else None
        )
        return es.result.xfavorite

    return search


METHODS = {
    "gfopt, noisy=True": ours(True),
    "gfopt": ours(False),
    "pycma with NoiseHandler": pycmas(True),
    "pycma": pycmas(False),
}


def solved(gap: float) -> float:
    """Returns the share of the targets that a value reaches."""
    return float(np.mean(gap <= TARGETS))


def measure(num_instances: int) -> dict[str, dict[str, list[Any]]]:
    """Runs all methods; ``[functions][instances]`` for each and each way to count."""
    suite = cocoex.Suite("bbob-noisy", "", f"dimensions: {DIMENSION}")
    found: dict[str, dict[str, list[Any]]] = {
        name: {"recommended": [], "evaluated": [], "evaluations": []}
        for name in METHODS
    }
    for function in TWINS:
        for name, search in METHODS.items():
            rows: dict[str, list[float]] = {key: [] for key in found[name]}
            for instance in range(1, num_instances + 1):
                problem = Problem(suite, function, instance)
                rng = np.random.default_rng((function, instance))
                x = search(problem, rng.uniform(-4, 4, DIMENSION), instance)
                rows["recommended"].append(solved(problem.gap(x)))
                rows["evaluated"].append(solved(min(problem.gaps[:BUDGET])))
                rows["evaluations"].append(len(problem.gaps))
            for key, values in rows.items():
                found[name][key].append(values)
        shares = {name: np.mean(found[name]["recommended"][-1]) for name in METHODS}
        print(function, *(f"{name}: {s:.2f}" for name, s in shares.items()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=5)
    num_instances = common.parsed(parser, instances=1).instances
    warnings.filterwarnings("ignore", module="cma")
    found = measure(num_instances)
    table: list[list[Any]] = []
    first, *others = METHODS
    for key in ("recommended", "evaluated"):
        mine = np.ravel(found[first][key])
        for name in others:
            theirs = np.ravel(found[name][key])
            interval = paired_difference_interval(mine, theirs, np.mean)
            row = [key, name, mine.mean(), theirs.mean(), interval.low, interval.high]
            table.append([float(c) if not isinstance(c, str) else c for c in row])
    table.sort(key=lambda row: row[2] - row[3])
    common.show(["counted", "other", "noisy=True", "other's", "low", "high"], table)
    results = {
        "functions": list(TWINS),
        "instances": num_instances,
        "budget": BUDGET,
        "share_of_targets": found,
        "differences": table,
    }
    common.save("noisy", ["jax", "cma", "coco-experiment", "numpy"], results)


if __name__ == "__main__":
    main()
