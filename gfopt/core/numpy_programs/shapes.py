"""Shapes and parts: views, joined arrays, slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gfopt.core.numpy_programs.operands import dtype_of, identity, shape_of
from gfopt.core.numpy_programs.rule import Function, Rule, UnknownEquation, Value
from gfopt.jaxprs import Equation

# -- views


def _reshape(eqn: Equation) -> Function:
    if eqn.name == "reshape" and eqn["dimensions"] is not None:
        raise UnknownEquation("reshape of other dimensions")
    shape = shape_of(eqn.outputs[0])
    if shape == shape_of(eqn.inputs[0]):
        return identity
    if not shape:
        return lambda x: x.reshape(())[()]
    return lambda x: x.reshape(shape)


def _broadcast(eqn: Equation) -> Function:
    if len(eqn.inputs) != 1:
        raise UnknownEquation("broadcast_in_dim to a shape that is computed")
    source, shape = shape_of(eqn.inputs[0]), shape_of(eqn.outputs[0])
    dtype = dtype_of(eqn.outputs[0])
    axes = [*eqn["broadcast_dimensions"]]
    if len(source) > len(axes):  # the words of keys
        axes.append(len(shape) - 1)
    aligned = [1] * len(shape)
    for axis, size in zip(axes, source, strict=True):
        aligned[axis] = size
    if tuple(aligned) == shape:
        return lambda x: x.reshape(shape)

    def broadcast(x: Value) -> Value:
        result = np.empty(shape, dtype)
        result[...] = x.reshape(aligned)
        return result

    return broadcast


def _transpose(eqn: Equation) -> Function:
    order = eqn["permutation"]
    return lambda x: x.transpose(order)


def _rev(eqn: Equation) -> Function:
    axes = tuple(eqn["dimensions"])
    return lambda x: np.flip(x, axes)


def _iota(eqn: Equation) -> Function:
    shape, axis = eqn["shape"], eqn["dimension"]
    numbers = np.arange(shape[axis], dtype=eqn["dtype"])
    column = numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return lambda: np.ascontiguousarray(np.broadcast_to(column, shape))


# -- parts that are joined


def _concatenate(eqn: Equation) -> Function:
    axis = eqn["dimension"]
    return lambda *parts: np.concatenate(parts, axis)


def _stack(eqn: Equation) -> Function:
    axis = eqn["axis"]
    return lambda *parts: np.stack(parts, axis)


def _tile(eqn: Equation) -> Function:
    reps = tuple(eqn["reps"])
    return lambda x: np.tile(x, reps)


def _pad(eqn: Equation) -> Function:
    shape, config = shape_of(eqn.outputs[0]), eqn["padding_config"]
    if any(low < 0 or high < 0 or inside for low, high, inside in config):
        raise UnknownEquation("pad with negative or inner widths")
    source = shape_of(eqn.inputs[0])
    inner = tuple(
        slice(low, low + size) for size, (low, _, _) in zip(source, config, strict=True)
    )

    def pad(x: Value, value: Value) -> Value:
        result = np.full(shape, value, x.dtype)
        result[inner] = x
        return result

    return pad


# -- parts that are cut out


def _slice(eqn: Equation) -> Function:
    starts, stops = eqn["start_indices"], eqn["limit_indices"]
    strides = eqn["strides"] or [1] * len(starts)
    limits = zip(starts, stops, strides, strict=True)
    part = tuple(slice(*one) for one in limits)
    return lambda x: x[part]


def _split(eqn: Equation) -> Function:
    axis, stops = eqn["axis"], np.cumsum(eqn["sizes"])[:-1]
    return lambda x: np.split(x, stops, axis)


def _unstack(eqn: Equation) -> Function:
    axis = eqn["axis"]
    return lambda x: [part[()] for part in np.moveaxis(x, axis, 0)]


def _window(
    shape: tuple[int, ...], sizes: Sequence[int]
) -> Callable[..., tuple[slice, ...]]:
    most = [whole - size for whole, size in zip(shape, sizes, strict=True)]

    def window(starts: Value) -> tuple[slice, ...]:
        return tuple(
            slice(first, first + size)
            for first, size in zip(
                [min(max(int(s), 0), m) for s, m in zip(starts, most, strict=True)],
                sizes,
                strict=True,
            )
        )

    return window


def _dynamic_slice(eqn: Equation) -> Function:
    window = _window(eqn.inputs[0].aval.shape, eqn["slice_sizes"])
    return lambda x, *starts: x[window(starts)]


def _dynamic_update_slice(eqn: Equation) -> Function:
    window = _window(eqn.inputs[0].aval.shape, eqn.inputs[1].aval.shape)

    def update(x: Value, part: Value, *starts: Value) -> Value:
        result = x.copy()
        result[window(starts)] = part
        return result

    return update


RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "rev": _rev,
    "iota": _iota,
    "concatenate": _concatenate,
    "stack": _stack,
    "tile": _tile,
    "pad": _pad,
    "slice": _slice,
    "split": _split,
    "unstack": _unstack,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}
