"""Matrix products and decompositions; a failed decomposition is NaN, as in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from gfopt.core.numpy_programs.operands import dtype_of, shape_of
from gfopt.core.numpy_programs.rule import Function, Rule, UnknownEquation, Value
from gfopt.jaxprs import Equation

# OpenBLAS, which NumPy comes with, wakes its other threads for products of more
# multiplications than this, and of a matrix and a vector. Where processors are busy
# that costs milliseconds; so a product that is a little larger is made in blocks.
ALONE, ALONE_VECTOR = 1 << 18, 9000
MOST_BLOCKS = 16


def _dot_general(eqn: Equation) -> Function:
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
    if not inner or 0 in shape:
        raise UnknownEquation("dot_general of nothing")
    left_shape, right_shape = (*batch, -1, inner), (*batch, inner, -1)
    if not batch and len(left_sum) == 1 and len(left) <= 2 and len(right) <= 2:
        # vectors and matrices as they lie
        turned = len(left) == 2 and left_sum[0] == 0, right_sum[0] == 1
        return _product(left, right, turned)

    def dot(a: Value, b: Value) -> Value:
        a = a.transpose(left_order).reshape(left_shape)
        b = b.transpose(right_order).reshape(right_shape)
        return np.matmul(a, b).reshape(shape)

    return dot


def _product(
    left: tuple[int, ...], right: tuple[int, ...], turned: tuple[bool, bool]
) -> Function:
    """Returns the product of vectors and matrices, the ``turned`` ones transposed."""
    turn_left, turn_right = turned
    rows = left[1 if turn_left else 0] if len(left) == 2 else 0
    columns = right[0 if turn_right else 1] if len(right) == 2 else 0
    inner = left[0 if turn_left else -1]
    alone = ALONE if rows and columns else ALONE_VECTOR
    work = max(rows, 1) * max(columns, 1) * inner
    count = -(-work // alone)  # blocks of rows, or of columns, for one thread each

    def dot(a: Value, b: Value) -> Value:
        a, b = a.T if turn_left else a, b.T if turn_right else b
        if not 1 < count <= MOST_BLOCKS:
            return np.dot(a, b)
        if rows:
            return np.concatenate(
                [np.dot(part, b) for part in np.array_split(a, count)]
            )
        return np.concatenate(
            [np.dot(a, part) for part in np.array_split(b, count, axis=1)]
        )

    return dot


def _or_nan(eqn: Equation, function: Callable[..., Sequence[Value]]) -> Function:
    """Returns a decomposition whose results are NaN where it does not exist."""
    outputs = [(shape_of(variable), dtype_of(variable)) for variable in eqn.outputs]

    def decomposition(*operands: Value) -> list[Value]:
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


def _cholesky(eqn: Equation) -> Function:
    return _or_nan(eqn, lambda a: [np.linalg.cholesky(a)])


def _eigh(eqn: Equation) -> Function:
    if eqn.get("subset_by_index") is not None:
        raise UnknownEquation("eigh of a part of the spectrum")
    triangle: Literal["L", "U"] = "L" if eqn["lower"] else "U"

    def eigh(a: Value) -> Sequence[Value]:
        values, vectors = np.linalg.eigh(a, triangle)
        return vectors, values

    return _or_nan(eqn, eigh)


def _svd(eqn: Equation) -> Function:
    full, vectors = eqn["full_matrices"], eqn["compute_uv"]
    if eqn.get("subset_by_index") is not None:
        raise UnknownEquation("svd of a part of the spectrum")

    def svd(a: Value) -> Sequence[Value]:
        if not vectors:
            return [np.linalg.svd(a, compute_uv=False)]
        left, values, right = np.linalg.svd(a, full_matrices=full)
        return values, left, right

    return _or_nan(eqn, svd)


def _triangular_solve(eqn: Equation) -> Function:
    if eqn["conjugate_a"] or eqn["unit_diagonal"] or not eqn["left_side"]:
        raise UnknownEquation("triangular_solve of another kind")
    size, turned = eqn.inputs[0].aval.shape[-1], eqn["transpose_a"]
    inside = np.tri(size, dtype=bool)
    inside = inside if eqn["lower"] else inside.T

    def solve(a: Value, b: Value) -> Sequence[Value]:
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
