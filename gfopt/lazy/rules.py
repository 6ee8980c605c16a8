"""What stays lazy under which operation; ``interpret`` adds the control flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gfopt.jaxprs import Equation
from gfopt.lazy.lazy import Lazy, is_lazy
from gfopt.lazy.materialisations import dense
from gfopt.lazy.views import Dot, Index

Operand: TypeAlias = jax.Array | Lazy
Rule = Callable[[Equation, list[Any]], Sequence[Operand] | None]


def _one(result: Operand | None) -> Sequence[Operand] | None:
    return None if result is None else [result]


# -- products


def _dot_general(eqn: Equation, values: list[Any]) -> Sequence[Operand]:
    left, right = values
    if is_lazy(left) and is_lazy(right):  # the larger one stays lazy
        if left.size < right.size:
            left = dense(left, eqn.name)
        else:
            right = dense(right, eqn.name)
    (left_sum, right_sum), (left_batch, right_batch) = eqn["dimension_numbers"]
    labels = [list(range(left.ndim)), list(range(left.ndim, left.ndim + right.ndim))]
    pairs = zip((*left_sum, *left_batch), (*right_sum, *right_batch), strict=True)
    for i, j in pairs:
        labels[1][j] = i
    batch = [labels[0][i] for i in left_batch]
    shared = {labels[0][i] for i in (*left_sum, *left_batch)}
    out = batch + [i for i in labels[0] + labels[1] if i not in shared]
    precision = eqn["precision"]
    if is_lazy(left):
        left, right = right, left
        labels.reverse()
        precision = precision[::-1] if isinstance(precision, tuple) else precision
    stored = right.stored(labels[1])
    dot = Dot(eqn.types[0].dtype, precision)
    return [right.contract(jnp.asarray(left), labels[0], stored, out, dot)]


def _convolution(eqn: Equation, values: list[Any]) -> Sequence[Operand] | None:
    x, kernel = values
    if is_lazy(x) or not is_lazy(kernel):
        return None
    return _one(kernel.convolve(x, eqn))


def _scaled(eqn: Equation, values: list[Any]) -> Sequence[Operand] | None:
    if eqn.name == "neg":
        return _one(values[0].times(jnp.asarray(-1, values[0].dtype)))
    leaf, factor = values
    if eqn.name == "mul" and is_lazy(factor):
        leaf, factor = factor, leaf
    if not is_lazy(leaf) or jnp.ndim(factor) or is_lazy(factor):
        return None
    if eqn.types[0].dtype != leaf.dtype:
        return None  # a product in another precision
    factor = jnp.asarray(factor, leaf.dtype)
    return _one(leaf.times(1 / factor if eqn.name == "div" else factor))


# -- views


def _transpose(eqn: Equation, values: list[Operand]) -> Sequence[Operand]:
    return [values[0].transpose(eqn["permutation"])]


def _reshape(eqn: Equation, values: list[Operand]) -> Sequence[Operand] | None:
    if not is_lazy(values[0]):
        return None
    if eqn.name == "reshape" and eqn["dimensions"] is not None:
        return None
    if math.prod(eqn.types[0].shape) != values[0].size:
        return None  # a broadcast that repeats
    return _one(values[0].reshape(eqn.types[0].shape))


def _astype(eqn: Equation, values: list[Operand]) -> Sequence[Operand] | None:
    dtype = eqn["new_dtype"]
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return [values[0].astype(dtype)] if is_float else None


def _same(eqn: Equation, values: list[Operand]) -> Sequence[Operand]:
    return values


def _barrier(eqn: Equation, values: list[Operand]) -> Sequence[Operand]:
    dense = iter(lax.optimization_barrier([v for v in values if not is_lazy(v)]))
    return [value if is_lazy(value) else next(dense) for value in values]


# -- parts


def _static(index: Any) -> Index:
    """Returns an index as a Python integer where it is known when tracing."""
    return index if isinstance(index, jax.Array) else int(index)


def _sliced(leaf: Lazy, starts: Sequence[Index], sizes: Sequence[int]) -> Lazy | None:
    part: Lazy | None = leaf
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if part is not None and size != leaf.shape[axis]:
            part = part.slice(axis, start, size)
    return part


def _slice(eqn: Equation, values: list[Any]) -> Sequence[Operand] | None:
    starts, stops = eqn["start_indices"], eqn["limit_indices"]
    if any(stride != 1 for stride in eqn["strides"] or ()):
        return None
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    return _one(_sliced(values[0], [int(start) for start in starts], sizes))


def _dynamic_slice(eqn: Equation, values: list[Any]) -> Sequence[Operand] | None:
    leaf, *starts = values
    sizes = eqn["slice_sizes"]
    # noise, unlike an array, would not mind rows beyond the end
    clamped = [
        lax.clamp(jnp.zeros_like(start), start, jnp.full_like(start, limit - size))
        if isinstance(start, jax.Array)
        else min(max(int(start), 0), limit - size)
        for start, size, limit in zip(starts, sizes, leaf.shape, strict=True)
    ]
    return _one(_sliced(leaf, clamped, sizes))


def _split(eqn: Equation, values: list[Any]) -> Sequence[Operand] | None:
    leaf, axis, start, parts = values[0], eqn["axis"], 0, []
    for size in map(int, eqn["sizes"]):
        parts.append(leaf.slice(axis, start, size))
        start += size
    return None if any(part is None for part in parts) else parts


def _gather(eqn: Equation, values: list[Any]) -> Sequence[Operand] | None:
    """Looks up slices of one axis, as ``table[tokens]`` and ``stack[i]`` do.

    An index out of range that should give NaN does so for an array of tokens; a scalar
    index is clamped, since a lazy slice has no NaN.
    """
    leaf, indices = values
    numbers, mode = eqn["dimension_numbers"], eqn["mode"].name
    sizes = tuple(eqn["slice_sizes"])
    if is_lazy(indices) or numbers.operand_batching_dims:
        return None
    # where indices are clipped, one into an axis that is taken whole says nothing
    mapped = [*enumerate(numbers.start_index_map)]
    cut = [(i, axis) for i, axis in mapped if sizes[axis] != leaf.shape[axis]]
    cut = cut or mapped[:1]
    if len(cut) != 1 or mode not in ("CLIP", "FILL_OR_DROP", "PROMISE_IN_BOUNDS"):
        return None
    ((i, axis),) = cut
    size, limit = sizes[axis], leaf.shape[axis]
    is_whole = sizes == (*leaf.shape[:axis], size, *leaf.shape[axis + 1 :])
    if not is_whole or (mode == "FILL_OR_DROP" and len(mapped) > 1):
        return None
    wanted = indices[..., i]
    bounded = jnp.clip(wanted, 0, limit - size)
    kept = [j for j in range(leaf.ndim) if j not in numbers.collapsed_slice_dims]
    rest = tuple(sizes[j] for j in kept)
    if not wanted.ndim:
        part = leaf.slice(axis, bounded, size)
        return None if part is None else _one(part.reshape(rest))
    if leaf.slice(axis, jnp.int32(0), size) is None:
        return None

    def one(index: jax.Array) -> jax.Array:
        # rows of a table are what was asked for; matrices of a stack are made dense
        return dense(leaf.slice(axis, index, size).reshape(rest), "gather")

    found = jax.vmap(one)(bounded.reshape(-1))
    if mode == "FILL_OR_DROP":
        fill = eqn["fill_value"]
        inside = (wanted == bounded).reshape(-1, *[1] * len(rest))
        found = jnp.where(inside, found, jnp.nan if fill is None else fill)
    found = found.reshape(*wanted.shape, *rest)
    source = range(wanted.ndim, found.ndim)
    return [jnp.moveaxis(found, source, numbers.offset_dims)]


RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(["mul", "div", "neg"], _scaled),
    "transpose": _transpose,
    **dict.fromkeys(["reshape", "squeeze", "broadcast_in_dim"], _reshape),
    "convert_element_type": _astype,
    **dict.fromkeys(
        ["copy", "stop_gradient", "name", "pvary", "sharding_constraint"], _same
    ),
    "optimization_barrier": _barrier,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "gather": _gather,
}
