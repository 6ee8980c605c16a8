"""A search with a Python objective whose workers never wait for one another."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from gfopt.core.host.evaluator import arguments
from gfopt.core.host.values import Value
from gfopt.driver.engine.arrivals import Arrivals, Draw
from gfopt.driver.engine.engine import Limits
from gfopt.driver.engine.hosted import HostEngine
from gfopt.driver.progress.interrupt import Interrupt
from gfopt.driver.result.history import Columns
from gfopt.types import PyTree


class AsynchronousEngine(HostEngine):
    """A ``HostEngine`` that draws a candidate whenever a worker is free.

    The method is told values in the order in which they come, a generation's number at
    a time; see ``Arrivals``. What is known from a checkpoint is in that order too: it
    is taken in before anything is drawn. The arguments are those of ``HostEngine``,
    with an ``evaluator`` that has a number of ``workers``.
    """

    def prepare(self) -> None:
        """Begins with what is known."""
        self._arrivals = Arrivals(self)
        self._arrived: list[tuple[Draw, Value]] = []  # and not told
        # of the session before, not yet taken in
        self._before = deque(self._known.items())
        self._under_way: dict[int, Draw] = {}
        self._stream = self._evaluator.stream(self._objective, self._paid)
        self._num_workers = self._evaluator.workers or 1

    @property
    def in_flight(self) -> int:
        """Evaluations that are under way, or done and not yet told."""
        return len(self._before) + len(self._under_way) + len(self._arrived)

    def advance(self, limits: Limits, batch: PyTree, interrupt: Interrupt) -> Columns:
        """Takes values in until there are as many as rows, and tells them.

        After Ctrl-C, or at the end of the budget, nothing more is drawn, and what is
        under way is waited for. A second Ctrl-C gives it up, as do the target and the
        deadline; then the generation stays open.
        """
        self._interrupt = interrupt
        size = self.size
        try:
            while not self._is_enough(limits):
                if self._arrivals.generation(self._arrived, size):
                    break
                if self._before:
                    name, value = self._before.popleft()
                    draw = self._arrivals.drawn(*name, value.candidate or ())
                    self._arrive(draw, value)
                    continue
                self._draw(limits)
                if not self._under_way:
                    break
                self._interrupt.let_pass()
                with self.precision():
                    self._stream.wait()
                self._interrupt.hold()
        except KeyboardInterrupt:
            interrupt.take()
            self.close()
        except BaseException:
            self.close()
            raise
        finally:
            interrupt.hold()
        count = self._arrivals.generation(self._arrived, size)
        self.is_open = not count
        told = self._arrived[: count or None]
        self._arrived = self._arrived[len(told) :]
        for _, value in told:
            self._count(value)
        if not self.is_open:
            listed = [(draw, value.feasible_fitness) for draw, value in told]
            rows = self._arrivals.place(listed)
            self._close({row: told[number][1] for row, number in rows.items()})
            for draw, _ in told:
                del self._known[draw.name]
        return self._columns([value for _, value in told])

    def _is_enough(self, limits: Limits) -> bool:
        if not self._arrived:
            return False
        return (
            self.best_fitness <= limits.target
            or len(self._arrived) >= limits.evaluations
            or time.monotonic() >= limits.deadline
        )

    def _draw(self, limits: Limits) -> None:
        """Gives every free worker a candidate, as far as the budget goes."""
        # whether it returns numbers is seen before several are paid for
        free = self._num_workers if self._answers else 1
        free = int(min(free, limits.evaluations - len(self._arrived)))
        while len(self._under_way) < free and not self._interrupt.seen:
            draw, solution = self._arrivals.draw(self._known)
            key = None
            if self._objective.takes_key:
                (key,) = self.evaluation_keys(np.array([draw.row]))
            call = arguments(self._objective, key, solution, self._inputs)
            self._under_way[self._stream.add(call)] = draw

    def _paid(self, number: int, value: Value) -> None:
        """Records a value that a worker returned."""
        self._interrupt.hold()  # what was paid for is not lost to Ctrl-C
        self._check(value)
        draw = self._under_way.pop(number)
        value = value._replace(candidate=self._arrivals.leaves(draw))
        self._known[draw.name] = value
        if self._journal is not None:
            self._journal(*draw.name, value)
        self._arrive(draw, value)
        self._interrupt.let_pass()

    def _arrive(self, draw: Draw, value: Value) -> None:
        self._arrived.append((draw, value))
        fitness = value.feasible_fitness
        if fitness < self.best_fitness:
            self.best_fitness = fitness
            if self._keep_x:
                self.best_x = self._arrivals.solution(draw)

    def close(self) -> None:
        """Gives up what is under way."""
        self._stream.close()
        self._under_way.clear()
