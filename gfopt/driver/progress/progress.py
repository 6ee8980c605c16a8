"""A line on the terminal that says how far a search is."""

from __future__ import annotations

import sys
import threading
import time

from gfopt.driver.progress.compiling import CompileWatch

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

    def __exit__(self, *_: object) -> None:
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
