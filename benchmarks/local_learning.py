"""Layers and blocks with targets of their own, trained with and without gradients.

Digits, 64 numbers each; the two rules are in ``local_rules.py``. tpSGD trains
64-128-128-10 beside back-propagation and beside a rule for the last layer alone.
NoProp's ten blocks of 16 hidden units share no weights, so that each is a problem of
its own: ``jax.vmap`` over ``gfopt.run`` searches ten of them in one program.

The claims: tpSGD is within 5 points of back-propagation; NoProp, with back-propagation
inside a block, is as good as back-propagation through all ten; ten small searches get
further than one search of all blocks at as many forward passes of each block. The one
search has either the sum of the blocks' losses, or the cross-entropy of the chain.
Beside them is one block alone, a tenth of the network, which reads the image only and
has ten times the steps, so as many passes of a block as all ten have.

Learning rates are the best of a grid by a seed and a split of its own; the interval is
that of the difference, paired by seed.

    python benchmarks/local_learning.py  # 6 minutes on a quiet machine
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show, sized
from descent import by_adam
from jax import lax
from local_rules import (
    BLOCKS,
    CLASSES,
    SIGNAL,
    alone_loss,
    block_loss,
    chain,
    chain_loss,
    chained,
    delta_rule,
    entropy,
    first_block,
    logits,
    outputs,
    projections,
    summed_loss,
)

import gfopt
from gfopt.problems import digits, mlp
from gfopt.research.statistics import bootstrap_interval, paired_difference_interval

BATCH = 64
PASSES = sized(9_600, 288)  # forward passes of a mini-batch, of a search
STEPS = sized(1_500, 20)  # of gradient methods
MEMBERS, DIRECTIONS = 32, 9
WIDE = 128  # hidden units of tpSGD's layers
TUNING = 101
RATES = {
    "gradients": (0.003, 0.01, 0.03, 0.1),
    "open_es": (0.003, 0.01, 0.03, 0.1),
    "fzoo": (0.003, 0.01, 0.03, 0.1),
    "delta": (0.03, 0.1, 0.3, 1.0),
}
ALONE, CHAIN, SUM, EACH = (
    "one block alone",
    "all blocks, end to end",
    "all blocks, their losses",
    "each block",
)
Rows = tuple[jax.Array, jax.Array]


def splits(seed: int) -> tuple[Rows, Rows]:
    """Returns rows and labels to train on, and to judge by."""
    task = digits(seed)
    train = jnp.asarray(task.train_images), jnp.asarray(task.train_labels)
    return train, (jnp.asarray(task.test_images), jnp.asarray(task.test_labels))


def drawn(rows: Rows, key: Any) -> tuple[Any, Any, Any]:
    """Draws a mini-batch and the noise of its labels."""
    one, two = jax.random.split(key)
    chosen = jax.random.choice(one, len(rows[0]), (BATCH,))
    noise = jax.random.normal(two, (BATCH, CLASSES))
    return rows[0][chosen], rows[1][chosen], noise


def descended(
    loss: Any, start: Any, rows: Rows, key: Any, rate: Any, times: int = 1
) -> Any:
    """Trains by back-propagation inside what the loss reads."""
    keys = jax.random.split(key, STEPS * times)
    return by_adam(lambda w, key: loss(w, drawn(rows, key)), start, keys, rate)


def searched(
    name: str, loss: Any, start: Any, rows: Rows, key: Any, rate: Any, times: float = 1
) -> Any:
    """Trains by a method of gfopt; ``times`` as many steps as the others have."""
    if name == "open_es":
        size = MEMBERS
        method: Any = gfopt.OpenES(
            population_size=size, learning_rate=rate, noise=gfopt.rademacher()
        )
    else:
        size = DIRECTIONS
        method = gfopt.FZOO(population_size=size, learning_rate=rate)
    result = gfopt.run(
        method,
        loss,
        start,
        key=key,
        generations=round(PASSES * times) // size,
        batches=lambda step, key: drawn(rows, key),
    )
    return result.recommended


def each_block(train: Callable[..., Any], start: Any, rows: Rows, key: Any) -> Any:
    """Trains every block by itself, the blocks as an axis of one program."""

    def one(block: Any, t: Any) -> Any:
        return train(partial(block_loss, t=t), block, rows, jax.random.fold_in(key, t))

    return jax.vmap(one)(start, jnp.arange(1, BLOCKS + 1))


def program(way: str, trainer: str) -> Any:
    """Returns ``(rows, test, key, rate) -> accuracy`` of blocks, compiled."""
    train: Any = descended if trainer == "gradients" else partial(searched, trainer)

    @jax.jit
    def accuracy(rows: Rows, test: Rows, key: Any, rate: Any) -> jax.Array:
        first, order, noise, last = jax.random.split(key, 4)
        blocks = jax.vmap(partial(first_block, num_inputs=rows[0].shape[1]))(
            jax.random.split(first, BLOCKS)
        )
        x, y = test
        z = jax.random.normal(noise, (len(x), CLASSES))
        tuned = partial(train, rate=rate)
        if way == ALONE:
            block = jax.tree.map(lambda leaf: leaf[0], blocks)
            block = tuned(alone_loss, block, rows, order, times=BLOCKS)
            return jnp.mean(jnp.argmax(logits(block, x, 0 * z), axis=1) == y)
        if way == EACH:
            found = each_block(tuned, blocks, rows, order)
        else:
            loss = summed_loss if way == SUM else chain_loss
            found = tuned(loss, blocks, rows, order)
        # a chain that was trained without noise is run without it
        key = None if way == CHAIN else last
        return jnp.mean(jnp.argmax(chained(found, x, z, key), axis=1) == y)

    return accuracy


def layered(way: str) -> Any:
    """Returns the same of layers, by Adam or the delta rule."""

    @jax.jit
    def accuracy(rows: Rows, test: Rows, key: Any, rate: Any) -> jax.Array:
        first, fixed, order = jax.random.split(key, 3)
        layers = mlp(first, (rows[0].shape[1], WIDE, WIDE, CLASSES))
        if way == "back-propagation":

            def loss(layers: Any, batch: Any) -> jax.Array:
                return entropy(outputs(layers, batch[0]), batch[1])

            layers = descended(loss, layers, rows, order, rate)
        else:
            targets = projections(fixed, (WIDE, WIDE, CLASSES))
            still = len(layers) - 1 if way == "the last layer alone" else 0

            def step(layers: Any, key: Any) -> tuple[Any, None]:
                moved = delta_rule(layers, targets, drawn(rows, key), rate)
                return layers[:still] + moved[still:], None

            layers = lax.scan(step, layers, jax.random.split(order, STEPS))[0]
        x, y = test
        return jnp.mean(jnp.argmax(outputs(layers, x), axis=1) == y)

    return accuracy


def checked() -> dict[str, float]:
    """Measures what must be zero but for rounding; raises if it is not."""
    rows, _ = splits(TUNING)
    key = jax.random.key(0)
    x, y, noise = drawn(rows, key)
    # one layer is the rule of Widrow and Hoff
    layer = mlp(key, (64, CLASSES))
    (moved,) = delta_rule(layer, [jnp.eye(CLASSES)], (x, y, noise), 0.1)
    w, b = np.array(layer[0]["w"], float), np.zeros(CLASSES)
    error = np.eye(CLASSES)[np.asarray(y)] - (np.asarray(x) @ w + b)
    wanted = w + 0.1 * np.asarray(x).T @ error / BATCH
    gaps = {"one layer is LMS": abs(moved["w"] - wanted).max()}
    # blocks that know the label chain z_{t-1} ~ q(. | y) to z_t ~ q(. | y)
    t = jnp.arange(1, BLOCKS + 1)
    a, b_, c = chain(t)
    mean = a + b_ * jnp.sqrt(SIGNAL[t - 1]) - jnp.sqrt(SIGNAL[t])
    variance = b_**2 * (1 - SIGNAL[t - 1]) + c - (1 - SIGNAL[t])
    gaps["chain is q"] = max(abs(mean).max(), abs(variance).max())
    # ten searches in one program are ten programs
    start = jax.vmap(partial(first_block, num_inputs=64))(jax.random.split(key, BLOCKS))
    short = partial(searched, "fzoo", rate=0.03, times=30 / PASSES)
    together = jax.jit(partial(each_block, short))(start, rows, key)
    for t in (1, BLOCKS):
        block = jax.tree.map(lambda leaf, t=t: leaf[t - 1], start)
        alone = short(partial(block_loss, t=t), block, rows, jax.random.fold_in(key, t))
        apart = jax.tree.map(lambda a, b, t=t: abs(a[t - 1] - b).max(), together, alone)
        gaps[f"block {t} by itself"] = max(jax.tree.leaves(apart))
    found = {name: float(gap) for name, gap in gaps.items()}
    if max(found.values()) > 1e-5:
        raise SystemExit(f"not equal: {found}")
    return found


def measured(compiled: Any, data: Any, rates: Any) -> tuple[float, list[float]]:
    """Tunes on a seed of its own; returns the rate and the accuracy of each seed."""
    tried = [float(compiled(*data[0], jax.random.key(TUNING), rate)) for rate in rates]
    rate = rates[int(np.argmax(tried))]
    return rate, [
        float(compiled(*rows, jax.random.key(seed), rate))
        for seed, rows in enumerate(data[1:], 1)
    ]


def main() -> None:
    """Trains in all ways and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    given = parsed(parser, seeds=2)
    results: dict[str, Any] = {"differences of what must be equal": checked()}
    began = time.monotonic()
    data = [splits(seed) for seed in (TUNING, *range(1, given.seeds + 1))]
    found: dict[str, dict[str, tuple[float, list[float]]]] = {"layers": {}}
    for way in ("back-propagation", "tpSGD", "the last layer alone"):
        grid = RATES["gradients" if way == "back-propagation" else "delta"]
        found["layers"][way] = measured(layered(way), data, grid)
    print(f"layers: {time.monotonic() - began:.0f} s", flush=True)
    for trainer in sized(("gradients", "open_es", "fzoo"), ("fzoo",)):
        found[trainer] = {}
        for way in (ALONE, CHAIN, SUM, EACH):
            # the gradient of the sum is each block's own
            if (trainer, way) != ("gradients", SUM):
                found[trainer][way] = measured(
                    program(way, trainer), data, RATES[trainer]
                )
                print(f"{trainer}, {way}: {time.monotonic() - began:.0f} s", flush=True)
    for trainer, ways in found.items():
        base = "back-propagation" if trainer == "layers" else EACH
        table = []
        for way, (rate, accuracy) in ways.items():
            mean = bootstrap_interval(accuracy)
            away = paired_difference_interval(accuracy, ways[base][1])
            table.append((way, f"{rate:g}", *map(float, (*mean, *away))))
        print(f"\n{trainer}")
        interval = ("low", "high")
        show(("way", "rate", "accuracy", *interval, f"less {base}", *interval), table)
        results[trainer] = {
            way: {"rate": rate, "accuracy": np.round(accuracy, 4).tolist()}
            for way, (rate, accuracy) in ways.items()
        }
    results["seconds"] = round(time.monotonic() - began)
    save("local_learning", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
