"""Small trees in few buffers: what makes a host loop's dispatch cheap.

A call of a compiled program costs about 2 microseconds for each array that goes in or
comes out, and a method's state and population have thirty of them. ``Packed`` lays all
small leaves of a dtype side by side in one array; large ones stay as they are.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef

from gfopt import jaxprs
from gfopt.core import trees
from gfopt.pytree import pytree, static
from gfopt.types import PyTree

LARGE = 1 << 14  # elements from which a leaf is not worth a copy


class Layout:
    """The structure of a tree and the shape and dtype of each leaf; hashable, cheaply.

    Attributes:
        structure: of the tree.
        types: of its nodes, which the structure does not tell apart.
        leaves: shape and dtype of each leaf as it was packed.
    """

    __slots__ = ("structure", "types", "leaves", "_hash")

    def __init__(
        self,
        structure: PyTreeDef,
        types: tuple[object, ...],
        leaves: tuple[tuple[tuple[int, ...], str], ...],
    ):
        self.structure, self.types, self.leaves = structure, types, leaves
        self._hash = hash((structure, leaves))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        # built again: another process hashes text differently
        return Layout, (self.structure, self.types, self.leaves)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Layout)
            and (self.leaves, self.types) == (other.leaves, other.types)
            and self.structure == other.structure
        )


@pytree
class Packed:
    """A tree of arrays in few buffers, made by ``pack``; itself a pytree.

    Attributes:
        small: for each dtype the small leaves, one after the other.
        large: the other leaves.
        layout: how they make up the tree.
    """

    small: tuple[PyTree, ...]
    large: tuple[PyTree, ...]
    layout: Layout = static()

    def tree(self) -> PyTree:
        """Returns the tree; its small leaves are slices of ``small``."""
        described = self.layout.leaves
        dtypes = dict.fromkeys(dtype for shape, dtype in described if _small(shape))
        flat = dict(zip(dtypes, self.small, strict=True))
        offset = dict.fromkeys(dtypes, 0)
        large, leaves = iter(self.large), []
        for shape, dtype in described:
            if not _small(shape):
                leaves.append(next(large))
                continue
            start = offset[dtype]
            offset[dtype] = start + math.prod(shape)
            leaves.append(flat[dtype][start : offset[dtype]].reshape(shape))
        return jax.tree.unflatten(self.layout.structure, leaves)

    def fetched(self) -> PyTree:
        """Returns the tree with NumPy views as small leaves; the large ones stay."""
        small = tuple(map(np.asarray, self.small))
        return Packed(small, self.large, self.layout).tree()


def pack(tree: PyTree) -> Packed:
    """Lays a tree of arrays, numbers or tracers out in few buffers.

    Example:
        >>> packed = pack({"a": np.ones(2), "b": np.zeros((1, 3)), "n": np.int32(4)})
        >>> [array.shape for array in packed.small]
        [(5,), (1,)]
        >>> packed.fetched()["b"]
        array([[0., 0., 0.]])
    """
    leaves, structure = jax.tree.flatten(tree)
    is_traced = any(map(jaxprs.is_tracer, leaves))
    xp: Any = jnp if is_traced else np
    arrays = [leaf if hasattr(leaf, "dtype") else xp.asarray(leaf) for leaf in leaves]
    groups: dict[str, list[jax.Array]] = {}
    for array in arrays:
        if _small(array.shape):
            groups.setdefault(str(array.dtype), []).append(xp.ravel(array))
    return Packed(
        tuple(xp.concatenate(group) for group in groups.values()),
        tuple(array for array in arrays if not _small(array.shape)),
        Layout(
            structure,
            trees.node_types(tree),
            tuple((tuple(array.shape), str(array.dtype)) for array in arrays),
        ),
    )


def _small(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) < LARGE
