"""Small networks as plain pytrees: tuples of layers of weights and biases."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.types import Key, PyTree


def mlp(key: Key, sizes: tuple[int, ...] = (64, 32, 10)) -> PyTree:
    """Draws the first weights of a multi-layer perceptron.

    Args:
        key: a key from ``jax.random.key``.
        sizes: inputs, hidden units of each layer, outputs.

    Returns:
        A tuple of layers ``{"w": [in, out], "b": [out]}``: ``w ~ N(0, 1 / in)``,
        ``b = 0``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for fewer than two sizes, or one below 1.

    Example:
        >>> [layer["w"].shape for layer in mlp(jax.random.key(0))]
        [(64, 32), (32, 10)]
    """
    checks.key("key", key)
    checks.instance("sizes", sizes, (tuple, list), "a tuple of integers")
    if len(sizes) < 2:
        raise ValueError(
            f"sizes must have two entries or more, inputs and outputs; got {sizes!r}"
        )
    for size in sizes:
        checks.integer("sizes", size, 1)
    keys = jax.random.split(key, len(sizes) - 1)
    return tuple(
        {
            "w": jax.random.normal(k, (fan_in, fan_out)) / np.sqrt(fan_in),
            "b": jnp.zeros(fan_out),
        }
        for k, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )


def network_outputs(network: PyTree, inputs: jax.Array) -> jax.Array:
    """Runs a network as ``mlp`` makes it, in JAX or in NumPy.

    Args:
        network: a tuple of layers ``{"w": [in, out], "b": [out]}``, tanh between them.
        inputs: ``[in]``, or of several ``[b, in]``.

    Returns:
        ``[out]`` or ``[b, out]``.
    """
    h = inputs
    for layer in network[:-1]:
        h = h @ layer["w"] + layer["b"]
        h = h.__array_namespace__().tanh(h)
    return h @ network[-1]["w"] + network[-1]["b"]
