"""Calls through any ``concurrent.futures.Executor``: threads, loky, Dask, MPI."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from gfopt.core.host_calls import Outcome, Tally
from gfopt.core.host_worker import reason_of

_TICK = 0.05  # seconds between two looks at the clock


class ExecutorCalls:
    """Makes calls through an executor, or through what a function makes.

    When an executor breaks, all calls in flight fail and none can be blamed. If a
    function makes the executors, they are made again one at a time, which finds the
    one that breaks it; else they all died.
    """

    def __init__(
        self,
        executor: Executor | Callable[[], Executor],
        in_flight: int | None,
        timeout: float | None,
    ):
        self._make: Callable[[], Executor] | None = None
        self._executor: Executor | None = None
        if isinstance(executor, Executor):
            self._executor = executor
        else:
            self._make = executor
        self._in_flight = in_flight
        self._timeout = timeout
        self._abandoned: set[Future] = set()  # timed out, and perhaps still running

    def map(
        self, fun: Callable[..., Any], calls: Sequence[tuple], tally: Tally
    ) -> None:
        """Settles every call; on an error, Ctrl-C included, cancels what waits."""
        self._run(fun, calls, tally, self._in_flight or len(calls))

    def close(self) -> None:
        """Shuts an executor down that a function made; others are the caller's."""
        if self._make is not None and self._executor is not None:
            # A call that ran out of time may never end: don't wait for it.
            self._executor.shutdown(wait=not self._still_abandoned())
            self._executor = None

    def _run(
        self, fun: Callable[..., Any], calls: Sequence[tuple], tally: Tally, most: int
    ) -> None:
        flight: dict[Future, int] = {}
        suspects: list[int] = []  # calls that were in flight when the executor broke
        clock = _Clock(self._timeout)
        done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        try:
            while tally.num_open:
                while tally.waiting and len(flight) < most and not suspects:
                    try:
                        future = self._submit(fun, calls[tally.waiting[0]], not flight)
                    except BrokenExecutor as error:
                        if flight:
                            break  # those in flight say it, too
                        if tally.num_open == len(calls):
                            raise RuntimeError(
                                f"executor is broken ({reason_of(error)}): make a new"
                                " one, or pass the function that makes it"
                            ) from error
                        suspects.extend(tally.waiting)
                        tally.waiting.clear()
                        break
                    flight[future] = tally.waiting.popleft()
                    future.add_done_callback(done.put)
                future = _next(done, _TICK if self._timeout else 1.0)
                ...
        finally:
            for future in flight:
                future.cancel()
