"""``ConvolutionalPolicy`` in NumPy, for games that run on the host.

A convolution is one matrix product: the windows of the images are the rows of a matrix,
the kernel is the other one. For one image this takes a fraction of the time that the
dispatch of a compiled program does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from gfopt.problems.environments.pixels import (
    LEAST_VARIANCE,
    ConvolutionalPolicy,
    Statistics,
)
from gfopt.types import PyTree

Normalise = Callable[[int, np.ndarray], np.ndarray]


def outputs(
    policy: ConvolutionalPolicy,
    weights: PyTree,
    images: np.ndarray,
    statistics: tuple[Statistics, ...] = (),
) -> np.ndarray:
    """Runs images ``[n, height, width, channels]`` to ``[n, num_actions]``.

    Args:
        policy: the network.
        weights: as ``policy.init`` draws them, NumPy arrays.
        images: a batch.
        statistics: of ``reference_statistics``; () for a network whose layers are not
            normalised.

    Example:
        >>> import jax
        >>> policy = ConvolutionalPolicy(num_actions=3, layers=((4, 3, 2),), hidden=8)
        >>> weights = jax.tree.map(np.array, policy.init(jax.random.key(0), (9, 9, 2)))
        >>> outputs(policy, weights, np.ones((5, 9, 9, 2), np.float32)).shape
        (5, 3)
    """

    def normalise(number: int, y: np.ndarray) -> np.ndarray:
        return normalised_by(y, statistics[number]) if statistics else y

    return _run(policy, weights, images, normalise)


def reference_statistics(
    policy: ConvolutionalPolicy, weights: PyTree, reference: np.ndarray
) -> tuple[Statistics, ...]:
    """Runs the reference batch, each layer normalised by its own statistics.

    Args:
        policy: the network.
        weights: NumPy arrays.
        reference: ``[n, height, width, channels]``.

    Returns:
        The statistics of every hidden layer.
    """
    found: list[Statistics] = []

    def normalise(number: int, y: np.ndarray) -> np.ndarray:
        axes = tuple(range(y.ndim - 1))
        found.append(Statistics(y.mean(axis=axes), y.var(axis=axes)))
        return normalised_by(y, found[number])

    _run(policy, weights, reference, normalise)
    return tuple(found)


def normalised_by(y: np.ndarray, statistics: PyTree) -> np.ndarray:
    """Returns ``(y - mean) / sqrt(variance + 1e-3)``, channel by channel."""
    return (y - statistics.mean) / np.sqrt(statistics.variance + LEAST_VARIANCE)


def _run(
    policy: ConvolutionalPolicy,
    weights: PyTree,
    h: np.ndarray,
    normalise: Normalise,
) -> np.ndarray:
    for number, (channels, size, stride) in enumerate(policy.layers):
        layer = weights[number]
        if policy.padding == "SAME":
            h = _padded(h, size, stride)
        # [n, rows, columns, channels, size, size], a view
        windows = sliding_window_view(h, (size, size), axis=(1, 2))
        windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
        kernel = layer["w"].reshape(-1, channels)
        y = windows.reshape(-1, kernel.shape[0]) @ kernel
        y = y.reshape(*windows.shape[:3], channels)
        h = np.maximum(normalise(number, y) + layer["b"], 0)
    dense, last = weights[-2:]
    y = h.reshape(len(h), -1) @ dense["w"]
    h = np.maximum(normalise(len(policy.layers), y) + dense["b"], 0)
    return h @ last["w"] + last["b"]


def _padded(h: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Adds the zeros of ``"SAME"``: an odd one at the bottom and on the right."""
    widths = [(0, 0)]
    for length in h.shape[1:3]:
        whole = max((-(-length // stride) - 1) * stride + size - length, 0)
        widths.append((whole // 2, whole - whole // 2))
    return np.pad(h, [*widths, (0, 0)])
