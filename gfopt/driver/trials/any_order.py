"""Trials without generations: one is drawn whenever one is asked for."""

from __future__ import annotations

import jax
import numpy as np

from gfopt.core import trees
from gfopt.driver.engine.arrivals import INJECTED, Arrivals, Draw
from gfopt.driver.trials.base import Kept
from gfopt.driver.trials.late_trials import MOST_NUMBERS
from gfopt.driver.trials.trial import Trial
from gfopt.driver.trials.trials import check_waiting
from gfopt.protocol import as_method
from gfopt.types import PyTree, Solution

ALWAYS = 256  # trials that wait for a value, however large they are


class AnyOrder:
    """``Trials`` that are told as they come; see ``Arrivals``.

    Args:
        kept: what came of them.
        with_start: whether the first trial is the starting solution.
    """

    def __init__(self, kept: Kept, with_start: bool):
        self.kept = kept
        self._arrivals = Arrivals(kept.search)
        self._injects = as_method(kept.search.optimizer).late_members == "encoded"
        # those that wait for a value, by id; None for the starting solution
        self._waiting: dict[int, Draw | None] = {}
        self._size = 0  # numbers in them
        self._num_asked, self._with_start = 0, with_start
        self._arrived: list[tuple[Draw, float]] = []
        self._injected: list[tuple[Solution, float]] = []

    can_ask = True

    @property
    def num_told(self) -> int:
        """How many values have come that the method was not told yet."""
        return sum(draw.step != INJECTED for draw, _ in self._arrived)

    def hand_out(self, n: int | None) -> list[Trial]:
        """Draws trials from the distribution of now."""
        count = self.kept.search.size if n is None else n
        return [self._next() for _ in range(count)]

    def _next(self) -> Trial:
        draw: Draw | None = None
        if self._num_asked == 0 and self._with_start:
            solution = jax.tree.map(np.array, self.kept.x0)
        else:
            draw, solution = self._arrivals.draw()
        number = self._num_asked
        self._num_asked += 1
        self._waiting[number] = draw
        self._size += trees.num_parameters(draw)
        # a trial may never be told: the oldest are forgotten
        while self._size > MOST_NUMBERS and len(self._waiting) > ALWAYS:
            self._pop(next(iter(self._waiting)))
        return Trial(number, solution)

    def _pop(self, number: int) -> Draw | None:
        draw = self._waiting.pop(number)
        self._size -= trees.num_parameters(draw)
        return draw

    def tell(
        self, ids: np.ndarray, fitness: np.ndarray, aux: list[PyTree] | None
    ) -> int:
        """Takes the fitness of trials of any step, in the order given."""
        if aux is not None:
            raise ValueError("aux must be None in an asynchronous search; got a list")
        check_waiting(ids, self._num_asked, self._waiting)
        fitness = self.kept.counted(fitness)
        for number, value in zip(ids.tolist(), fitness.tolist(), strict=True):
            draw = self._pop(number)
            if draw is None:
                self.kept.start(value)
                continue
            if value < self.kept.search.best_fitness:
                self.kept.improve(value, self._arrivals.solution(draw))
            self._arrive(draw, value)
        return 0

    def inject(self, known: list[tuple[Solution, float]]) -> bool:
        """Tells the method injected solutions, up to half a generation at a time."""
        if self._injects:
            self._injected += known
            self._fill()
        return self._injects

    def close(self) -> None:
        """Tells the method what has come, though it is less than a generation."""
        if self._arrived:
            self._advance()

    def _arrive(self, draw: Draw, value: float) -> None:
        self._arrived.append((draw, value))
        if self._arrivals.generation(self._arrived, self.kept.search.size):
            self._advance()

    def _fill(self) -> None:
        """Takes in injected solutions, where there is room."""
        most = self.kept.search.size // 2
        room = max(0, most + self.num_told - len(self._arrived))
        now, self._injected = self._injected[:room], self._injected[room:]
        for solution, value in now:
            self._arrive(Draw(INJECTED, 0, solution), value)

    def _advance(self) -> None:
        search, count = self.kept.search, self.num_told
        arrived, self._arrived = self._arrived, []
        fitness = np.full(search.rows, np.nan)
        for row, number in self._arrivals.place(arrived).items():
            fitness[row] = arrived[number][1]
        search.tell(fitness)
        self.kept.generation(np.array([value for _, value in arrived]), count)
        self._fill()
