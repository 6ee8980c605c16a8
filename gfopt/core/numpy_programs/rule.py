"""What a rule is: an equation goes in, a NumPy function of its operands comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from gfopt.jaxprs import Equation

Value: TypeAlias = np.ndarray  # or a NumPy scalar, which has the same methods
#: A function of the operands' values, to the value of the result or of each of several.
Function: TypeAlias = Callable[..., Value | Sequence[Value]]
Rule: TypeAlias = Callable[[Equation], Function]


class UnknownEquation(Exception):
    """NumPy has no rule for an equation: the program must be compiled."""
