"""How the axes of a lazy leaf lie on its arrays, and products over labelled axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

Index: TypeAlias = int | jax.Array  # a Python integer is known when tracing


class View(NamedTuple):
    """How the axes of a leaf lie on its storage.

    Attributes:
        dims: sizes of the storage axes, in storage order.
        order: logical axis ``i`` is storage axis ``order[i]``.
        dtype: the logical dtype; blocks are computed in float32 or wider.
        rows: how many storage axes make up the rows (``RowBlocks``).
        column: the first column that is seen (``RowBlocks``).
    """

    dims: tuple[int, ...]
    order: tuple[int, ...]
    dtype: np.dtype
    rows: int = 0
    column: int = 0


class Dot(NamedTuple):
    """A product of two arrays with labelled axes: what ``dot_general`` was asked for.

    A label in both operands is summed over, unless it is in ``out``: then it is a batch
    axis.
    """

    dtype: np.dtype
    precision: lax.PrecisionLike = None

    def wide(self) -> Dot:
        """Returns the same product in float32 or wider, for sums of several."""
        return self._replace(dtype=jnp.promote_types(self.dtype, jnp.float32))

    def __call__(
        self,
        x: jax.Array,
        x_labels: Sequence[int],
        y: jax.Array,
        y_labels: Sequence[int],
        out: Sequence[int],
    ) -> jax.Array:
        """Returns ``einsum(x, x_labels, y, y_labels, out)`` in ``self.dtype``."""
        shared = [label for label in x_labels if label in y_labels]
        batch = [label for label in shared if label in out]
        summed = [label for label in shared if label not in out]
        common = jnp.promote_types(x.dtype, y.dtype)

        def axes(labels: list[int]) -> tuple[list[int], list[int]]:
            x_axes = [x_labels.index(label) for label in labels]
            return x_axes, [y_labels.index(label) for label in labels]

        product = lax.dot_general(
            x.astype(common),
            y.astype(common),
            (axes(summed), axes(batch)),
            precision=self.precision,
            preferred_element_type=jnp.promote_types(common, self.dtype),
        )
        labels = [*batch, *(i for i in [*x_labels, *y_labels] if i not in shared)]
        product = lax.transpose(product, [labels.index(i) for i in out])
        return product.astype(self.dtype)


def rows_view(shape: tuple[int, ...], dtype: DTypeLike) -> View:
    """Returns the view of a whole ``RowBlocks`` leaf: the last axis is the columns."""
    axes = len(shape)
    return View(shape, tuple(range(axes)), jnp.dtype(dtype), max(0, axes - 1))


def as_index(start: Index) -> Index:
    """Returns an index as a Python integer or as int32."""
    return start if isinstance(start, int) else jnp.asarray(start).astype(jnp.int32)


def slice_axis(array: jax.Array, axis: int, start: Index, size: int) -> jax.Array:
    """Returns part of an axis; what is known when tracing costs nothing later."""
    if isinstance(start, int):
        if size == array.shape[axis]:
            return array
        return lax.slice_in_dim(array, start, start + size, axis=axis)
    return lax.dynamic_slice_in_dim(array, as_index(start), size, axis)


def prefix(dims: tuple[int, ...], size: int) -> int | None:
    """Returns how many leading ``dims`` make up ``size`` elements, if any do."""
    fits = (n for n in range(len(dims) + 1) if math.prod(dims[:n]) == size)
    return next(fits, None)


def regroup(
    view: View, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the storage dims and order that show as ``shape``, if there are any.

    Runs of old and of new axes with equal products are matched; the old axes of a run
    must follow each other in storage. Axes of size 1 go to the front of storage.
    """
    if 0 in shape:
        return None
    old = [axis for axis in view.order if view.dims[axis] > 1]
    in_storage = sorted(old)
    new = [axis for axis, size in enumerate(shape) if size > 1]
    runs: list[tuple[int, list[int]]] = []  # (first storage axis, new logical axes)
    while old and new:
        olds, news = [old.pop(0)], [new.pop(0)]
        left, right = view.dims[olds[0]], shape[news[0]]
        while left != right:
            if left < right:
                olds.append(old.pop(0))
                left *= view.dims[olds[-1]]
            else:
                news.append(new.pop(0))
                right *= shape[news[-1]]
        at = in_storage.index(olds[0])
        if olds != in_storage[at : at + len(olds)]:
            return None
        runs.append((olds[0], news))
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    logical = ones + [axis for _, news in sorted(runs) for axis in news]
    order = tuple(logical.index(axis) for axis in range(len(shape)))
    return tuple(shape[axis] for axis in logical), order
