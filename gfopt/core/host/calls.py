"""The calls of one ``HostPool.map``: their outcomes, and making them right here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gfopt.core.host.worker import reason_of


class Outcome(NamedTuple):
    """What became of one call.

    Attributes:
        value: what the function returned; None if it did not.
        status: ``"ok"``, ``"raised"``, ``"timeout"`` or ``"died"``.
        reason: why it failed, ``"ZeroDivisionError: division by zero"``; else empty.
    """

    value: Any
    status: str
    reason: str


class Tally:
    """Which calls wait, and the outcomes so far.

    Attributes:
        waiting: the numbers of the calls that are to be made (again).
        num_open: how many calls have no final outcome yet.
    """

    def __init__(
        self,
        num_calls: int,
        retries: int,
        note: Callable[[int, Outcome], None] | None = None,
    ):
        self.waiting = deque(range(num_calls))
        self.num_open = num_calls
        self._left = [retries] * num_calls
        self._outcomes: list[Outcome | None] = [None] * num_calls
        self._note = note

    def settle(self, call: int, outcome: Outcome) -> None:
        """Takes an outcome, or has the call made again while retries are left."""
        if outcome.status != "ok" and self._left[call] > 0:
            self._left[call] -= 1
            self.waiting.append(call)
        else:
            self._outcomes[call] = outcome
            self.num_open -= 1
            if self._note is not None:
                self._note(call, outcome)

    def arguments(self, call: int, given: tuple[object, ...]) -> tuple[object, ...]:
        """Returns a call's arguments: copies of its arrays where it may be repeated.

        The function may write into them before it fails.
        """
        if self._left[call] == 0:
            return given
        return jax.tree.map(
            lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, given
        )

    def outcomes(self) -> list[Outcome]:
        """Returns the final outcomes in the order of the calls."""
        return [outcome for outcome in self._outcomes if outcome is not None]


class InlineCalls:
    """Makes the calls one after the other, in this thread."""

    def map(
        self,
        fun: Callable[..., object],
        calls: Sequence[tuple[object, ...]],
        tally: Tally,
    ) -> None:
        """Settles every call; KeyboardInterrupt and SystemExit pass."""
        while tally.waiting:
            call = tally.waiting.popleft()
            try:
                given = tally.arguments(call, calls[call])
                outcome = Outcome(fun(*given), "ok", "")
            except Exception as error:
                outcome = Outcome(None, "raised", reason_of(error))
            tally.settle(call, outcome)

    def close(self) -> None:
        """Does nothing: there is nothing to close."""
