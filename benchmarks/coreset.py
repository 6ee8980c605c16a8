"""Mini-batches chosen by sketches of the samples' gradients, from forward passes alone.

Digits of scikit-learn in three sources: 0 to 4 upright, which are many, 5 to 9 upright
and all digits turned by 90 degrees, which are few. Of each batch of 128 a subset of 32
trains a perceptron 64-32-10 by Adam; the ways to choose it take turns on equal batches:

    random      32 of the 128
    one slope   medoids by ``|c_i - c_j|``, one direction for all (what the released
                code of CoLM has before its preconditioning)
    m slopes    medoids by the distance of rows of ``[B, m]`` slopes along m independent
                directions, whose Gram matrix is that of the gradients
    gradients   medoids by the distance of the gradients themselves
    all         the whole batch: four times the work of a step

Medoids maximise the facility-location sum greedily; each weighs as much as the samples
that are nearest to it. The sketch is of the last layer alone, as in the paper, so that
it costs a product with the last matrix for a slope and no pass through the network.

    python benchmarks/coreset.py

Source: Nguyen et al. (2025), arXiv 2407.19580; it keeps all samples of small sources,
here medoids find them or don't.
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from jax import lax

import gfopt
from gfopt.problems import mlp
from gfopt.problems.networks import network_outputs

BATCH, SUBSET, STEPS, SLOPES = 128, 32, 300, 64
SHARES = (0.84, 0.08, 0.08)  # of the sources in training; even in testing
WAYS = ("random", "one slope", "m slopes", "gradients", "all")


def sources(seed: int, sizes: list[int], part: slice) -> tuple[Any, Any, Any]:
    """Returns images, labels and sources, so many of each source."""
    bunch = sklearn.datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))[part]
    images, labels = bunch.images[order] / 16, bunch.target[order]
    turned = np.rot90(images, axes=(1, 2))
    low = labels < 5
    rng = np.random.default_rng(seed)
    parts = []
    three = [(images[low], labels[low]), (images[~low], labels[~low]), (turned, labels)]
    for number, ((x, y), size) in enumerate(zip(three, sizes, strict=True)):
        rows = rng.choice(len(y), size)
        parts.append((x[rows].reshape(-1, 64), y[rows], np.full(size, number)))
    x, y, source = (np.concatenate(p) for p in zip(*parts, strict=True))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y), jnp.asarray(source)


def losses(network: Any, images: Any, labels: Any) -> Any:
    out = network_outputs(network, images)
    return optax.softmax_cross_entropy_with_integer_labels(out, labels)


def features(way: str, network: Any, images: Any, labels: Any, key: Any) -> Any:
    """Returns a row for each sample: what distances are measured between."""
    *below, last = network

    def last_losses(last: Any) -> Any:
        return losses((*below, last), images, labels)

    if way == "gradients":
        rows = jax.jacrev(last_losses)(last)
        return jnp.concatenate([rows["w"].reshape(len(labels), -1), rows["b"]], axis=1)
    count = SLOPES if way == "m slopes" else 1
    return gfopt.gradients.per_sample_directional_derivatives(
        last_losses, last, key, count
    )


def medoids(rows: Any, count: int) -> tuple[Any, Any]:
    """Returns the rows that greedily maximise facility location, and their weights."""
    squares = jnp.sum((rows[:, None] - rows[None]) ** 2, axis=-1)
    near = -jnp.sqrt(jnp.maximum(squares, 0))
    near = near - near.min()  # 0 is the farthest

    def add(best: Any, _: Any) -> Any:
        gains = jnp.sum(jnp.maximum(near - best[:, None], 0), axis=0)
        chosen = jnp.argmax(gains)
        return jnp.maximum(best, near[:, chosen]), chosen

    _, chosen = lax.scan(add, jnp.zeros(len(rows)), None, count)
    nearest = jnp.argmax(near[:, chosen], axis=1)
    return chosen, jnp.zeros(count).at[nearest].add(1)


def run(way: str, seed: Any, train: Any, test: Any, rate: Any) -> tuple[Any, Any]:
    """Returns the accuracy on each source, and the sources' share of the subsets."""
    adam = optax.adam(rate)
    key = jax.random.key(seed)
    network = mlp(key, (64, 32, 10))

    def step(carry: Any, key: Any) -> Any:
        network, state = carry
        draw, choose = jax.random.split(key)
        batch = jax.random.choice(draw, len(train[1]), (BATCH,), replace=False)
        x, y, source = (part[batch] for part in train)
        if way in ("random", "all"):
            count = BATCH if way == "all" else SUBSET
            chosen, weights = jnp.arange(count), jnp.ones(count)  # already in no order
        else:
            chosen, weights = medoids(features(way, network, x, y, choose), SUBSET)

        def loss(network: Any) -> Any:
            each = losses(network, x[chosen], y[chosen])
            return jnp.sum(weights * each) / weights.sum()

        updates, state = adam.update(jax.grad(loss)(network), state)
        shares = jax.nn.one_hot(source[chosen], 3).mean(axis=0)
        return (optax.apply_updates(network, updates), state), shares

    keys = jax.random.split(key, STEPS)
    (network, _), shares = lax.scan(step, (network, adam.init(network)), keys)
    x, y, source = test
    right = network_outputs(network, x).argmax(axis=1) == y
    members = jax.nn.one_hot(source, 3)
    return right @ members / members.sum(axis=0), shares.mean(axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    given = common.parsed(parser, seeds=2)
    sizes = [round(1200 * share) for share in SHARES]
    train = sources(1, sizes, slice(None, 1200))
    test = sources(2, [300, 300, 300], slice(1200, None))
    every = jax.jit(jax.vmap(run, (None, 0, None, None, None)), static_argnames="way")
    rates = np.geomspace(1e-3, 0.1, 7)
    results: dict[str, Any] = {}
    for way in WAYS:
        tuned = [
            float(every(way, np.arange(900, 905), train, test, rate)[0].mean())
            for rate in rates
        ]
        rate = float(rates[int(np.argmax(tuned))])
        right, shares = every(way, np.arange(given.seeds), train, test, rate)
        results[way] = {
            "rate": rate,
            "accuracy": np.asarray(right).tolist(),
            "shares": np.asarray(shares.mean(axis=0)).tolist(),
        }
    common.show(
        ["way", "rate", "mean", "0-4", "5-9", "turned", "of few", "over random", "+-"],
        [row(way, results) for way in WAYS],
    )
    common.save("coreset", ["jax", "optax", "scikit-learn"], {"ways": results})


def row(way: str, results: dict[str, Any]) -> list[Any]:
    """Returns a line of the table; the last columns are over paired seeds."""
    right = np.array(results[way]["accuracy"])
    gain = (right - np.array(results["random"]["accuracy"])).mean(axis=1)
    few = sum(results[way]["shares"][1:])
    error = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
    means = map(float, [right.mean(), *right.mean(axis=0), few, gain.mean(), error])
    return [way, results[way]["rate"], *means]


if __name__ == "__main__":
    main()
