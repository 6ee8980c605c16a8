"""Ten problems from practice, beside everything that people use for them.

Calibration, machine learning, design and control, of 5 to 10 numbers
(``practice_problems``): integers, choices, log scales and failures among them. Each
optimizer is at its maintainers' defaults and is given a problem in the form that it can
take (``practice_peers``); all start at the same point, drawn uniformly, another one for
each seed. What counts is the best value after 50, 200 and 1000 evaluations: the median
over ten seeds, and the rank of that among all, in which a difference of the fifth digit
is none.

    pip install cma cmaes fcmaes optuna torch scikit-learn 'gymnasium[mujoco]'
    pip install nevergrad "bayesian-optimization<2" "numpy<2.4"  # elsewhere
    export OMP_NUM_THREADS=1
    python benchmarks/practice.py run --processes 2      # hours; goes on where it was
    python benchmarks/practice.py run --methods auto --again
    python benchmarks/practice.py run --methods auto --label changed
    python benchmarks/practice.py report --ours changed

A method whose package is missing is left out, and so is a problem. optuna's Gaussian
process has 50 evaluations, which take it half a minute; nevergrad and ``auto``, which
plan with their budget, have a run for each.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import multiprocessing
import time
import warnings
from typing import Any

import numpy as np
from common import RESULTS, parsed, save, show
from practice_peers import METHODS, Ended, Run
from practice_problems import PROBLEMS
from scipy.stats import rankdata

NAME = "practice"
BUDGETS = (50, 200, 1000)
Runs = dict[str, dict[str, list[str]]]  # by problem, by method: a line for each seed


def stored() -> Runs:
    """Returns what was saved."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["runs"] if path.exists() else {}


def store(problem: str, label: str, lines: list[str]) -> None:
    """Puts the runs of a method on a problem beside the others in the file."""
    runs = stored()
    runs.setdefault(problem, {})[label] = lines
    named = {name: dict(sorted(runs[name].items())) for name in sorted(runs)}
    save(NAME, ["gfopt", "jax", "numpy", "scipy"], {"budgets": BUDGETS, "runs": named})


def best_values(problem: str, method: str, seed: int, most: int) -> list[float]:
    """Runs a method with a seed; returns its best after each budget that it had."""
    chosen, best = METHODS[method], []
    budgets = [b for b in BUDGETS if b <= min(most, chosen.most)]
    for budget in budgets if chosen.is_told else budgets[-1:]:
        run = Run(PROBLEMS[problem], budget, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                chosen.solve(run)
            except Ended:
                pass
        best.append(np.fmin.accumulate(run.values))
    if chosen.is_told:
        return [float(values[-1]) for values in best]
    # who ends before its budget is used keeps what it has
    return [float(best[0][min(b, len(best[0])) - 1]) for b in budgets]


def cell(problem: str, method: str, seeds: list[int], most: int) -> list[str]:
    """Runs a method on a problem with some seeds; returns a line for each."""
    np.seterr(all="ignore")
    found = [best_values(problem, method, seed, most) for seed in seeds]
    return [" ".join(f"{value:.9g}" for value in line) for line in found]


def measure(options: argparse.Namespace) -> None:
    """Runs what is not there yet, and saves after each problem and method."""
    runs, cells = stored(), []
    for method in options.methods:
        if importlib.util.find_spec(METHODS[method].package) is None:
            print(f"{method} is left out: it needs {METHODS[method].package}")
            continue
        for name in options.problems:
            problem, label = PROBLEMS[name], options.label or method
            if problem.package and importlib.util.find_spec(problem.package) is None:
                print(f"{name} is left out: it needs {problem.package}")
                continue
            if METHODS[method].is_local and not problem.is_continuous:
                continue
            old = [] if options.again else runs.get(name, {}).get(label, [])
            if seeds := list(range(len(old), options.seeds)):
                cells.append((label, name, method, seeds, old))
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(options.processes, context)
    with pool:
        began, under_way = time.monotonic(), {}
        for label, name, method, seeds, old in cells:
            future = pool.submit(cell, name, method, seeds, options.budget)
            under_way[future] = (label, name, old)
        for future in concurrent.futures.as_completed(under_way):
            label, name, old = under_way[future]
            store(name, label, old + future.result())
            print(f"{time.monotonic() - began:.0f} s: {label} on {name}", flush=True)


# --- report ---------------------------------------------------------------------------


def values_at(runs: Runs, budget: int, methods: list[str], seeds: int) -> np.ndarray:
    """Returns what was reached, to four digits, ``[problems, methods, seeds]``."""
    place = BUDGETS.index(budget)

    def of(line: str) -> float:
        return float(f"{float(line.split()[place]):.4g}")

    return np.array(
        [[[of(li) for li in by[m][:seeds]] for m in methods] for by in runs.values()]
    )


def reached(runs: Runs, budget: int) -> Runs:
    """Returns the problems on which anyone had so many evaluations."""
    place = BUDGETS.index(budget)
    return {
        name: by_method
        for name, by_method in runs.items()
        if any(len(li.split()) > place for lines in by_method.values() for li in lines)
    }


def complete(runs: Runs, budget: int, seeds: int) -> list[str]:
    """Returns the methods that have so many seeds of every problem at a budget."""
    place = BUDGETS.index(budget)

    def is_there(lines: list[str]) -> bool:
        some = lines[:seeds]
        return len(some) == seeds and all(len(li.split()) > place for li in some)

    names = dict.fromkeys(name for by_method in runs.values() for name in by_method)
    return [n for n in names if all(is_there(by.get(n, [])) for by in runs.values())]


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each median on each problem, ``[..., problems, methods]``."""
    return rankdata(np.nan_to_num(np.median(values, axis=-1), nan=np.inf), axis=-1)


def comparison(
    runs: Runs, budget: int, ours: str, seeds: int, resamples: int = 2000
) -> list[Any]:
    """Compares mean ranks with each peer's, by a bootstrap of problems and seeds."""
    runs = reached(runs, budget)
    methods = complete(runs, budget, seeds)
    if ours not in methods:
        return []
    values, mine = values_at(runs, budget, methods, seeds), methods.index(ours)
    means = ranks(values).mean(axis=0)
    rng = np.random.default_rng(0)
    problems = len(values)
    drawn = []
    for _ in range(resamples):
        # the same problems, and on each the same seeds, for all methods
        rows = rng.integers(problems, size=problems)
        columns = rng.integers(seeds, size=(problems, 1, seeds))
        sample = np.take_along_axis(values[rows], columns, axis=2)
        drawn.append(ranks(sample).mean(axis=0))
    differences = np.array(drawn) - np.array(drawn)[:, mine : mine + 1]
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    rows_ = [
        [budget, name, means[mine], means[i], means[i] - means[mine],
         f"[{low[i]:+.2f}, {high[i]:+.2f}]"]
        for i, name in enumerate(methods) if name != ours
    ]  # fmt: skip
    return rows_


def report(ours: str, seeds: int) -> None:
    """Prints ranks and medians, losses first."""
    runs = stored()
    parts = {
        "all problems": runs,
        "continuous problems": {
            n: r for n, r in runs.items() if PROBLEMS[n].is_continuous
        },
        "mixed problems": {
            n: r for n, r in runs.items() if not PROBLEMS[n].is_continuous
        },
    }
    for title, part in parts.items():
        if not part:
            continue
        print(f"\n{title}: mean rank of the median, by evaluations\n")
        means: dict[str, dict[int, float]] = {}
        for budget in BUDGETS:
            some = reached(part, budget)
            methods = complete(some, budget, seeds)
            if not methods:
                continue
            found = ranks(values_at(some, budget, methods, seeds)).mean(axis=0)
            for name, mean in zip(methods, found, strict=True):
                means.setdefault(name, {})[budget] = float(mean)
        rows = [[n, *(by.get(b, "") for b in BUDGETS)] for n, by in means.items()]
        rows.sort(key=lambda row: min((x for x in row[1:] if x != ""), default=0))
        show(["method", *map(str, BUDGETS)], rows)
    print(f"\n{ours}: mean rank against each peer's, losses first\n")
    rows = [row for budget in BUDGETS for row in comparison(runs, budget, ours, seeds)]
    rows.sort(key=lambda row: row[4])
    show(["evaluations", "peer", ours, "peer's", "difference", "95 % interval"], rows)
    print("\nmedians, where a peer's is better first\n")
    rows = []
    for name, by_method in runs.items():
        for budget in BUDGETS:
            methods = complete({name: by_method}, budget, seeds)
            if ours not in methods:
                continue
            values = values_at({name: by_method}, budget, methods, seeds)
            medians, places = np.median(values, axis=-1)[0], ranks(values)[0]
            order = np.argsort(places, kind="stable")
            others = [i for i in order if methods[i] != ours][:3]
            mine = methods.index(ours)
            best = ", ".join(f"{methods[i]} {medians[i]:.4g}" for i in others)
            rows.append([name, budget, places[mine], f"{medians[mine]:.4g}", best])
    rows.sort(key=lambda row: -row[2])
    show(["problem", "evaluations", "rank", ours, "the best three peers"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ["all", "run", "report"]
    parser.add_argument("part", nargs="?", default="all", choices=parts)
    parser.add_argument("--methods", default=list(METHODS), nargs="+", choices=METHODS)
    parser.add_argument(
        "--problems", default=list(PROBLEMS), nargs="+", choices=PROBLEMS
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=BUDGETS[-1], help="at most")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="forget what was saved")
    parser.add_argument("--label", help="save under this name, with one method")
    parser.add_argument("--ours", default="auto", help="whom the report is about")
    few = {"methods": ["auto", "random_search", "scipy_DE"], "seeds": 2, "budget": 50}
    options = parsed(parser, **few, problems=["welded_beam", "truss"])
    if options.part in ("all", "run"):
        measure(options)
    if options.part in ("all", "report"):
        report(options.ours, options.seeds)


if __name__ == "__main__":
    main()
