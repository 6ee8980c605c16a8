"""Lazy leaves: matrices that an unmodified model takes in place of its weights."""

from gfopt.lazy.interpreter import interpret
from gfopt.lazy.lazy import is_lazy, materialise
from gfopt.lazy.low_rank import LowRank
from gfopt.lazy.materialisations import count_materialisations

__all__ = [
    "LowRank",
    "count_materialisations",
    "interpret",
    "is_lazy",
    "materialise",
]
