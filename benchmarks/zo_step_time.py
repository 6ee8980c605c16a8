"""Time of a MeZO step over that of its two forward passes, Gaussian noise and signs.

A stack of square layers with 25 million weights in all, and a batch of 64, 512 and
2,048 rows. Steps and forward passes take turns; the median of each counts.

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
from common import parsed, save, show
from jax import lax

import gfopt

NOISE = {"gaussian": gfopt.gaussian(), "signs": gfopt.rademacher()}


def loss(weights: Any, x: Any) -> Any:
    """Returns a number that depends on all layers."""
    out, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
    return jnp.mean(out**2)


def measured(noise: str, width: int, rows: int, repeats: int) -> tuple[float, float]:
    """Returns the medians of a step and of a forward pass."""
    key = jax.random.key(0)
    weights = jax.random.normal(key, (24, width, width)) / np.sqrt(width)
    x = jax.random.normal(key, (rows, width))
    optimizer = gfopt.MeZO(1e-6, noise=NOISE[noise])
    forward = jax.jit(loss)

    @partial(jax.jit, donate_argnums=0)
    def step(state: Any) -> Any:
        return gfopt.run(
            optimizer, loss, weights, key=key, generations=1, state=state,
            evaluator=gfopt.chunked(1), args=(x,),
        ).state  # fmt: skip

    state = optimizer.init(key, weights)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        state = jax.block_until_ready(step(state))
        middle = time.perf_counter()
        jax.block_until_ready(forward(state.mean, x))
        times.append((middle - began, time.perf_counter() - middle))
    medians = np.median(np.array(times[1:]), axis=0)  # the first one compiles
    return float(medians[0]), float(medians[1])


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 512, 2048])
    parser.add_argument("--repeats", type=int, default=9)
    given = parsed(parser, width=64, rows=[8], repeats=1)
    table = []
    for rows in given.rows:
        for noise in NOISE:
            step, forward = measured(noise, given.width, rows, given.repeats)
            table.append([rows, noise, step, forward, step / (2 * forward)])
    header = ["rows", "noise", "step, s", "forward, s", "step / 2 forwards"]
    show(header, table)
    results = {"width": given.width, "header": header, "table": table}
    save("zo_step_time", ["jax"], results)


if __name__ == "__main__":
    main()
