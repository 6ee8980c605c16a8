"""Trials of one generation after the other: a generation opens when one is told."""

from __future__ import annotations

import jax
import numpy as np

from gfopt import checks
from gfopt.core.host.values import Value, evaluation_of
from gfopt.driver.trials.base import Kept
from gfopt.driver.trials.late_trials import ClosedGeneration, LateTrials
from gfopt.driver.trials.trial import Trial
from gfopt.driver.trials.trials import START, OpenTrials
from gfopt.types import PyTree, Solution


class Generations:
    """``Trials`` that are told when all of a generation have a value.

    Args:
        kept: what came of them.
        with_start: whether the first trial is the starting solution.
        flags: of the method: ``injects``, ``tolerates_stale``.

    Attributes:
        open: the trials of the open generation.
        late: those of closed ones.
    """

    def __init__(self, kept: Kept, with_start: bool, flags: frozenset[str]):
        self.kept = kept
        self._injects = "injects" in flags
        self._uses_late = "tolerates_stale" in flags
        self._waiting: list[tuple[Solution, float]] = []
        self.late = LateTrials()
        self._like: PyTree = None  # some aux, for its form
        rows = kept.search.active_rows.tolist()
        self.open = OpenTrials(0, [START, *rows] if with_start else rows)

    @property
    def can_ask(self) -> bool:
        """Whether the open generation has a trial that was not handed out."""
        return self.open.num_asked < self.open.num_free

    @property
    def num_told(self) -> int:
        """How many of the open generation have a value."""
        return self.open.num_told

    def hand_out(self, n: int | None) -> list[Trial]:
        """Hands out the next trials of the open generation."""
        rows = self.open.hand_out(n)
        return [Trial(i, self._solution(row)) for i, row in rows.items()]

    def _solution(self, row: int) -> Solution:
        if row == START:
            return jax.tree.map(np.array, self.kept.x0)
        return self.kept.search.solution(row)

    def tell(
        self, ids: np.ndarray, fitness: np.ndarray, aux: list[PyTree] | None
    ) -> int:
        """Takes the fitness of trials of the open generation and of closed ones."""
        self.open.check(ids, self.late)
        self._take_aux(ids, aux or [])
        is_late = ids < self.open.first_id
        late = ids[is_late].tolist()
        if late:
            self._tell_late(dict(zip(late, fitness[is_late].tolist(), strict=True)))
        if len(late) < ids.size:
            places = ids[~is_late] - self.open.first_id
            self.open.tell(places, fitness[~is_late])
            self._count(places)
        if self.open.is_told.all():
            self._advance()
        return 0 if self._uses_late else len(late)

    def _take_aux(self, ids: np.ndarray, aux: list[PyTree]) -> None:
        """Keeps what was told beside the fitness of members, if all of it fits."""
        told = {i: one for i, one in zip(ids, aux, strict=False) if one is not None}
        like = self._like
        for one in told.values():
            like = one if like is None else like
            form, expected = (
                (jax.tree.structure(tree), jax.tree.map(np.shape, tree))
                for tree in (one, like)
            )
            if form != expected:
                raise ValueError(
                    "aux must be of one structure and of the same shapes for every "
                    f"trial; got {checks.shown(one)} after {checks.shown(like)}"
                )
        self._like = like
        for i, one in told.items():
            if i >= self.open.first_id:
                self.open.aux[self.open.rows[i - self.open.first_id]] = one

    def _count(self, places: np.ndarray) -> None:
        """Counts failures among new values, and takes the best of them if it is one."""
        trials, search = self.open, self.kept.search
        fitness = self.kept.counted(trials.fitness[places])
        best = int(np.argmin(fitness))
        row, lowest = trials.rows[places[best]], float(fitness[best])
        if row != START and lowest < search.best_fitness:
            search.remember(row, lowest)
        for place in places[~trials.is_member[places]]:
            self.kept.start(float(trials.fitness[place]))

    def inject(self, known: list[tuple[Solution, float]]) -> bool:
        """Gives injected solutions their places, where there is room."""
        if self._injects:
            self._waiting += known
            self._place()
        return self._injects

    def _place(self) -> None:
        search = self.kept.search
        while self._waiting and self.open.takes_injected():
            solution, fitness = self._waiting.pop(0)
            search.put({self.open.inject(fitness): search.encoded(solution)})

    def close(self) -> None:
        """Closes the open generation: what has no value counts as failed."""
        search = self.kept.search
        missing = {
            i: (row, self.kept.x0 if row == START else search.clean(row))
            for i, row in self.open.missing().items()
        }
        if missing:
            population = search.population if self._uses_late else None
            self.late.add(ClosedGeneration(population, search.rows, missing))
        self._advance()

    def _advance(self) -> None:
        """Tells the open generation, and opens the next."""
        search, trials = self.kept.search, self.open
        fitness = trials.fitness[trials.is_member]
        whole = np.full(search.rows, np.nan)
        whole[search.active_rows] = fitness
        members = {i: aux for i, aux in trials.aux.items() if i != START}
        told = {row: Value(0.0, aux=aux) for row, aux in members.items()}
        search.tell(whole, evaluation_of(told, search.rows, self._like).aux)
        self.kept.generation(fitness, trials.num_told)
        self.open = OpenTrials(trials.next_id, search.active_rows.tolist())
        self._place()

    def _tell_late(self, fitness: dict[int, float]) -> None:
        """Takes fitness of closed generations, by id."""
        kept = self.kept
        kept.counted(np.array(list(fitness.values())))
        for generation in self.late:
            rows = np.full(generation.num_rows, np.nan)
            for i in [i for i in fitness if i in generation.missing]:
                row, solution = generation.missing.pop(i)
                if row == START:
                    kept.history.begin(fitness[i])
                else:
                    rows[row] = fitness[i]
                    kept.history.nfev += 1
                kept.improve(fitness[i], solution)
            if generation.population is not None and np.isfinite(rows).any():
                kept.search.tell_late(generation.population, rows)
        self.late.drop_complete()
