"""Convolutional policies for games, with virtual batch normalisation.

Every hidden layer, convolutional or dense, is normalised by mean and variance of each
of its channels over a fixed batch of reference observations:

    h = relu((y - mean_ref) / sqrt(var_ref + 1e-3) + b),   y = W * x

The reference batch runs once for each set of weights; what it yields is then constant.
Without it many random networks always choose the same action.

Source: Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen (2016), arXiv 1606.03498,
section 3.5, as Salimans et al. (2017), arXiv 1703.03864, use it for Atari. An image's
own part of the statistics is left out, and 1e-3 added to the variance, as there. The
default network is that of Mnih et al. (2015), Nature 518.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.types import Key, PyTree

LEAST_VARIANCE = 1e-3


class Statistics(NamedTuple):
    """Mean and variance of each channel, ``[channels]`` each."""

    mean: jax.Array
    variance: jax.Array


def statistics_of(y: jax.Array) -> Statistics:
    """Returns mean and variance of each channel (last axis) over all other axes."""
    axes = tuple(range(y.ndim - 1))
    return Statistics(jnp.mean(y, axes), jnp.var(y, axes))


def normalised_by(y: jax.Array, statistics: Statistics) -> jax.Array:
    """Returns ``(y - mean) / sqrt(variance + 1e-3)``, channel by channel."""
    return (y - statistics.mean) * lax.rsqrt(statistics.variance + LEAST_VARIANCE)


@dataclass(frozen=True)
class ConvolutionalPolicy:
    """A network from images to one output for each action.

    ``reference_statistics(weights, reference)`` runs the reference batch, and
    ``outputs(weights, statistics, images)`` uses what it found. In a ``Rollout``, where
    the first is to run once for each candidate and the second at every step, they are
    ``prepare`` and ``policy``.

    Args:
        num_actions: outputs.
        layers: ``(channels, size, stride)`` of each convolution.
        hidden: units of the dense layer after them.
        padding: ``"VALID"`` for none, ``"SAME"`` for zeros around every image, so that
            a convolution leaves ``ceil(size / stride)`` rows and columns.

    Raises:
        TypeError: for a number that is not an integer.
        ValueError: for one below 1.

    Example:
        >>> policy = ConvolutionalPolicy(num_actions=3, layers=((4, 3, 2),), hidden=8)
        >>> weights = policy.init(jax.random.key(0), (9, 9, 2))
        >>> reference = jax.random.uniform(jax.random.key(1), (16, 9, 9, 2))
        >>> statistics = policy.reference_statistics(weights, reference)
        >>> policy.outputs(weights, statistics, reference[:5]).shape
        (5, 3)
    """

    num_actions: int
    layers: tuple[tuple[int, int, int], ...] = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    hidden: int = 512
    padding: str = "VALID"

    def __post_init__(self) -> None:
        checks.integer("num_actions", self.num_actions, 1)
        checks.integer("hidden", self.hidden, 1)
        checks.one_of("padding", self.padding, ("VALID", "SAME"))
        checks.instance("layers", self.layers, tuple, "a tuple of triples")
        for layer in self.layers:
            if len(layer) != 3:
                raise ValueError(
                    "layers must hold (channels, size, stride) of each convolution; "
                    f"got {layer!r}"
                )
            for number in layer:
                checks.integer("layers", number, 1)

    def init(self, key: Key, shape: tuple[int, int, int]) -> PyTree:
        """Draws the first weights for images ``[height, width, channels]``.

        Returns:
            A tuple of layers ``{"w": ..., "b": [out]}``: kernels ``[size, size, in,
            out]``, then matrices ``[in, out]``. ``w ~ N(0, 1 / fan_in)``, ``b = 0``.
        """
        height, width, channels = shape
        shapes: list[tuple[int, ...]] = []
        for out, size, stride in self.layers:
            shapes.append((size, size, channels, out))
            # SAME: the image is as if (size - 1) wider
            lost = size - 1 if self.padding == "VALID" else 0
            height, width = (-((lost - n) // stride) for n in (height, width))
            channels = out
        if min(height, width) < 1:
            raise ValueError(f"shape must be large enough for layers; got {shape!r}")
        shapes += [(height * width * channels, self.hidden)]
        shapes += [(self.hidden, self.num_actions)]
        return tuple(
            {
                "w": jax.random.normal(k, s) / np.sqrt(np.prod(s[:-1])),
                "b": jnp.zeros(s[-1]),
            }
            for k, s in zip(jax.random.split(key, len(shapes)), shapes, strict=True)
        )

    def reference_statistics(
        self, weights: PyTree, reference: jax.Array
    ) -> tuple[Statistics, ...]:
        """Runs the reference batch, each layer normalised by its own statistics.

        Args:
            weights: of the network.
            reference: ``[n, height, width, channels]``, the same for the whole search.

        Returns:
            The statistics of every hidden layer.
        """
        found: list[Statistics] = []

        def normalise(number: int, y: jax.Array) -> jax.Array:
            found.append(statistics_of(y))
            return normalised_by(y, found[number])

        self._run(weights, reference, normalise)
        return tuple(found)

    def outputs(
        self, weights: PyTree, statistics: tuple[Statistics, ...], images: jax.Array
    ) -> jax.Array:
        """Runs images ``[..., height, width, channels]`` to ``[..., num_actions]``."""
        batch = images.reshape(-1, *images.shape[-3:])
        found = self._run(
            weights, batch, lambda number, y: normalised_by(y, statistics[number])
        )
        return found.reshape(*images.shape[:-3], self.num_actions)

    def _run(
        self,
        weights: PyTree,
        h: jax.Array,
        normalise: Callable[[int, jax.Array], jax.Array],
    ) -> jax.Array:
        for number, (_, _, stride) in enumerate(self.layers):
            layer = weights[number]
            form = ("NHWC", "HWIO", "NHWC")
            strides = (stride, stride)
            y = lax.conv_general_dilated(
                h, layer["w"], strides, self.padding, dimension_numbers=form
            )
            h = jax.nn.relu(normalise(number, y) + layer["b"])
        dense, last = weights[-2:]
        y = h.reshape(h.shape[0], -1) @ dense["w"]
        h = jax.nn.relu(normalise(len(self.layers), y) + dense["b"])
        return h @ last["w"] + last["b"]
