"""Forward passes to the loss that MeZO ends with, on five small real tasks.

Perceptrons on scikit-learn's data sets; "rotated" fine-tunes a network that was trained
by gradients on upright digits. All methods have the same grid of learning rates, the
same budget of forward passes, starts and mini-batches; the best rate of each is chosen
on seeds of its own by the final training loss. Then five other seeds: how many forward
passes a method takes to the loss that MeZO ends with on the same seed, and accuracy (or
R^2) on held-out data. A method that does not get there counts as the whole budget.

    python benchmarks/zo_forwards.py
    python benchmarks/zo_forwards.py --tasks wine --forwards 1800
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets
from common import parsed, save, show
from descent import by_adam
from jax import lax
from scipy import ndimage

import gfopt
from gfopt.problems import mlp
from gfopt.problems.networks import network_outputs
from gfopt.research.statistics import paired_difference_interval

SIGNS = gfopt.rademacher()
RATES = np.geomspace(1e-5, 1, 11)
METHODS: dict[str, Callable[[Any], Any]] = {
    "mezo": lambda rate: gfopt.MeZO(rate),
    "mezo_signs": lambda rate: gfopt.MeZO(rate, noise=SIGNS),
    "mezo_momentum": lambda rate: gfopt.MeZO(
        rate, noise=SIGNS, transform=optax.sgd(1.0, 0.9)
    ),
    "mezo_adam": lambda rate: gfopt.MeZO(
        rate, noise=SIGNS, transform=optax.adam(1.0, 0.9, 0.99)
    ),
    "fzoo": lambda rate: gfopt.FZOO(rate, population_size=9),
    "fzoo_momentum": lambda rate: gfopt.FZOO(
        rate, population_size=5, transform=optax.sgd(1.0, 0.9)
    ),
    "fzoo_adam": lambda rate: gfopt.FZOO(
        rate, population_size=5, transform=optax.adam(1.0, 0.9, 0.99)
    ),
    "hizoo": lambda rate: gfopt.HiZOO(rate),
}
TUNING_SEEDS, SEEDS = (101, 102), (1, 2, 3, 4, 5)
POINTS = 60  # of a curve
BATCH = 64
FORWARDS = 6000


class Task(NamedTuple):
    """Data, split in two, and where a network starts."""

    x: Any
    y: Any
    test_x: Any
    test_y: Any
    start: Callable[[Any], Any]
    is_regression: bool = False

    def loss(self, network: Any, rows: Any) -> Any:
        """Returns the loss on some of the training data."""
        out, y = network_outputs(network, self.x[rows]), self.y[rows]
        if self.is_regression:
            return jnp.mean((out[:, 0] - y) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()

    def score(self, network: Any) -> Any:
        """Returns accuracy, or R^2, on the held-out data."""
        out = network_outputs(network, self.test_x)
        if self.is_regression:
            return 1 - jnp.mean((out[:, 0] - self.test_y) ** 2) / jnp.var(self.test_y)
        return jnp.mean(jnp.argmax(out, axis=1) == self.test_y)


def split(x: np.ndarray, y: np.ndarray, **more: Any) -> Task:
    """Standardises and splits, three to one."""
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    count = 3 * len(x) // 4
    mean, std = x[:count].mean(0), x[:count].std(0) + 1e-2
    x = (x - mean) / std
    y = y.astype(np.float32 if more.get("is_regression") else np.int32)
    return Task(*map(jnp.asarray, (x[:count], y[:count], x[count:], y[count:])), **more)


def network(*sizes: int) -> Callable[[Any], Any]:
    """Returns what draws the first weights."""
    return lambda key: mlp(key, sizes)


def rotated() -> Task:
    """Digits turned by 30 degrees, for a network that knows them upright."""
    data = sklearn.datasets.load_digits()
    images = data.images / 16
    upright = split(images.reshape(-1, 64), data.target, start=network(64, 48, 10))
    turned = ndimage.rotate(images, 30, axes=(1, 2), reshape=False, order=1)
    task = split(turned.reshape(-1, 64), data.target, start=upright.start)

    def batch_loss(weights: Any, key: Any) -> Any:
        rows = jax.random.choice(key, len(upright.x), (BATCH,))
        return upright.loss(weights, rows)

    def trained(key: Any) -> Any:
        keys = jax.random.split(key, 600)
        return by_adam(batch_loss, upright.start(key), keys, 3e-3)

    return task._replace(start=trained)


def tasks() -> dict[str, Callable[[], Task]]:
    """Returns what makes each task."""

    def plain(load: Any, *sizes: int) -> Callable[[], Task]:
        def make() -> Task:
            return split(*load(return_X_y=True), start=network(*sizes))

        return make

    def diabetes() -> Task:
        x, y = sklearn.datasets.load_diabetes(return_X_y=True)
        y = (y - y.mean()) / y.std()
        return split(x, y, start=network(10, 32, 1), is_regression=True)

    return {
        "digits": plain(sklearn.datasets.load_digits, 64, 32, 10),
        "rotated": rotated,
        "cancer": plain(sklearn.datasets.load_breast_cancer, 30, 32, 2),
        "wine": plain(sklearn.datasets.load_wine, 13, 32, 3),
        "diabetes": diabetes,
    }


def curves(task: Task, method: str, forwards: int) -> Callable[..., Any]:
    """Returns ``(rates, seeds) -> (losses [r, s, POINTS], scores [r, s])``, jitted."""
    size = METHODS[method](0.1).population_size
    chunk = max(1, forwards // (size * POINTS))
    everything = jnp.arange(len(task.x))

    def batches(step: Any, key: Any) -> Any:
        return jax.random.choice(key, len(task.x), (BATCH,))

    def one(rate: Any, seed: Any) -> Any:
        optimizer, key = METHODS[method](rate), jax.random.key(seed)
        x0 = task.start(key)

        def some(state: Any, _: None) -> Any:
            state = gfopt.run(
                optimizer,
                task.loss,
                x0,
                key=key,
                generations=chunk,
                state=state,
                batches=batches,
            ).state
            return state, task.loss(state.mean, everything)

        state = optimizer.init(key, x0)
        state, losses = lax.scan(some, state, None, length=POINTS)
        return losses, task.score(state.mean)

    return jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))


def main() -> None:
    """Runs the tasks that were asked for and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(tasks()))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--forwards", type=int, default=FORWARDS)
    given = parsed(parser, tasks=list(tasks())[:1], methods=["mezo"], forwards=120)
    names = ["mezo", *(name for name in given.methods if name != "mezo")]
    seeds, results = np.array(TUNING_SEEDS + SEEDS), {}
    for task_name in given.tasks:
        task, found = tasks()[task_name](), {}
        for name in names:
            go = curves(task, name, given.forwards)
            # all rates on all seeds at once; only the first seeds choose
            losses, scores = map(np.asarray, go(RATES, seeds))
            tuning = losses[:, : len(TUNING_SEEDS), -1].mean(axis=1)
            best = np.argmin(np.nan_to_num(tuning, nan=np.inf))
            kept = slice(len(TUNING_SEEDS), None)
            found[name] = float(RATES[best]), losses[best, kept], scores[best, kept]
        goal, rows = found["mezo"][1][:, -1], []
        for name, (rate, losses, scores) in found.items():
            size = METHODS[name](0.1).population_size
            step = max(1, given.forwards // (size * POINTS)) * size
            reached = losses <= goal[:, None]
            first = np.where(reached.any(1), reached.argmax(1) + 1, POINTS) * step
            shares = np.minimum(first / given.forwards, 1)
            low, high = paired_difference_interval(scores, found["mezo"][2])[1:]
            rows.append(
                {
                    "method": name,
                    "rate": rate,
                    "share_of_forwards": shares.tolist(),
                    "final_loss": losses[:, -1].tolist(),
                    "score": scores.tolist(),
                    "score_difference": [float(low), float(high)],
                }
            )
        print(f"\n{task_name}: {given.forwards} forward passes")
        show(
            ["method", "rate", "share of forwards", "final loss", "score", "low", "up"],
            [
                [
                    r["method"],
                    f"{r['rate']:.0e}",
                    float(np.mean(r["share_of_forwards"])),
                    float(np.mean(r["final_loss"])),
                    float(np.mean(r["score"])),
                    *r["score_difference"],
                ]
                for r in rows
            ],
        )
        results[task_name] = rows
    everything = {"forwards": given.forwards, "tasks": results}
    name = "zo_forwards" + f"_{given.forwards}" * (given.forwards != FORWARDS)
    save(name, ["jax", "optax", "scikit-learn"], everything)


if __name__ == "__main__":
    main()
