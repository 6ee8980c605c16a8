"""The data of each step of ``minimize``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gfopt.driver.step import keys_of_step
from gfopt.types import PyTree


class Batches:
    """The data of each step, from a function, an iterable, or nowhere."""

    def __init__(self, source: Any, seed: int):
        self.is_empty = source is None
        self._call = source if callable(source) else None
        items = () if source is None or self._call is not None else source
        self._iterator: Iterator[PyTree] = iter(items)
        self._seed = seed
        self._next = 0
        self._held: PyTree = None

    def at(self, step: int) -> PyTree:
        """Returns the batch of a step; raises StopIteration at the end of the data."""
        if self._call is not None:
            return self._call(step, keys_of_step(self._seed, step).batch)
        while not self.is_empty and self._next <= step:
            # a run that goes on skips what it has seen
            self._held = next(self._iterator)
            self._next += 1
        return self._held
