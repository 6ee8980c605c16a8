"""Low-rank members of a transformer against plain inference with one set of weights.

64 members of an 8-layer, d = 512 language model, each with noise of its own and one
sequence of 64 tokens, against the same model, unperturbed, on 64 sequences of 64
tokens: the same products, once with a thin change for each member. ``evaluation`` is
the population's fitness with the noise drawn, ``generation`` is ask, evaluation and
tell. Ratios are of medians of repeats in turn (inference / ours: 1 is as fast);
temporaries are those of ``compiled.memory_analysis()``. Dense noise stands beside it.

    python benchmarks/es_lowrank.py
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show
from jax import lax

import gfopt
from gfopt.core.evaluate import Request
from gfopt.core.objective import Inputs

WANTED = {"evaluation": 0.9, "generation": 0.8, "temporaries": 1.5}
HEADS, VOCABULARY = 8, 256


def weights(width: int, layers: int, dtype: Any) -> dict[str, jax.Array]:
    """Returns the weights of a decoder: stacked layers, tied embedding and head."""
    shapes = {
        "table": (VOCABULARY, width),
        "qkv": (layers, width, 3 * width),
        "out": (layers, width, width),
        "up": (layers, width, 4 * width),
        "down": (layers, 4 * width, width),
    }
    random = np.random.default_rng(0)
    draw = {
        name: random.standard_normal(shape, np.float32) / np.sqrt(shape[-2])
        for name, shape in shapes.items()
    }
    draw["table"] *= np.float32(np.sqrt(VOCABULARY / width))
    return {name: jnp.asarray(w, dtype) for name, w in draw.items()}


def loss(p: dict[str, jax.Array], tokens: jax.Array) -> jax.Array:
    """Returns the mean loss of the next token over one sequence."""
    x = p["table"][tokens[:-1]]
    length, width = x.shape
    mask = jnp.tril(jnp.ones((length, length), bool))

    def layer(x: jax.Array, p: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        parts = jnp.split(jax.nn.standardize(x) @ p["qkv"], 3, axis=-1)
        q, k, v = (part.reshape(length, HEADS, -1) for part in parts)
        scores = jnp.einsum("thk,shk->hts", q, k) / np.sqrt(width // HEADS)
        scores = jnp.where(mask, scores, -jnp.inf).astype(jnp.float32)
        scores = jax.nn.softmax(scores).astype(x.dtype)
        x = x + jnp.einsum("hts,shk->thk", scores, v).reshape(x.shape) @ p["out"]
        hidden = jax.nn.silu(jax.nn.standardize(x) @ p["up"])
        return x + hidden @ p["down"], None

    layers = {name: w for name, w in p.items() if name != "table"}
    x, _ = lax.scan(layer, x, layers)
    logits = jax.nn.standardize(x) @ p["table"].T
    logits = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(logits, tokens[1:, None], 1))


def programs(options: argparse.Namespace) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Returns jitted functions and their arguments, by name."""
    members, length = options.members, options.length
    p = weights(options.width, options.layers, options.dtype)
    random = np.random.default_rng(1)
    tokens = jnp.asarray(random.integers(0, VOCABULARY, (members, length + 1)))

    def inference(p: Any, tokens: jax.Array) -> jax.Array:
        return jax.vmap(loss, (None, 0))(p, tokens)

    found = {"inference": (jax.jit(inference), (p, tokens))}
    families = {
        f"rank {rank}, {kind}": (gfopt.low_rank(rank, kind=kind), gfopt.vmapped())
        for kind in ("gaussian", "rademacher")
        for rank in (1, 4)
    }
    if options.dense:
        families["dense, gaussian"] = (gfopt.gaussian(), gfopt.chunked(2))
        families["dense, rademacher"] = (gfopt.rademacher(), gfopt.chunked(2))
    objective, key = gfopt.Objective(loss), jax.random.key(0)
    for name, (noise, evaluator) in families.items():
        optimizer = gfopt.OpenES(population_size=members, sigma=1e-3, noise=noise)
        state = optimizer.init(key, p)
        population = jax.jit(optimizer.ask)(key, state)

        def evaluation(
            state: Any,
            population: Any,
            tokens: jax.Array,
            *,
            optimizer: Any = optimizer,
            evaluator: Any = evaluator,
        ) -> Any:
            inputs = Inputs(args=(tokens,))
            return evaluator(
                Request(key, objective, optimizer, state, population, inputs)
            )

        def generation(
            state: Any,
            tokens: jax.Array,
            *,
            optimizer: Any = optimizer,
            evaluation: Any = evaluation,
        ) -> Any:
            population = optimizer.ask(jax.random.key(state.step), state)
            found = evaluation(state, population, tokens)
            return optimizer.tell(state, population, found)

        sequence = tokens[0]
        evaluated = (state, population, sequence)
        found[f"{name}: evaluation"] = (jax.jit(evaluation), evaluated)
        found[f"{name}: generation"] = (jax.jit(generation), (state, sequence))
    return found


def compiled(function: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Compiles a program; returns a call, its temporaries and the time it took."""
    began = time.perf_counter()
    with gfopt.lazy.count_materialisations() as made:
        program = function.lower(*arguments).compile()
    seconds = time.perf_counter() - began

    def call() -> None:
        jax.block_until_ready(program(*arguments))

    call()
    return {
        "call": call,
        "compile_seconds": seconds,
        "materialisations": made.count,
        "temporaries": program.memory_analysis().temp_size_in_bytes,
    }


def timed(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each call, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--no-dense", dest="dense", action="store_false")
    options = parsed(parser, members=4, length=8, width=32, layers=2, repeats=1)
    load = os.getloadavg()[0]
    cells = {name: compiled(*pair) for name, pair in programs(options).items()}
    calls = {name: cell.pop("call") for name, cell in cells.items()}
    seconds = timed(calls, options.repeats)
    base = cells["inference"] | {"seconds": seconds["inference"]}
    rows = []
    for name, cell in cells.items():
        family, _, what = name.partition(": ")
        cell |= {"name": family, "what": what or "inference", "seconds": seconds[name]}
        taken = float(np.median(seconds[name]))
        cell["ratio"] = float(np.median(base["seconds"])) / taken
        cell["memory_ratio"] = cell["temporaries"] / base["temporaries"]
        rows.append(
            [
                family,
                cell["what"],
                cell["ratio"],
                taken,
                cell["memory_ratio"],
                cell["temporaries"] / 2**20,
                cell["materialisations"],
                f"{cell['compile_seconds']:.1f}",
            ]
        )
    rows.sort(key=lambda row: row[2])
    print("\nthroughput over that of inference; below 1 is slower\n")
    header = ["noise", "what", "ratio", "seconds", "temporaries", "MB", "made dense"]
    show([*header, "compiled in s"], rows)
    print()
    for what in ("evaluation", "generation"):
        cell = cells[f"rank 1, gaussian: {what}"]
        verdict = "yes" if cell["ratio"] >= WANTED[what] else "NO"
        print(f"{what}: {cell['ratio']:.2f} (at least {WANTED[what]}: {verdict})")
    ratio = cells["rank 1, gaussian: evaluation"]["memory_ratio"]
    verdict = "yes" if ratio <= WANTED["temporaries"] else "NO"
    print(f"temporaries: {ratio:.2f} (at most {WANTED['temporaries']}: {verdict})")
    save(
        "es_lowrank",
        ["gfopt", "jax", "jaxlib", "numpy"],
        {"options": vars(options), "load": load, "cells": list(cells.values())},
    )


if __name__ == "__main__":
    main()
