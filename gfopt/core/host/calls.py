"""Calls: their outcomes, who waits for one, and making them right here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

from gfopt.core.host.worker import reason_of, traceback_of

Run: TypeAlias = Generator[None, None, None]  # yields when it has looked for news


class Outcome(NamedTuple):
    """What became of one call.

    Attributes:
        value: what the function returned; None if it did not.
        status: ``"ok"``, ``"raised"``, ``"timeout"``, ``"died"`` or ``"cut off"``.
        reason: why it failed, ``"ZeroDivisionError: division by zero"``; else empty.
        traceback: what Python prints of an exception; empty where none was raised.
    """

    value: Any
    status: str
    reason: str = ""
    traceback: str = ""

    @classmethod
    def of_error(cls, error: BaseException, what: str = "") -> Outcome:
        """Returns the outcome of a call that raised, or ``what`` went wrong with it."""
        return cls(None, "raised", what + reason_of(error), traceback_of(error))


class Tally:
    """Calls that have no final outcome yet, and which of them wait.

    Args:
        retries: how often a call that failed is made again.
        note: called as ``(number, outcome)`` as soon as an outcome is final; what it
            raises ends the run.

    Attributes:
        calls: the arguments of the calls, by their numbers.
        waiting: the numbers of the calls that are to be made (again).
    """

    def __init__(self, retries: int, note: Callable[[int, Outcome], object]):
        self.calls: dict[int, tuple[object, ...]] = {}
        self.waiting: deque[int] = deque()
        self._retries, self._note = retries, note
        self._left: dict[int, int] = {}
        self._count = 0

    @property
    def num_open(self) -> int:
        """How many calls have no final outcome yet."""
        return len(self.calls)

    def add(self, call: tuple[object, ...]) -> int:
        """Takes a call; returns its number, the first is 0."""
        number = self._count
        self._count += 1
        self.calls[number], self._left[number] = call, self._retries
        self.waiting.append(number)
        return number

    def settle(self, number: int, outcome: Outcome) -> None:
        """Takes an outcome, or has the call made again while retries are left."""
        if outcome.status != "ok" and self._left[number] > 0:
            self._left[number] -= 1
            self.waiting.append(number)
        else:
            self._finish(number, outcome)

    def cut_off(self, outcome: Outcome) -> None:
        """Gives all calls that have none this outcome."""
        self.waiting.clear()
        for number in list(self.calls):
            self._finish(number, outcome)

    def _finish(self, number: int, outcome: Outcome) -> None:
        del self.calls[number], self._left[number]
        self._note(number, outcome)

    def arguments(self, number: int) -> tuple[object, ...]:
        """Returns a call's arguments: copies of its arrays where it may be repeated.

        The function may write into them before it fails.
        """
        given = self.calls[number]
        if self._left[number] == 0:
            return given
        return jax.tree.map(
            lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, given
        )


class Calls(Protocol):
    """Something that makes calls."""

    def run(self, fun: Callable[..., object], tally: Tally) -> Run:
        """Makes the calls of a tally, and those that are added meanwhile.

        It ends when no call is open. What is under way when it is closed before is
        given up.
        """

    def close(self) -> None:
        """Ends what makes the calls."""


class InlineCalls:
    """Makes the calls one after the other, in this thread."""

    def run(self, fun: Callable[..., object], tally: Tally) -> Run:
        """Settles every call; KeyboardInterrupt and SystemExit pass."""
        while tally.waiting:
            number = tally.waiting.popleft()
            try:
                outcome = Outcome(fun(*tally.arguments(number)), "ok")
            except Exception as error:
                outcome = Outcome.of_error(error)
            tally.settle(number, outcome)
            yield

    def close(self) -> None:
        """Does nothing: there is nothing to close."""
