"""A JAX function that processes can hand to each other: by what makes it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gfopt.problems.networks import mlp
from gfopt.types import Array, PyTree


class Compiled:
    """A function of a vector that is made, and compiled, where it is first called.

    Args:
        make: a function of a module that returns the function.
        *arguments: of ``make``; numbers and texts.
        x64: whether it computes in double precision, where a benchmark does.

    Example:
        >>> import jax.numpy as jnp
        >>> def halving(n):
        ...     return lambda x: jnp.sum(x) / 2**n
        >>> float(Compiled(halving, 3)(np.ones(16)))
        2.0
    """

    def __init__(
        self,
        make: Callable[..., Callable[..., jax.Array]],
        *arguments: Any,
        x64: bool = True,
    ):
        self._make, self._arguments, self._x64 = make, arguments, x64

    def __call__(self, x: np.ndarray) -> jax.Array:
        """Returns the value at ``x: float64[D]``."""
        with jax.enable_x64(self._x64 and jax.config.read("jax_enable_x64")):
            return _compiled(self._make, *self._arguments)(x)


@functools.lru_cache(maxsize=64)
def _compiled(make: Callable[..., Callable[..., jax.Array]], *arguments: Any) -> Any:
    return jax.jit(make(*arguments))


def numbers_of(tree: PyTree) -> np.ndarray:
    """Returns the numbers of a tree that are searched, ``float64[D]``: its floats."""
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(tree) if _is_float(leaf)]
    return np.concatenate(leaves).astype(np.float64)


def first_weights(sizes: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draws the first weights of a network of such layers, ``float64[D]``."""
    with jax.enable_x64(False):
        return numbers_of(mlp(jax.random.key(int(rng.integers(2**31))), sizes))


def with_numbers(tree: PyTree, x: Array) -> PyTree:
    """Returns the tree with these numbers in place of its own, each in its type."""
    leaves, structure = jax.tree.flatten(tree)
    filled, begin = [], 0
    for leaf in leaves:
        if _is_float(leaf):
            end = begin + leaf.size
            leaf = x[begin:end].reshape(leaf.shape).astype(leaf.dtype)
            begin = end
        filled.append(leaf)
    return jax.tree.unflatten(structure, filled)


def _is_float(leaf: Any) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating))
