"""Time of a step on a model's weights over that of its forward passes.

MeZO with Gaussian noise and with signs, QZO on the same weights in 4 bits, and eight
members of ``open_es`` with noise of rank 1, evaluated together. A stack of square
layers with 25 million weights in all, and a batch of 64, 512 and 2,048 rows. Steps and
forward passes take turns, QZO's with the weights in 4 bits; the median of each counts.

    python benchmarks/zo_step_time.py
    python benchmarks/zo_step_time.py --width 256 --rows 64
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import save, show
from jax import lax

import gfopt
from gfopt.lazy.interpreter import interpret

MEMBERS = 8  # of open_es
METHODS = {
    "mezo, gaussian": gfopt.MeZO(1e-6, noise=gfopt.gaussian()),
    "mezo, signs": gfopt.MeZO(1e-6, noise=gfopt.rademacher()),
    "qzo, 4 bits": gfopt.QZO(1e-6),
    "open_es, rank 1": gfopt.OpenES(
        MEMBERS, sigma=1e-3, learning_rate=1e-6, noise=gfopt.low_rank(1)
    ),
}


def loss(weights: Any, x: Any) -> Any:
    """Returns a number that depends on all layers."""
    out, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
    return jnp.mean(out**2)


def measured(name: str, width: int, rows: int, repeats: int) -> tuple[float, float]:
    """Returns the medians of a step and of all its forward passes."""
    key = jax.random.key(0)
    dense = jax.random.normal(key, (24, width, width)) / np.sqrt(width)
    x = jax.random.normal(key, (rows, width))
    optimizer: Any = METHODS[name]
    weights: Any = dense
    if name.startswith("qzo"):
        weights = gfopt.quantization.quantize(dense, bits=4)
    together = MEMBERS if name.startswith("open_es") else 1
    forward, count, rows_of_all = interpret(loss), 2, x
    if together > 1:  # what one pass with all members reads
        count, rows_of_all = 1, jnp.concatenate([x] * together)
    forward = jax.jit(forward)

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        return gfopt.run(
            optimizer, loss, weights, key=key, generations=1, state=state,
            evaluator=gfopt.chunked(together), args=(x,),
        ).state  # fmt: skip

    state = optimizer.init(key, jax.tree.map(jnp.copy, weights))  # a step takes it
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        state = jax.block_until_ready(step(state))
        middle = time.perf_counter()
        jax.block_until_ready(forward(weights, rows_of_all))
        times.append((middle - began, time.perf_counter() - middle))
    medians = np.median(np.array(times[1:]), axis=0)  # the first one compiles
    return float(medians[0]), count * float(medians[1])


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 512, 2048])
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    table = []
    for rows in given.rows:
        for name in METHODS:
            step, forwards = measured(name, given.width, rows, given.repeats)
            table.append([rows, name, step, forwards, step / forwards])
    header = ["rows", "method", "step, s", "its forward passes, s", "ratio"]
    show(header, table)
    results = {"width": given.width, "header": header, "table": table}
    save("zo_step_time", ["jax"], results)


if __name__ == "__main__":
    main()
