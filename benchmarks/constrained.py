"""CMA-ES with constraints on COCO's bbob-constrained, side by side with pycma.

54 functions with 1 to 30 and more nonlinear constraints. Both start at COCO's initial
solution, which is feasible, with sigma 2 and their defaults, and restart there where
they have converged, until 200 D evaluations are used, each of the function and all
constraints. What is counted is the share of the 51 targets f_opt + 10^2 .. 10^-8 that
the best feasible solution hits. The peer is ``cma.fmin_con2``, an augmented Lagrangian.

    python benchmarks/constrained.py
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import cma
import cocoex
import numpy as np
from common import parsed, save, show
from optimum import HEADER, Enough, comparisons, solved, table

import gfopt


def ours(problem: Any, seed: int, budget: int) -> float:
    """Runs the method that ``gfopt.minimize`` runs."""
    best, count = np.inf, 0
    fun = gfopt.Objective(problem, traceable=False)
    start = np.array(problem.initial_solution, float)
    for run in range(10**6):
        result = gfopt.minimize(
            fun,
            start,
            constraints=problem.constraint,
            method="cma_es",
            sigma0=2.0,
            budget=budget - count,
            seed=50 * seed + run,
        )
        best, count = min(best, result.fun), count + result.nfev
        if count >= budget:
            break
    return best


def pycma(problem: Any, seed: int, budget: int) -> float:
    """Runs pycma's augmented Lagrangian."""
    seen: list[float] = []

    def fun(x: np.ndarray) -> float:
        if len(seen) == budget:
            raise Enough
        value = problem(x)
        is_feasible = np.all(np.asarray(problem.constraint(x)) <= 0)
        seen.append(value if is_feasible else np.inf)
        return value

    def constraints(x: np.ndarray) -> list[float]:
        return list(problem.constraint(x))

    try:
        for run in range(10**6):
            options = {"seed": 50 * seed + run + 1, "verbose": -9, "verb_log": 0}
            cma.fmin_con2(
                fun,
                problem.initial_solution,
                2.0,
                constraints=constraints,
                options=options,
            )
    except Enough:
        pass
    return min(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dimensions", default="2,3,5")
    parser.add_argument("--instances", default="1")
    parser.add_argument("--budget", type=int, default=200, help="per dimension")
    parser.add_argument("--seed", type=int, default=0)
    options = parsed(parser, dimensions="2", budget=50)
    cocoex.log_level("warning")
    warnings.filterwarnings("ignore")
    suite = cocoex.Suite(
        "bbob-constrained",
        f"instances: {options.instances}",
        f"dimensions: {options.dimensions}",
    )
    solvers = {"ours": ours, "pycma": pycma}
    found, places = solved(suite, solvers, options.budget, options.seed)
    rows = comparisons(found, "ours")
    show(HEADER, table(rows))
    groups = np.array([(place[0] - 1) // 6 for place in places])
    dimensions = np.array([place[1] for place in places])
    results = {
        "options": vars(options),
        "pairs": rows,
        "by_group_of_six_functions": {
            int(g): {n: float(s[groups == g].mean()) for n, s in found.items()}
            for g in np.unique(groups)
        },
        "by_dimension": {
            int(d): {n: float(s[dimensions == d].mean()) for n, s in found.items()}
            for d in np.unique(dimensions)
        },
    }
    packages = ["gfopt", "jax", "numpy", "cma", "coco-experiment"]
    save("constrained", packages, results)


if __name__ == "__main__":
    main()
