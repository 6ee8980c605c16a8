"""What failures cost: evaluations to a target with 20 % of them, over the registry.

    python benchmarks/failure_matrix.py [METHOD ...] [--seeds 5] [--after 2000]

Each method minimises the sphere and Rosenbrock's function in five dimensions, once as
they are and once where each call fails with a probability of 20 %. Wanted: at most 1.5
times the evaluations. Whoever estimates a slope from two values that both must be
there pays 1 / 0.8^2 = 1.56. A ratio of medians over seeds; a dash where the target was
not reached without failures, infinity where it was missed with them. Seeds are fixed.

With ``--after`` the target is what the method itself has reached after so many
evaluations without failures, in the median: for methods that are slow on these two.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from common import parsed, save, show

import gfopt
from gfopt import registry

TARGET = 1e-3
BUDGET = 20_000


def sphere(x: np.ndarray) -> float:
    return float(np.sum((x - 0.5) ** 2))


def rosenbrock(x: np.ndarray) -> float:
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def search(
    method: str, fun: Callable[..., float], share: float, seed: int, **words: Any
) -> Any:
    """Minimises a function that fails now and then."""
    rng = np.random.default_rng(1000 + seed)

    def failing(x: np.ndarray) -> float:
        value = fun(x)
        return math.nan if rng.random() < share else value

    objective = gfopt.Objective(failing, traceable=False)
    x0, words = np.full(5, 2.0), words | {"method": method, "seed": seed}
    try:
        return gfopt.minimize(objective, x0, sigma0=0.5, **words)
    except (TypeError, ValueError):  # a method without a sigma
        return gfopt.minimize(objective, x0, **words)


def evaluations(*case: Any, target: float) -> float:
    """Returns how many it took; infinity where the target was not reached."""
    found = search(*case, budget=BUDGET, target=target)
    return found.nfev if found.status == gfopt.Status.TARGET else math.inf


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("methods", nargs="*")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--after", type=int)
    given = parsed(options, methods=["cma_es", "open_es"], seeds=1)
    seeds = range(given.seeds)
    warnings.simplefilter("ignore")  # that a method has no way with noise, ...
    rows, results = [], {}
    for method in given.methods or registry.names(tokens=False):
        row: list[Any] = [method]
        for fun in (sphere, rosenbrock):
            target = TARGET
            if given.after:
                budget = {"budget": given.after}
                found = [search(method, fun, 0.0, s, **budget).fun for s in seeds]
                target = float(np.median(found))
            plain, failing = (
                [evaluations(method, fun, share, s, target=target) for s in seeds]
                for share in (0.0, 0.2)
            )
            before, after = float(np.median(plain)), float(np.median(failing))
            ratio = after / before if math.isfinite(before) else None
            row += [before, after, "-" if ratio is None else ratio]
            results[f"{method} {fun.__name__}"] = [plain, failing]
        rows.append(row)
        print(*row, flush=True)
    show(["method", "sphere", "20 %", "ratio", "Rosenbrock", "20 %", "ratio"], rows)
    name = "failure_matrix_own_targets" if given.after else "failure_matrix"
    save(name, ["gfopt", "jax", "numpy"], {"evaluations": results})


if __name__ == "__main__":
    main()
