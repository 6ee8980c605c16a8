"""What every session of ``AskTell`` keeps, in whatever order its values come."""

from __future__ import annotations

import math
from collections import Counter
from typing import Protocol

import jax
import numpy as np

from gfopt.driver.engine.host_search import HostSearch
from gfopt.driver.result.history import History
from gfopt.driver.trials.trial import Trial
from gfopt.types import PyTree, Solution

FAILED = "told as failed"  # the reason of all failures


class Trials(Protocol):
    """The trials of a session.

    Attributes:
        kept: what came of them.
    """

    kept: Kept

    @property
    def can_ask(self) -> bool:
        """Whether there is a trial to hand out."""

    @property
    def num_told(self) -> int:
        """Evaluations that have a value and are not in the history yet."""

    def hand_out(self, n: int | None) -> list[Trial]:
        """Hands out ``n`` trials, or as many as a generation has."""

    def tell(
        self, ids: np.ndarray, fitness: np.ndarray, aux: list[PyTree] | None
    ) -> int:
        """Takes the fitness of trials; all of them are checked first.

        Args:
            ids: ``int64[k]``.
            fitness: ``float64[k]``.
            aux: what the method takes beside it, for each, or None.

        Returns:
            How many of the values the method can't use.

        Raises:
            ValueError: for a trial that does not wait for a value, or aux that does not
                fit.
        """

    def inject(self, known: list[tuple[Solution, float]]) -> bool:
        """Gives the method solutions with their fitness; False if it takes none."""

    def close(self) -> None:
        """Tells the method what there is."""


class Kept:
    """The best solution, the failures and the history of a session.

    Args:
        search: has the best solution.
        history: is told every generation.
        x0: the starting solution.

    Attributes:
        failures: failed evaluations by reason.
    """

    def __init__(self, search: HostSearch, history: History, x0: Solution):
        self.search, self.history, self.x0 = search, history, x0
        self.failures: Counter[str] = Counter()

    def start(self, fitness: float) -> None:
        """Takes the fitness of the starting solution."""
        self.history.begin(fitness)
        self.improve(fitness, self.x0)

    def improve(self, fitness: float, solution: Solution) -> None:
        """Takes a solution, if it is the best."""
        if math.isfinite(fitness) and fitness < self.search.best_fitness:
            self.search.best_fitness = fitness
            self.search.best_x = jax.tree.map(np.array, solution)

    def counted(self, fitness: np.ndarray) -> np.ndarray:
        """Counts failures, and returns the fitness with infinity in their place."""
        valid = np.isfinite(fitness)
        if num_failed := int((~valid).sum()):
            self.failures[FAILED] += num_failed
        return np.where(valid, fitness, np.inf)

    def generation(self, fitness: np.ndarray, num_evaluations: int) -> None:
        """Records a generation that the method was told."""
        valid = fitness[np.isfinite(fitness)]
        columns = {
            "fitness": valid.min() if valid.size else np.nan,
            "num_evaluations": num_evaluations,
            "num_valid": valid.size,
            **self.search.info,
        }
        self.history.add({k: np.asarray([v]) for k, v in columns.items()}, True)
