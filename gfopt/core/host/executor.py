"""Calls through any ``concurrent.futures.Executor``: threads, loky, Dask, MPI."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future

from gfopt import checks
from gfopt.core.host.calls import Outcome, Run, Tally
from gfopt.core.host.worker import reason_of

_TICK = 0.05  # seconds between two looks at the clock


class ExecutorCalls:
    """Makes calls through an executor, or through what a function makes.

    When an executor breaks, all calls in flight fail and none can be blamed. If a
    function makes the executors, those calls are made again one at a time, which finds
    the one that breaks it; else they all died.
    """

    def __init__(
        self,
        executor: Executor | Callable[[], Executor],
        in_flight: int | None,
        timeout: float | None,
    ):
        self._make = None if isinstance(executor, Executor) else executor
        self._executor = executor if isinstance(executor, Executor) else None
        self._in_flight = in_flight
        self._timeout = timeout
        # given up, and perhaps still running
        self._overdue: set[Future[object]] = set()

    def run(self, fun: Callable[..., object], tally: Tally) -> Run:
        """Settles every call; on an error, Ctrl-C included, gives up the others."""
        self._overdue -= {future for future in self._overdue if future.done()}
        yield from self._run(fun, tally, self._in_flight or math.inf)

    def close(self) -> None:
        """Shuts an executor down that a function made; others are the caller's."""
        if self._make is not None and self._executor is not None:
            # A call that ran out of time may never end: don't wait for it.
            idle = all(future.done() for future in self._overdue)
            self._executor.shutdown(wait=idle)
            self._executor = None

    def _run(self, fun: Callable[..., object], tally: Tally, most: float) -> Run:
        flight = _Flight(self._timeout, self._overdue)
        try:
            while tally.num_open:
                while tally.waiting and len(flight.calls) < most and not flight.broken:
                    call = tally.waiting[0]
                    future = self._submit(fun, tally.arguments(call), flight)
                    if future is None:
                        break
                    tally.waiting.popleft()
                    flight.add(future, call)
                flight.collect(tally)
                if flight.broken and not flight.calls:
                    self._blame(fun, tally, flight)
                yield
        finally:
            running = {future for future in flight.calls if not future.cancel()}
            self._overdue |= running

    def _submit(
        self, fun: Callable[..., object], arguments: tuple[object, ...], flight: _Flight
    ) -> Future[object] | None:
        """Returns None where the executor turns out to be broken."""
        is_new = self._executor is None
        if self._executor is None and self._make is not None:
            executor = self._make()
            checks.instance("executor()", executor, Executor, "an Executor")
            self._executor = executor
        try:
            return self._executor.submit(fun, *arguments)  # type: ignore[union-attr]
        except BrokenExecutor as error:
            flight.broken = reason_of(error)
            if is_new or (self._make is None and not flight.num_seen):
                raise RuntimeError(
                    f"executor is broken ({flight.broken}): make a new one, or pass"
                    " the function that makes it; a script whose processes import it"
                    " does its work under `if __name__ == '__main__':`"
                ) from error
            return None

    def _blame(self, fun: Callable[..., object], tally: Tally, flight: _Flight) -> None:
        """Settles the calls that were in flight when the executor broke."""
        died = Outcome(None, "died", f"the executor broke: {flight.broken}")
        suspects, flight.suspects, flight.broken = flight.suspects, [], ""
        if self._make is None:
            for call in suspects:
                tally.settle(call, died)
            while tally.waiting:  # nothing more can be made with it
                tally.settle(tally.waiting.popleft(), died)
            return
        self._executor = None
        if len(suspects) == 1:
            tally.settle(suspects[0], died)
            return
        alone = Tally(
            0, lambda number, outcome: tally.settle(suspects[number], outcome)
        )
        for call in suspects:
            alone.add(tally.calls[call])
        for _ in self._run(fun, alone, 1):
            pass


class _Flight:
    """The calls that an executor holds, and the time that each has had."""

    def __init__(self, timeout: float | None, overdue: set[Future[object]]):
        self.calls: dict[Future[object], int] = {}
        self.suspects: list[int] = []
        self.broken = ""  # why the executor broke
        self.num_seen = 0  # calls that came back, in whatever state
        self._timeout = timeout
        self._overdue = overdue
        self._began: dict[Future[object], float] = {}
        self._news = self._looked = time.monotonic()
        self._done: queue.SimpleQueue[Future[object]] = queue.SimpleQueue()

    def add(self, future: Future[object], call: int) -> None:
        self.calls[future] = call
        future.add_done_callback(self._done.put)

    def collect(self, tally: Tally) -> None:
        """Waits for a call to come back or run out of time; settles it."""
        if not self.calls:
            return
        try:
            # Never without end: Windows cannot interrupt such a wait.
            future = self._done.get(timeout=_TICK if self._timeout else 1.0)
        except queue.Empty:
            pass
        else:
            call = self.calls.pop(future, None)
            if call is not None:  # else it came back too late
                self._news = time.monotonic()
                self._settle(future, call, tally)
        if self._timeout and time.monotonic() >= self._looked + _TICK:
            self._look_at_clock(self._timeout, tally)

    def _settle(self, future: Future[object], call: int, tally: Tally) -> None:
        self.num_seen += 1
        try:
            error = future.exception()
        except CancelledError:
            tally.settle(call, Outcome(None, "died", "the call was cancelled"))
            return
        if isinstance(error, BrokenExecutor):
            self.broken = reason_of(error)
            self.suspects.append(call)
        elif error is not None:
            tally.settle(call, Outcome.of_error(error))
        else:
            answer = future.result()
            if not isinstance(answer, Outcome):  # else of one of our ``engines``
                answer = Outcome(answer, "ok")
            tally.settle(call, answer)

    def _look_at_clock(self, timeout: float, tally: Tally) -> None:
        now = self._looked = time.monotonic()
        self._overdue -= {future for future in self._overdue if future.done()}
        for future in list(self.calls):
            if future not in self._began and future.running():
                self._began[future] = self._news = now
            if now - self._began.get(future, now) >= timeout and not future.done():
                self._expire(future, f"no result within {timeout:g} s", tally)
                self._news = now
        # Calls that never end may hold every place of the executor: nothing will start.
        if self._overdue and now - self._news >= timeout:
            for future in list(self.calls):
                reason = "did not start: calls that timed out hold the executor"
                self._expire(future, reason, tally)

    def _expire(self, future: Future[object], reason: str, tally: Tally) -> None:
        call = self.calls.pop(future)
        if not future.cancel():
            self._overdue.add(future)
        self.num_seen += 1
        tally.settle(call, Outcome(None, "timeout", reason))
