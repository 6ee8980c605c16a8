"""What a rule is: an equation goes in, a NumPy function of its operands comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import numpy as np

from gfopt.jaxprs import Atom, Equation

Value: TypeAlias = np.ndarray  # or a NumPy scalar, which has the same methods
#: A function of the operands' values, to the value of the result or of each of several.
Function: TypeAlias = Callable[..., Value | Sequence[Value]]
Rule: TypeAlias = Callable[[Equation], Function]


class UnknownEquation(Exception):
    """NumPy has no rule for an equation: the program must be compiled."""


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
