"""A sweep of CMA-ES against a loop over pycma: 20 step sizes x 1,000 seeds in 10-D.

Ours is one call of ``gfopt.sweep``, compilation included; pycma runs a sample of the
same runs (200 generations each), and its time is scaled to all of them. The two sides
take turns; seconds and processor seconds.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import argparse
import time

import cma
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show

import gfopt

DIMENSION, GENERATIONS = 10, 200
WANTED = 25


def ellipsoid(x):  # noqa: ANN001, ANN201
    """The ellipsoid with a condition of 10^6, in JAX and in NumPy."""
    powers = 10.0 ** (6 * np.arange(DIMENSION) / (DIMENSION - 1))
    return ((x - 1) ** 2 * powers).sum()


def ours(seeds: int, sigmas: list[float]) -> gfopt.SweepResult:
    problem = gfopt.problems.Problem(
        lambda x: ellipsoid(jnp.asarray(x)), bounds=[(-5, 5)] * DIMENSION
    )
    size = 10  # pycma's default in 10-D, and ours
    grid = {"sigma": sigmas, "population_size": [size]}
    return gfopt.sweep("cma_es", problem, grid, budget=size * GENERATIONS, seeds=seeds)


def pycma(runs: int, sigmas: list[float]) -> None:
    rng = np.random.default_rng(0)
    for number in range(runs):
        options = {"verbose": -9, "maxiter": GENERATIONS, "bounds": [-5, 5]}
        options |= {"seed": number + 1, "tolfun": 0, "tolfunhist": 0, "tolx": 0}
        start, sigma = rng.uniform(-5, 5, DIMENSION), 2 * sigmas[number % len(sigmas)]
        search = cma.CMAEvolutionStrategy(start, sigma, options)
        while not search.stop():
            points = search.ask()
            search.tell(points, [ellipsoid(x) for x in points])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=20, help="runs of pycma")
    options = parsed(parser, seeds=2, sample=1)
    sigmas = np.geomspace(0.05, 1.5, 20).tolist()
    number = options.seeds * len(sigmas)
    sides = {}
    for name in ("pycma", "gfopt"):
        wall, cpu = time.perf_counter(), time.process_time()
        if name == "gfopt":
            found = ours(options.seeds, sigmas)
            scale = 1.0
        else:
            pycma(options.sample, sigmas)
            scale = number / options.sample
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        sides[name] = {"seconds": scale * wall, "processor": scale * cpu}
    ratios = {k: sides["pycma"][k] / sides["gfopt"][k] for k in sides["gfopt"]}
    show(
        ["side", "seconds", "processor seconds"],
        [[name, side["seconds"], side["processor"]] for name, side in sides.items()],
    )
    print(f"{number} runs, {found.compilations} compilation, ratios {ratios}")
    best = found.settings[found.best]
    results = {"runs": number, "sides": sides, "ratios": ratios, "wanted": WANTED}
    results |= {"compilations": found.compilations, "best": best}
    save("sweep", ["gfopt", "jax", "numpy", "cma"], results)


if __name__ == "__main__":
    main()
