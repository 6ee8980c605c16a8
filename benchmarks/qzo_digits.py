"""A 4-bit network that adapts to rotated digits by forward passes: QZO beside MeZO.

A perceptron 64-96-96-10 is trained by Adam on upright digits of scikit-learn, then
adapted to digits turned by 30 degrees, of which it sees 400. QZO moves the scales of
its int4 weights (float16, for groups of 16 inputs); MeZO moves all float32 weights.
Both have the same steps, directions, mini-batches, linear decay and grid of learning
rates, the best of which is chosen on other seeds in runs of a quarter of the steps.
Then QZO at three times its rate, by the bound of its slopes, and 100 seeds of 1,000
such steps: how many end with a number that is not finite.

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
from descent import by_adam
from scipy import ndimage

import gfopt
from gfopt.lazy.lazy import materialise
from gfopt.problems import mlp
from gfopt.problems.networks import network_outputs

SIZES, ANGLE, TRAIN, BATCH = (64, 96, 96, 10), 30, 400, 64
GROUP = 16
RATES = np.geomspace(5e-3, 0.64, 8)
CLIP = 0.3
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
    out = network_outputs(network, images)
    return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean()


def accuracy(network: Any) -> Any:
    network = materialise(network)
    return jnp.mean(network_outputs(network, TURNED[HELD]).argmax(1) == LABELS[HELD])


def trained(key: Any) -> Any:
    """Returns a network that knows the digits upright."""

    def batch_loss(network: Any, key: Any) -> Any:
        rows = jax.random.choice(key, SOURCE.stop - SOURCE.start, (BATCH,))
        return loss(network, UPRIGHT[SOURCE][rows], LABELS[SOURCE][rows])

    return by_adam(batch_loss, mlp(key, SIZES), jax.random.split(key, 1000), 3e-3)


def quantized(network: Any, bits: int = 4) -> Any:
    return gfopt.quantization.quantize(
        network,
        bits=bits,
        group_size=GROUP,
        axis=-2,
        min_size=0,
        scale_dtype=jnp.float16,
    )


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
    clip: float | None = None,
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
        is_scale = _scale_or_bias if "joint" in variant else None
        network, frozen = gfopt.partition(network, is_scale)
        relative = "absolute" not in variant
        method = gfopt.QZO(
            decayed,
            1e-2 if relative else 1e-3,
            clip,
            relative=relative,
            rounding="nearest" if "adam" in variant else "stochastic",
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

    finite = [
        jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found.recommended)
    ]
    return (
        accuracy(whole(network)),
        accuracy(whole(found.recommended)),
        jnp.all(jnp.array(finite)),
    )


def _scale_or_bias(path: str, leaf: Any) -> bool:
    return path.endswith(("scales", "b"))


def over_seeds(variant: str, given: Any, clip: float | None = None) -> Any:
    """Returns a jitted ``(rates [r], seeds [s]) -> results [r, s]``."""

    def one(rate: Any, seed: Any) -> Any:
        return run(variant, rate, seed, given.steps, given.directions, clip)

    return jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))


def num_bytes(tree: Any) -> int:
    shapes = jax.eval_shape(lambda: tree(trained(jax.random.key(0))))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--directions", type=int, default=8)
    parser.add_argument("--variants", nargs="+", default=["qzo", "qzo_clipped"])
    parser.add_argument("--many", type=int, default=100, help="seeds without a NaN")
    parser.add_argument("--save", action=argparse.BooleanOptionalAction, default=True)
    given = common.parsed(parser, steps=40, directions=1, variants=["qzo"], many=2)
    # rates are chosen, and broken, in runs of a quarter of the steps
    short = argparse.Namespace(steps=given.steps // 4, directions=given.directions)
    rows: dict[str, Any] = {}
    for variant in ["mezo", *given.variants]:
        clip = CLIP if "clipped" in variant else None
        runs = over_seeds(variant, short, clip)(RATES, np.array(TUNING_SEEDS))
        tuned = np.where(runs[2], runs[1], 0.1).mean(axis=1)
        rate = RATES[tuned.argmax()]
        best = over_seeds(variant, given, clip)(np.array([rate]), np.array(SEEDS))
        before, after, _ = (np.asarray(part)[0] for part in best)
        rows[variant] = {
            "rate": float(rate),
            "clip": clip,
            "tuned": tuned.tolist(),
            "before": before.tolist(),
            "after": after.tolist(),
        }
        print(f"{variant}, rate {rate:.1e}, clip {clip}: before {before.mean():.3f}")
        print(f"after {after.round(3)}, mean {after.mean():.4f}", flush=True)
    common.show(
        ["variant", "before", "after", "gain"],
        [
            [name, *(float(np.mean(row[k])) for k in ("before", "after")),
             float(np.mean(row["after"]) - np.mean(row["before"]))]
            for name, row in rows.items()
        ],
    )  # fmt: skip
    sizes = {"float32": num_bytes(lambda n: n), "int4": num_bytes(quantized)}
    print(sizes, round(sizes["float32"] / sizes["int4"], 2), flush=True)
    triple = np.array([3 * rows["qzo"]["rate"]])
    clips = {}
    for clip in (None, 5.0, 1.0, CLIP):
        _, after, finite = over_seeds("qzo", short, clip)(triple, np.array(SEEDS))
        clips[str(clip)] = np.where(finite, after, 0.1)[0].tolist()
        print(f"three times the rate, clip {clip}: {np.round(clips[str(clip)], 3)}")
    many = argparse.Namespace(steps=1000, directions=1)
    seeds = np.arange(1000, 1000 + given.many)
    _, _, finite = over_seeds("qzo", many, CLIP)(triple, seeds)
    failed = int((~np.asarray(finite)).sum())
    print(f"{given.many} seeds of 1,000 steps: {failed} with a number that is not one")
    if given.save:
        results = {
            "steps": given.steps,
            "directions": given.directions,
            "rates": RATES.tolist(),
            "runs": rows,
            "weight_bytes": sizes,
            "three_times_the_rate_by_clip": clips,
            "not_finite": [failed, given.many],
        }
        common.save("qzo_digits", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
