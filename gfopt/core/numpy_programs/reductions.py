"""Reductions over axes, and cumulative ones along them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gfopt.core.numpy_programs.operands import dtype_of, shape_of
from gfopt.core.numpy_programs.rule import Function, Rule, UnknownEquation, Value
from gfopt.jaxprs import Equation


def _reduce(ufunc: np.ufunc) -> Rule:
    def rule(eqn: Equation) -> Function:
        axes, dtype = tuple(eqn["axes"]), dtype_of(eqn.outputs[0])
        if ufunc.identity is None and 0 in shape_of(eqn.inputs[0]):
            raise UnknownEquation(f"{eqn.name} of nothing")
        axis = axes[0] if len(axes) == 1 else axes
        if dtype.kind == "f" and dtype.itemsize > 2:
            return lambda x: ufunc.reduce(x, axis)
        return lambda x: ufunc.reduce(x, axis, dtype)  # small integers would grow

    return rule


def _logical(whole: np.ufunc, bits: np.ufunc) -> Rule:
    def rule(eqn: Equation) -> Function:
        is_bool = dtype_of(eqn.outputs[0]).kind == "b"
        return _reduce(whole if is_bool else bits)(eqn)

    return rule


def _arg(function: Callable[..., Value]) -> Rule:
    def rule(eqn: Equation) -> Function:
        (axis,), dtype = eqn["axes"], dtype_of(eqn.outputs[0])
        return lambda x: function(x, axis).astype(dtype)

    return rule


def _accumulate(ufunc: np.ufunc) -> Rule:
    def rule(eqn: Equation) -> Function:
        axis, dtype = eqn["axis"], dtype_of(eqn.outputs[0])
        if not eqn["reverse"]:
            return lambda x: ufunc.accumulate(x, axis, dtype)
        return lambda x: np.flip(ufunc.accumulate(np.flip(x, axis), axis, dtype), axis)

    return rule


RULES: dict[str, Rule] = {
    "reduce_sum": _reduce(np.add),
    "reduce_prod": _reduce(np.multiply),
    "reduce_max": _reduce(np.maximum),
    "reduce_min": _reduce(np.minimum),
    "reduce_or": _logical(np.logical_or, np.bitwise_or),
    "reduce_and": _logical(np.logical_and, np.bitwise_and),
    "argmax": _arg(np.argmax),
    "argmin": _arg(np.argmin),
    "cumsum": _accumulate(np.add),
    "cumprod": _accumulate(np.multiply),
    "cummax": _accumulate(np.maximum),
    "cummin": _accumulate(np.minimum),
}
