"""Lazy leaves: what an unmodified JAX model takes in place of its weights.

A lazy leaf has the shape and the dtype of an array, and knows how to multiply without
ever being one:

    low_rank.LowRank     w + a b^T            one base, a thin change for each member,
    perturbed.Perturbed  w + scale * z(seed)  noise made in the layer that uses it,
    quantized.Quantized  scale * code         integers of a few bits, scales for groups.

``interpret.interpret`` carries leaves through a model, ``materialise`` makes them
dense. A new kind of leaf derives from ``RowBlocks`` if any block of its rows can be
made dense alone (one method), or else from ``Lazy`` (three methods).

The arrays of a leaf stay in *storage* order; transposing, reshaping and slicing a leaf
touches only its ``View`` where that is possible, since a copy of the weights is what
lazy leaves are there to avoid.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from gfopt.fusion import zero_after
from gfopt.jaxprs import Equation
from gfopt.lazy.views import Dot, Index, View, as_index, prefix, regroup, slice_axis
from gfopt.types import PyTree

# Elements made dense at a time: 512 kB of float32. Smaller blocks make thin products
# (64 rows of a matrix with 1024 columns) and more turns of the loop, larger ones leave
# the cache and show in the peak memory of a model of 100 MB.
BLOCK = 1 << 17


class Lazy(abc.ABC):
    """An array-like leaf that is multiplied without being made.

    A subclass is a frozen dataclass, registered as a pytree, with a static field
    ``view`` (None: as constructed) and three methods on storage axes:
    ``storage_view``, ``storage_dense`` and ``storage_slice``. ``storage_reshape``
    may be refined, and ``contract``, ``convolve``, ``astype`` and ``times`` where the
    leaf knows a better way.
    """

    view: View | None

    frozen_parts: ClassVar[frozenset[str]] = frozenset()  # fields that are no reals
    scale_parts: ClassVar[frozenset[str]] = frozenset()  # fields that keep their sign
    code_parts: ClassVar[frozenset[str]] = frozenset()  # integers that QES steps

    @property
    def is_whole(self) -> bool:
        """Whether no array of it is in the other half of ``trees.partition``."""
        return True

    @abc.abstractmethod
    def storage_view(self) -> View:
        """Returns the view of a leaf as constructed."""

    @abc.abstractmethod
    def storage_dense(self) -> jax.Array:
        """Returns the whole leaf: ``float[*view.dims]``, float32 or wider."""

    @abc.abstractmethod
    def storage_slice(self, axis: int, start: Index, size: int) -> Self | None:
        """Returns a part of one storage axis, or None if that needs a dense leaf."""

    def storage_reshape(self, dims: tuple[int, ...]) -> Self | None:
        """Returns the leaf with storage axes ``dims``, or None if it has no such."""
        return None

    @property
    def layout(self) -> View:
        """The view in force."""
        return self.storage_view() if self.view is None else self.view

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        dims, order = self.layout[:2]
        return tuple(dims[axis] for axis in order)

    @property
    def dtype(self) -> np.dtype:
        """The logical dtype."""
        return self.layout.dtype

    @property
    def ndim(self) -> int:
        """The number of logical axes."""
        return len(self.layout.order)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.layout.dims)

    @property
    def own_size(self) -> int:
        """The number of elements that members of a population do not share."""
        return self.size

    def __repr__(self) -> str:
        sizes = ",".join(map(str, self.shape))
        return f"{type(self).__name__}({jnp.dtype(self.dtype).name}[{sizes}])"

    def viewed(self, **changes: Any) -> Self:
        """Returns the leaf with some fields of its view changed."""
        view = self.layout._replace(**changes)
        return dataclasses.replace(self, view=view)  # type: ignore[type-var]

    def materialise(self) -> jax.Array:
        """Returns the leaf as an ordinary array of its shape and dtype."""
        dense = lax.transpose(self.storage_dense(), self.layout.order)
        return dense.astype(self.dtype)

    def stored(self, labels: Sequence[int]) -> list[int]:
        """Returns the labels of the logical axes in the order of storage."""
        places = zip(self.layout.order, labels, strict=True)
        return [label for _, label in sorted(places)]

    def transpose(self, permutation: Sequence[int]) -> Self:
        """Returns the leaf with its logical axes permuted."""
        return self.viewed(order=tuple(self.layout.order[i] for i in permutation))

    def slice(self, axis: int, start: Index, size: int) -> Self | None:
        """Returns ``size`` indices of a logical axis, or None if not lazily."""
        if size == self.shape[axis]:
            return self
        return self.storage_slice(self.layout.order[axis], start, size)

    def reshape(self, shape: Sequence[int]) -> Self | None:
        """Returns the leaf in another shape, or None if not lazily."""
        if tuple(shape) == self.shape:
            return self
        regrouped = regroup(self.layout, tuple(shape))
        if regrouped is None:
            return None
        dims, order = regrouped
        leaf = self if dims == self.layout.dims else self.storage_reshape(dims)
        return None if leaf is None else leaf.viewed(order=order)

    def astype(self, dtype: DTypeLike) -> Self:
        """Returns the leaf with another logical floating-point dtype."""
        return self.viewed(dtype=jnp.dtype(dtype))

    def times(self, factor: jax.Array) -> Self | None:
        """Returns the leaf multiplied by one number, or None if not lazily."""
        return None

    def convolve(self, x: jax.Array, eqn: Equation) -> jax.Array | None:
        """Returns the convolution of ``x`` with the leaf as kernel, or None."""
        return None

    def contract(
        self,
        x: jax.Array,
        x_labels: Sequence[int],
        labels: Sequence[int],
        out: Sequence[int],
        dot: Dot,
    ) -> jax.Array:
        """Multiplies by the leaf, a block of its leading storage axis at a time.

        A block of an axis that is summed over adds to the result, a block of any
        other axis is a slice of it; a block that is still too large is cut in turn.

        Args:
            x: the other operand, dense.
            x_labels: a label for each axis of ``x``.
            labels: a label for each **storage** axis of the leaf.
            out: the labels of the result.
            dot: the product that is wanted.
        """
        dims = self.layout.dims
        zero = zero_after(x, *jax.tree.leaves(self))
        axis = next((i for i, size in enumerate(dims) if size > 1), None)
        if axis is None or self.storage_slice(axis, zero, 1) is None:
            return dot(x, x_labels, self.storage_dense(), labels, out)
        label, length = labels[axis], dims[axis]
        turns = -(-length // max(1, BLOCK * length // self.size))
        step = -(-length // turns)
        is_summed = label not in out
        inner = dot.wide() if is_summed and turns > 1 else dot

        def part(start: Index, done: Index) -> jax.Array:
            piece: Any = self.storage_slice(axis, start, step)  # can be cut: see above
            some = x
            if label in x_labels:
                where = list(x_labels).index(label)
                some = slice_axis(x, where, start, step)
                if is_summed and length % step:  # rows of the block before count once
                    row = lax.broadcasted_iota(jnp.int32, some.shape, where)
                    some = jnp.where(row >= done - start, some, 0)
            if step * self.size > BLOCK * length:
                return piece.contract(some, x_labels, labels, out, inner)
            return inner(some, x_labels, piece.storage_dense(), labels, out)

        if turns == 1:
            return part(zero, zero)
        size = dict(zip((*x_labels, *labels), (*x.shape, *dims), strict=True))
        total = jnp.full([size[i] for i in out], zero, inner.dtype)

        def body(turn: jax.Array, total: jax.Array) -> jax.Array:
            # The last block is moved back to be as large as the others.
            start = jnp.minimum(step * turn, length - step)
            piece = part(start, step * turn)
            if is_summed:
                return total + piece
            where = list(out).index(label)
            return lax.dynamic_update_slice_in_dim(total, piece, start, where)

        return lax.fori_loop(0, turns, body, total).astype(dot.dtype)


class RowBlocks(Lazy):
    """A leaf of which any block of rows can be made dense by itself.

    As constructed it is ``rows x columns``: the last axis is the columns, all others
    together are the rows. A subclass defines ``storage_view`` (see ``rows_view``) and
    ``block``, and has a data field ``offset``, None as constructed: the first row that
    is seen.
    """

    offset: Index | None

    @abc.abstractmethod
    def block(self, start: Index, num_rows: int) -> jax.Array:
        """Returns rows from ``start`` on, all columns: ``float[num_rows, columns]``."""

    def storage_dense(self) -> jax.Array:
        """Returns the rows and columns that are seen."""
        dims, _, _, rows, column = self.layout
        start = 0 if self.offset is None else self.offset
        block = self.block(start, math.prod(dims[:rows]))
        width = math.prod(dims[rows:])
        return slice_axis(block, 1, column, width).reshape(dims)

    def storage_slice(self, axis: int, start: Index, size: int) -> Self | None:
        """Moves the window: rows by a traced index, columns by a static one."""
        dims, _, _, rows, column = self.layout
        unit = math.prod(dims[axis + 1 :])
        outer = dims[:axis] if axis < rows else dims[rows:axis]
        if math.prod(outer) > 1:  # the parts would not lie side by side
            return None
        cut = (*dims[:axis], size, *dims[axis + 1 :])
        if axis >= rows:
            if not isinstance(start, int):
                return None
            return self.viewed(dims=cut, column=column + start * unit)
        offset = 0 if self.offset is None else self.offset
        offset = offset + as_index(start) * (unit // math.prod(dims[rows:]))
        leaf = self.viewed(dims=cut)
        return dataclasses.replace(leaf, offset=offset)  # type: ignore[type-var]

    def storage_reshape(self, dims: tuple[int, ...]) -> Self | None:
        """Splits or merges axes within the rows and within the columns."""
        old = self.layout
        rows = prefix(dims, math.prod(old.dims[: old.rows]))
        return None if rows is None else self.viewed(dims=dims, rows=rows)


def is_lazy(x: object) -> bool:
    """Says whether ``x`` is a lazy leaf; half of one is a small tree of arrays.

    Example:
        >>> import gfopt
        >>> a, b = jnp.ones((2, 1)), jnp.ones((3, 1))
        >>> w = gfopt.lazy.LowRank(jnp.zeros((2, 3)), a, b)
        >>> is_lazy(w), is_lazy(w.materialise())
        (True, False)
    """
    return isinstance(x, Lazy) and x.is_whole


def has_lazy(tree: PyTree) -> bool:
    """Says whether a tree has a lazy leaf."""
    return any(map(is_lazy, jax.tree.leaves(tree, is_leaf=is_lazy)))


def materialise(tree: PyTree) -> PyTree:
    """Returns the tree with every lazy leaf made dense.

    Example:
        >>> import gfopt
        >>> a, b = jnp.ones((2, 1)), jnp.ones((3, 1))
        >>> w = gfopt.lazy.LowRank(jnp.zeros((2, 3)), a, b)
        >>> materialise({"w": w})["w"].shape
        (2, 3)
    """
    return jax.tree.map(
        lambda leaf: leaf.materialise() if is_lazy(leaf) else leaf,
        tree,
        is_leaf=is_lazy,
    )


def frozen_parts(tree: PyTree) -> PyTree:
    """Returns which arrays of a tree no method moves, such as integer codes."""
    return _parts(tree, lambda leaf: leaf.frozen_parts)


def scale_parts(tree: PyTree) -> PyTree:
    """Returns which arrays of a tree are the scales of lazy leaves."""
    return _parts(tree, lambda leaf: leaf.scale_parts)


def code_parts(tree: PyTree) -> PyTree:
    """Returns which arrays of a tree are the integer codes of lazy leaves."""
    return _parts(tree, lambda leaf: leaf.code_parts)


def _parts(tree: PyTree, names_of: Callable[[Lazy], frozenset[str]]) -> PyTree:
    def marked(node: PyTree) -> PyTree:
        names = names_of(node) if isinstance(node, Lazy) else frozenset()
        return jax.tree_util.tree_map_with_path(
            lambda path, _: bool(path) and getattr(path[0], "name", "") in names, node
        )

    return jax.tree.map(marked, tree, is_leaf=lambda node: isinstance(node, Lazy))
