"""256 small networks for digits: three layers of four kinds, four widths.

A layer is absent, ReLU, tanh or a ReLU beside the identity; units are 8 to 64. All are
parts of the largest, so that an architecture is data of one compiled program.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (8, 16, 32, 64)
ABSENT, RELU, TANH, RESIDUAL = range(4)
LAYERS, LARGEST = 3, 64
CHOICES = (4,) * LAYERS + (len(WIDTHS),)
SPACE = np.array(list(itertools.product(*map(range, CHOICES))), np.int32)


def first_weights(key: Any, architecture: Any) -> dict[str, Any]:
    """Draws ``N(0, 2 / fan_in)`` for the largest network; ``hidden`` uses a part."""
    width = jnp.array(WIDTHS)[architecture[-1]]
    keys = jax.random.split(key, 3)
    wide = jax.random.normal(keys[0], (LAYERS, LARGEST, LARGEST))
    return {
        "first": jax.random.normal(keys[1], (64, LARGEST)) * (2 / 64) ** 0.5,
        "layers": wide * jnp.sqrt(2 / width),
        "biases": jnp.zeros((LAYERS + 1, LARGEST)),
        "last": jax.random.normal(keys[2], (LARGEST, 10)) / jnp.sqrt(width),
    }


def hidden(weights: dict[str, Any], architecture: Any, x: Any) -> tuple[Any, Any]:
    """Returns the last hidden states, and all pre-activations ``[L + 1, B, W]``."""
    used = jnp.arange(LARGEST) < jnp.array(WIDTHS)[architecture[-1]]
    before = [(x @ weights["first"] + weights["biases"][0]) * used]
    h = jax.nn.relu(before[0])
    for layer in range(LAYERS):
        kind = architecture[layer]
        z = (h @ weights["layers"][layer] + weights["biases"][layer + 1]) * used
        kinds = jnp.stack([h, jax.nn.relu(z), jnp.tanh(z), h + jax.nn.relu(z)])
        before.append(z * (kind != ABSENT))
        h = kinds[kind]
    return h, jnp.stack(before)


def num_parameters(architecture: Any) -> Any:
    """Returns how many weights and biases an architecture uses."""
    width = jnp.array(WIDTHS)[architecture[-1]]
    depth = jnp.sum(architecture[:-1] != ABSENT)
    return 65 * width + depth * width * (width + 1) + width * 10
