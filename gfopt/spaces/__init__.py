"""Spaces: bounds, scales, integers and choices, and the numbers that are searched."""

from gfopt.spaces.domains import Domain, categorical, integer, real
from gfopt.spaces.spaces import Space

__all__ = ["Domain", "Space", "categorical", "integer", "real"]
