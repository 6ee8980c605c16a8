"""Blocks and layers with targets of their own: NoProp-DT and tpSGD.

- NoProp-DT: each block reads the image and a noised label and says what the label was.
  Each is trained by itself; chained, they are one deep network.
- tpSGD: each layer has a fixed random matrix, its target is that matrix times the
  label, and a delta rule moves it; no error passes between layers.

Sources: Li, Teh, Pascanu (2025), arXiv 2503.24322v2, NoProp-DT, with the label's
embedding one-hot and no network after the last block; Lomnitz, Daniels, Zhang,
Piacentino (2022), arXiv 2208.08503, tpSGD.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

BLOCKS, HIDDEN, CLASSES = 10, 16, 10

# signal of the noised label at step 0 to T, a cosine as in the paper
SIGNAL = jnp.clip(
    jnp.sin(jnp.pi / 2 * jnp.arange(BLOCKS + 1) / BLOCKS) ** 2, 1e-3, 0.999
)


def chain(t: Any) -> tuple[Any, Any, Any]:
    """Returns ``a_t, b_t, c_t`` of ``z_t = a_t u + b_t z_{t-1} + sqrt(c_t) noise``."""
    before, after = SIGNAL[t - 1], SIGNAL[t]
    keep = before / after  # alpha_{t-1}
    rest = 1 - before
    return (
        jnp.sqrt(after) * (1 - keep) / rest,
        jnp.sqrt(keep) * (1 - after) / rest,
        (1 - after) * (1 - keep) / rest,
    )


def first_block(key: Any, num_inputs: int) -> dict[str, jax.Array]:
    """Draws the weights of a block, ``N(0, 1 / fan_in)``."""
    shapes = {
        "x": (num_inputs, HIDDEN),
        "z": (CLASSES, HIDDEN),
        "out": (HIDDEN, CLASSES),
    }
    keys = jax.random.split(key, len(shapes))
    block = {
        name: jax.random.normal(k, shape) / shape[0] ** 0.5
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return block | {"b": jnp.zeros(HIDDEN), "c": jnp.zeros(CLASSES)}


def logits(block: dict[str, jax.Array], x: Any, z: Any) -> jax.Array:
    """Returns what a block says of the label, before the softmax."""
    h = jax.nn.relu(x @ block["x"] + z @ block["z"] + block["b"])
    return h @ block["out"] + block["c"]


def block_loss(block: Any, batch: Any, t: Any) -> jax.Array:
    """``E |u_t(z_{t-1}, x) - u_y|^2`` with ``z_{t-1} ~ q(. | y)``, (8) of the paper.

    ``u_y`` is one-hot, and a block's answer the mean of the classes' labels under its
    softmax. The factor of the signal-to-noise ratio is left out: it is one number for a
    block, which no other block shares weights with.
    """
    x, y, noise = batch
    label = jax.nn.one_hot(y, CLASSES)
    # q(z_{t-1} | y) = N(sqrt(signal) u_y, 1 - signal)
    signal = SIGNAL[t - 1]
    z = jnp.sqrt(signal) * label + jnp.sqrt(1 - signal) * noise
    answer = jax.nn.softmax(logits(block, x, z))
    return jnp.mean(jnp.sum((answer - label) ** 2, axis=1))


def chained(blocks: Any, x: Any, noise: Any, key: Any = None) -> jax.Array:
    """Runs all blocks from noise; returns ``z_T``. No key: no noise between blocks."""

    def step(z: Any, given: Any) -> tuple[Any, None]:
        block, t = given
        a, b, c = chain(t)
        z = a * jax.nn.softmax(logits(block, x, z)) + b * z
        if key is not None:
            z += jnp.sqrt(c) * jax.random.normal(jax.random.fold_in(key, t), z.shape)
        return z, None

    return lax.scan(step, noise, (blocks, jnp.arange(1, BLOCKS + 1)))[0]


def summed_loss(blocks: Any, batch: Any) -> jax.Array:
    """Returns the mean of all blocks' losses."""
    return jax.vmap(block_loss, (0, None, 0))(
        blocks, batch, jnp.arange(1, BLOCKS + 1)
    ).mean()


def entropy(outputs: Any, y: Any) -> jax.Array:
    """Returns the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()


def chain_loss(blocks: Any, batch: Any) -> jax.Array:
    """Returns the cross-entropy of the chain; a label in ``z_T`` stands some 1 high."""
    x, y, noise = batch
    return entropy(10 * chained(blocks, x, noise), y)


def alone_loss(block: Any, batch: Any) -> jax.Array:
    """Returns the cross-entropy of one block that sees no label."""
    x, y, noise = batch
    return entropy(logits(block, x, 0 * noise), y)


def delta_rule(layers: Any, targets: Any, batch: Any, rate: Any) -> Any:
    """One step of tpSGD, (4) of the paper: ``W += rate ((P y - h) s'(z)) h_before``.

    Mean over the batch. tanh in hidden layers, the identity in the last; the next layer
    sees what this one said before the step.
    """
    h, y, _ = batch
    label = jax.nn.one_hot(y, CLASSES)
    moved = []
    for i, (layer, target) in enumerate(zip(layers, targets, strict=True)):
        z = h @ layer["w"] + layer["b"]
        last = i == len(layers) - 1
        after, slope = (z, 1.0) if last else (jnp.tanh(z), 1 - jnp.tanh(z) ** 2)
        error = (label @ target - after) * slope
        moved.append(
            {
                "w": layer["w"] + rate * h.T @ error / len(h),
                "b": layer["b"] + rate * error.mean(axis=0),
            }
        )
        h = after
    return tuple(moved)


def projections(key: Any, sizes: tuple[int, ...]) -> list[jax.Array]:
    """Draws each layer's matrix ``[10, units]``, uniform signs of .5; the last is I."""
    hidden = [
        jax.random.rademacher(k, (CLASSES, size), jnp.float32) / 2
        for k, size in zip(jax.random.split(key, len(sizes)), sizes[:-1], strict=False)
    ]
    return [*hidden, jnp.eye(CLASSES)]


def outputs(layers: Any, x: Any) -> jax.Array:
    """Runs the layers."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]
