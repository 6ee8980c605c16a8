"""A network that reads digits, by OpenES, PGPE and SNES of both libraries: accuracy.

A perceptron of some 9,000 weights, cross-entropy on mini-batches of 128 images, 300
generations of 64 candidates. Both sides are tuned over the same grid of sigma and
learning rate, on seeds and splits of their own; the best setting of each then runs with
ten other seeds, which share split, start and mini-batches. Ours run with Gaussian noise
and with signs. The interval is that of the paired difference. Wall time is that of one
run in a new program, compiling included, the median of three.

    python benchmarks/es_digits.py
    python benchmarks/es_digits.py --methods open_es --seeds 2 --generations 20
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import evosax.algorithms
import jax
import numpy as np
import optax
from common import parsed, save, show
from evosax.core.optimizer import clipup

import gfopt
from gfopt.problems import digits, mlp
from gfopt.protocol import as_method
from gfopt.research.statistics import paired_difference_interval

METHODS = ("open_es", "pgpe", "snes")
NOISE = {"gaussian": gfopt.gaussian(), "signs": gfopt.rademacher()}
SIZES = (64, 120, 10)
SIGMAS = (0.005, 0.01, 0.02, 0.05, 0.1)
RATES = {
    "open_es": (0.003, 0.01, 0.03),
    "pgpe": (0.03, 0.1, 0.3, 1.0),
    "snes": (0.5, 1, 2, 4),
}
FIRST_TUNING, FIRST_SEED = 101, 1
Program = Callable[..., jax.Array]


def ours(method: str, noise: str, size: int, generations: int) -> Program:
    """Returns ``(task, network, key, sigma, rate) -> accuracy``."""

    def program(task: Any, network: Any, key: Any, sigma: Any, rate: Any) -> jax.Array:
        optimizer = gfopt.method(
            method,
            {
                "population_size": size,
                "sigma": sigma,
                "learning_rate": rate,
                "noise": NOISE[noise],
            },
        )
        result = gfopt.run(
            optimizer,
            gfopt.Objective(task),
            network,
            key=key,
            generations=generations,
            batches=task.batches,
        )
        return task.accuracy(result.recommended)

    return program


def peer(method: str, size: int, generations: int) -> Program:
    """Returns the same of evosax."""

    def program(task: Any, network: Any, key: Any, sigma: Any, rate: Any) -> jax.Array:
        if method == "open_es":
            search = evosax.algorithms.Open_ES(
                size, network, optimizer=optax.adam(rate), std_schedule=lambda _: sigma
            )
        elif method == "pgpe":
            search = evosax.algorithms.PGPE(
                size, network, optimizer=clipup(rate, 2 * rate)
            )
        else:
            search = evosax.algorithms.SNES(size, network, optimizer=optax.sgd(rate))
        params = search.default_params
        if method != "open_es":
            params = params.replace(std_init=sigma)

        def turn(state: Any, key: jax.Array) -> Any:
            ask_key, tell_key, batch_key = jax.random.split(key, 3)
            rows = task.batches(state.generation_counter, batch_key)
            population, state = search.ask(ask_key, state, params)
            fitness = jax.vmap(task, (0, None))(population, rows)
            return search.tell(tell_key, population, fitness, state, params)[0], None

        state = search.init(key, network, params)
        state, _ = jax.lax.scan(turn, state, jax.random.split(key, generations))
        return task.accuracy(search.get_mean(state))

    return program


@functools.cache
def start(seed: int) -> tuple[Any, Any, jax.Array]:
    """Returns the split, the first weights and the key of a run."""
    first, key = jax.random.split(jax.random.key(seed))
    return digits(seed), mlp(first, SIZES), key


def measure(
    program: Program, method: str, seeds: int, tuning_seeds: int
) -> dict[str, Any]:
    """Tunes a side and runs it with its best setting."""
    seconds = []
    for _ in range(3):
        compiled = jax.jit(lambda *arguments: program(*arguments))  # compiles anew
        arguments = *start(FIRST_SEED), SIGMAS[2], RATES[method][1]
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - began)

    def accuracies(first: int, count: int, sigma: float, rate: float) -> list[float]:
        return [
            float(compiled(*start(first + i), float(sigma), float(rate)))
            for i in range(count)
        ]

    grid = {
        (sigma, rate): float(
            np.mean(accuracies(FIRST_TUNING, tuning_seeds, sigma, rate))
        )
        for sigma, rate in itertools.product(SIGMAS, RATES[method])
    }
    best = max(grid, key=lambda setting: grid[setting])
    return {
        "sigma": best[0],
        "learning_rate": best[1],
        "seconds": float(np.median(seconds)),
        "accuracies": accuracies(FIRST_SEED, seeds, *best),
        "grid": [[*setting, value] for setting, value in grid.items()],
    }


def compare(method: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures one method: our two kinds of noise, each against evosax."""
    plan = options.population_size, options.generations
    counts = options.seeds, options.tuning_seeds
    theirs = measure(peer(method, *plan), method, *counts)
    found = []
    for noise in NOISE:
        mine = measure(ours(method, noise, *plan), method, *counts)
        interval = paired_difference_interval(
            mine["accuracies"], theirs["accuracies"], seed=1
        )
        found.append(
            {
                "method": method,
                "noise": noise,
                "gfopt": mine,
                "evosax": theirs,
                "difference": list(map(float, interval)),
                "form": as_method(
                    gfopt.method(
                        method, {"population_size": plan[0], "noise": NOISE[noise]}
                    )
                ).noise_form(start(1)[1]),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tuning-seeds", type=int, default=3)
    parser.add_argument("--population-size", type=int, default=64)
    parser.add_argument("--generations", type=int, default=300)
    parser.add_argument("--name", default="es_digits", help="of the results file")
    options = parsed(parser, seeds=1, tuning_seeds=1, population_size=8, generations=3)
    rows = [row for method in options.methods for row in compare(method, options)]
    rows.sort(key=lambda row: row["difference"][0])
    print("\nmean accuracy on held-out digits; losses first\n")
    show(
        ["method", "noise", "gfopt", "evosax", "difference", "95 %", "s", "evosax s"],
        [
            [
                row["method"],
                row["noise"],
                float(np.mean(row["gfopt"]["accuracies"])),
                float(np.mean(row["evosax"]["accuracies"])),
                row["difference"][0],
                "[{:.3f}, {:.3f}]".format(*row["difference"][1:]),
                row["gfopt"]["seconds"],
                row["evosax"]["seconds"],
            ]
            for row in rows
        ],
    )
    save(
        options.name,
        ["gfopt", "jax", "jaxlib", "numpy", "optax", "evosax", "scikit-learn"],
        {"options": vars(options), "rows": rows},
    )


if __name__ == "__main__":
    main()
