"""Pytrees of parameters: sizes, paths, and the trainable half of a solution."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.lazy import lazy
from gfopt.types import Array, PyTree


def num_parameters(tree: PyTree) -> int:
    """Returns ``D``, the number of elements over all leaves."""
    return sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(tree))


def path_name(path: tuple[object, ...]) -> str:
    """Returns a leaf's path as text, the same for dicts, lists and dataclasses."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def path_hash(path: tuple[object, ...]) -> int:
    """Returns the crc32 of a leaf's path, which selects its stream of noise."""
    return zlib.crc32(path_name(path).encode())


def flatten_with_hash(tree: PyTree) -> tuple[list[int], list[jax.Array], PyTreeDef]:
    """Returns the hashes of the leaves' paths, the leaves and the structure."""
    named, structure = jax.tree_util.tree_flatten_with_path(tree)
    return (
        [path_hash(path) for path, _ in named],
        [leaf for _, leaf in named],
        structure,
    )


def map_with_hash(fun: Callable[..., PyTree], tree: PyTree, *rest: PyTree) -> PyTree:
    """Maps ``fun(path_hash, leaf, *others)`` over the leaves."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, *others: fun(path_hash(path), leaf, *others), tree, *rest
    )


def partition(
    tree: PyTree,
    trainable: Callable[[str, Array], bool] | None = None,
    *,
    codes: bool = False,
) -> tuple[PyTree, PyTree]:
    """Splits a tree into its trainable and its frozen half.

    Args:
        tree: any pytree.
        trainable: ``(path, leaf) -> bool``; the path is written ``"layer/0/w"``, the
            scales of a quantized ``w`` are ``"layer/0/w/scales"``. None for the scales
            of the quantized leaves, or for all real numbers where there are none.
        codes: whether the integer codes of quantized leaves, ``"layer/0/w/codes"``,
            may be trained, as ``QES`` does; ``trainable=None`` then is for the codes
            alone. False: they are frozen.

    Returns:
        Two trees of the same outer structure, with None where a leaf is in the other.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for ``codes=True`` where nothing is quantized.

    Example:
        >>> x = {"w": 1.0, "b": 2.0}
        >>> partition(x, lambda path, leaf: path == "w")
        ({'b': None, 'w': 1.0}, {'b': 2.0, 'w': None})
    """
    checks.instance("codes", codes, bool, "True or False")
    is_code = lazy.code_parts(tree)
    if codes and not any(jax.tree.leaves(is_code)):
        raise ValueError(
            "tree must have quantized leaves where codes=True; "
            f"got {checks.shown(tree)}"
        )
    if trainable is None:
        keep = is_code if codes else lazy.scale_parts(tree)
        if not any(jax.tree.leaves(keep)):
            keep = jax.tree.map(
                lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating), tree
            )
    else:
        checks.is_callable("trainable", trainable)
        keep = jax.tree_util.tree_map_with_path(
            lambda path, leaf, fixed, is_code: (
                (is_code if codes and fixed else not fixed)
                and bool(trainable(path_name(path), leaf))
            ),
            tree,
            lazy.frozen_parts(tree),
            is_code,
        )
    searched = jax.tree.map(lambda leaf, k: leaf if k else None, tree, keep)
    frozen = jax.tree.map(lambda leaf, k: None if k else leaf, tree, keep)
    return searched, frozen


def merge(searched: PyTree, frozen: PyTree) -> PyTree:
    """Merges the two halves of ``partition``.

    Example:
        >>> merge({"b": None, "w": 1.0}, {"b": 2.0, "w": None})
        {'b': 2.0, 'w': 1.0}
    """
    # the frozen half leads: where it has None, the other's subtree is taken whole,
    # even if it is a lazy leaf, which is itself a small tree
    return jax.tree.map(
        lambda kept, taken: taken if kept is None else kept,
        frozen,
        searched,
        is_leaf=lambda leaf: leaf is None,
    )


def starting_point(solution: PyTree, *, codes: bool = False) -> PyTree:
    """Returns the solution that a method starts from, checked, by ``as_inexact``.

    Args:
        solution: any pytree.
        codes: whether the method steps integer codes of quantized leaves.

    Raises:
        TypeError: for leaves that are not real numbers.
        ValueError: for a solution without numbers, with one that is not finite, or
            with codes that the method would take for real numbers.
    """
    checks.finite_tree("solution", solution)
    if not codes and any(jax.tree.leaves(lazy.frozen_parts(solution))):
        raise ValueError(
            "solution must not have the integer codes of a quantized model, which QES "
            f"alone steps; got {checks.shown(solution)}"
        )
    return as_inexact(solution)


def as_inexact(tree: PyTree) -> PyTree:
    """Returns the tree with strongly typed floating-point arrays, codes as they are."""

    def convert(leaf: ArrayLike, is_code: bool) -> jax.Array:
        array = jnp.asarray(leaf)
        dtype = array.dtype
        if not is_code and not jnp.issubdtype(dtype, jnp.floating):
            dtype = jnp.zeros(()).dtype  # the default float, float64 under x64
        return jax.lax.convert_element_type(array, dtype)

    return jax.tree.map(convert, tree, lazy.code_parts(tree))


def filled(tree: PyTree, value: ArrayLike) -> PyTree:
    """Returns a tree of one value like ``tree``, in float32 or wider."""
    return jax.tree.map(
        lambda leaf: jnp.full(
            leaf.shape, value, jnp.promote_types(leaf.dtype, jnp.float32)
        ),
        tree,
    )


def precision(tree: PyTree) -> AbstractContextManager[None]:
    """Returns a context that preserves float64 leaves, if there are any."""
    leaves = jax.tree.leaves(tree)
    if any(getattr(leaf, "dtype", None) == np.float64 for leaf in leaves):
        return jax.enable_x64(True)
    return nullcontext()


def wide_dtype(tree: PyTree) -> np.dtype:
    """Returns the dtype for scalars of a tree: float64 if it has any, else float32."""
    return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(tree)))


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Returns ``tree`` with the dtypes of ``like`` (hyperparameters may be wider)."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), tree, like)


def select(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Returns ``new`` where ``condition``, else ``old``, in the dtypes of ``old``."""

    def choice(a: jax.Array, b: jax.Array) -> jax.Array:
        picked = jnp.where(condition, a, b)
        # keys of jax.random need no cast, and allow none
        return picked if picked.dtype == b.dtype else picked.astype(b.dtype)

    return jax.tree.map(choice, new, old)


def strongly_typed(tree: PyTree) -> PyTree:
    """Returns ``tree`` without weak types: the second step then compiles nothing."""
    return jax.tree.map(
        lambda leaf: jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype), tree
    )


def node_types(tree: PyTree) -> tuple[object, ...]:
    """Returns the types of a tree's nodes, hashable.

    Up to jax 0.12 the structures of two dataclasses are equal that differ in nothing
    but their class, and ``jit`` may take the one for the other.

    Example:
        >>> node_types({"a": (1.0, 2.0)})
        (<class 'dict'>, (<class 'tuple'>, (), ()))
    """
    return _types(jax.tree.structure(tree))


def _types(structure: PyTreeDef) -> tuple[object, ...]:
    node = structure.node_data()
    if node is None:
        return ()
    return (node[0], *map(_types, structure.children()))
