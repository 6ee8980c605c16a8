"""CMA-ES with integers on COCO's bbob-mixint, side by side with pycma and cmaes.

Four numbers of five are integers, of 2, 4, 8 and 16 values. All start at the same
random points with a fifth of the ranges for standard deviations, and restart where
they have converged, until 500 D evaluations are used. What is counted is the share of
the 51 targets f_opt + 10^2 .. 10^-8. The peers, at their defaults, are

- pycma with ``integer_variables`` (its populations are of 15, ours and cmaes' of 8);
- ``cmaes.CMAwM``, CMA-ES with margin by its authors.

    python benchmarks/mixed_integer.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import cma
import cmaes
import cocoex
import numpy as np
from common import parsed, save, show
from optimum import HEADER, comparisons, solved, table

import gfopt


def starts(problem: Any, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yields starting points, ranges (half a step more for integers) and seeds."""
    rng = np.random.default_rng(seed)
    low, high = problem.lower_bounds, problem.upper_bounds
    is_integer = np.arange(problem.dimension) < problem.number_of_integer_variables
    for run in range(10**6):
        x0 = low + (high - low) * rng.random(problem.dimension)
        yield np.where(is_integer, np.round(x0), x0), high - low + is_integer, run


def ours(problem: Any, seed: int, budget: int) -> float:
    """Runs what ``gfopt.minimize`` runs."""
    best, count = np.inf, 0
    sides = list(zip(problem.lower_bounds, problem.upper_bounds, strict=True))
    integers = problem.number_of_integer_variables
    domains = [
        gfopt.spaces.integer(*side) if i < integers else side
        for i, side in enumerate(sides)
    ]
    fun = gfopt.Objective(problem, traceable=False)
    for x0, _, run in starts(problem, seed):
        result = gfopt.minimize(
            fun,
            x0,
            bounds=domains,
            method="cma_es",
            budget=budget - count,
            seed=100 * seed + run,
        )
        best, count = min(best, result.fun), count + result.nfev
        if count >= budget:
            break
    return best


def pycma(problem: Any, seed: int, budget: int) -> float:
    """Runs pycma with its handling of integers."""
    best, count = np.inf, 0
    integers = problem.number_of_integer_variables
    margin = 0.49 * (np.arange(problem.dimension) < integers)
    for x0, ranges, run in starts(problem, seed):
        options = {
            "bounds": [
                list(problem.lower_bounds - margin),
                list(problem.upper_bounds + margin),
            ],
            "integer_variables": list(range(integers)),
            "CMA_stds": list(ranges / 5),
            "seed": 100 * seed + run + 1,
            "verbose": -9,
        }
        search = cma.CMAEvolutionStrategy(x0, 1, options)
        while not search.stop():
            candidates, fitness = search.ask(), []
            for x in candidates:
                if count == budget:
                    return best
                fitness.append(problem(x))
                count += 1
                best = min(best, fitness[-1])
            search.tell(candidates, fitness)
    return best


def with_margin(problem: Any, seed: int, budget: int) -> float:
    """Runs ``cmaes.CMAwM``."""
    best, count = np.inf, 0
    integers = problem.number_of_integer_variables
    steps = (np.arange(problem.dimension) < integers).astype(float)
    bounds = np.stack([problem.lower_bounds, problem.upper_bounds], axis=1)
    for x0, ranges, run in starts(problem, seed):
        search = cmaes.CMAwM(
            x0,
            1.0,
            bounds,
            steps,
            seed=100 * seed + run,
            cov=np.diag((ranges / 5) ** 2),
        )
        while not search.should_stop():
            told = []
            for _ in range(search.population_size):
                if count == budget:
                    return best
                x, raw = search.ask()
                told.append((raw, problem(x)))
                count += 1
                best = min(best, told[-1][1])
            search.tell(told)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--instances", default="1-5")
    parser.add_argument("--budget", type=int, default=500, help="per dimension")
    parser.add_argument("--seed", type=int, default=0)
    options = parsed(parser, instances="1", budget=20)
    cocoex.log_level("warning")
    warnings.filterwarnings("ignore", module="cma")
    suite = cocoex.Suite(
        "bbob-mixint", f"instances: {options.instances}", "dimensions: 5"
    )
    solvers = {"ours": ours, "pycma": pycma, "cmaes CMAwM": with_margin}
    found, places = solved(suite, solvers, options.budget, options.seed)
    rows = comparisons(found, "ours")
    show(HEADER, table(rows))
    functions = np.array([place[0] for place in places])
    results = {
        "options": vars(options),
        "pairs": rows,
        "by_function": {
            int(f): {n: float(s[functions == f].mean()) for n, s in found.items()}
            for f in np.unique(functions)
        },
    }
    packages = ["gfopt", "jax", "numpy", "cma", "cmaes", "coco-experiment"]
    save("mixed_integer", packages, results)


if __name__ == "__main__":
    main()
