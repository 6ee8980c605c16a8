"""Arithmetic, comparisons, choices and conversions."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from gfopt.core.numpy_programs.operands import dtype_of, identity, shape_of
from gfopt.core.numpy_programs.rule import Function, Rule, UnknownEquation, Value
from gfopt.jaxprs import Equation


def _same(function: Function) -> Rule:
    """Returns the rule of a function that needs nothing but its operands."""
    return lambda eqn: function


def _all(*values: Value) -> tuple[Value, ...]:
    return values


# -- integers


def _divide(a: Value, b: Value) -> Value:
    # rounds towards zero; NumPy rounds down
    quotient = np.floor_divide(a, b)
    inexact = np.remainder(a, b) != 0
    return quotient + (inexact & ((a < 0) != (b < 0))).astype(quotient.dtype)


def _div(eqn: Equation) -> Function:
    kind = dtype_of(eqn.outputs[0]).kind
    if kind == "i":
        return _divide
    return np.floor_divide if kind == "u" else operator.truediv


def _shift_right_logical(eqn: Equation) -> Function:
    dtype = dtype_of(eqn.outputs[0])
    if dtype.kind == "u":
        return operator.rshift
    unsigned = np.dtype(f"u{dtype.itemsize}")
    return lambda x, n: (x.view(unsigned) >> n.view(unsigned)).view(dtype)


def _population_count(eqn: Equation) -> Function:
    dtype = dtype_of(eqn.outputs[0])
    return lambda x: np.bitwise_count(x).astype(dtype)


# -- powers and special functions


def _pow(eqn: Equation) -> Function:
    base, exponent = map(dtype_of, eqn.inputs)
    if base == exponent:
        return np.power
    return lambda x, y: np.power(x, y.astype(base))


def _integer_pow(eqn: Equation) -> Function:
    exponent = eqn["y"]
    if exponent == 2:
        return lambda x: x * x
    one = dtype_of(eqn.outputs[0]).type(1)
    if exponent < 0:
        return lambda x: one / x ** (-exponent)
    return lambda x: x**exponent


def _rsqrt(x: Value) -> Value:
    return x.dtype.type(1) / np.sqrt(x)


def _erfc(eqn: Equation) -> Function:
    from scipy.special import erfc  # a slow import that few programs need

    return erfc


def _logistic(x: Value) -> Value:
    one = x.dtype.type(1)
    return one / (one + np.exp(-x))


_CENTRAL = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
_TAIL = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


def _horner(coefficients: tuple[float, ...], w: Value) -> Value:
    total = np.asarray(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * w + coefficient
    return total


def _erf_inv(eqn: Equation) -> Function:
    """The approximation of float32: Giles, "Approximating the erfinv function" (2010).

    Computed in float64, so that only the last rounding is to float32.
    """
    if dtype_of(eqn.outputs[0]) != np.float32:
        raise UnknownEquation("erf_inv of float64")

    def erf_inv(x: Value) -> Value:
        wide = np.asarray(x, np.float64)
        w = -np.log1p(-wide * wide)
        central = _horner(_CENTRAL, w - 2.5)
        if (w >= 5).any():
            central = np.where(w < 5, central, _horner(_TAIL, np.sqrt(w) - 3))
        return (central * wide).astype(np.float32)

    return erf_inv


def _round(eqn: Equation) -> Function:
    if eqn["rounding_method"].name == "TO_NEAREST_EVEN":
        return np.rint
    return lambda x: np.copysign(np.floor(np.abs(x) + x.dtype.type(0.5)), x)


def _reduce_precision(eqn: Equation) -> Function:
    dtype, num_bits = dtype_of(eqn.outputs[0]), eqn["mantissa_bits"]
    details = np.finfo(dtype)
    if eqn["exponent_bits"] != details.nexp or dtype.itemsize < 4:
        raise UnknownEquation("reduce_precision of the exponent")
    words = np.dtype(f"u{dtype.itemsize}").type
    cut = details.nmant - num_bits
    if cut <= 0:
        return identity
    mask, half, cut = words(2**cut - 1), words(2 ** (cut - 1) - 1), words(cut)

    def rounded(x: Value) -> Value:
        bits = x.view(words)
        bits = (bits + half + ((bits >> cut) & words(1))) & ~mask  # to even
        return np.where(np.isfinite(x), bits.view(dtype), x)[()]

    return rounded


# -- choices and conversions


def _select(eqn: Equation) -> Function:
    which, *cases = eqn.inputs
    if not which.aval.shape:
        return lambda which, *cases: cases[int(which)]
    if len(cases) != 2:
        raise UnknownEquation("select_n of more than two cases")
    if shape_of(cases[0]) != shape_of(which):  # keys: one choice for both words
        return lambda which, no, yes: np.where(which[..., None], yes, no)
    return lambda which, no, yes: np.where(which, yes, no)


def _clamp(low: Value, x: Value, high: Value) -> Value:
    return np.minimum(np.maximum(x, low), high)


def _convert(eqn: Equation) -> Function:
    source, dtype = dtype_of(eqn.inputs[0]), dtype_of(eqn.outputs[0])
    if source == dtype:
        return identity
    if source.kind == "f" and dtype.kind in "iu":
        # what does not fit is the nearest number that does, and NaN is 0
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max

        def number(x: Any) -> Value:  # a NumPy scalar
            return dtype.type(0 if x != x else int(min(max(x, least), most)))

        def numbers(x: Value) -> Value:
            inside = np.where(x == x, np.maximum(x, least), 0)
            return np.where(inside >= most, dtype.type(most), inside.astype(dtype))

        return numbers if eqn.inputs[0].aval.shape else number
    if dtype.kind == "b":
        return lambda x: x != 0
    if not eqn.inputs[0].aval.shape and (dtype.kind == "f" or source.kind == "b"):
        return dtype.type  # of a number, a quarter of the time
    return lambda x: x.astype(dtype)


def _bitcast(eqn: Equation) -> Function:
    source, dtype = dtype_of(eqn.inputs[0]), dtype_of(eqn.outputs[0])
    if source.itemsize != dtype.itemsize:
        raise UnknownEquation("bitcast_convert_type between sizes")
    return lambda x: x.view(dtype)


#: Those that need nothing but their operands.
_PLAIN: dict[str, Function] = {
    "add": operator.add,
    "add_any": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "not": operator.invert,
    "shift_left": operator.lshift,
    "shift_right_arithmetic": operator.rshift,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "max": np.maximum,
    "min": np.minimum,
    "nextafter": np.nextafter,
    "rem": np.fmod,
    "abs": np.abs,
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "is_finite": np.isfinite,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "sqrt": np.sqrt,
    "cbrt": np.cbrt,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "tanh": np.tanh,
    "atan2": np.arctan2,
    "square": np.square,
    "rsqrt": _rsqrt,
    "logistic": _logistic,
    "clamp": _clamp,
    "stop_gradient": identity,
    "copy": identity,
    "name": identity,
    "optimization_barrier": _all,
}

RULES: dict[str, Rule] = {
    **{name: _same(function) for name, function in _PLAIN.items()},
    "div": _div,
    "shift_right_logical": _shift_right_logical,
    "population_count": _population_count,
    "pow": _pow,
    "integer_pow": _integer_pow,
    "erf_inv": _erf_inv,
    "erfc": _erfc,
    "round": _round,
    "reduce_precision": _reduce_precision,
    "select_n": _select,
    "convert_element_type": _convert,
    "bitcast_convert_type": _bitcast,
}
