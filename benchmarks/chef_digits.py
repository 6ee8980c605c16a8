"""FlowChef on a flow that draws digits: the gradient skips the network.

A step of FlowChef (Patel et al. 2024, arXiv 2412.00100) is one of Euler, less a
multiple of the loss's gradient with respect to the clean image that is expected,

    x_s = x_t + (s - t) v(x_t, t) - w grad L(x_0),  x_0 = x_t - t v(x_t, t),

where others take the gradient with respect to ``x_t``, through the network. Claim: it
is better at equal cost. Two tasks, on a flow that isn't told of labels: a digit of a
given label, with the log-probability of a classifier, judged by another one; and a
held-out digit of which the means of 2 x 2 pixels are known, judged by the error of the
64 pixels. All have 48 network passes, a backward pass counted as two: 48 steps of
FlowChef, 16 along the gradient, or the best of several draws. Beside them are 48 steps
along the gradient, the flow that is told the label, and a ridge regression of the
pixels. Weights, and how many are drawn, are chosen on other keys and digits.

    python benchmarks/chef_digits.py  # a minute of processor time
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import save, show, sized
from digit_flow import (
    NONE,
    TRAIN,
    Models,
    claimed,
    denoised,
    digits,
    frechet,
    moved,
    started,
    steps,
)

import gfopt
from gfopt.problems.networks import network_outputs
from gfopt.research.statistics import bootstrap_interval

IMAGES = sized(120, 40)  # of a seed
PASSES = 48
WEIGHTS = sized((0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), (0.3,))
DRAWS = sized((1, 2, 4, 8, 16), (2,))


class Task(NamedTuple):
    """What is wanted of ``IMAGES`` images.

    Attributes:
        loss: of images ``[IMAGES, 64]`` and what is known of them, ``[IMAGES]``.
        known: of a key's images.
        worth: of images, the larger the better, given the key.
    """

    loss: Callable[[jax.Array, Any], jax.Array]
    known: Callable[[Any], Any]
    worth: Callable[[jax.Array, Any], jax.Array]


def halved(images: jax.Array) -> jax.Array:
    """Returns the means of 2 x 2 pixels, ``[b, 16]``."""
    return images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)


def tasks(models: Models) -> dict[str, Task]:
    """Returns the two tasks."""
    # the digits of seeds 0, 1, ... and those of the trial (-1) are not the same ones
    held_out = jnp.asarray(digits()[0][TRAIN:])
    labels = jnp.arange(IMAGES) % NONE

    def of_label(images: jax.Array, label: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(network_outputs(models.guide, images))
        return -jnp.take_along_axis(logs, label[:, None], axis=1)[:, 0]

    def is_label(images: jax.Array, seed: Any) -> jax.Array:
        return jnp.argmax(network_outputs(models.judge, images), axis=1) == labels

    def wanted(seed: Any) -> jax.Array:
        half = len(held_out) // 2
        order = jax.random.permutation(jax.random.key(seed), half)[:IMAGES]
        return held_out[order + jnp.where(seed < 0, half, 0)]

    def misfit(images: jax.Array, means: jax.Array) -> jax.Array:
        return 2 * jnp.sum((halved(images) - means) ** 2, axis=1)

    def closeness(images: jax.Array, seed: Any) -> jax.Array:
        return -jnp.sqrt(jnp.mean((images - wanted(seed)) ** 2, axis=1))

    return {
        "label": Task(of_label, lambda seed: labels, is_label),
        "pixels": Task(misfit, lambda seed: halved(wanted(seed)), closeness),
    }


def drawn(
    models: Models,
    task: Task,
    count: int,
    seed: Any,
    weight: Any = 0.0,
    draws: int = 1,
    is_skipped: bool = True,
    label: Any = NONE,
) -> jax.Array:
    """Draws images ``[IMAGES, 64]`` by ``count`` steps, the best of some draws."""
    known, times = task.known(seed), jnp.asarray(steps(count))

    def step(x: jax.Array, place: Any) -> tuple[jax.Array, None]:
        t, s = times[place], times[place + 1]
        clean, pulled = jax.vjp(lambda x: denoised(models.flow, x, t, label), x)
        slope = jax.grad(lambda clean: task.loss(clean, known).sum())(clean)
        slope = slope if is_skipped else pulled(slope)[0]
        # the last step is taken as it is, as in the authors' code
        slope = jnp.where(place < count - 1, slope, 0)
        return moved(x, clean, t, s) - weight * slope, None

    def one(key: Any) -> tuple[jax.Array, jax.Array]:
        first = jax.random.normal(key, (IMAGES, 64))
        images = jnp.clip(jax.lax.scan(step, first, jnp.arange(count))[0], -1, 1)
        return images, task.loss(images, known)

    keys = jax.random.split(jax.random.key(seed + 2000), draws)
    images, losses = jax.lax.map(one, keys)
    return images[jnp.argmin(losses, axis=0), jnp.arange(IMAGES)]


def ridge(task: Task) -> Callable[[Any], jax.Array]:
    """Returns what a ridge regression of the training digits makes of means."""
    images = jnp.asarray(digits()[0][:TRAIN])

    def rows(means: jax.Array) -> jax.Array:
        return jnp.concatenate([means, jnp.ones((len(means), 1))], axis=1)

    model = gfopt.analytic.recursive_ridge(17, 64, ridge=1.0)
    model = model.add(rows(halved(images)), images)
    return lambda seed: jnp.clip(model.predict(rows(task.known(seed))), -1, 1)


def compared(models: Models, task: Task, seeds: int) -> dict[str, Any]:
    """Returns for each way its choice, the worth by seed, and the images' distance."""
    make = partial(drawn, models, task)
    skipped = jax.jit(partial(make, PASSES))
    through = jax.jit(partial(make, PASSES // 3, is_skipped=False))
    more = jax.jit(partial(make, PASSES, is_skipped=False))
    best = jax.jit(make, static_argnames=("count", "draws"))
    ways: dict[str, tuple[tuple[Any, ...], Callable[[Any, Any], jax.Array]]] = {
        "FlowChef": (WEIGHTS, lambda w, seed: skipped(seed, w)),
        "gradient": (WEIGHTS, lambda w, seed: through(seed, w)),
        "gradient, three times the passes": (WEIGHTS, lambda w, seed: more(seed, w)),
        "the best of several draws": (
            DRAWS,
            lambda n, seed: best(count=PASSES // n, seed=seed, draws=n),
        ),
    }
    if task.known(0).ndim == 1:
        told = jax.jit(partial(make, PASSES, label=task.known(0)))
        ways["a flow that is told the label"] = ((0,), lambda _, seed: told(seed))
    else:
        regression = ridge(task)
        ways["ridge regression"] = ((0,), lambda _, seed: regression(seed))
    worth, results = jax.jit(task.worth), {}
    for name, (grid, way) in ways.items():
        tried = [float(worth(way(value, -1), -1).mean()) for value in grid]
        # too large a weight diverges
        value = grid[int(np.nanargmax(tried))]
        images = [way(value, seed) for seed in range(seeds)]
        results[name] = {
            "chosen": value,
            "tried": dict(zip(grid, tried, strict=True)),
            "worth": [float(worth(x, seed).mean()) for seed, x in enumerate(images)],
            "distance": float(frechet(models, jnp.concatenate(images))),
        }
    return results


def main() -> None:
    models, seeds = started(__doc__, seeds=8)
    results: dict[str, Any] = {}
    claims = []
    for task, wanted in tasks(models).items():
        found = results[task] = compared(models, wanted, seeds)
        order = sorted(found.items(), key=lambda item: np.mean(item[1]["worth"]))
        print(f"\n{task}")
        rows = [
            (name, row["chosen"], *bootstrap_interval(row["worth"]), row["distance"])
            for name, row in order
        ]
        show(("way", "chosen", "worth", "low", "high", "distance"), rows)
        ours = found["FlowChef"]["worth"]
        claims += [
            claimed(f"{task}: FlowChef above {name}", ours, row["worth"])
            for name, row in found.items()
            if name != "FlowChef"
        ]
    results["claims"] = claims
    save("chef_digits", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
