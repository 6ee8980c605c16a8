"""Matrix products and decompositions; what can't be decomposed is NaN, as in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gfopt.core.numpy_programs.rule import Rule, UnknownEquation, dtype_of, shape_of
from gfopt.jaxprs import Equation


def _dot_general(eqn: Equation) -> Callable[..., Any]:
    (left_sum, right_sum), (left_batch, right_batch) = eqn["dimension_numbers"]
    dtype, shape = dtype_of(eqn.outputs[0]), shape_of(eqn.outputs[0])
    left, right = (operand.aval.shape for operand in eqn.inputs)
    if any(dtype_of(operand) != dtype for operand in eqn.inputs):
        raise UnknownEquation("dot_general of another dtype than its operands'")
    left_free = [i for i in range(len(left)) if i not in (*left_sum, *left_batch)]
    right_free = [i for i in range(len(right)) if i not in (*right_sum, *right_batch)]
    left_order = [*left_batch, *left_free, *left_sum]
    right_order = [*right_batch, *right_sum, *right_free]
    batch = [left[i] for i in left_batch]
    inner = math.prod(left[i] for i in left_sum)
    left_shape = (*batch, -1, inner) if inner else None
    right_shape = (*batch, inner, -1) if inner else None
    if left_shape is None or 0 in shape:
        raise UnknownEquation("dot_general of nothing")
    if not batch and len(left_sum) == 1 and len(left) <= 2 and len(right) <= 2:
        # vectors and matrices as they lie
        turned_left = len(left) == 2 and left_sum[0] == 0
        turned_right = len(right) == 2 and right_sum[0] == 1
        return _product(turned_left, turned_right)

    def dot(a: Any, b: Any) -> Any:
        a = a.transpose(left_order).reshape(left_shape)
        b = b.transpose(right_order).reshape(right_shape)
        return np.matmul(a, b).reshape(shape)

    return dot


def _product(turned_left: bool, turned_right: bool) -> Callable[..., Any]:
    def dot(a: Any, b: Any) -> Any:
        return np.dot(a.T if turned_left else a, b.T if turned_right else b)

    return dot


def _or_nan(
    eqn: Equation, function: Callable[..., Sequence[Any]]
) -> Callable[..., Any]:
    """Returns a decomposition whose results are NaN where it does not exist."""
    outputs = [(shape_of(variable), dtype_of(variable)) for variable in eqn.outputs]

    def decomposition(*operands: Any) -> list[Any]:
        try:
            results = function(*operands)
        except np.linalg.LinAlgError:
            results = [np.full(shape, np.nan) for shape, _ in outputs]
        return [
            np.asarray(result, dtype)
            for result, (_, dtype) in zip(results, outputs, strict=True)
        ]

    if not eqn.is_listing:
        return lambda *operands: decomposition(*operands)[0]
    return decomposition


def _cholesky(eqn: Equation) -> Callable[..., Any]:
    return _or_nan(eqn, lambda a: [np.linalg.cholesky(a)])


def _eigh(eqn: Equation) -> Callable[..., Any]:
    if eqn.get("subset_by_index") is not None:
        raise UnknownEquation("eigh of a part of the spectrum")
    triangle: Any = "L" if eqn["lower"] else "U"

    def eigh(a: Any) -> Sequence[Any]:
        values, vectors = np.linalg.eigh(a, triangle)
        return vectors, values

    return _or_nan(eqn, eigh)


def _svd(eqn: Equation) -> Callable[..., Any]:
    full, vectors = eqn["full_matrices"], eqn["compute_uv"]
    if eqn.get("subset_by_index") is not None:
        raise UnknownEquation("svd of a part of the spectrum")

    def svd(a: Any) -> Sequence[Any]:
        if not vectors:
            return [np.linalg.svd(a, compute_uv=False)]
        left, values, right = np.linalg.svd(a, full_matrices=full)
        return values, left, right

    return _or_nan(eqn, svd)


def _triangular_solve(eqn: Equation) -> Callable[..., Any]:
    if eqn["conjugate_a"] or eqn["unit_diagonal"] or not eqn["left_side"]:
        raise UnknownEquation("triangular_solve of another kind")
    size, turned = eqn.inputs[0].aval.shape[-1], eqn["transpose_a"]
    inside = np.tri(size, dtype=bool)
    inside = inside if eqn["lower"] else inside.T

    def solve(a: Any, b: Any) -> Sequence[Any]:
        a = np.where(inside, a, a.dtype.type(0))
        return [np.linalg.solve(np.swapaxes(a, -1, -2) if turned else a, b)]

    return _or_nan(eqn, solve)


RULES: dict[str, Rule] = {
    "dot_general": _dot_general,
    "cholesky": _cholesky,
    "eigh": _eigh,
    "svd": _svd,
    "triangular_solve": _triangular_solve,
}
