"""What the drivers cost: ask/tell against evosax, minimize against SciPy, the import.

Each line is a ratio taken in this run, the two sides in turns, medians of repeats:

- ask/tell: seconds per generation of OpenES, P = 64 in 10-D, float32, with values that
  cost nothing: ``AskTell.ask`` and ``tell`` against evosax's ``ask`` and ``tell``,
  jitted as its documentation shows them.
- minimize: seconds per evaluation of a NumPy sphere in 2-D, after the first call,
  against ``scipy.optimize.differential_evolution``; once as ``float(x @ x)``, which
  stays on the host, once as ``np.sum(x**2)``, which JAX can trace.
- cold: seconds from the call of ``minimize`` to the first value in a new process
  without a compilation cache, and to its end.
- journal: what a checkpoint adds to a generation of 64 trials in 10-D, a value of which
  is on the disk before the next begins, against 2 ms.
- import: seconds of ``import gfopt`` beyond ``import jax``, in new processes.

    pip install evosax && python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show
from scipy.optimize import differential_evolution

import gfopt

WANTED = {
    "ask/tell, evosax": 0.25,
    "minimize float(x @ x), SciPy": 1.0,
    "minimize np.sum(x**2), SciPy": 1.0,
    "cold float(x @ x), 3 s": 1.0,
    "cold np.sum(x**2), 3 s": 1.0,
    "import, 0.3 s": 1.0,
    "journal, 2 ms": 1.0,
}
GENERATIONS = 200  # of a search with a journal
COLD = """
import time
import numpy as np, gfopt
first = []
def seen(result):
    first.append(time.perf_counter())
    return True
f = {fun}
began = time.perf_counter()
gfopt.minimize(f, np.ones(2), callbacks=seen)
print(first[0] - began)
"""


def seconds_each(call: Callable[[], None], count: int) -> float:
    """Returns the seconds of one call, over ``count`` of them."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def ask_tell() -> Callable[[], None]:
    search = gfopt.AskTell("open_es", jnp.zeros(10), options={"population_size": 64})
    values = np.random.default_rng(0).uniform(size=64)
    search.tell(search.ask(1), [1.0])  # the start

    def generation() -> None:
        search.tell(search.ask(), values)

    return generation


def evosax_loop() -> Callable[[], None]:
    from evosax.algorithms import Open_ES

    method = Open_ES(population_size=64, solution=jnp.zeros(10))
    params = method.default_params
    key = jax.random.key(0)
    values = jnp.asarray(np.random.default_rng(0).uniform(size=64), jnp.float32)
    state = method.init(key, jnp.zeros(10), params)

    def generation() -> None:
        nonlocal key, state
        key, ask_key, tell_key = jax.random.split(key, 3)
        population, state = method.ask(ask_key, state, params)
        jax.block_until_ready(population)
        state, _ = method.tell(tell_key, population, values, state, params)

    return generation


def minimized(fun: Callable[[np.ndarray], float]) -> float:
    """Returns the seconds of an evaluation of a search that does not stop by itself."""
    endless = {
        "sigma": 0.5,
        "tol_x": 0.0,
        "tol_fun": 0.0,
        "tol_fun_history": 0.0,
        "tol_condition": 1e300,
    }
    began = time.perf_counter()
    found = gfopt.minimize(fun, np.full(2, 2.0), budget=6000, options=endless)
    return (time.perf_counter() - began) / found.nfev


def journaled(checkpoint: Path | None) -> float:
    """Returns the seconds of a generation of 64 trials."""
    words = {"method": "open_es", "options": {"population_size": 64}, "seed": 0}
    began = time.perf_counter()
    gfopt.minimize(
        on_host,
        np.full(10, 2.0),
        budget=64 * GENERATIONS,
        checkpoint=checkpoint,
        **words,
    )
    return (time.perf_counter() - began) / GENERATIONS


def evolved(fun: Callable[[np.ndarray], float]) -> float:
    began = time.perf_counter()
    found = differential_evolution(fun, [(-5, 5)] * 2, maxiter=200, tol=0, polish=False)
    return (time.perf_counter() - began) / found.nfev


def in_new_process(code: str) -> str:
    words = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=words, capture_output=True, check=True
    )
    return done.stdout.decode()


def import_seconds(modules: str) -> float:
    code = f"import time; t = time.perf_counter(); import {modules}; "
    return float(in_new_process(code + "print(time.perf_counter() - t)"))


def on_host(x: np.ndarray) -> float:
    return float(x @ x)


def traced(x: np.ndarray) -> float:
    return np.sum(x**2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parsed(parser, repeats=1).repeats
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in WANTED}

    try:
        loops = ask_tell(), evosax_loop()
    except ImportError:
        print("evosax is not installed, its line is left out: pip install evosax")
    else:
        for loop in loops:
            seconds_each(loop, 50)  # compiles; evosax compiles a second time
        for _ in range(repeats):
            ours, theirs = (seconds_each(loop, 300) for loop in loops)
            pairs["ask/tell, evosax"].append((ours, theirs))
    for name, fun in (("float(x @ x)", on_host), ("np.sum(x**2)", traced)):
        minimized(fun)
        for _ in range(repeats):
            ours = minimized(fun)
            pairs[f"minimize {name}, SciPy"].append((ours, evolved(fun)))
        for _ in range(3):
            cold = float(in_new_process(COLD.format(fun=f"lambda x: {name}")))
            pairs[f"cold {name}, 3 s"].append((cold, 3.0))
    for _ in range(repeats):
        extra = import_seconds("jax, gfopt") - import_seconds("jax")
        pairs["import, 0.3 s"].append((extra, 0.3))
    journaled(None)
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            extra = journaled(Path(folder, "run.gfopt")) - journaled(None)
        pairs["journal, 2 ms"].append((extra, 0.002))

    cells = []
    for name, measured in pairs.items():
        if measured:
            ours, theirs = (
                statistics.median(side) for side in zip(*measured, strict=True)
            )
            ratio = ours / theirs
            cells.append(
                {
                    "name": name,
                    "gfopt": ours,
                    "other": theirs,
                    "ratio": ratio,
                    "wanted": WANTED[name],
                    "meets": ratio <= WANTED[name],
                    "measured": measured,
                }
            )
    cells.sort(key=lambda cell: cell["meets"])  # losses first
    names = ["name", "gfopt", "other", "ratio", "wanted", "meets"]
    rows = [
        [
            c["name"],
            f"{c['gfopt']:.3g} s",
            f"{c['other']:.3g} s",
            *(c[n] for n in names[3:]),
        ]
        for c in cells
    ]
    show(names, rows)
    packages = ["gfopt", "jax", "jaxlib", "numpy", "scipy"]
    packages += ["evosax"] if pairs["ask/tell, evosax"] else []
    save("overhead", packages, {"options": {"repeats": repeats}, "cells": cells})


if __name__ == "__main__":
    main()
