"""CMA-ES against pycma: candidates per second on a sphere that costs nothing.

``--runs`` searches of gfopt run vmapped in one compiled call. pycma runs its ask/tell
loop; a second loop would add as many candidates as seconds, so one is enough. Its time
is taken with and without the objective, ours always with it. The two take turns; the
ratio is that of the medians. pycma gets one BLAS thread, faster at these sizes.

    python benchmarks/cma_throughput.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import argparse
import time
from collections.abc import Callable
from typing import Any

import cma
import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show

import gfopt

WANTED = 25


def compiled(
    dimension: int, runs: int, generations: int, x64: bool
) -> Callable[[], None]:
    """Returns a call that does all runs; it is compiled and was called once."""

    @jax.jit
    def search(keys: jax.Array, x0: jax.Array) -> jax.Array:
        def one(key: jax.Array) -> Any:
            result = gfopt.run(
                gfopt.CMAES(sigma=1.0),
                lambda x: jnp.sum(x * x),
                x0,
                key=key,
                generations=generations,
            )
            return result.recommended, result.history["fitness"]

        return jax.vmap(one)(keys)

    with jax.enable_x64(x64):
        keys = jax.random.split(jax.random.key(0), runs)
        x0 = jnp.full(dimension, 3.0)
        program = search.lower(keys, x0).compile()

    def call() -> None:
        jax.block_until_ready(program(keys, x0))

    call()
    return call


def pycma_seconds(dimension: int, generations: int) -> tuple[float, float, int]:
    """Returns pycma's seconds in ask and tell, in the objective, and its P."""
    options = {"verbose": -9, "seed": 1}
    search = cma.CMAEvolutionStrategy(np.full(dimension, 3.0), 1.0, options)
    own = objective = 0.0
    for _ in range(generations):
        began = time.perf_counter()
        points = search.ask()
        asked = time.perf_counter()
        values = [float(x @ x) for x in points]
        evaluated = time.perf_counter()
        search.tell(points, values)
        own += time.perf_counter() - evaluated + asked - began
        objective += evaluated - asked
    return own, objective, search.popsize


def compare(
    dimension: int, runs: int, generations: int, repeats: int
) -> dict[str, Any]:
    """Measures both; rates in candidates per second, each a median of repeats."""
    calls = {x64: compiled(dimension, runs, generations, x64) for x64 in (True, False)}
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        own, objective, size = pycma_seconds(dimension, generations)
        seconds.setdefault("pycma", []).append(own)
        seconds.setdefault("pycma with the objective", []).append(own + objective)
        for x64, call in calls.items():
            began = time.perf_counter()
            call()
            taken = (time.perf_counter() - began) / runs
            seconds.setdefault("float64" if x64 else "float32", []).append(taken)
    rates = {
        name: generations * size / float(np.median(taken))
        for name, taken in seconds.items()
    }
    return {
        "dimension": dimension,
        "population_size": size,
        "runs": runs,
        "generations": generations,
        "rates": rates,
        "ratio": rates["float64"] / rates["pycma"],
        "ratio_with_objective": rates["float64"] / rates["pycma with the objective"],
        "ratio_float32": rates["float32"] / rates["pycma"],
        "microseconds_per_generation": {
            name: 1e6 * size / rate for name, rate in rates.items()
        },
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=256)
    parser.add_argument("--dimension", type=int, default=20)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    options = parsed(parser, runs=4, dimension=5, generations=10, repeats=1)
    generations, repeats = options.generations, options.repeats
    cells = [
        compare(options.dimension, options.runs, generations, repeats),
        compare(10, 1, 5 * generations, repeats),
        compare(100, 1, generations, repeats),
    ]
    cells.sort(key=lambda cell: cell["ratio"])
    print("\ncandidates per second, gfopt / pycma; below 1 is a loss\n")
    show(
        [
            "D",
            "P",
            "runs",
            "ratio",
            "with objective",
            "float32",
            "us/gen",
            "pycma us/gen",
        ],
        [
            [
                cell["dimension"],
                cell["population_size"],
                cell["runs"],
                f"{cell['ratio']:.1f}",
                f"{cell['ratio_with_objective']:.1f}",
                f"{cell['ratio_float32']:.1f}",
                f"{cell['microseconds_per_generation']['float64']:.1f}",
                f"{cell['microseconds_per_generation']['pycma']:.1f}",
            ]
            for cell in cells
        ],
    )
    (batched,) = (cell for cell in cells if cell["runs"] == options.runs)
    verdict = "yes" if batched["ratio"] >= WANTED else "NO"
    print(
        f"\n{options.runs} runs in {options.dimension}-D: {batched['ratio']:.1f} times "
        f"pycma's throughput (at least {WANTED}: {verdict})"
    )
    save(
        "cma_throughput",
        ["gfopt", "jax", "jaxlib", "numpy", "cma"],
        {"options": vars(options), "cells": cells},
    )


if __name__ == "__main__":
    main()
