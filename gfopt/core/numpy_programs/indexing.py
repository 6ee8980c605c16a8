"""Gathers, scatters and sorting."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from gfopt.core.numpy_programs.operands import dtype_of
from gfopt.core.numpy_programs.rule import Function, Rule, UnknownEquation, Value
from gfopt.jaxprs import Equation

#: The index of each axis, and which windows lie inside; None for all.
_Windows: TypeAlias = tuple[tuple[Value | int, ...], Value | None]


class _Indices:
    """Where the windows of a gather or a scatter lie in the operand.

    Args:
        shape: of the operand.
        sizes: of a window, on each axis of the operand.
        index_map: the axis that each number of an index vector is for.
        removed: axes of the operand, of window size 1, that a window does not show.
        batching: axes of the operand and of the indices that go together.
        mode: what happens to windows that are not inside.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        sizes: tuple[int, ...],
        index_map: tuple[int, ...],
        removed: tuple[int, ...],
        batching: tuple[tuple[int, ...], tuple[int, ...]],
        mode: str,
    ):
        if mode not in ("CLIP", "FILL_OR_DROP", "PROMISE_IN_BOUNDS"):
            raise UnknownEquation(f"indices of mode {mode}")
        self.most = [shape[axis] - sizes[axis] for axis in index_map]
        self.index_map, self.batching = index_map, batching
        self.drops = mode == "FILL_OR_DROP"
        shown = [axis for axis in range(len(shape)) if axis not in removed]
        self.rank, self.shown = len(shown), shown
        self.offsets = {
            axis: np.arange(sizes[axis]).reshape([-1] + [1] * (self.rank - 1 - place))
            for place, axis in enumerate(shown)
        }
        self.axes = range(len(shape))
        self._latest: tuple[Value, _Windows] | None = None

    def __call__(self, indices: Value) -> _Windows:
        """Returns where the windows lie."""
        # constant indices come as the same array each time
        if self._latest is not None and self._latest[0] is indices:
            return self._latest[1]
        index = self._windows(indices)
        self._latest = indices, index
        return index

    def _windows(self, indices: Value) -> _Windows:
        ones = (1,) * self.rank
        batch = indices.shape[:-1]
        inside: Value | None = None
        starts: dict[int, Value] = {}
        for place, axis in enumerate(self.index_map):
            start = indices[..., place].astype(np.int64)
            bounded = np.minimum(np.maximum(start, 0), self.most[place])
            if self.drops:
                fits = bounded == start
                inside = fits if inside is None else inside & fits
            starts[axis] = bounded.reshape(batch + ones)
        for axis, place in zip(*self.batching, strict=True):
            numbers = np.arange(batch[place])
            shape = [-1 if i == place else 1 for i in range(len(batch))]
            starts[axis] = numbers.reshape(*shape, *ones)
        index = tuple(
            starts.get(axis, 0) + self.offsets.get(axis, 0) for axis in self.axes
        )
        if inside is not None and inside.all():
            inside = None
        return index, inside


def _missing(dtype: np.dtype) -> float:
    """Returns what stands for a number that is not there, as JAX has it."""
    if dtype.kind == "i":
        return np.iinfo(dtype).min
    if dtype.kind == "u":
        return np.iinfo(dtype).max
    return dtype.kind == "b" or np.nan


def _gather(eqn: Equation) -> Function:
    numbers, sizes = eqn["dimension_numbers"], eqn["slice_sizes"]
    removed = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    batching = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    mode, dtype = eqn["mode"].name, dtype_of(eqn.outputs[0])
    shape, index_map = eqn.inputs[0].aval.shape, numbers.start_index_map
    indices_of = _Indices(shape, sizes, index_map, removed, batching, mode)
    fill = eqn["fill_value"]
    if fill is None:
        fill = _missing(dtype)
    if len(removed) == 1 and removed == tuple(index_map):
        (axis,) = removed
        count = eqn.inputs[1].aval.ndim - 1  # of axes that come in its place
        places = [i if i < axis else i + count for i in range(len(shape) - 1)]
        is_whole = all(
            size == (1 if i == axis else shape[i]) for i, size in enumerate(sizes)
        )
        if is_whole and [*numbers.offset_dims] == places and mode != "FILL_OR_DROP":
            return lambda x, indices: x.take(indices[..., 0], axis, mode="clip")
    rank, last = indices_of.rank, eqn.outputs[0].aval.ndim
    batch = [axis for axis in range(last) if axis not in numbers.offset_dims]
    order = np.argsort([*batch, *numbers.offset_dims])
    as_it_is = list(order) == list(range(last))

    def gather(x: Value, indices: Value) -> Value:
        index, inside = indices_of(indices)
        result = x[index]
        if inside is not None:
            keep = inside.reshape(inside.shape + (1,) * rank)
            result = np.where(keep, result, dtype.type(fill))
        return result if as_it_is else result.transpose(order)

    return gather


def _scatter(combine: np.ufunc | None) -> Rule:
    def rule(eqn: Equation) -> Function:
        numbers, shape = eqn["dimension_numbers"], eqn.inputs[0].aval.shape
        removed = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        windows = numbers.update_window_dims
        updates = eqn.inputs[2].aval.shape
        shown = iter(updates[axis] for axis in windows)
        sizes = tuple(1 if i in removed else next(shown) for i in range(len(shape)))
        batching = (
            numbers.operand_batching_dims,
            numbers.scatter_indices_batching_dims,
        )
        indices_of = _Indices(
            shape,
            sizes,
            numbers.scatter_dims_to_operand_dims,
            removed,
            batching,
            eqn["mode"].name,
        )
        rank = indices_of.rank
        batch = [axis for axis in range(len(updates)) if axis not in windows]
        order = (*batch, *windows)

        def scatter(x: Value, indices: Value, updates: Value) -> Value:
            index, inside = indices_of(indices)
            updates = updates.transpose(order)
            if inside is not None:
                keep = np.broadcast_to(
                    inside.reshape(inside.shape + (1,) * rank), updates.shape
                )
                index = tuple(np.broadcast_to(i, updates.shape)[keep] for i in index)
                updates = updates[keep]
            result = x.copy()
            if combine is None:
                result[index] = updates
            else:
                combine.at(result, index, updates)  # type: ignore[arg-type]
            return result

        return scatter

    return rule


# -- order


def _sort(eqn: Equation) -> Function:
    axis, num_keys = eqn["dimension"], eqn["num_keys"]

    def sort(*columns: Value) -> list[Value]:
        if num_keys == 1:  # stable whether or not it must be; NaN comes last
            order = np.argsort(columns[0], axis, kind="stable")
        else:
            order = np.lexsort(columns[:num_keys][::-1], axis)
        return [np.take_along_axis(column, order, axis) for column in columns]

    return sort


def _top_k(eqn: Equation) -> Function:
    k, dtype = eqn["k"], dtype_of(eqn.outputs[1])
    axis = eqn.get("axis", -1)
    if axis not in (-1, eqn.inputs[0].aval.ndim - 1):
        raise UnknownEquation("top_k of another axis than the last")

    def top_k(x: Value) -> list[Value]:
        # of equal values the first: sorted backwards, the last of a stable order
        back = np.argsort(x[..., ::-1], -1, kind="stable")[..., ::-1][..., :k]
        index = x.shape[-1] - 1 - back
        return [np.take_along_axis(x, index, -1), index.astype(dtype)]

    return top_k


RULES: dict[str, Rule] = {
    "gather": _gather,
    "scatter": _scatter(None),
    "scatter-add": _scatter(np.add),
    "scatter-mul": _scatter(np.multiply),
    "scatter-min": _scatter(np.minimum),
    "scatter-max": _scatter(np.maximum),
    "sort": _sort,
    "top_k": _top_k,
}
