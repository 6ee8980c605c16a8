"""Trials of closed generations whose values may still come, as many as are worth it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gfopt.core import trees
from gfopt.driver.engine.host_search import fetched
from gfopt.types import Population, Solution

MOST_NUMBERS = 2**18  # in all that is stored of closed generations, 2 MB


class ClosedGeneration(NamedTuple):
    """A closed generation to which a value may still come.

    Attributes:
        population: as it was asked; None for a method that has no use for it.
        num_rows: of it.
        missing: row and solution by the id of the trial.
    """

    population: Population | None
    num_rows: int
    missing: dict[int, tuple[int, Solution]]

    def num_numbers(self) -> int:
        """Returns how many numbers it holds."""
        solutions = (solution for _, solution in self.missing.values())
        return trees.num_parameters((self.population, *solutions))


class LateTrials:
    """The generations, the last one first to stay.

    A trial may never be told, so storage is bounded: the oldest generations are
    forgotten first. The last one always stays.
    """

    def __init__(self) -> None:
        self._generations: list[tuple[ClosedGeneration, int]] = []

    def add(self, generation: ClosedGeneration) -> None:
        """Keeps a generation, and forgets others for it."""
        self._generations.append((generation, generation.num_numbers()))
        size = sum(size for _, size in self._generations)
        while size > MOST_NUMBERS and len(self._generations) > 1:
            size -= self._generations.pop(0)[1]

    def __contains__(self, trial: object) -> bool:
        """Tells whether a trial's value may come."""
        return any(trial in one.missing for one in self)

    def __iter__(self) -> Iterator[ClosedGeneration]:
        """Yields the generations, the oldest first."""
        return (generation for generation, _ in self._generations)

    def drop_complete(self) -> None:
        """Forgets generations of which nothing is missing any more."""
        self._generations = [pair for pair in self._generations if pair[0].missing]

    def __getstate__(self) -> dict[str, object]:
        """Returns what is pickled: NumPy arrays."""
        return {"_generations": fetched(self._generations)}
