"""A 4-bit network that adapts to rotated digits by forward passes: QZO beside MeZO.

A perceptron 64-96-96-10 is trained by Adam on upright digits of scikit-learn, then
adapted to digits turned by 30 degrees, of which it sees 400. QZO moves the scales of
its int4 weights (groups of 32 inputs), and the biases with them, or alone; MeZO moves
all float32 weights. Both have the same steps, directions, mini-batches, schedule and
grid of learning rates, the best of which is chosen on seeds of its own. Then:

    clip   three times QZO's rate, with and without the bound of the slope
    nan    100 seeds of 1,000 steps at that rate: how many numbers are not finite

    python benchmarks/qzo_digits.py
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
from scipy import ndimage

import gfopt
from gfopt.core.lazy import materialise
from gfopt.problems import mlp
from gfopt.problems.classification import logits

SIZES, ANGLE, TRAIN, BATCH = (64, 96, 96, 10), 30, 400, 64
RATES = np.geomspace(1e-4, 1e-1, 7)
TUNING_SEEDS, SEEDS = (101, 102), (1, 2, 3, 4, 5)
SIGNS = gfopt.rademacher()


def data() -> tuple[Any, Any, Any]:
    """Returns upright images, turned ones and labels, in one random order."""
    bunch = sklearn.datasets.load_digits()
    images = bunch.images / 16
    turned = ndimage.rotate(images, ANGLE, axes=(1, 2), reshape=False, order=1)
    order = np.random.default_rng(0).permutation(len(images))
    flat = [a.reshape(-1, 64)[order].astype(np.float32) for a in (images, turned)]
    return *map(jnp.asarray, flat), jnp.asarray(bunch.target[order])


UPRIGHT, TURNED, LABELS = data()
HELD = slice(1300, None)  # 497 images
SOURCE = slice(TRAIN, 1300)


def loss(network: Any, images: Any, labels: Any) -> Any:
    out = logits(network, images)
    return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()


def accuracy(network: Any) -> Any:
    network = materialise(network)
    return jnp.mean(logits(network, TURNED[HELD]).argmax(1) == LABELS[HELD])


def trained(key: Any) -> Any:
    """Returns a network that knows the digits upright."""
    adam = optax.adam(3e-3)

    def step(carry: Any, key: Any) -> Any:
        network, state = carry
        rows = jax.random.choice(key, SOURCE.stop - SOURCE.start, (BATCH,))
        x, y = UPRIGHT[SOURCE][rows], LABELS[SOURCE][rows]
        updates, state = adam.update(jax.grad(loss)(network, x, y), state)
        return (optax.apply_updates(network, updates), state), None

    network = mlp(key, SIZES)
    keys = jax.random.split(key, 1000)
    return lax.scan(step, (network, adam.init(network)), keys)[0][0]


def quantized(network: Any, bits: int = 4) -> Any:
    return gfopt.quantize(network, bits=bits, group_size=32, axis=-2, min_size=0)


def turned_loss(network: Any, rows: Any) -> Any:
    return loss(network, TURNED[:TRAIN][rows], LABELS[:TRAIN][rows])


def batches(step: Any, key: Any) -> Any:
    return jax.random.choice(key, TRAIN, (BATCH,))


def run(
    variant: str,
    rate: Any,
    seed: Any,
    steps: int,
    directions: int,
    clip: float | None = 5.0,
) -> Any:
    """Returns accuracy before and after, and whether all weights are finite."""

    def decayed(step: Any) -> Any:
        return rate * (1 - step / steps)

    key = jax.random.key(seed)
    network, frozen = trained(key), None
    common_options = {
        "population_size": 2 * directions,
        "noise": SIGNS,
        "transform": optax.adam(1.0, 0.9, 0.99) if "adam" in variant else None,
    }
    if "mezo" in variant:
        method: Any = gfopt.MeZO(decayed, 1e-3, **common_options)
    else:
        bits = 2 if "int2" in variant else 4
        network = quantized(network, bits)
        is_scale = None if "alone" in variant else _scale_or_bias
        network, frozen = gfopt.partition(network, is_scale)
        relative = "absolute" not in variant
        method = gfopt.QZO(
            decayed,
            1e-2 if relative else 1e-3,
            clip,
            relative=relative,
            **common_options,
        )
    found = gfopt.run(
        method,
        turned_loss,
        network,
        key=key,
        generations=steps,
        batches=batches,
        frozen=frozen,
    )

    def whole(x: Any) -> Any:
        return x if frozen is None else gfopt.merge(x, frozen)

    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found.x)]
    return (
        accuracy(whole(network)),
        accuracy(whole(found.x)),
        jnp.all(jnp.array(finite)),
    )


def _scale_or_bias(path: str, leaf: Any) -> bool:
    return path.endswith(("scales", "b"))


def over_seeds(variant: str, given: Any, clip: float | None = 5.0) -> Any:
    """Returns a jitted ``(rates [r], seeds [s]) -> results [r, s]``."""

    def one(rate: Any, seed: Any) -> Any:
        return run(variant, rate, seed, given.steps, given.directions, clip)

    return jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))


def num_bytes(tree: Any) -> int:
    shapes = jax.eval_shape(lambda: tree(trained(jax.random.key(0))))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--directions", type=int, default=2)
    parser.add_argument("--variants", nargs="+", default=["qzo", "qzo_alone"])
    parser.add_argument("--many", type=int, default=100, help="seeds without a NaN")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    rows, rates = {}, {}
    for variant in ["mezo", *given.variants]:
        seeds = np.array(TUNING_SEEDS + SEEDS)
        before, after, finite = map(
            np.asarray, over_seeds(variant, given)(RATES, seeds)
        )
        after = np.where(finite, after, 0.1)
        best = after[:, : len(TUNING_SEEDS)].mean(axis=1).argmax()
        kept = slice(len(TUNING_SEEDS), None)
        rates[variant] = float(RATES[best])
        rows[variant] = {
            "rate": float(RATES[best]),
            "before": before[best, kept].tolist(),
            "after": after[best, kept].tolist(),
            "after_by_rate": after[:, kept].mean(axis=1).tolist(),
        }
        print(variant, f"rate {RATES[best]:.1e}", after[:, kept].mean(axis=1).round(3))
    common.show(
        ["variant", "before", "after", "seeds"],
        [
            [name, np.mean(row["before"]), np.mean(row["after"]),
             " ".join(f"{a:.3f}" for a in row["after"])]
            for name, row in rows.items()
        ],
    )  # fmt: skip
    sizes = {"float32": num_bytes(lambda n: n), "int4": num_bytes(quantized)}
    print(sizes, sizes["float32"] / sizes["int4"])
    triple = np.array([3 * rates["qzo"]])
    clips = {}
    for name, clip in (("clip 5", 5.0), ("no clip", None)):
        _, after, finite = over_seeds("qzo", given, clip)(triple, np.array(SEEDS))
        clips[name] = np.where(finite, after, 0.1)[0].tolist()
        print(f"three times the rate, {name}: {np.round(clips[name], 3)}")
    many = argparse.Namespace(steps=1000, directions=given.directions)
    seeds = np.arange(1000, 1000 + given.many)
    _, _, finite = over_seeds("qzo", many)(triple, seeds)
    failed = int((~np.asarray(finite)).sum())
    print(f"{given.many} seeds of 1,000 steps: {failed} with a number that is not one")
    if given.save:
        results = {
            "steps": given.steps,
            "directions": given.directions,
            "runs": rows,
            "weight_bytes": sizes,
            "three_times_the_rate": clips,
            "not_finite": [failed, given.many],
        }
        common.save("qzo_digits", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
