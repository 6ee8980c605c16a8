"""Operands of equations: their dtypes and shapes as NumPy has them."""

from __future__ import annotations

import jax
import numpy as np

from gfopt.core.numpy_programs.rule import Value
from gfopt.jaxprs import Atom


def dtype_of(variable: Atom) -> np.dtype:
    """Returns the dtype of a variable's value; a key's value is its words."""
    dtype = variable.aval.dtype
    is_key = jax.numpy.issubdtype(dtype, jax.dtypes.prng_key)
    return np.dtype(np.uint32 if is_key else dtype)


def shape_of(variable: Atom) -> tuple[int, ...]:
    """Returns the shape of a variable's value; a key's value is its two words."""
    aval = variable.aval
    is_key = jax.numpy.issubdtype(aval.dtype, jax.dtypes.prng_key)
    return (*aval.shape, 2) if is_key else tuple(aval.shape)


def identity(value: Value) -> Value:
    """Returns its operand."""
    return value
