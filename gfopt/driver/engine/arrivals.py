"""Candidates whose values come in any order, while others are drawn.

Each is drawn from the distribution of its time. When as many values have come as a
generation has rows, the method is told them, whichever step they are of: see
``Method.late_members``. So a search is a function of the order in which candidates were
drawn and values came, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from gfopt.core.host import evaluator
from gfopt.driver.engine.host_search import HostSearch
from gfopt.protocol import as_method
from gfopt.types import Member, PyTree, Solution

INJECTED = -1  # the step of what the caller found
T = TypeVar("T")


class Draw(NamedTuple):
    """A candidate.

    Attributes:
        step: when it was drawn; ``INJECTED`` if it was not.
        row: its number among those of the step; with P rows, numbers from P on are of
            further populations.
        record: what a later step is told of it: its solution, or its member.
    """

    step: int
    row: int
    record: PyTree

    @property
    def name(self) -> tuple[int, int]:
        """Which it is."""
        return self.step, self.row


class Arrivals:
    """Draws candidates, and puts those whose values have come into a generation.

    Args:
        search: whose method has ``late_members``.
    """

    def __init__(self, search: HostSearch):
        self._search = search
        self._is_encoded = as_method(search.optimizer).late_members == "encoded"
        self._step, self._next = search.step, 0
        self._blocks: dict[int, PyTree] = {}  # members of the populations of this step

    def draw(self, known: Container[tuple[int, int]] = ()) -> tuple[Draw, Solution]:
        """Draws the next candidate of this step that is not known.

        Returns:
            It, and its solution: NumPy arrays for the caller.
        """
        step = self._search.step
        self._at(step)
        while (step, self._next) in known:
            self._next += 1
        member, row = self._member(self._next), self._next
        self._next += 1
        solution = self._decoded(member)
        record = jax.tree.map(np.array, solution) if self._is_encoded else member
        return Draw(step, row, record), solution

    def solution(self, draw: Draw) -> Solution:
        """Returns a candidate's solution."""
        if self._is_encoded:
            return jax.tree.map(np.array, draw.record)
        return self._decoded(draw.record)

    def leaves(self, draw: Draw) -> list[np.ndarray]:
        """Returns the leaves of a candidate's record, of which ``drawn`` makes it."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(draw.record)]

    def drawn(self, step: int, row: int, leaves: Iterable[np.ndarray]) -> Draw:
        """Returns a candidate again, of which the leaves of its record are known."""
        search = self._search
        like = search.best_x if self._is_encoded else search.population.members
        return Draw(step, row, jax.tree.unflatten(jax.tree.structure(like), leaves))

    def generation(self, arrived: list[tuple[Draw, T]], size: int) -> int:
        """Returns how many of what has come make a generation, 0 for not enough.

        Of those of a run that has ended the method is told nothing.
        """
        count = 0
        for number, (draw, _) in enumerate(arrived, 1):
            count += self._is_useful(draw)
            if count == size:
                return number
        return 0

    def _is_useful(self, draw: Draw) -> bool:
        return draw.step == INJECTED or draw.step >= self._search.began

    def place(self, arrived: list[tuple[Draw, float]]) -> dict[int, int]:
        """Puts candidates into the open generation.

        Args:
            arrived: what came, each with its fitness; of the present run at most as
                many as there are active rows.

        Returns:
            Which of them stands in which row. Where several have one row, the best.
        """
        search = self._search
        self._at(search.step)
        rows = search.active_rows.tolist()
        chosen: dict[int, int] = {}
        listed = [(n, *one) for n, one in enumerate(arrived) if self._is_useful(one[0])]
        for place, (number, draw, fitness) in enumerate(listed):
            row = rows[place if self._is_encoded else draw.row % len(rows)]
            other = chosen.get(row)
            if other is None or fitness < arrived[other][1]:
                chosen[row] = number
        search.put({row: self._now(arrived[n][0]) for row, n in chosen.items()})
        return chosen

    def _now(self, draw: Draw) -> Member:
        """Returns a candidate as a member of this step."""
        if not self._is_encoded:
            return draw.record
        if draw.step == self._search.step:
            return self._member(draw.row)
        return self._search.encoded(draw.record)

    def _at(self, step: int) -> None:
        """Forgets what was drawn at the step before."""
        if step != self._step:
            self._step, self._next, self._blocks = step, 0, {}

    def _member(self, row: int) -> Member:
        """Returns a member of this step, NumPy arrays."""
        search = self._search
        block, place = divmod(row, search.size)
        if block not in self._blocks:
            first = search.population.members
            self._blocks[block] = search.more_members(block) if block else first
        index = search.active_rows[place]
        return jax.tree.map(
            lambda leaf: np.array(np.asarray(leaf)[index]), self._blocks[block]
        )

    def _decoded(self, member: Member) -> Solution:
        search = self._search
        with search.precision():
            one = jax.tree.map(lambda leaf: leaf[None], member)
            solution = evaluator.decode_one(
                search.optimizer, search.state, one, np.int32(0)
            )
        return jax.tree.map(np.array, solution)
