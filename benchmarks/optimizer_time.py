"""Time of the optimizers themselves: ours against pycma's, side by side in one run.

    python benchmarks/optimizer_time.py

The objective is the sphere or Rosenbrock's function, which cost next to nothing; what
is left is the method. Each figure is the median of repeats after compilation, both
sides in turn; a ratio below 1 is in our favour. Wanted (issue's figures): the surrogate
at most 1/5 of `fmin_lq_surr` for one run and 1/30 in a batch of 64; one compiled CMA-ES
run at most 1/4 of pycma, with a NumPy objective 1.0; 500-D and 1000-D at most 1.0.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import cma
import jax
import jax.numpy as jnp
import numpy as np
from common import save, show

import gfopt

REPEATS = 5
QUIET = {"verbose": -9, "tolx": 0, "tolfun": 0, "tolfunhist": 0, "tolstagnation": 0}


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def in_numpy(x: np.ndarray) -> float:
    return float(rosenbrock(x))


def pair(
    ours: Callable[[], tuple[float, int]], theirs: Callable[[], tuple[float, int]]
) -> tuple[float, float]:
    """Returns the medians of seconds a unit of both sides, measured in turn."""
    ours()  # compiles
    times = [(ours(), theirs()) for _ in range(REPEATS)]
    return tuple(
        float(np.median([side[k][0] / side[k][1] for side in times])) for k in (0, 1)
    )


def compiled_run(method: Any, dimension: int, steps: int, batch: int = 0) -> Any:
    """Returns a call of a compiled run that gives ``(seconds, evaluations)``."""

    def one(key: jax.Array) -> jax.Array:
        x0 = jnp.full(dimension, 0.5)
        result = gfopt.run(method, rosenbrock, x0, key=key, generations=steps)
        return result.history.num_evaluations.sum()

    keys = jax.random.split(jax.random.key(0), max(batch, 1))
    program = jax.jit(jax.vmap(one)) if batch else jax.jit(lambda keys: one(keys[0]))

    def call() -> tuple[float, int]:
        began = time.perf_counter()
        count = int(np.sum(program(keys)))
        return time.perf_counter() - began, count

    return call


def on_host(method: Any, dimension: int, budget: int) -> Any:
    def call() -> tuple[float, int]:
        began = time.perf_counter()
        found = gfopt.minimize(
            gfopt.Objective(in_numpy, traceable=False),
            np.full(dimension, 0.5),
            method=method,
            budget=budget,
            target=-1.0,
        )
        return time.perf_counter() - began, found.nfev

    return call


def pycma_surrogate(dimension: int, budget: int) -> tuple[float, int]:
    count = 0

    def fun(x: np.ndarray) -> float:
        nonlocal count
        count += 1
        return in_numpy(x)

    options = {"verbose": -9, "maxfevals": budget}
    x0 = np.full(dimension, 0.5)
    return seconds(lambda: cma.fmin_lq_surr(fun, x0, 0.3, options)), count


def pycma_run(dimension: int, budget: int, **options: Any) -> tuple[float, int]:
    es = cma.CMAEvolutionStrategy(np.full(dimension, 0.5), 0.3, QUIET | options)

    def loop() -> None:
        while es.countevals < budget:
            solutions = es.ask()
            es.tell(solutions, [in_numpy(x) for x in solutions])

    return seconds(loop), es.countevals


def main() -> None:
    warnings.simplefilter("ignore")
    rows = []
    endless = {"tol_x": 0.0, "tol_fun": 0.0, "tol_fun_history": 0.0, "sigma": 0.3}
    with jax.enable_x64(True):
        for dimension, steps in ((5, 200), (10, 400)):
            surrogate = gfopt.LQCMAES(sigma=0.3)
            for name, ours, wanted in (
                ("compiled", compiled_run(surrogate, dimension, steps), 1 / 5),
                ("batch of 64", compiled_run(surrogate, dimension, steps, 64), 1 / 30),
                ("minimize", on_host(surrogate, dimension, steps), 1 / 5),
            ):
                found = pair(ours, lambda d=dimension, n=steps: pycma_surrogate(d, n))
                rows.append((f"lq_cma_es, {dimension}-D, {name}", *found, wanted))
        plain = gfopt.CMAES(**endless)
        found = pair(compiled_run(plain, 10, 300), lambda: pycma_run(10, 3000))
        rows.append(("cma_es, 10-D, compiled", *found, 1 / 4))
        found = pair(on_host(plain, 10, 3000), lambda: pycma_run(10, 3000))
        rows.append(("cma_es, 10-D, minimize of a NumPy function", *found, 1.0))
        for batch in (64, 1024):
            ours = compiled_run(plain, 10, 300, batch)
            found = pair(ours, lambda: pycma_run(10, 3000))
            rows.append((f"cma_es, 10-D, batch of {batch}", *found, 1 / 60))
        for dimension in (500, 1000):
            ours = compiled_run(gfopt.CMAES(64, **endless), dimension, 40)
            found = pair(ours, lambda d=dimension: pycma_run(d, 40 * 64, popsize=64))
            rows.append((f"cma_es, {dimension}-D, P = 64", *found, 1.0))
    table = [
        (what, 1e6 * ours, 1e6 * theirs, ours / theirs, wanted)
        for what, ours, theirs, wanted in rows
    ]
    table.sort(key=lambda row: -row[3] / row[4])
    header = "what", "ours us", "pycma us", "ratio", "wanted"
    print("seconds an evaluation; the furthest from what is wanted first\n")
    show(header, table)
    names = "what", "ours_us", "peer_us", "ratio", "wanted"
    cells = [dict(zip(names, row, strict=True)) for row in table]
    save("optimizer_time", ["jax", "numpy", "cma"], {"cells": cells})


if __name__ == "__main__":
    main()
