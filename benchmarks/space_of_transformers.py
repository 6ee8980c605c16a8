"""64 small transformers for digits, eight tokens each: the rows of the image.

Two layers, each of which mixes tokens by attention with one head, with four heads, by a
convolution over three rows, or not at all; the width is 8 to 32, and that of the
feed-forward part twice as much. All are parts of the largest, so that an architecture
is data of one compiled program: heads are a mask of ``[heads, width]``.

Layer normalization before each part, learned places, the mean of the tokens at the end.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (8, 16, 24, 32)
NONE, ONE_HEAD, FOUR_HEADS, CONVOLUTION = range(4)
LAYERS, LARGEST, HEADS, ROWS = 2, 32, 4, 8
CHOICES = (4,) * LAYERS + (len(WIDTHS),)
SPACE = np.array(list(itertools.product(*map(range, CHOICES))), np.int32)


def first_weights(key: Any, architecture: Any) -> dict[str, Any]:
    """Draws ``N(0, 1 / fan_in)`` for the largest network; ``hidden`` uses a part."""
    width = jnp.array(WIDTHS)[architecture[-1]]
    keys = iter(jax.random.split(key, 9))

    def drawn(fan_in: Any, *shape: int) -> Any:
        return jax.random.normal(next(keys), shape) / jnp.sqrt(fan_in)

    square = LAYERS, LARGEST, LARGEST
    return {
        "first": drawn(8, 8, LARGEST),
        "places": 0.1 * drawn(1, ROWS, LARGEST),
        "query": drawn(width, *square),
        "key": drawn(width, *square),
        "value": drawn(width, *square),
        "mixed": drawn(width, *square),
        "kernel": drawn(3, LAYERS, 3, LARGEST),
        "wide": drawn(width / 2, LAYERS, LARGEST, 2 * LARGEST),
        "narrow": drawn(2 * width, LAYERS, 2 * LARGEST, LARGEST),
        "gains": jnp.ones((2 * LAYERS + 1, LARGEST)),
        "shifts": jnp.zeros((2 * LAYERS + 1, LARGEST)),
        "biases": jnp.zeros((LAYERS, 2 * LARGEST)),
        "last": jnp.zeros((LARGEST, 10)),
    }


def hidden(weights: dict[str, Any], architecture: Any, x: Any) -> tuple[Any, Any]:
    """Returns the tokens' mean, and what the ReLUs read, ``[L, B * 8, 2 W]``."""
    width = jnp.array(WIDTHS)[architecture[-1]]
    unit = jnp.arange(LARGEST)
    used = unit < width

    def normal(h: Any, place: int) -> Any:
        mean = h.sum(axis=-1, keepdims=True) / width
        away = (h - mean) * used
        scale = jnp.sqrt((away**2).sum(axis=-1, keepdims=True) / width + 1e-5)
        return (
            away / scale * weights["gains"][place] + weights["shifts"][place]
        ) * used

    before = []
    h = (x.reshape(-1, ROWS, 8) @ weights["first"] + weights["places"]) * used
    for layer in range(LAYERS):
        kind = architecture[layer]
        n = normal(h, 2 * layer)
        # head i has the units i * size to (i + 1) * size
        size = jnp.where(kind == FOUR_HEADS, width // HEADS, width)
        head = (unit // size == jnp.arange(HEADS)[:, None]) & used
        query, key, value = (
            (n @ weights[name][layer]) * used for name in ("query", "key", "value")
        )
        match = jnp.einsum("btd,hd,bsd->bhts", query, head / jnp.sqrt(size), key)
        attended = jnp.einsum(
            "bhts,hd,bsd->btd", jax.nn.softmax(match), jnp.float32(head), value
        )
        padded = jnp.pad(n, ((0, 0), (1, 1), (0, 0)))
        kernel = weights["kernel"][layer]
        rows = sum(padded[:, i : i + ROWS] * kernel[i] for i in range(3))
        mixed = jnp.where(kind == CONVOLUTION, rows, attended)
        h += (mixed @ weights["mixed"][layer]) * used * (kind != NONE)
        z = normal(h, 2 * layer + 1) @ weights["wide"][layer] + weights["biases"][layer]
        z *= jnp.arange(2 * LARGEST) < 2 * width
        before.append(z.reshape(-1, 2 * LARGEST))
        h += (jax.nn.relu(z) @ weights["narrow"][layer]) * used
    return normal(h, 2 * LAYERS).mean(axis=1), jnp.stack(before)


def num_parameters(architecture: Any) -> Any:
    """Returns how many numbers an architecture uses."""
    width = jnp.array(WIDTHS)[architecture[-1]]
    kinds = architecture[:-1]
    attention = (kinds == ONE_HEAD) | (kinds == FOUR_HEADS)
    mixer = attention * 4 * width**2 + (kinds == CONVOLUTION) * (width**2 + 3 * width)
    # two linear maps with 2 W biases between them, two normalizations
    layers = jnp.sum(mixer + (kinds != NONE) * 2 * width) + LAYERS * (
        4 * width**2 + 2 * width + 2 * width
    )
    return (8 + ROWS) * width + layers + 2 * width + 10 * width
