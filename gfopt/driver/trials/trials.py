"""The trials of the open generation: which are handed out, and what came back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

import numpy as np

from gfopt.types import PyTree

START = -1  # in place of a row: the starting solution


class OpenTrials:
    """The places of one generation, which are handed out in their order.

    A trial's id is that of the first place and its own place. Injected solutions take
    the last places, which are not handed out.

    Args:
        first_id: the id of the first place.
        rows: the row of the population in each place, or ``START``.

    Attributes:
        fitness: ``float64[n]``, lower is better; not finite where it failed.
        is_told: ``bool[n]``.
        is_member: ``bool[n]``, False for the starting solution.
        aux: what was told beside the fitness, by row.
        num_asked: how many places were handed out.
        num_free: how many are not taken by injected solutions.
    """

    def __init__(self, first_id: int, rows: list[int]):
        self.first_id, self.rows = first_id, rows
        self.fitness = np.full(len(rows), np.nan)
        self.is_told = np.zeros(len(rows), bool)
        self.is_member = np.array(rows) != START
        self.aux: dict[int, PyTree] = {}
        self.num_asked, self.num_free = 0, len(rows)

    @property
    def next_id(self) -> int:
        """The id of the first place of the next generation."""
        return self.first_id + len(self.rows)

    @property
    def num_told(self) -> int:
        """How many members have a value, injected ones not counted."""
        return int((self.is_told & self.is_member)[: self.num_free].sum())

    def hand_out(self, n: int | None) -> dict[int, int]:
        """Returns the rows of the next places by id: ``n``, or all that are left."""
        start = self.num_asked
        stop = self.num_free if n is None else min(start + n, self.num_free)
        self.num_asked = stop
        return {self.first_id + i: self.rows[i] for i in range(start, stop)}

    def check(self, ids: np.ndarray, late: Container[int]) -> None:
        """Refuses ids that do not wait for a value.

        Args:
            ids: ``int64[k]``.
            late: the ids of closed generations that do.

        Raises:
            ValueError: for one that was not handed out, has a value, or comes twice.
        """
        places = ids - self.first_id
        is_open = (0 <= places) & (places < self.num_asked)
        if is_open.all() and np.unique(places).size == places.size:
            if not self.is_told[places].any():
                return  # as usual, and fast
        check_waiting(ids, self.first_id + self.num_asked, self, late)

    def __contains__(self, trial: object) -> bool:
        """Tells whether a trial that was handed out waits for its value."""
        place = -1 if not isinstance(trial, int) else trial - self.first_id
        return 0 <= place < self.num_asked and not self.is_told[place]

    def tell(self, places: np.ndarray, fitness: np.ndarray) -> None:
        """Takes the fitness of some places."""
        self.fitness[places] = fitness
        self.is_told[places] = True

    def takes_injected(self) -> bool:
        """Tells whether an injected solution may have a place: up to half of them."""
        most = int(self.is_member.sum()) // 2
        return not self.num_asked and self.num_free > len(self.rows) - most

    def inject(self, fitness: float) -> int:
        """Gives an injected solution the last free place; returns its row."""
        self.num_free -= 1
        self.tell(np.array([self.num_free]), np.array([fitness]))
        return self.rows[self.num_free]

    def missing(self) -> dict[int, int]:
        """Returns the rows of places that were handed out and have no value, by id."""
        places = np.flatnonzero(~self.is_told[: self.num_asked]).tolist()
        return {self.first_id + i: self.rows[i] for i in places}


def check_waiting(ids: np.ndarray, num_asked: int, *waiting: Container[int]) -> None:
    """Refuses ids of trials that do not wait for a value.

    Args:
        ids: ``int64[k]``.
        num_asked: how many trials were handed out.
        waiting: those that wait for a value.

    Raises:
        ValueError: for one that was not handed out, has a value, or comes twice.
    """
    listed = ids.tolist()
    if listed and max(listed) >= num_asked:
        raise ValueError(
            f"trials must have been asked for; got id {max(listed)}, "
            f"asked so far: {num_asked}"
        )
    wrong = [i for i in listed if not any(i in some for some in waiting)]
    if len(set(listed)) < len(listed):
        wrong += [i for i, n in Counter(listed).items() if n > 1]
    if wrong:
        raise ValueError(
            "trials must be waiting for their value, and be named once; got id "
            f"{wrong[0]}, which is named twice, has a value, was never asked for, "
            "or is of a generation that was closed long ago"
        )
