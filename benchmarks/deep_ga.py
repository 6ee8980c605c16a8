"""DeepGA against a dense GA and evosax's SimpleGA: time, memory, genomes, regressions.

Times are processor seconds of this process, so that a busy machine spoils them less;
the sides take turns and a ratio is that of the medians. Memory is what the compiler
plans. A dense GA keeps its children, and the same selection is written out for it here.

    python benchmarks/deep_ga.py
    python benchmarks/deep_ga.py --mutations 100 --repeats 3    # a quick look
    python benchmarks/deep_ga.py --only pictures
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import evosax.algorithms
import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import parsed, peak, save, show
from figures import draw_archives, draw_lineages, kept

import gfopt
from gfopt import genome

SIGMA = 0.02
Program = Callable[..., Any]


def sphere(x: jax.Array) -> jax.Array:
    """The objective: it costs next to nothing, and is the same every time."""
    return jnp.sum(x * x)


def ours(size: int, num_parents: int, generations: int) -> Program:
    optimizer = gfopt.DeepGA(
        population_size=size,
        num_parents=num_parents,
        sigma=SIGMA,
        max_generations=generations,
    )

    def program(key: jax.Array, x0: jax.Array) -> Any:
        result = gfopt.run(optimizer, sphere, x0, key=key, generations=generations)
        return result.state, result.history["elite_fitness"]

    return program


def dense(size: int, num_parents: int, generations: int) -> Program:
    """The same algorithm with children that are held: ``jax.random.normal`` alone."""

    def turn(state: Any, key: jax.Array) -> Any:
        parents, scores = state
        parent_key, noise_key = jax.random.split(key)
        chosen = jax.random.randint(parent_key, (size,), 0, num_parents)
        noise = jax.random.normal(noise_key, (size, parents.shape[1]))
        children = parents[chosen] + SIGMA * noise
        pool = jnp.concatenate([scores[:1], jax.vmap(sphere)(children)])
        elite = jnp.argmin(pool)
        order = jnp.argsort(jnp.where(jnp.arange(size + 1) == elite, -jnp.inf, pool))
        kept = order[:num_parents]
        rows = children[jnp.maximum(kept - 1, 0)]
        parents = jnp.where((kept == 0)[:, None], parents[0], rows)
        return (parents, pool[kept]), pool[elite]

    def program(key: jax.Array, x0: jax.Array) -> Any:
        parents = jnp.broadcast_to(x0, (num_parents, x0.size))
        scores = jnp.full(num_parents, jnp.inf)
        keys = jax.random.split(key, generations)
        return jax.lax.scan(turn, (parents, scores), keys)

    return program


def peer(size: int, num_parents: int, generations: int) -> Program:
    """SimpleGA of evosax; half of its children are parents."""
    del num_parents

    def program(key: jax.Array, x0: jax.Array) -> Any:
        search = evosax.algorithms.SimpleGA(
            size, jnp.zeros(x0.shape), std_schedule=optax.constant_schedule(SIGMA)
        )
        params = search.default_params
        first = jnp.broadcast_to(x0, (size, x0.size))
        state = search.init(key, first, jax.vmap(sphere)(first), params)

        def turn(state: Any, key: jax.Array) -> Any:
            ask_key, tell_key = jax.random.split(key)
            population, state = search.ask(ask_key, state, params)
            fitness = jax.vmap(sphere)(population)
            state, _ = search.tell(tell_key, population, fitness, state, params)
            return state, jnp.min(fitness)

        return jax.lax.scan(turn, state, jax.random.split(key, generations))

    return program


SIDES = {"gfopt": ours, "dense": dense, "evosax": peer}


def compiled(program: Program, dimension: int) -> Any:
    x0 = jax.ShapeDtypeStruct((dimension,), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(program).lower(key, x0).compile()


def processor_seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - began


def medians(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Returns the median processor seconds of each, taking turns."""
    for call in calls.values():
        processor_seconds(call)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(processor_seconds(call))
    return {name: statistics.median(times) for name, times in taken.items()}


def cell(size: int, parents: int, dimension: int, repeats: int) -> dict[str, Any]:
    """Times a generation of each side."""
    generations = max(4, min(400, int(4e7 / (size * dimension))))
    x0 = np.full(dimension, 0.1, np.float32)
    calls = {}
    for name, side in SIDES.items():
        program = compiled(side(size, parents, generations), dimension)
        calls[name] = lambda program=program: program(jax.random.key(1), jnp.array(x0))
    found = medians(calls, repeats)
    return {
        "population_size": size,
        "num_parents": parents,
        "dimension": dimension,
        "generations": generations,
        "milliseconds": {n: 1e3 * t / generations for n, t in found.items()},
        "of a dense generation": found["gfopt"] / found["dense"],
        "evaluations of evosax": found["evosax"] / found["gfopt"],
    }


def cold_decode(count: int, dimension: int, repeats: int) -> dict[str, float]:
    """Times the decoding of a genome against as many draws of its noise."""
    seeds = np.arange(count, dtype=np.uint32)
    noise = gfopt.gaussian()
    made = genome.Genome(seeds, np.float32(SIGMA), {"kind": "gaussian"})
    x0 = jnp.zeros(dimension)

    @jax.jit
    def draws(like: jax.Array, seeds: jax.Array) -> jax.Array:
        def draw(last: jax.Array, seed: jax.Array) -> Any:
            return noise.sample(last, seed), None

        return jax.lax.scan(draw, like, seeds)[0]

    found = medians(
        {
            "decode": lambda: genome.decode(made, x0),
            "draws": lambda: draws(x0, jnp.asarray(seeds)),
        },
        repeats,
    )
    return {"mutations": count, **found, "ratio": found["decode"] / found["draws"]}


def memory(size: int, parents: int, dimension: int) -> dict[str, Any]:
    """Returns the megabytes that a run of each side takes."""
    found = {
        name: peak(compiled(side(size, parents, 4), dimension)) / 1e6
        for name, side in SIDES.items()
    }
    shape = {"population_size": size, "num_parents": parents, "dimension": dimension}
    return {**shape, "megabytes": found, "ratio": found["gfopt"] / found["evosax"]}


def regressions(generations: int) -> dict[str, int]:
    """Counts the generations after which the best of a side is worse than before."""
    found = {}
    for name in ("gfopt", "evosax"):
        program = compiled(SIDES[name](64, 8, generations), 100)
        _, best = program(jax.random.key(3), jnp.full(100, 0.1))
        found[name] = int(np.sum(np.diff(np.asarray(best)) > 0))
    return {"generations": generations, **found}


def genome_size(generations: int, dimension: int) -> dict[str, float]:
    """Returns the bytes of an elite's genome; they do not depend on its length."""
    state, _ = jax.jit(ours(64, 8, generations))(jax.random.key(0), jnp.full(500, 0.1))
    optimizer = gfopt.DeepGA(64, 8, SIGMA, max_generations=generations)
    made = genome.lineage(optimizer, state)
    nbytes = made.nbytes + 4 * (generations - made.seeds.size)  # as if none were idle
    weights = 4 * dimension
    return {"bytes": nbytes, "weights": weights, "ratio": weights / nbytes}


def pictures() -> None:
    """Draws lineages, scores and an archive to docs/images."""
    size, parents, generations = 64, 8, 40
    optimizer = gfopt.DeepGA(size, parents, 0.1, max_generations=generations)
    step = jax.jit(
        lambda state, key: (
            gfopt.run(
                optimizer, sphere, start, key=key, generations=1, state=state
            ).state
        )
    )
    start = jnp.full(20, 0.5)
    state, scores = optimizer.init(jax.random.key(0), start), []
    ask, decode = jax.jit(optimizer.ask), jax.jit(jax.vmap(optimizer.decode, (None, 0)))
    for number in range(generations):
        key = jax.random.fold_in(jax.random.key(1), number)
        children = decode(state, ask(key, state).members)
        scores.append(np.asarray(jax.vmap(sphere)(children)))
        state = step(state, key)
    came_from = np.asarray(state.lineage.parent)[:generations, :parents]
    shown = {"parents": came_from.tolist(), "scores": np.round(scores, 5).tolist()}
    draw_lineages("deep_ga", kept("deep_ga", shown))
    draw_archives("novelty", kept("novelty", _archives()))


def _archives() -> dict[str, Any]:
    """Returns where two searches went, by novelty and by fitness alone."""

    def walker(x: jax.Array) -> Any:
        # a wall at 1 hides the goal at 2: going round lowers the reward
        stuck = (x[0] > 1) & (jnp.abs(x[1]) < 2)
        place = jnp.where(stuck, jnp.array([1.0, x[1]]), x)
        return jnp.sum((place - jnp.array([2.0, 0.0])) ** 2), place

    objective, found = gfopt.Objective(walker, has_aux=True), {}
    for name, weight in (("novelty alone", 0.0), ("fitness alone", 1.0)):
        inner = gfopt.DeepGA(64, 16, 0.3, elitism=False)
        optimizer = gfopt.Novelty(
            inner, num_descriptors=2, probability=0.1, weight=weight
        )
        state = gfopt.run(
            optimizer, objective, jnp.zeros(2), key=jax.random.key(0), generations=30
        ).state
        places = np.asarray(state.archive.descriptors)[: int(state.archive.num_kept)]
        found[name] = places.round(4).tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["figures", "pictures"])
    options = parsed(parser, mutations=20, repeats=1)
    if options.only != "figures":
        pictures()
    if options.only == "pictures":
        return
    held = memory(1000, 20, 10**6)
    sizes = genome_size(400, 4 * 10**6)
    worse = [regressions(50), regressions(200)]
    cells = [
        cell(size, parents, dimension, options.repeats)
        for size, parents, dimension in [
            (256, 20, 1000), (1000, 20, 10_000), (256, 20, 100_000)
        ]
    ]  # fmt: skip
    cold = cold_decode(options.mutations, 10**6, min(3, options.repeats))
    print(f"memory, P = 1000, D = 1e6, MB: {held['megabytes']}")
    show(
        ["P", "T", "D", *SIDES, "/ dense (<= 1.3)", "evosax / (>= 1)"],
        [
            [
                found["population_size"],
                found["num_parents"],
                found["dimension"],
                *found["milliseconds"].values(),
                found["of a dense generation"],
                found["evaluations of evosax"],
            ]
            for found in cells
        ],
    )
    reached = {
        "memory / evosax's, below .1": held["ratio"] < 0.1,
        "weights / genome, 9,000 or above": sizes["ratio"] >= 9000,
        "cold decode / draws, at most 1.2": cold["ratio"] <= 1.2,
        "the elite never gets worse": not any(found["gfopt"] for found in worse),
    }
    values = [held["ratio"], sizes["ratio"], cold["ratio"], worse]
    for (name, is_reached), value in zip(reached.items(), values, strict=True):
        print(f"{name}: {value} ({'yes' if is_reached else 'NO'})")
    save(
        "deep_ga",
        ["gfopt", "jax", "jaxlib", "numpy", "evosax"],
        {
            "options": vars(options),
            "memory": held,
            "genome": sizes,
            "worse": worse,
            "cells": cells,
            "cold_decode": cold,
        },
    )


if __name__ == "__main__":
    main()
