"""Analytic learning: classes that arrive in phases, samples that are forgotten.

Images go through a fixed random layer, ``relu(x P + b)``; a ridge regression of the
labels reads it. Three claims:

- exact: classes learnt two at a time give the weights of one fit of all rows; what is
  forgotten gives the weights of a fit without it; the order does not matter
  (difference of outputs in float64; wanted 1e-12);
- nothing is forgotten: after five phases of two classes the accuracy is that of joint
  training, where a network trained by Adam on one phase after the other keeps the last
  classes only (Zhuang et al. 2022 compare with such, on CIFAR-100);
- the random layer can be searched: a scale for each pixel, the size of the biases and
  the ridge by SNES on a validation error without gradients, beside the three numbers
  of one scale for all by CMA-ES, random search over the same, and what is not tuned;
  equal evaluations, paired seeds.

    python benchmarks/analytic.py  # 5 minutes
    python benchmarks/analytic.py --fashion /usr/share/datasets/fashion-mnist

The second needs Fashion-MNIST's four files (Debian: dataset-fashion-mnist).
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import parsed, save, show, sized

import gfopt
from gfopt.problems import mlp
from gfopt.problems.networks import network_outputs
from gfopt.research.statistics import paired_difference_interval

PHASES = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
EVALUATIONS = 600


def digits(seed: int) -> dict[str, tuple[Any, Any]]:
    """Returns scikit-learn's digits as train, validation and test rows."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    names, parts = ("train", "valid", "test"), np.split(order, [900, 1350])
    return {
        name: (x[rows] / 16, y[rows]) for name, rows in zip(names, parts, strict=True)
    }


def fashion(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Returns Fashion-MNIST's train and test rows."""
    found = {}
    for name, stem in (("train", "train"), ("test", "t10k")):
        with gzip.open(folder / f"{stem}-images-idx3-ubyte.gz") as file:
            x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784) / 255
        with gzip.open(folder / f"{stem}-labels-idx1-ubyte.gz") as file:
            y = np.frombuffer(file.read(), np.uint8, offset=8)
        found[name] = x, y.astype(int)
    return found


def layer(num_inputs: int, width: int, seed: int) -> tuple[Any, Any]:
    """Returns the random layer: ``[inputs, width]``, ``[width]``."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_inputs, width)), rng.normal(size=width)


def features(x: Any, random: tuple[Any, Any], scale: Any = 1.0, bias: Any = 1.0) -> Any:
    """``relu(scale x P / sqrt(inputs) + bias b)``, and a constant."""
    matrix, offsets = random
    hidden = jax.nn.relu((x * scale) @ matrix / x.shape[1] ** 0.5 + bias * offsets)
    return jnp.append(hidden, jnp.ones((len(x), 1)), axis=1)


def joint(x: Any, y: Any, num_outputs: int, ridge: float) -> Any:
    """Returns the weights of one fit."""
    gram = x.T @ x + ridge * jnp.eye(x.shape[1])
    return jnp.linalg.solve(gram, x.T @ jax.nn.one_hot(y, num_outputs, dtype=x.dtype))


def gap(x: Any, a: Any, b: Any) -> float:
    """Returns the largest difference of outputs over the largest output."""
    return float(jnp.max(jnp.abs(x @ (a - b))) / jnp.max(jnp.abs(x @ b)))


def learnt(x: Any, y: Any, phases: list[tuple[int, ...]], batch: int) -> Any:
    """Returns the regression after all phases, and the classes' columns."""
    model, classes = gfopt.analytic.recursive_ridge(x.shape[1], 0, ridge=0.1), []
    add = jax.jit(lambda model, x, y: model.add(x, y))
    for phase in phases:
        classes += phase
        model = model.widened(len(classes))
        rows = np.flatnonzero(np.isin(y, phase))
        for part in np.array_split(rows, -(-len(rows) // batch)):
            targets = np.equal.outer(y[part], classes).astype(float)
            model = add(model, x[part], targets)
    return model, classes


def forgetful(data: dict[str, Any], seed: int, steps: int = 400) -> float:
    """Returns the test accuracy of a network trained on one phase after the other."""
    x, y = data["train"]
    start = mlp(jax.random.key(seed), (x.shape[1], 64, 10))
    optimizer = optax.adam(1e-3)
    state, params = optimizer.init(start), start

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        def loss(params: Any) -> Any:
            logits = network_outputs(params, x)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(seed)
    for phase in PHASES:
        rows = np.flatnonzero(np.isin(y, phase))
        for _ in range(steps):
            part = rng.choice(rows, 64)
            params, state = step(params, state, x[part], y[part])
    x, y = data["test"]
    return float(
        np.mean(np.argmax(network_outputs(params, jnp.asarray(x)), axis=1) == y)
    )


def accuracy(x: Any, y: Any, weights: Any) -> float:
    """Returns the share of rows whose largest output is their class."""
    return float(np.mean(np.asarray(jnp.argmax(x @ weights, axis=1)) == y))


def phases(data: dict[str, Any], width: int, seed: int, batch: int) -> dict[str, Any]:
    """Learns in phases, forgets, and compares with fits of all rows."""
    (x, y), random = data["train"], layer(data["train"][0].shape[1], width, seed)
    x = features(jnp.asarray(x), random)
    test = features(jnp.asarray(data["test"][0]), random)
    whole = joint(x, y, 10, 0.1)
    began = time.perf_counter()
    model, _ = learnt(x, y, PHASES, batch)
    took = time.perf_counter() - began
    backwards, classes = learnt(x, y, PHASES[::-1], batch)
    order = np.argsort(classes)
    # forgotten: every tenth row
    gone = np.arange(0, len(y), 10)
    without = model
    for part in np.array_split(gone, -(-len(gone) // batch)):
        without = without.remove(x[part], np.eye(10)[y[part]])
    kept = np.setdiff1d(np.arange(len(y)), gone)
    return {
        "phases, against one fit": gap(test, model.weights, whole),
        "backwards, against forwards": gap(
            test, backwards.weights[:, order], model.weights
        ),
        "forgotten, against a fit without": gap(
            test, without.weights, joint(x[kept], y[kept], 10, 0.1)
        ),
        "accuracy in phases": accuracy(test, data["test"][1], model.weights),
        "accuracy jointly": accuracy(test, data["test"][1], whole),
        "accuracy of Adam in phases": forgetful(data, seed),
        "seconds": took,
    }


def tuned(seed: int, width: int) -> dict[str, float]:
    """Returns test accuracies with the random layer tuned in several ways."""
    data = digits(seed)
    random = layer(64, width, seed)
    (x, y), (valid, valid_y) = data["train"], data["valid"]

    def settings(numbers: Any) -> tuple[Any, Any, Any]:
        *scales, bias, ridge = jnp.split(numbers, [numbers.size - 2, numbers.size - 1])
        return jnp.exp(scales[0]), jnp.exp(bias), 0.1 * jnp.exp(ridge[0])

    def fitted(numbers: Any, x: Any, y: Any, test: Any) -> Any:
        scale, bias, ridge = settings(numbers)
        weights = joint(features(x, random, scale, bias), y, 10, ridge)
        return features(test, random, scale, bias) @ weights

    def error(numbers: Any) -> Any:
        outputs = fitted(numbers, x, y, valid)
        return jnp.mean((outputs - jax.nn.one_hot(valid_y, 10)) ** 2)

    rows = np.append(x, valid, axis=0), np.append(y, valid_y)

    def tested(numbers: Any) -> float:
        outputs = fitted(numbers, *rows, data["test"][0])
        return float(np.mean(np.argmax(outputs, axis=1) == data["test"][1]))

    def found(method: str, count: int, **options: Any) -> float:
        size = 20
        optimizer = gfopt.method(method, {"population_size": size, **options})
        result = gfopt.run(
            optimizer,
            error,
            jnp.zeros(count),
            key=jax.random.key(seed),
            generations=EVALUATIONS // size,
        )
        return tested(result.recommended)

    return {
        "66 numbers, SNES": found("snes", 66, sigma=0.3),
        "3 numbers, CMA-ES": found("cma_es", 3, sigma=0.5),
        "3 numbers, random search": found("random_search", 3, sigma=1.0),
        "not tuned": tested(jnp.zeros(3)),
    }


def main() -> None:
    """Measures the three claims."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fashion", type=Path, help="folder of Fashion-MNIST's files")
    parser.add_argument("--seeds", type=int, default=10)
    given = parsed(parser, seeds=2)
    seeds = range(given.seeds)
    results: dict[str, Any] = {}
    with jax.enable_x64(True):
        rows = {"digits": phases(digits(0), sized(500, 50), 0, 100)}
        if given.fashion:
            rows["Fashion-MNIST"] = phases(fashion(given.fashion), 1_000, 0, 500)
        for name, row in rows.items():
            print(f"\n{name}")
            for what, value in row.items():
                print(f"  {what:34} {value:.3g}")
        results["phases"] = rows
    runs = [tuned(seed, sized(100, 20)) for seed in seeds]
    ways = {way: [run[way] for run in runs] for way in runs[0]}
    table = []
    for way, values in ways.items():
        found = paired_difference_interval(values, ways["not tuned"])
        table.append((way, float(np.mean(values)), found.low, found.high))
    print()
    show(("layer of 100, digits", "accuracy", "gain, low", "gain, high"), table)
    results["tuned"] = ways
    save("analytic", ["jax", "numpy", "optax"], results)


if __name__ == "__main__":
    main()
