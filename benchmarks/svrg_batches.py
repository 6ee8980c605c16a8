"""SVRG beside MeZO: least squares on mini-batches, the excess over the best weights.

256 rows, 20 numbers, 8 rows a batch; equal forward passes, the same grid of learning
rates, the best rate of each method on seeds of its own, the mean of other seeds.

    python benchmarks/svrg_batches.py
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show

import gfopt

ROWS, SIZE, BATCH, ANCHOR, PERIOD = 256, 20, 8, 32, 160
RATES = jnp.geomspace(1e-5, 0.1, 17)
SIGNS = gfopt.rademacher()
METHODS: dict[str, Any] = {
    "mezo": lambda rate, steps: gfopt.MeZO(rate, noise=SIGNS),
    "mezo, linear decay": lambda rate, steps: gfopt.MeZO(
        lambda step: rate * jnp.maximum(1 - step / steps, 0), noise=SIGNS
    ),
    "svrg": lambda rate, steps: gfopt.SVRG(rate, period=PERIOD, anchor_batches=ANCHOR),
}
TUNING_SEEDS, SEEDS = 4, 8


def batches(step: Any, key: Any) -> Any:
    """All of the data in turn for the anchor, random rows after it."""
    part = BATCH * (step % PERIOD) + jnp.arange(BATCH)
    random = jax.random.choice(key, ROWS, (BATCH,))
    return jnp.where(step % PERIOD < ANCHOR, part, random)


def main() -> None:
    """Prints and saves the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, nargs="+", default=[10_000, 100_000])
    given = parsed(parser, passes=[400])
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (ROWS, SIZE))
    noise = jax.random.normal(keys[1], (ROWS,))
    y = x @ jax.random.normal(keys[2], (SIZE,)) + noise

    def loss(w: Any, rows: Any) -> Any:
        return jnp.mean((x[rows] @ w - y[rows]) ** 2) / 2

    everything = jnp.arange(ROWS)
    best = loss(jnp.linalg.lstsq(x, y)[0], everything)
    rows = []
    for passes in given.passes:
        for name, make in METHODS.items():

            def excess(rate: Any, key: Any, make: Any = make, n: int = passes) -> Any:
                method = make(rate, n // 2)
                run = gfopt.run(
                    method,
                    loss,
                    jnp.zeros(SIZE),
                    key=key,
                    generations=n // method.population_size,
                    batches=batches,
                )
                return loss(run.recommended, everything) - best

            seeds = jax.random.split(keys[3], TUNING_SEEDS + SEEDS)
            each = jax.vmap(jax.vmap(excess, (None, 0)), (0, None))
            found = np.asarray(jax.jit(each)(RATES, seeds))
            chosen = int(np.nanargmin(found[:, :TUNING_SEEDS].mean(axis=1)))
            kept = found[chosen, TUNING_SEEDS:]
            rate, mean, std = map(float, (RATES[chosen], kept.mean(), kept.std()))
            rows.append([passes, name, rate, mean, std])
    columns = ["passes", "method", "rate", "excess", "std"]
    show(columns, [[*row[:2], *(f"{x:.1e}" for x in row[2:])] for row in rows])
    start = float(loss(jnp.zeros(SIZE), everything) - best)
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    save("svrg_batches", ["jax"], {"start": start, "table": table})


if __name__ == "__main__":
    main()
