"""What a search records of its generations: columns of scalars."""

from __future__ import annotations

import math

import numpy as np

from gfopt.core.sense import Sense

Columns = dict[str, np.ndarray]

MOST_PARTS = 1000  # that are joined: small arrays take ten times the memory of one


class History:
    """The records of a search so far, in the caller's sense of better.

    Callers pass fitness, where lower is better; the history stores values.

    Args:
        sense: which of two values is better.

    Attributes:
        first_value: that of an evaluation before the first generation, NaN if it
            failed; None if there was none.
        nfev: evaluations so far.
        nit: complete generations so far.
    """

    def __init__(self, sense: Sense):
        self._sense = sense
        self.first_value: float | None = None
        self._parts: list[Columns] = []
        self._num_small = 0  # how many of the last of them were not joined
        self._open: list[Columns] = []  # a generation that is not complete
        self.nfev, self.nit = 0, 0

    def value(self, fitness: float) -> float:
        """Returns the value of a fitness, NaN for one that is not finite."""
        return self._sense.value(fitness) if math.isfinite(fitness) else math.nan

    def begin(self, fitness: float) -> None:
        """Counts an evaluation before the first generation."""
        self.first_value = self.value(fitness)
        self.nfev += 1

    def is_better(self, fitness: float) -> bool:
        """Tells whether a fitness is better than the first, if that is known."""
        first = self.first_value
        if first is None or math.isnan(first):
            return True
        return fitness < self._sense.fitness(first)

    @property
    def is_open(self) -> bool:
        """Whether the last generation is not complete."""
        return bool(self._open)

    def add(self, columns: Columns, is_complete: bool) -> None:
        """Adds the records of some generations, or of the one that is open."""
        if not columns:
            return
        columns = columns | {"fitness": self._sense.value(columns["fitness"])}
        if is_complete:
            self.restore(columns)
        else:
            self.nfev += int(columns["num_evaluations"].sum())
            self._open.append(columns)

    def restore(self, columns: Columns) -> None:
        """Adds complete generations as ``complete`` returned them."""
        if not columns:
            return
        self.nfev += int(columns["num_evaluations"].sum())
        self.nit += len(columns["fitness"])
        self._parts.append(columns)
        self._num_small += 1
        if self._num_small == MOST_PARTS:
            # not with all before: ever larger copies leave holes in the memory
            self._parts[-MOST_PARTS:] = [_joined(self._parts[-MOST_PARTS:])]
            self._num_small = 0

    def complete(self) -> Columns:
        """Returns the complete generations, joined once and for all."""
        self._parts = [_joined(self._parts)] if self._parts else []
        self._num_small = 0
        return self._parts[0] if self._parts else {}

    def table(self) -> Columns:
        """Returns the columns of ``Result.history``."""
        complete = self.complete()
        columns = _joined([*([complete] if complete else []), *self._open])
        values = columns.pop("fitness", np.zeros(0))
        counts = columns.pop("num_evaluations", np.zeros(0, np.int64))
        first = math.nan if self.first_value is None else self.first_value
        fitness = self._sense.fitness(np.concatenate([[first], values]))
        best = self._sense.value(np.fmin.accumulate(fitness))
        nfev = int(self.first_value is not None) + np.cumsum(counts, dtype=np.int64)
        return {"nfev": nfev, "fitness": values, "best": best[1:], **columns}


def _joined(parts: list[Columns]) -> Columns:
    """Joins columns; what a part lacks is NaN there."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: np.concatenate(
            [
                part[name] if name in part else np.full(len(part["fitness"]), math.nan)
                for part in parts
            ]
        )
        for name in names
    }
