"""Lazy leaves: what an unmodified JAX model takes in place of its weights.

A lazy leaf has the shape and the dtype of an array, and knows how to multiply without
ever being one:

    LowRank    w + a b^T            one base for all members, a thin change for each,
    Perturbed  w + scale * z(seed)  the noise made in the layer that uses it.

``interpret.interpret`` carries leaves through a model, ``materialise`` makes them
dense. A new kind of leaf derives from ``RowBlocks`` if any block of its rows can be
made dense alone (one method), or else from ``Lazy`` (three methods).

The arrays of a leaf stay in *storage* order; transposing, reshaping and slicing a leaf
touches only its ``View`` where that is possible, since a copy of the weights is what
lazy leaves are there to avoid.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core import noise
from gfopt.types import PyTree

# Elements made dense at a time: 512 kB of float32. Smaller blocks make thin products
# (64 rows of a matrix with 1024 columns) and more turns of the loop, larger ones leave
# the cache and show in the peak memory of a model of 100 MB.
BLOCK = 1 << 17

Index: TypeAlias = Any  # a Python integer, known when tracing, or an integer array


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
    dtype: Any
    rows: int = 0
    column: int = 0


class Dot(NamedTuple):
    """A product of two arrays with labelled axes: what ``dot_general`` was asked for.

    A label in both operands is summed over, unless it is in ``out``: then it is a batch
    axis.
    """

    dtype: Any
    precision: Any = None

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


class Lazy:
    """An array-like leaf that is multiplied without being made.

    A subclass is a frozen dataclass, registered as a pytree, with a static field
    ``view`` (None: as constructed) and three methods on storage axes:
    ``storage_view``, ``storage_dense`` and ``storage_slice``. ``storage_reshape``
    may be refined, and ``contract``, ``convolve``, ``astype`` and ``times`` where the
    leaf knows a better way.
    """

    view: View | None

    def storage_view(self) -> View:
        """Returns the view of a leaf as constructed."""
        raise NotImplementedError

    def storage_dense(self) -> jax.Array:
        """Returns the whole leaf: ``float[*view.dims]``, float32 or wider."""
        raise NotImplementedError

    def storage_slice(self, axis: int, start: Index, size: int) -> Self | None:
        """Returns a part of one storage axis, or None if that needs a dense leaf."""
        raise NotImplementedError

    def storage_reshape(self, dims: tuple[int, ...]) -> Self | None:
        """Returns the leaf with storage axes ``dims``, or None if it has no such."""
        raise NotImplementedError

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
    def dtype(self) -> Any:
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
        regrouped = _regroup(self.layout, tuple(shape))
        if regrouped is None:
            return None
        dims, order = regrouped
        leaf = self if dims == self.layout.dims else self.storage_reshape(dims)
        return None if leaf is None else leaf.viewed(order=order)

    def astype(self, dtype: Any) -> Self:
        """Returns the leaf with another logical floating-point dtype."""
        return self.viewed(dtype=jnp.dtype(dtype))

    def times(self, factor: jax.Array) -> Self | None:
        """Returns the leaf multiplied by one number, or None if not lazily."""
        return None

    def convolve(self, x: jax.Array, eqn: Any) -> jax.Array | None:
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
        zero = _zero_after(x, *jax.tree.leaves(self))
        axis = next((i for i, size in enumerate(dims) if size > 1), None)
        if axis is None or self.storage_slice(axis, zero, 1) is None:
            return dot(x, x_labels, self.storage_dense(), labels, out)
        label, length = labels[axis], dims[axis]
        turns = -(-length // max(1, BLOCK * length // self.size))
        step = -(-length // turns)
        is_summed = label not in out
        inner = dot.wide() if is_summed and turns > 1 else dot

        def part(start: Index, done: Index) -> jax.Array:
            piece, some = self.storage_slice(axis, start, step), x
            if label in x_labels:
                where = list(x_labels).index(label)
                some = _slice(x, where, start, step)
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

    offset: Index

    def block(self, start: Index, num_rows: int) -> jax.Array:
        """Returns rows from ``start`` on, all columns: ``float[num_rows, columns]``."""
        raise NotImplementedError

    def storage_dense(self) -> jax.Array:
        """Returns the rows and columns that are seen."""
        dims, _, _, rows, column = self.layout
        start = 0 if self.offset is None else self.offset
        block = self.block(start, math.prod(dims[:rows]))
        width = math.prod(dims[rows:])
        return _slice(block, 1, column, width).reshape(dims)

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
        offset = offset + _index(start) * (unit // math.prod(dims[rows:]))
        leaf = self.viewed(dims=cut)
        return dataclasses.replace(leaf, offset=offset)  # type: ignore[type-var]

    def storage_reshape(self, dims: tuple[int, ...]) -> Self | None:
        """Splits or merges axes within the rows and within the columns."""
        old = self.layout
        rows = _prefix(dims, math.prod(old.dims[: old.rows]))
        return None if rows is None else self.viewed(dims=dims, rows=rows)


def rows_view(shape: tuple[int, ...], dtype: Any) -> View:
    """Returns the view of a whole ``RowBlocks`` leaf: the last axis is the columns."""
    axes = len(shape)
    return View(shape, tuple(range(axes)), jnp.dtype(dtype), max(0, axes - 1))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Perturbed(RowBlocks):
    """Weights plus noise that is made a block of rows at a time, where it is used.

        value = w + scale * z(seed, path, row, column)

    Equal, bit for bit in float32, to ``noise.Noise(kind).add`` on the whole leaf,
    whether it is multiplied, scanned over, indexed or looked up. The noise is made
    anew at each use: in a loop that uses the same weights in every turn (a recurrent
    policy), a dense solution is faster.

    Args:
        w: ``float[...]``, the base, shared by all members.
        seed: ``uint32[]``.
        scale: ``float[]``, or ``float[...]`` of the shape of ``w``.
        path_hash: crc32 of the leaf's path, ``trees.path_hash``.
        kind: ``"gaussian"`` or ``"rademacher"``.
        gain: ``float[]``, multiplies the whole value; set by ``times``.
        offset: the first row that is seen; set by slicing.
        view: set by the operations on the leaf.

    Example:
        >>> leaf = Perturbed(jnp.ones((3, 2)), jnp.uint32(1), 0.5, kind="rademacher")
        >>> leaf, leaf.materialise().shape
        (Perturbed(float32[3,2]), (3, 2))
    """

    w: jax.Array
    seed: jax.Array
    scale: jax.Array | float
    path_hash: int = dataclasses.field(default=0, metadata={"static": True})
    kind: str = dataclasses.field(default="gaussian", metadata={"static": True})
    gain: jax.Array | None = None
    offset: Index = None
    view: View | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, noise.KINDS)

    def storage_view(self) -> View:
        """Returns the view of the whole leaf."""
        return rows_view(jnp.shape(self.w), self.w.dtype)

    def block(self, start: Index, num_rows: int) -> jax.Array:
        """Returns rows of ``(w + scale * z) * gain``, in float32 or wider."""
        w, scale = jnp.asarray(self.w), jnp.asarray(self.scale)
        wide = jnp.promote_types(w.dtype, jnp.float32)
        if w.ndim < 2:  # a vector has a layout of its own, and is drawn whole
            z = noise.noise_leaf(self.kind, self.seed, self.path_hash, w.shape)
            columns = z.size
            z = z.reshape(1, columns)
        else:
            columns = w.shape[-1]
            z = noise.noise_rows(
                self.kind, self.seed, self.path_hash, start, num_rows, columns
            )
        base = _slice(w.reshape(-1, columns), 0, start, num_rows)
        if scale.ndim:
            scale = _slice(scale.reshape(-1, columns), 0, start, num_rows)
        step = noise.round_significant(scale.astype(wide)) * z.astype(wide)
        value = base.astype(wide) + step
        return value if self.gain is None else value * self.gain.astype(wide)

    def times(self, factor: jax.Array) -> Perturbed:
        """Multiplies each block once it is made."""
        gain = factor if self.gain is None else factor * self.gain
        return dataclasses.replace(self, gain=gain)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Lazy):
    """A base matrix plus a product of two thin ones.

        value[s, row, col] = w[s, row, col] + sum_r a[s, row, r] b[s, col, r]

    A product costs that of the base, which all members share, plus two thin ones:
    ``x @ value = x @ w + (x @ a) @ b^T``. Stacked (``s``), row and column axes may each
    be any number of axes; they are told apart by the number of axes of ``w, a, b``.

    Args:
        w: ``float[..., R, C]``, the base, shared by all members.
        a: ``float[..., R, rank]``.
        b: ``float[..., C, rank]``.
        view: set by the operations on the leaf.

    Example:
        >>> LowRank(jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones((2, 1))).materialise()
        Array([[2., 2.],
               [2., 2.],
               [2., 2.]], dtype=float32)
    """

    w: jax.Array
    a: jax.Array
    b: jax.Array
    view: View | None = dataclasses.field(default=None, metadata={"static": True})

    def storage_view(self) -> View:
        """Returns the view of the whole leaf."""
        shape = jnp.shape(self.w)
        return View(shape, tuple(range(len(shape))), jnp.dtype(self.w.dtype))

    def _split(self, axes: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Splits what belongs to the storage axes into stack, rows and columns."""
        stack = jnp.ndim(self.a) + jnp.ndim(self.b) - 2 - jnp.ndim(self.w)
        rows = jnp.ndim(self.a) - 1
        return list(axes[:stack]), list(axes[stack:rows]), list(axes[rows:])

    def _replaced(self, w: jax.Array, a: jax.Array, b: jax.Array, **view: Any) -> Self:
        leaf = dataclasses.replace(self, w=w, a=a, b=b)
        return leaf.viewed(dims=self.layout.dims, order=self.layout.order, **view)

    def storage_dense(self) -> jax.Array:
        """Returns ``w + a b^T``, in float32 or wider."""
        stack, rows, columns = self._split(range(jnp.ndim(self.w)))
        dot = Dot(jnp.promote_types(self.dtype, jnp.float32))
        a, b = [*stack, *rows, -1], [*stack, *columns, -1]
        change = dot(self.a, a, self.b, b, [*stack, *rows, *columns])
        return self.w.astype(change.dtype) + change

    def storage_slice(self, axis: int, start: Index, size: int) -> Self:
        """Cuts ``w``, and the factors that have this axis."""
        stack, rows, columns = self._split(range(jnp.ndim(self.w)))
        w, a, b = _slice(self.w, axis, start, size), self.a, self.b
        if axis not in columns:
            a = _slice(a, axis, start, size)
        if axis not in rows:
            b = _slice(b, [*stack, *columns].index(axis), start, size)
        return dataclasses.replace(self, w=w, a=a, b=b).viewed(dims=w.shape)

    def storage_reshape(self, dims: tuple[int, ...]) -> Self | None:
        """Splits or merges axes within the stack, the rows and the columns."""
        stack, rows, _ = (math.prod(part) for part in self._split(self.layout.dims))
        i = _prefix(dims, stack)
        j = None if i is None else _prefix(dims[i:], rows)
        if i is None or j is None:
            return None
        a = self.a.reshape(*dims[: i + j], self.a.shape[-1])
        b = self.b.reshape(*dims[:i], *dims[i + j :], self.b.shape[-1])
        leaf = dataclasses.replace(self, w=self.w.reshape(dims), a=a, b=b)
        return leaf.viewed(dims=dims)

    def astype(self, dtype: Any) -> Self:
        """Casts the base, once for all members; the factors keep their precision."""
        leaf = dataclasses.replace(self, w=self.w.astype(dtype))
        return leaf.viewed(dtype=jnp.dtype(dtype))

    def times(self, factor: jax.Array) -> Self:
        """Scales the base and one factor."""
        return dataclasses.replace(self, w=self.w * factor, a=self.a * factor)

    def contract(
        self,
        x: jax.Array,
        x_labels: Sequence[int],
        labels: Sequence[int],
        out: Sequence[int],
        dot: Dot,
    ) -> jax.Array:
        """Returns ``x w + (x a) b^T``, or ``x w^T + (x b) a^T``, or any such."""
        rank = -1
        stack, rows, columns = self._split(labels)
        factors = [
            (self.a, [*stack, *rows, rank], rows),
            (self.b, [*stack, *columns, rank], columns),
        ]
        # The factor with more to sum over goes first, and leaves a thin product.
        size = dict(zip(labels, self.layout.dims, strict=True))

        def summed(labels: list[int]) -> int:
            return math.prod(size[i] for i in labels if i in x_labels and i not in out)

        factors.sort(key=lambda factor: -summed(factor[2]))
        (p, p_labels, _), (q, q_labels, _) = factors
        kept = [i for i in x_labels if i in out or i in q_labels or i not in p_labels]
        kept += [i for i in p_labels if i not in x_labels]
        wide = dot.wide()
        thin = wide(x, x_labels, p, p_labels, kept)
        change = wide(thin, kept, q, q_labels, out)
        return (wide(x, x_labels, self.w, labels, out) + change).astype(dot.dtype)

    def convolve(self, x: jax.Array, eqn: Any) -> jax.Array | None:
        """Returns ``conv(x, w) + conv(x, a) b^T``, if ``b`` has the output features."""
        numbers, order = eqn.params["dimension_numbers"], self.layout.order
        groups = eqn.params["feature_group_count"] * eqn.params["batch_group_count"]
        stack, _, columns = self._split(range(jnp.ndim(self.w)))
        if groups != 1 or stack or columns != [order[numbers.rhs_spec[0]]]:
            return None
        kernel, params = lax.transpose(self.w, order), dict(eqn.params)
        base = eqn.primitive.bind(x, kernel.astype(self.dtype), **params)
        # the rank stands where the output features stood
        thin = lax.transpose(self.a, order).astype(self.dtype)
        thin = eqn.primitive.bind(x, thin, **params)
        axis = numbers.out_spec[1]
        change = jnp.moveaxis(jnp.tensordot(thin, self.b, ((axis,), (1,))), -1, axis)
        return (base + change).astype(base.dtype)


def is_lazy(x: Any) -> bool:
    """Says whether ``x`` is a lazy leaf."""
    return isinstance(x, Lazy)


def has_lazy(tree: PyTree) -> bool:
    """Says whether a tree has a lazy leaf."""
    return any(map(is_lazy, jax.tree.leaves(tree, is_leaf=is_lazy)))


def materialise(tree: PyTree) -> PyTree:
    """Returns the tree with every lazy leaf made dense."""
    return jax.tree.map(
        lambda leaf: leaf.materialise() if is_lazy(leaf) else leaf,
        tree,
        is_leaf=is_lazy,
    )


@jax.custom_batching.custom_vmap
def _zero_after(*arrays: jax.Array) -> jax.Array:
    """Returns the ``int32`` 0, though the compiler can't know it before ``arrays``.

    XLA makes whatever does not depend on the activations as early as it likes: noise
    for all layers at once (measured on CPU, where it drops optimization barriers: twice
    the memory of the weights). Noise for rows from *this* 0 on waits for its layer. It
    is one number also for a batch of arrays, or each member would index for itself.
    """
    firsts = (array[(0,) * array.ndim].astype(jnp.float32) for array in arrays)
    return (sum(firsts) > jnp.inf).astype(jnp.int32)


@_zero_after.def_vmap
def _zero_after_batch(
    size: int, is_batched: Sequence[bool], *arrays: jax.Array
) -> tuple[jax.Array, bool]:
    del size
    pairs = zip(arrays, is_batched, strict=True)
    return _zero_after(
        *(array[0] if batched else array for array, batched in pairs)
    ), False


def _index(start: Index) -> Index:
    """Returns an index as a Python integer or as int32."""
    return start if isinstance(start, int) else jnp.asarray(start).astype(jnp.int32)


def _slice(array: jax.Array, axis: int, start: Index, size: int) -> jax.Array:
    """Returns part of an axis; what is known when tracing costs nothing later."""
    if isinstance(start, int):
        if size == array.shape[axis]:
            return array
        return lax.slice_in_dim(array, start, start + size, axis=axis)
    return lax.dynamic_slice_in_dim(array, _index(start), size, axis)


def _prefix(dims: tuple[int, ...], size: int) -> int | None:
    """Returns how many leading ``dims`` make up ``size`` elements, if any do."""
    fits = (n for n in range(len(dims) + 1) if math.prod(dims[:n]) == size)
    return next(fits, None)


def _regroup(
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
