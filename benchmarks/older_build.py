"""Steady state beside an older build: seconds of one step, one evaluation, one run.

    python benchmarks/older_build.py --base 82cf517 --turns 7

Each figure is taken in a new process, after the first call; the two builds take turns,
a ratio is that of the medians, with its least and largest over the turns. Compiled
programs are kept in one folder for all turns. Wanted: at most 1.02.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import builds, parsed, save, show

Unit = tuple[float, int]  # seconds, and how many units they hold


def timed(call: Callable[[], Any], units: int) -> Unit:
    """Returns the seconds of a call, and its units."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began, units


def sphere(x: Any) -> Any:
    """The objective: it costs next to nothing."""
    return (x * x).sum()


def rosenbrock(x: Any) -> Any:
    """The objective of CMA-ES."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def generations(optimizer: Any, fun: Any, dimension: int, steps: int, runs: int = 1):
    """Returns a call of so many steps in one program, or of a batch of such runs."""
    import jax
    import jax.numpy as jnp

    import gfopt

    def one(key: Any) -> Any:
        x0 = jnp.full(dimension, 0.5)
        result = gfopt.run(optimizer, fun, x0, key=key, generations=steps)
        return result.history, result.state

    program = jax.jit(jax.vmap(one))
    keys = jax.random.split(jax.random.key(0), runs)
    return lambda: timed(lambda: jax.block_until_ready(program(keys)), steps * runs)


def strategy(name: str, form: str, size: int, dimension: int, steps: int) -> Any:
    """Returns a call of an evolution strategy with one form of noise."""
    import gfopt

    kinds = {
        "cached": lambda: gfopt.gaussian(cached=True),
        "seeds": lambda: gfopt.gaussian(cached=False),
        "signs": gfopt.rademacher,
    }
    options = {"population_size": size, "sigma": 0.05, "noise": kinds[form]()}
    if name != "snes":
        options["learning_rate"] = 0.01
    return generations(gfopt.method(name, options), sphere, dimension, steps)


def cma(dimension: int, steps: int, runs: int = 1, size: int | None = None) -> Any:
    """Returns a call of CMA-ES that does not stop by itself."""
    import gfopt

    endless = {"tol_x": 0.0, "tol_fun": 0.0, "tol_fun_history": 0.0, "sigma": 0.3}
    optimizer = gfopt.CMAES(size, **endless)
    return generations(optimizer, rosenbrock, dimension, steps, runs)


def named(name: str, dimension: int, steps: int, runs: int = 1, **options: Any) -> Any:
    """Returns a call of a method of the registry."""
    import gfopt

    optimizer = gfopt.method(name, options)
    return generations(optimizer, rosenbrock, dimension, steps, runs)


def hosted(method: str, dimension: int, budget: int) -> Any:
    """Returns a call of ``minimize`` with a function that can't be traced."""
    import numpy as np

    import gfopt

    def call() -> Unit:
        count = 0

        def fun(x: Any) -> float:
            # the minimum moves: a search that has found it would end
            nonlocal count
            count += 1
            return float(rosenbrock(np.asarray(x) - 1e-3 * count))

        x0 = np.full(dimension, 0.5)
        return timed(
            lambda: gfopt.minimize(fun, x0, method=method, budget=budget, seed=1),
            budget,
        )

    return call


def ask_tell(rounds: int) -> Any:
    """Returns a call of so many generations of OpenES by ask and tell."""
    import jax.numpy as jnp
    import numpy as np

    import gfopt

    search = gfopt.AskTell("open_es", jnp.zeros(10), options={"population_size": 64})
    values = np.random.default_rng(0).uniform(size=64)

    def loop() -> None:
        for _ in range(rounds):
            trials = search.ask()  # the first time with the start
            search.tell(trials, np.resize(values, len(trials)))

    return lambda: timed(loop, rounds)


CASES: dict[str, Callable[[], Any]] = {
    **{
        f"{name}, {form}, {size} x {dimension}": (
            lambda name=name, form=form, size=size, dimension=dimension, steps=steps: (
                strategy(name, form, size, dimension, steps)
            )
        )
        for size, dimension, steps in ((64, 1000, 400), (256, 100_000, 3))
        for name in ("open_es", "pgpe", "snes")
        for form in ("cached", "seeds", "signs")
    },
    "cma_es, 10-D": lambda: cma(10, 5000),
    "cma_es, 10-D, 64 runs": lambda: cma(10, 300, 64),
    "cma_es, 500-D, P = 64": lambda: cma(500, 40, 1, 64),
    "lq_cma_es, 5-D": lambda: named("lq_cma_es", 5, 1000),
    "lq_cma_es, 10-D, 64 runs": lambda: named("lq_cma_es", 10, 100, 64),
    "mezo, 1e6 numbers": lambda: named("mezo", 1_000_000, 30, learning_rate=1e-9),
    "deep_ga, 1e5 numbers, P = 64": lambda: named(
        "deep_ga", 100_000, 10, population_size=64
    ),
    "cbo, 20-D": lambda: named("cbo", 20, 1000),
    "minimize, cma_es, 10-D": lambda: hosted("cma_es", 10, 20_000),
    "minimize, auto, 10-D": lambda: hosted("auto", 10, 20_000),
    "ask and tell, open_es, 64 x 10": lambda: ask_tell(300),
}


def child(name: str) -> None:
    """Prints the seconds of one unit of a case, the least of three calls."""
    call = CASES[name]()
    call()  # compiles
    times = [call() for _ in range(3)]
    print(json.dumps(min(seconds / units for seconds, units in times)))


def measured(build: Path, name: str, cache: str) -> float:
    """Runs a case in a new process of a build."""
    environment = os.environ | {
        "PYTHONPATH": str(build),
        "JAX_COMPILATION_CACHE_DIR": cache,
    }
    command = [sys.executable, __file__, "--child", name]
    done = subprocess.run(
        command, env=environment, cwd=build, stdout=subprocess.PIPE, check=True
    )
    return float(json.loads(done.stdout))


def main() -> None:
    """Measures the cases and writes a table, the largest ratio first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="82cf517", help="commit to compare with")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", default="", help="part of the names of cases")
    parser.add_argument("--child")
    given = parsed(parser, base="HEAD", turns=1, only="ask and tell, open")
    if given.child:
        child(given.child)
        return
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        sides = builds(Path(folder), given.base)
        for name in CASES:
            if given.only not in name:
                continue
            turns = [
                [measured(build, name, f"{folder}/cache") for build in sides.values()]
                for _ in range(given.turns)
            ]
            old, new = (statistics.median(side) for side in zip(*turns, strict=True))
            ratios = [new / old for old, new in turns]
            cell = (name, 1e6 * old, 1e6 * new, new / old, min(ratios), max(ratios))
            cells.append(cell)
            print(*cell, flush=True)
    cells.sort(key=lambda cell: -cell[3])
    names = "what", "old_us", "new_us", "ratio", "least", "largest"
    show(names, cells)
    rows = [dict(zip(names, cell, strict=True)) for cell in cells]
    header = {"base": given.base, "turns": given.turns}
    save("older_build", ["jax", "numpy"], header | {"cells": rows})


if __name__ == "__main__":
    main()
