"""A small rectified flow that draws digits, and two classifiers of them.

What the scripts on guidance share: scikit-learn's 1,797 digits of 8 x 8 pixels, in
[-1, 1]; a residual network ``v(x, t, label)`` of a quarter of a million numbers that
is trained to take ``x_t = (1 - t) x + t z`` along ``z - x``, for the label or, a fifth
of the time, for none (10); a classifier that guides, and another, wider and of another
seed, that judges and whose hidden layer gives the features of a Fréchet distance. They
are trained once, on 1,300 of the digits, in a minute of processor time, and kept in a
folder.
"""

from __future__ import annotations

import argparse
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import parsed, sized

from gfopt.problems import mlp
from gfopt.problems.networks import network_outputs
from gfopt.research.statistics import paired_difference_interval

WIDTH, BLOCKS, FREQUENCIES = 192, 3, 8
NONE = 10  # the label of no class
TRAIN = 1300  # images; the other 497 are held out
FOLDER = Path(tempfile.gettempdir()) / "digit_flow"


class Models(NamedTuple):
    """What was trained: the flow, the classifiers, and the moments of features."""

    flow: Any
    guide: Any
    judge: Any
    mean: jax.Array
    covariance: jax.Array


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns images ``[1797, 64]`` in [-1, 1] and labels, in a fixed random order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 8 - 1).astype(np.float32), labels[order].astype(np.int32)


def network(key: jax.Array) -> dict[str, Any]:
    """Draws the first weights of the flow."""
    inputs = 64 + 2 * FREQUENCIES + NONE + 1
    shapes = [(inputs, WIDTH), *[(WIDTH, WIDTH)] * (2 * BLOCKS), (WIDTH, 64)]
    keys = jax.random.split(key, len(shapes))
    layers = [
        {"w": jax.random.normal(k, shape) / shape[0] ** 0.5, "b": jnp.zeros(shape[1])}
        for k, shape in zip(keys, shapes, strict=True)
    ]
    return {"in": layers[0], "blocks": layers[1:-1], "out": layers[-1]}


def velocity(flow: Any, x: jax.Array, t: Any, label: Any) -> jax.Array:
    """Returns the direction of images ``[b, 64]`` at time ``t`` (0 is the image)."""
    t = jnp.broadcast_to(t, x.shape[:1])[:, None]
    label = jnp.broadcast_to(label, x.shape[:1])
    angles = t * np.pi * 2.0 ** np.arange(-1, FREQUENCIES - 1)
    parts = [x, jnp.sin(angles), jnp.cos(angles), jax.nn.one_hot(label, NONE + 1)]
    h = jnp.concatenate(parts, axis=1) @ flow["in"]["w"] + flow["in"]["b"]
    for one, two in zip(flow["blocks"][::2], flow["blocks"][1::2], strict=True):
        h += jax.nn.silu(jax.nn.silu(h) @ one["w"] + one["b"]) @ two["w"] + two["b"]
    return jax.nn.silu(h) @ flow["out"]["w"] + flow["out"]["b"]


def denoised(flow: Any, x: jax.Array, t: Any, label: Any = NONE) -> jax.Array:
    """Returns the expected images, ``E[x_0 | x_t] = x_t - t v``."""
    return x - jnp.reshape(t, (-1, 1)) * velocity(flow, x, t, label)


def moved(x: jax.Array, clean: jax.Array, t: Any, s: Any, noise: Any = 0.0) -> Any:
    """Takes images from time ``t`` to ``s < t``, given the clean ones.

    ``x_s = (1 - s) x_0 + sqrt(s^2 - tau^2) z + tau noise`` with the ``z`` in ``x_t``;
    ``tau`` is that of ancestral sampling, or 0 without noise, the step of Euler.
    """
    z = (x - (1 - t) * clean) / t
    variance = s**2 * (1 - ((1 - t) * s / ((1 - s) * t)) ** 2)
    tau = jnp.sqrt(variance) if np.ndim(noise) else 0.0
    return (1 - s) * clean + jnp.sqrt(s**2 - tau**2) * z + tau * noise


def steps(count: int) -> np.ndarray:
    """Returns ``count + 1`` times from 1 down to 0, equally far apart."""
    return np.linspace(1, 0, count + 1, dtype=np.float32)


def features(judge: Any, images: jax.Array) -> jax.Array:
    """Returns the last hidden layer of the judge, ``[b, 32]``."""
    h = images
    for layer in judge[:-1]:
        h = jnp.tanh(h @ layer["w"] + layer["b"])
    return h


def frechet(models: Models, images: jax.Array) -> Any:
    """Returns ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))`` of the judge's features."""
    found = features(models.judge, images)
    mean, covariance = found.mean(axis=0), jnp.cov(found.T)
    values, vectors = jnp.linalg.eigh(models.covariance)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0)) @ vectors.T
    # the eigenvalues of C C' are those of C'^(1/2) C C'^(1/2), which is symmetric
    cross = jnp.linalg.eigvalsh(root @ covariance @ root)
    spread = jnp.trace(covariance + models.covariance)
    shift = jnp.sum((mean - models.mean) ** 2)
    return shift + spread - 2 * jnp.sum(jnp.sqrt(jnp.maximum(cross, 0)))


def trained(loss: Any, start: Any, key: jax.Array, count: int) -> Any:
    """Returns the running mean of the weights under Adam."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, count, 0.02))

    @jax.jit
    def fit(start: Any) -> Any:
        def step(carry: Any, step: Any) -> Any:
            weights, state, mean = carry
            slope = jax.grad(loss)(weights, jax.random.fold_in(key, step))
            updates, state = optimizer.update(slope, state)
            weights = optax.apply_updates(weights, updates)
            mean = optax.incremental_update(weights, mean, 0.005)
            return (weights, state, mean), None

        begun = (start, optimizer.init(start), start)
        return jax.lax.scan(step, begun, jnp.arange(count))[0][2]

    return fit(start)


def made() -> Models:
    """Trains the three networks."""
    images, labels = map(jnp.asarray, digits())
    count = sized(6000, 300)

    def flow_loss(flow: Any, key: jax.Array) -> jax.Array:
        pick, time, noise, drop = jax.random.split(key, 4)
        rows = jax.random.randint(pick, (128,), 0, TRAIN)
        t = jax.random.uniform(time, (128, 1), minval=1e-3)
        z = jax.random.normal(noise, (128, 64))
        label = jnp.where(jax.random.uniform(drop, (128,)) < 0.2, NONE, labels[rows])
        x = (1 - t) * images[rows] + t * z
        found = velocity(flow, x, t[:, 0], label)
        return jnp.mean((found - (z - images[rows])) ** 2)

    def classifier_loss(network: Any, key: jax.Array) -> jax.Array:
        pick, noise = jax.random.split(key)
        rows = jax.random.randint(pick, (128,), 0, TRAIN)
        x = images[rows] + 0.2 * jax.random.normal(noise, (128, 64))
        logits = network_outputs(network, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return losses.mean()

    keys = jax.random.split(jax.random.key(0), 6)
    flow = trained(flow_loss, network(keys[0]), keys[1], count)
    guide = mlp(keys[2], (64, 48, 10))
    guide = trained(classifier_loss, guide, keys[3], sized(1500, 300))
    judge = mlp(keys[4], (64, 128, 32, 10))
    judge = trained(classifier_loss, judge, keys[5], sized(1500, 300))
    found = features(judge, images)
    return Models(flow, guide, judge, found.mean(axis=0), jnp.cov(found.T))


def claimed(said: str, above: Any, below: Any, margin: float = 0.0) -> dict[str, Any]:
    """Says whether the first is above the second by more than ``-margin``.

    Args:
        said: the claim.
        above: what is to be larger, by seed ``[S]``.
        below: what is to be smaller, by the same seeds.
        margin: by how much it may be smaller nevertheless.
    """
    above, below = np.broadcast_arrays(above, below)
    gap = paired_difference_interval(above, below)
    verdict = "not reached" if gap.high < -margin else "open"
    verdict = "reached" if gap.low > -margin else verdict
    print(f"{verdict}: {said}, by {gap.estimate:.4f} [{gap.low:.4f}, {gap.high:.4f}]")
    return {"claim": said, "margin": margin, "gap": list(gap), "verdict": verdict}


def started(description: str, seeds: int) -> tuple[Models, int]:
    """Reads the command line; returns the networks and the number of seeds."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=seeds)
    said = "where the trained networks are kept"
    parser.add_argument("--folder", type=Path, default=FOLDER, help=said)
    given = parsed(parser, seeds=2)
    return loaded(given.folder), given.seeds


def loaded(folder: Path) -> Models:
    """Returns the networks, trained now unless they are there."""
    # other code makes other networks
    code = zlib.crc32(Path(__file__).read_bytes())
    path = folder / f"{sized('full', 'quick')}-{code:08x}.npz"
    shape = jax.eval_shape(made)
    treedef = jax.tree.structure(shape)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        leaves = jax.tree.leaves(made())
        with path.open("wb") as file:
            np.savez(file, *map(np.asarray, leaves))
    with np.load(path) as kept:
        leaves = [jnp.asarray(kept[f"arr_{place}"]) for place in range(len(kept))]
    models: Models = jax.tree.unflatten(treedef, leaves)
    images, labels = digits()
    for name in ("guide", "judge"):
        logits = network_outputs(getattr(models, name), jnp.asarray(images[TRAIN:]))
        right = np.mean(np.argmax(logits, axis=1) == labels[TRAIN:])
        print(f"{name}: {right:.3f} of 497 held-out digits")
    return models
