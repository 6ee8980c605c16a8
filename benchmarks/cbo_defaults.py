"""The study that chose the defaults of consensus-based optimization.

All combinations of a small grid on sixteen problems in 20-D (``cbo_problems.py``), the
same for anisotropic and for covariance noise. What counts is the geometric mean over
the problems of the expected evaluations to success; a problem that is not solved counts
ten times the budget.

    python benchmarks/cbo_defaults.py       # 10 to 20 minutes
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np
from cbo_problems import expected, hits_of, problems
from common import parsed, save, show

import gfopt

GRIDS = {
    "anisotropic": {
        "memory": (None, "best"),
        "population_size": (30, 60),
        "eta": (0.05, 0.1, 0.2),
        "diffusion": (1.1, 1.3, 1.5),
        "dt": (0.6, 0.9),
    },
    "covariance": {
        "memory": (None,),
        "population_size": (150, 200, 300),
        "eta": (0.2, 0.4),
        "diffusion": (1.05, 1.1),
        "dt": (2.0,),
    },
}


def method(noise: str, sigma: float, numbers: dict[str, Any]) -> gfopt.CBO:
    """Makes the method of one row."""
    options = dict(numbers)
    alpha = gfopt.consensus.EffectiveSampleSize(options.pop("eta"))
    integrator = "exponential" if noise == "covariance" else "euler"
    return gfopt.CBO(
        scaling=noise, integrator=integrator, sigma=sigma, alpha=alpha, **options
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--budget", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parsed(parser, runs=1, budget=500)
    rows = []
    grid: dict[str, Any]
    for noise, grid in GRIDS.items():
        # what is static varies slowest: numbers share a compiled program
        for values in itertools.product(*grid.values()):
            numbers = dict(zip(grid, values, strict=True))
            found = {}
            for name, where in problems():
                optimizer = method(noise, where.start[1], numbers)
                hits = hits_of(
                    optimizer, where, options.runs, options.budget, options.seed
                )
                found[name] = expected(hits, options.budget)
            cost = np.minimum(list(found.values()), 10.0 * options.budget)
            rows.append(
                {"noise": noise, **numbers, "expected": found}
                | {"score": float(np.exp(np.mean(np.log(cost))))}
                | {"solved": int(np.isfinite(list(found.values())).sum())}
            )
            print(noise, numbers, rows[-1]["score"], rows[-1]["solved"], flush=True)
    rows.sort(key=lambda row: row["score"])
    names = ("noise", "memory", "population_size", "eta", "diffusion", "dt")
    table = [[*(row[n] for n in names), row["solved"], row["score"]] for row in rows]
    show([*names, "solved", "mean evaluations"], table[:20])
    save("cbo_defaults", ["gfopt", "jax"], {"options": vars(options), "rows": rows})


if __name__ == "__main__":
    main()
