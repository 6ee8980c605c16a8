"""A line on the terminal that says how far a search is, and Ctrl-C between steps."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from gfopt.driver.progress.compiling import CompileWatch

ANYWHERE = 3  # presses of Ctrl-C after which it raises wherever it comes
FIRST = b"\nCtrl-C: ends after this generation; once more stops now\n"
TICK = 1.0  # seconds between two looks at what a line waits for


class ProgressLine:
    """Writes to standard error: one line that changes, or one now and then to a file.

    Within ``with``, a thread adds that the search compiles, and for how long it has.

    Args:
        budget: evaluations in all, or infinity.
    """

    def __init__(self, budget: float):
        self._budget = budget
        self._is_terminal = sys.stderr.isatty()
        self._pause = 0.1 if self._is_terminal else 10.0
        self._began = time.monotonic()
        self._next = self._began
        self._width = 0
        self._line = ""
        self._writes = threading.Lock()
        self._ended = threading.Event()
        self._watch = CompileWatch()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def __enter__(self) -> ProgressLine:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _wait(self) -> None:
        while not self._ended.wait(TICK):
            seconds = self._watch.seconds()
            if seconds is not None and seconds >= self._pause:
                said = f"{self._line}, " if self._line else ""
                self._show(f"{said}compiling for {seconds:.0f} s")

    def update(self, nit: int, nfev: int, fun: float, is_last: bool = False) -> None:
        """Shows the numbers, if it is time."""
        share = "" if self._budget == float("inf") else f" of {self._budget:.0f}"
        line = f"{nfev}{share} evaluations, {nit} generations, best {fun:.6g}"
        self.write(line, is_last)

    def write(self, line: str, is_last: bool = False) -> None:
        """Shows a line and the seconds so far, if it is time."""
        self._line = line
        self._show(line, is_last)

    def _show(self, line: str, is_last: bool = False) -> None:
        with self._writes:
            now = time.monotonic()
            if now < self._next and not is_last:
                return
            self._next = now + self._pause
            line += f", {now - self._began:.0f} s"
            start, end = "", "\n"
            if self._is_terminal:
                start, end = "\r", "\n" if is_last else ""
            sys.stderr.write(start + line.ljust(self._width) + end)
            sys.stderr.flush()
            self._width = len(line)


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
