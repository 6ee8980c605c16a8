"""OpenES, PGPE and SNES against evosax: generations per second, and peak memory.

A generation is ask, evaluate (the sum of squares) and tell, many of them in one
compiled scan; compiling is timed apart. evosax holds its candidates. Ours run in three
forms, each with the evaluator that is the default for its size: Gaussian noise that is
kept from ask to tell, Gaussian noise drawn again from its seeds, and packed signs. The
sides take turns; a ratio is that of the medians. Memory is what the compiler plans for
the same programs, beyond one evaluation of the objective.

    python benchmarks/es_throughput.py
    python benchmarks/es_throughput.py --cells 64x1000 --repeats 3
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import evosax.algorithms
import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import parsed, peak, save, show

import gfopt
from gfopt.protocol import as_method

METHODS = ("open_es", "pgpe", "snes")
FORMS = {
    "cached": gfopt.gaussian(cached=True),
    "seeds": gfopt.gaussian(cached=False),
    "signs": gfopt.rademacher(),
}
CELLS = ("64x1000", "256x10000", "256x100000", "64x1000000")
MEMORY_CELL = "256x1000000"
WANTED = {"gaussian": 1.0, "seeds": 0.9, "signs": 2.5, "signs together": 3.0}
SIGMA, RATE = 0.05, 0.01
Program = Callable[..., Any]


def sphere(x: jax.Array) -> jax.Array:
    """The objective: it costs next to nothing."""
    return jnp.sum(x * x)


def ours(method: str, form: str, size: int) -> Any:
    """Returns one of our methods."""
    options: dict[str, Any] = {"population_size": size, "sigma": SIGMA}
    if method != "snes":
        options["learning_rate"] = RATE
    return gfopt.method(method, options | {"noise": FORMS[form]})


def our_program(method: str, form: str, size: int, generations: int) -> Program:
    """Returns a function of a key and a start: the last mean, the fitness."""
    optimizer = ours(method, form, size)

    def program(key: jax.Array, x0: jax.Array) -> Any:
        result = gfopt.run(optimizer, sphere, x0, key=key, generations=generations)
        return result.state, result.history["fitness"]

    return program


def form(optimizer: gfopt.Optimizer, x0: jax.Array) -> str | None:
    """Returns how the method makes its noise."""
    return as_method(optimizer).noise_form(x0)


def peer(method: str, size: int, x0: jax.Array) -> tuple[Any, Any]:
    """Returns evosax's method with the same settings, and its parameters."""
    if method == "open_es":
        search = evosax.algorithms.Open_ES(
            size,
            x0,
            optimizer=optax.adam(RATE),
            std_schedule=optax.constant_schedule(SIGMA),
        )
        return search, search.default_params
    if method == "pgpe":
        from evosax.core.optimizer import clipup

        search = evosax.algorithms.PGPE(size, x0, optimizer=clipup(RATE, 2 * RATE))
    else:
        search = evosax.algorithms.SNES(size, x0)
    return search, search.default_params.replace(std_init=SIGMA)


def peer_program(method: str, size: int, generations: int) -> Program:
    """Returns a function of a key and a start: the last mean, the fitness."""

    def program(key: jax.Array, x0: jax.Array) -> Any:
        search, params = peer(method, size, jnp.zeros(x0.shape))

        def turn(state: Any, key: jax.Array) -> Any:
            ask_key, tell_key = jax.random.split(key)
            population, state = search.ask(ask_key, state, params)
            fitness = jax.vmap(sphere)(population)
            state, _ = search.tell(tell_key, population, fitness, state, params)
            return state, jnp.min(fitness)

        state = search.init(key, x0, params)
        return jax.lax.scan(turn, state, jax.random.split(key, generations))

    return program


def compiled(program: Program, dimension: int) -> tuple[Any, float]:
    """Returns a program that takes over the memory of its start, and the seconds."""
    x0 = jax.ShapeDtypeStruct((dimension,), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    began = time.perf_counter()
    found = jax.jit(program, donate_argnums=1).lower(key, x0).compile()
    return found, time.perf_counter() - began


def seconds(program: Any, dimension: int, seed: int) -> float:
    """Returns how long a call takes."""
    key, x0 = jax.random.key(seed), jnp.full(dimension, 0.1)
    jax.block_until_ready((key, x0))
    began = time.perf_counter()
    jax.block_until_ready(program(key, x0))
    return time.perf_counter() - began


def sides(method: str, size: int, generations: int) -> dict[str, Program]:
    """Returns the programs that are compared."""
    found = {form: our_program(method, form, size, generations) for form in FORMS}
    return found | {"evosax": peer_program(method, size, generations)}


def cell(method: str, size: int, dimension: int, repeats: int) -> dict[str, Any]:
    """Measures one method at one size."""
    generations = int(np.clip(3e7 / (size * dimension), 2, 300))
    programs, compiling = {}, {}
    for side, program in sides(method, size, generations).items():
        programs[side], compiling[side] = compiled(program, dimension)
    taken: dict[str, list[float]] = {side: [] for side in programs}
    for seed in range(repeats + 1):
        for side, program in programs.items():
            found = seconds(program, dimension, seed)
            if seed > 0:  # the first round warms up
                taken[side].append(found / generations)
    medians = {side: float(np.median(times)) for side, times in taken.items()}
    x0 = jnp.zeros(dimension)
    return {
        "method": method,
        "population_size": size,
        "dimension": dimension,
        "generations": generations,
        "default form": form(gfopt.method(method, {"population_size": size}), x0),
        "forms": {f: form(ours(method, f, size), x0) for f in FORMS},
        "milliseconds": {side: 1e3 * time for side, time in medians.items()},
        "ratio": {form: medians["evosax"] / medians[form] for form in FORMS},
        "seconds": taken,
        "compile_seconds": compiling,
    }


def memory(method: str, size: int, dimension: int) -> dict[str, Any]:
    """Returns the megabytes of each side beyond one evaluation."""
    x0 = jax.ShapeDtypeStruct((dimension,), jnp.float32)
    forward = peak(jax.jit(sphere).lower(x0).compile())
    return {
        "method": method,
        "population_size": size,
        "dimension": dimension,
        "megabytes": {
            side: (peak(compiled(program, dimension)[0]) - forward) / 1e6
            for side, program in sides(method, size, 2).items()
        },
    }


def numbers(text: str) -> tuple[int, int]:
    """Reads ``PxD``."""
    size, dimension = text.split("x")
    return int(size), int(dimension)


def told(cells: list[dict[str, Any]]) -> None:
    """Prints the figures, losses first, and whether they are what was wanted."""
    print("\ngenerations per second, gfopt / evosax; below 1 is a loss\n")
    faster = functools.cache(
        lambda i: max(cells[i]["ratio"][f] for f in list(FORMS)[:2])
    )
    show(
        ["method", "P", "D", *FORMS, "evosax ms", "default form"],
        [
            [
                cells[i]["method"],
                cells[i]["population_size"],
                cells[i]["dimension"],
                *(f"{cells[i]['ratio'][form]:.2f}" for form in FORMS),
                f"{cells[i]['milliseconds']['evosax']:.3f}",
                cells[i]["default form"],
            ]
            for i in sorted(range(len(cells)), key=faster)
        ],
    )
    signs = [found["ratio"]["signs"] for found in cells]
    large = [found["ratio"]["seeds"] for found in cells if found["dimension"] >= 10**5]
    lines = {
        "Gaussian, the faster form": (min(map(faster, range(len(cells)))), "gaussian"),
        "Gaussian from seeds, D >= 1e5": (min(large, default=np.inf), "seeds"),
        "signs, every cell": (min(signs), "signs"),
        "signs, geometric mean": (
            float(np.exp(np.mean(np.log(signs)))),
            "signs together",
        ),
    }
    print()
    for name, (found, wanted) in lines.items():
        verdict = "yes" if found >= WANTED[wanted] else "NO"
        print(f"{name}: {found:.2f} (at least {WANTED[wanted]}: {verdict})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", nargs="*", default=list(CELLS), help="PxD")
    parser.add_argument("--memory", default=MEMORY_CELL, help="PxD, or none")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--name", default="es_throughput", help="of the results file")
    options = parsed(parser, cells=["16x100"], memory="16x1000", repeats=1)
    planned = []
    if options.memory != "none":
        size, dimension = numbers(options.memory)
        planned = [memory(method, size, dimension) for method in options.methods]
        print(f"megabytes beyond the objective, P = {size}, D = {dimension}\n")
        rows = [(found["method"], found["megabytes"]) for found in planned]
        show(
            ["method", *FORMS, "evosax", "seeds / evosax (at most .1)"],
            [
                [
                    method,
                    *(f"{value:.0f}" for value in found.values()),
                    found["seeds"] / found["evosax"],
                ]
                for method, found in rows
            ],
        )
    cells = []
    for text in options.cells:
        for method in options.methods:
            cells.append(cell(method, *numbers(text), options.repeats))
            ratios = cells[-1]["ratio"].items()
            print(text, method, *(f"{form} {ratio:.2f}" for form, ratio in ratios))
    if cells:
        told(cells)
    save(
        options.name,
        ["gfopt", "jax", "jaxlib", "numpy", "optax", "evosax"],
        {"options": vars(options), "memory": planned, "cells": cells},
    )


if __name__ == "__main__":
    main()
