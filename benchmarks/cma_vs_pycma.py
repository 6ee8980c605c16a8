"""CMA-ES against pycma: evaluations until f_opt + 1e-8 on BBOB functions.

Run r of a cell is instance r of the function, from its own starting point (uniform in
[-4, 4]^D, sigma 2) with its own seed; both sides get the same points. Ours is what
``gfopt bench`` runs: all instances in one compiled program, in double precision. pycma
runs at its defaults, without restarts, on the C code of coco-experiment, twice: the
second set of seeds shows how far two equal methods come to lie apart. Both sides are
counted alike, up to and including the generation that hits; a run that stops by itself
or passes the budget counts as infinity. Where half of the runs of a side end so, the
cell has no ratio and stays out of the geometric mean.

    export OMP_NUM_THREADS=1  # small matrices
    python benchmarks/cma_vs_pycma.py
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from typing import Any

import cma
import cocoex
import numpy as np
from common import parsed, save, show

from gfopt.problems import bbob
from gfopt.research.bbob_runs import run_bbob
from gfopt.research.plan import Batch, bbob_batches
from gfopt.research.statistics import Interval, ratio_of_medians_interval, running_times

TARGET = 1e-8
EACH = (0.9, 1.1)  # what the interval of each cell has to meet
MEAN = (0.9, 1.05)  # where the geometric mean of the cells has to lie


def ours(batch: Batch) -> tuple[list[float], Counter[str]]:
    """Runs gfopt's CMA-ES; returns evaluations until the target and why runs ended."""
    runs = list(run_bbob(batch))
    hits = []
    for run in runs:
        evaluations, values = np.array(run.trajectory).T
        hits.append(running_times(evaluations, values, [TARGET])[0])
    return hits, Counter(run.status for run in runs)


def pycma(batch: Batch, seed_offset: int) -> tuple[list[float], Counter[str]]:
    """Runs pycma from the same points; returns the same."""
    suite = cocoex.Suite(
        "bbob",
        f"instances: {','.join(map(str, batch.instances))}",
        f"dimensions: {batch.dimension}",
    )
    hits, endings = [], Counter()
    for instance in batch.instances:
        x0, seed = batch.start(instance)
        f_opt = float(bbob(batch.function, batch.dimension, instance).f_opt)
        problem = suite.get_problem_by_function_dimension_instance(
            batch.function, batch.dimension, instance
        )
        options = {"seed": 1 + (seed + seed_offset) % (2**31 - 2), "verbose": -9}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every cap of sigma
            search = cma.CMAEvolutionStrategy(x0, 2.0, options)
            used, hit = 0, np.inf
            while hit == np.inf and not search.stop() and used < batch.budget:
                points = search.ask()
                values = [problem(x) for x in points]
                search.tell(points, values)
                used += len(points)
                if min(values) - f_opt <= TARGET:
                    hit = used
        hits.append(float(hit))
        stops = ", ".join(search.stop()) or "budget"
        endings["target" if np.isfinite(hit) else stops] += 1
        problem.free()
    return hits, endings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = {"type": int, "nargs": "+"}
    functions = [1, 2, 8, 9, 10, 11, 12, 13, 14]
    parser.add_argument("--functions", default=functions, **numbers)
    parser.add_argument("--dimensions", default=[5, 10, 20], **numbers)
    parser.add_argument("--runs", type=int, default=51)
    parser.add_argument("--budget", type=int, default=10_000, help="evaluations per D")
    parser.add_argument("--seed", type=int, default=0)
    options = parsed(parser, functions=[1], dimensions=[2], runs=2, budget=500)
    instances = tuple(range(1, options.runs + 1))
    cells = []
    for d in options.dimensions:
        for f in options.functions:
            (batch,) = bbob_batches(
                functions=[f],
                dimensions=[d],
                instances=instances,
                methods=["cma_es"],
                budget=options.budget,
                seed=options.seed,
            )
            (a, ended), (b, b_ended), (again, _) = (
                ours(batch),
                pycma(batch, 0),
                pycma(batch, 7919),
            )
            ratio = ratio_of_medians_interval(a, b)
            noise = ratio_of_medians_interval(again, b)
            meets = ratio.low <= EACH[1] and ratio.high >= EACH[0]
            cells.append(
                {
                    "function": f,
                    "dimension": d,
                    "median": [float(np.median(a)), float(np.median(b))],
                    "solved": [ended["target"], b_ended["target"]],
                    "ratio": ratio,
                    "pycma_again": noise,
                    "meets": bool(meets),
                    "evaluations": {"gfopt": a, "pycma": b, "pycma_again": again},
                    "endings": {"gfopt": ended, "pycma": b_ended},
                }
            )
            print(f"f{f} {d}-D: {ratio.estimate:.3f}", flush=True)
        conclude(options, cells)  # after each dimension: the last one takes an hour


def geometric_mean(cells: list[dict[str, Any]], side: str) -> Interval:
    """Returns the mean of a side's ratios to pycma; runs are drawn in each cell."""
    rng, logs, drawn = np.random.default_rng(0), [], []
    for cell in cells:
        a, b = (np.array(cell["evaluations"][name]) for name in (side, "pycma"))
        if np.isfinite([np.median(a), np.median(b)]).all():
            logs.append(np.log(np.median(a) / np.median(b)))
            a, b = (rng.choice(x, (2000, len(x))) for x in (a, b))
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn.append(np.log(np.median(a, axis=1) / np.median(b, axis=1)))
    known = np.where(np.isfinite(drawn), drawn, np.nan)
    ends = np.quantile(np.nanmean(known, axis=0), [0.025, 0.975])
    return Interval(*(float(np.exp(x)) for x in (np.mean(logs), *ends)))


def conclude(options: argparse.Namespace, cells: list[dict[str, Any]]) -> None:
    """Prints and saves what there is, losses first."""
    cells.sort(key=lambda cell: -np.nan_to_num(cell["ratio"].estimate, nan=np.inf))
    mean, noise_mean = (geometric_mean(cells, n) for n in ("gfopt", "pycma_again"))
    print("\nratio of median evaluations, gfopt / pycma; above 1 is a loss\n")
    show(
        [
            "f",
            "D",
            "gfopt",
            "pycma",
            "solved",
            "ratio",
            "95 % interval",
            "meets",
            "pycma again",
        ],
        [
            [
                cell["function"],
                cell["dimension"],
                *(f"{m:.0f}" for m in cell["median"]),
                "/".join(map(str, cell["solved"])),
                cell["ratio"].estimate,
                "[{:.3f}, {:.3f}]".format(*cell["ratio"][1:]),
                "-"
                if np.isnan(cell["ratio"].estimate)
                else "yes"
                if cell["meets"]
                else "NO",
                "{:.3f} [{:.3f}, {:.3f}]".format(*cell["pycma_again"]),
            ]
            for cell in cells
        ],
    )
    lies = "yes" if MEAN[0] <= mean.estimate <= MEAN[1] else "NO"
    print("\ngeometric mean {:.3f} [{:.3f}, {:.3f}]".format(*mean), end="")
    print(f" (in {list(MEAN)}: {lies})")
    print("pycma against itself {:.3f} [{:.3f}, {:.3f}]".format(*noise_mean))
    save(
        "cma_vs_pycma",
        ["gfopt", "jax", "numpy", "cma", "coco-experiment"],
        {
            "options": vars(options),
            "geometric_mean": mean,
            "geometric_mean_pycma_again": noise_mean,
            "cells": cells,
        },
    )


if __name__ == "__main__":
    main()
