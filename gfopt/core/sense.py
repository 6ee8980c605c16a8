"""Which of two values is better: the one place that turns a sign."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import numpy as np

Number = TypeVar("Number", float, np.ndarray, jax.Array)


class Sense(NamedTuple):
    """What the caller looks for; inside a search lower fitness is better.

    A value becomes fitness where a function returns it or a caller tells it, and a
    value again in the history. No code between the two knows the sense.

    Attributes:
        maximize: whether the largest value is the best.

    Example:
        >>> Sense(maximize=True).fitness(3.0), Sense().value(3.0)
        (-3.0, 3.0)
    """

    maximize: bool = False

    def fitness(self, value: Number) -> Number:
        """Returns a value as fitness, lower is better."""
        return -value if self.maximize else value

    def value(self, fitness: Number) -> Number:
        """Returns a fitness as the caller's value."""
        return -fitness if self.maximize else fitness
