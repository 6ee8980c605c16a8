"""What a search records of its generations: columns of scalars."""

from __future__ import annotations

import math

import numpy as np

Columns = dict[str, np.ndarray]

MOST_PARTS = 1000  # small arrays take ten times the memory of one that joins them


class History:
    """The records of a search so far.

    Args:
        maximize: the sense in which values are reported.
        first_value: of an evaluation before the first generation, in the user's sense;
            None if there was none.
    """

    def __init__(self, maximize: bool, first_value: float | None):
        self._maximize = maximize
        self.first_value: float | None = None
        self._parts: list[Columns] = []
        self._open: list[Columns] = []  # a generation that is not complete
        self.nfev, self.nit = 0, 0
        if first_value is not None:
            self.begin(first_value)

    def begin(self, first_value: float) -> None:
        """Counts an evaluation before the first generation."""
        self.first_value = first_value
        self.nfev += 1

    def is_better(self, value: float) -> bool:
        """Tells whether a value is better than the first, if that is known."""
        first = self.first_value
        if first is None or math.isnan(first):
            return True
        return value > first if self._maximize else value < first

    @property
    def is_open(self) -> bool:
        """Whether the last generation is not complete."""
        return bool(self._open)

    def add(self, columns: Columns, is_complete: bool) -> None:
        """Adds the records of some generations, or of the one that is open."""
        if not columns:
            return
        self.nfev += int(columns["num_evaluations"].sum())
        if is_complete:
            self._parts.append(columns)
            if len(self._parts) >= MOST_PARTS:
                self.complete()
            self.nit += len(columns["fitness"])
        else:
            self._open.append(columns)

    def complete(self) -> Columns:
        """Returns the complete generations, joined once and for all."""
        self._parts = [_joined(self._parts)] if self._parts else []
        return self._parts[0] if self._parts else {}

    def table(self) -> Columns:
        """Returns the columns of ``Result.history``."""
        complete = self.complete()
        columns = _joined([*([complete] if complete else []), *self._open])
        fitness = columns.pop("fitness", np.zeros(0))
        counts = columns.pop("num_evaluations", np.zeros(0, np.int64))
        better = np.fmax if self._maximize else np.fmin
        first = math.nan if self.first_value is None else self.first_value
        best = better.accumulate(np.concatenate([[first], fitness]))
        nfev = int(self.first_value is not None) + np.cumsum(counts, dtype=np.int64)
        return {"nfev": nfev, "fitness": fitness, "best": best[1:], **columns}


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
