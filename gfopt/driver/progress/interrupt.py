"""Ctrl-C between the steps of a search."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

ANYWHERE = 3  # presses of Ctrl-C after which it raises wherever it comes
FIRST = b"\nCtrl-C: ends after this generation; once more stops now\n"


class Interrupt:
    """Ctrl-C as a wish to end, more urgent each time that it is pressed.

    Pressed once, it is seen when the generation is complete. Pressed twice, it raises
    ``KeyboardInterrupt`` in the user's function, else as soon as that would be called:
    a step that it tore apart would leave a search with neither its old state nor the
    new one (a compiled call takes its arguments over). The third time it raises
    wherever it comes. Where Ctrl-C means something else than ``KeyboardInterrupt``, or
    outside of the main thread, nothing is changed.

    Attributes:
        count: how often it was pressed.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raises_at = ANYWHERE
        self._old: Any = None

    @property
    def seen(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self.count > 0

    def __enter__(self) -> Interrupt:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._old = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count >= self._raises_at:
            raise KeyboardInterrupt
        if self.count == 1:
            with contextlib.suppress(OSError):  # no buffer: one may be in use just now
                os.write(2, FIRST)

    def let_pass(self, at: int = 2) -> None:
        """From now on raises at the ``at``-th time; also if that was held back."""
        self._raises_at = at
        if self.count >= at:
            raise KeyboardInterrupt

    def hold(self) -> None:
        """From now on raises at the third time only."""
        self._raises_at = ANYWHERE

    def take(self) -> None:
        """Counts a ``KeyboardInterrupt`` that came from elsewhere."""
        self.count = max(self.count, 2)

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
