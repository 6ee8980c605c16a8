"""Arbitrary Python functions evaluated in parallel, whatever they do.

An objective may raise, hang, leak or crash its process; each of these costs the call
that did it and no other. Nothing here knows JAX: plain values go in, outcomes come
out, and a worker process imports JAX only if the function does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from gfopt import checks
from gfopt.core.host.calls import Calls, InlineCalls, Outcome, Run, Tally
from gfopt.core.host.engines import as_executor
from gfopt.core.host.executor import ExecutorCalls
from gfopt.core.host.processes import WorkerProcesses

__all__ = ["HostPool", "Outcome", "Stream"]

CUT_OFF = Outcome(None, "cut off", "cut off: enough others of its generation were done")


class HostPool:
    """Makes calls in this process, in worker processes, or through an executor.

    With no argument the calls are made one after the other in this process. With a
    ``timeout`` or several ``workers`` they are made in worker processes of its own,
    started at the first use and kept: one that crashes or runs out of time is
    replaced. The function and its arguments are then pickled, the function once for
    each worker. Workers start by importing the script that was started (which must
    therefore do its work under ``if __name__ == "__main__":``) and ignore Ctrl-C,
    which ends them through the parent.

    An executor (of threads, loky, mpi4py) or another engine (a Dask ``Client``, a pool,
    ``submitit``; see ``engines``) makes the calls in its own way. Most can't end a call
    that is running: one that runs out of time is given up, and goes on in its place
    until it ends (a job of ``submitit`` is ended). When a process of an executor dies,
    it breaks as a whole. Pass the function that makes it
    (``loky.get_reusable_executor``) and it is made again, with every call that was in
    flight made again by itself to find the culprit; otherwise those calls and those
    after them count as dead, and the next ``map`` raises.

    Args:
        executor: an executor or another engine, or a function without arguments that
            makes an executor; such a one is shut down by ``close``.
        workers: how many worker processes; with an executor, how many calls are in
            flight at a time (all if None).
        timeout: seconds that a call may take from its start, which is neither its
            time in the queue nor the start of a worker; with an executor as well as
            this can be seen from outside.
        retries: how often a call that raised, died or timed out is made again.

    Example:
        >>> import operator
        >>> with HostPool() as pool:
        ...     for outcome in pool.map(operator.truediv, [(1, 2), (1, 0)]):
        ...         print(outcome.value, outcome.status, outcome.reason)
        0.5 ok
        None raised ZeroDivisionError: division by zero
    """

    def __init__(
        self,
        executor: object = None,
        workers: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
    ):
        if executor is not None:
            executor = as_executor(executor)
        if workers is not None:
            checks.integer("workers", workers, minimum=1)
        if timeout is not None:
            checks.real("timeout", timeout)
            checks.positive("timeout", timeout)
        checks.integer("retries", retries, minimum=0)
        self._retries = retries
        self._closed = False
        self._calls: Calls
        if executor is not None:
            self._calls = ExecutorCalls(executor, workers, timeout)
        elif timeout is None and (workers is None or workers == 1):
            self._calls = InlineCalls()
        else:
            self._calls = WorkerProcesses(workers or 1, timeout)

    def map(
        self,
        fun: Callable[..., object],
        calls: Sequence[tuple[object, ...]],
        note: Callable[[int, Outcome], None] | None = None,
        enough: int | None = None,
    ) -> list[Outcome]:
        """Makes every call ``fun(*call)``.

        Args:
            fun: any function; in worker processes one that can be pickled.
            calls: the positional arguments of each call.
            note: called here with (number of the call, outcome) as soon as an outcome
                is final, in any order; what it raises ends the map.
            enough: how many calls must have returned for the others to be cut off; None
                for all. Worker processes that are cut off are ended.

        Returns:
            One outcome for each call, in their order.

        Raises:
            ValueError: ``fun`` cannot be sent to, or loaded in, a worker process.
            RuntimeError: the pool is closed; a worker cannot start at all; the
                executor is broken.
        """
        checks.is_callable("fun", fun)
        if note is not None:
            checks.is_callable("note", note)
        calls = list(calls)
        for i, call in enumerate(calls):
            checks.instance(f"calls[{i}]", call, tuple, "a tuple of arguments")
        outcomes: dict[int, Outcome] = {}
        num_left = len(calls) if enough is None else enough

        def settle(number: int, outcome: Outcome) -> None:
            nonlocal num_left
            outcomes[number] = outcome
            num_left -= outcome.status == "ok"
            if note is not None:
                note(number, outcome)

        with closing(self.stream(fun, settle)) as stream:
            for call in calls:
                stream.add(call)
            while stream.num_open and num_left > 0:
                stream.wait()
            stream.cut_off()
        return [outcomes[number] for number in range(len(calls))]

    def stream(
        self, fun: Callable[..., object], note: Callable[[int, Outcome], object]
    ) -> Stream:
        """Begins to make calls that are added one by one.

        Args:
            fun: as for ``map``.
            note: as for ``map``.

        Raises:
            RuntimeError: the pool is closed.
        """
        if self._closed:
            raise RuntimeError("this HostPool is closed; make a new one")
        return Stream(self._calls, fun, Tally(self._retries, note))

    def close(self) -> None:
        """Ends the pool's workers; also done at the end of ``with`` and by deletion."""
        self._closed = True
        self._calls.close()

    def __enter__(self) -> HostPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_calls"):  # the arguments were not refused
            self.close()


class Stream:
    """Calls of one function that are added while others are under way.

    Args:
        calls: what makes them.
        fun: the function.
        tally: of the calls.
    """

    def __init__(self, calls: Calls, fun: Callable[..., object], tally: Tally):
        self._calls, self._fun, self._tally = calls, fun, tally
        self._run: Run | None = None

    @property
    def num_open(self) -> int:
        """How many calls have no outcome yet."""
        return self._tally.num_open

    def add(self, call: tuple[object, ...]) -> int:
        """Takes a call, which begins at the next ``wait``; returns its number."""
        return self._tally.add(call)

    def wait(self) -> None:
        """Waits for an outcome, for a second at most; notes all that there are."""
        if self._run is None:
            self._run = self._calls.run(self._fun, self._tally)
        try:
            next(self._run, None)
        except BaseException:
            self._run = None
            raise
        if not self.num_open:
            self.close()

    def cut_off(self) -> None:
        """Gives up the calls that are open: they count as cut off."""
        self.close()
        self._tally.cut_off(CUT_OFF)

    def close(self) -> None:
        """Gives up the calls that are open."""
        run, self._run = self._run, None
        if run is not None:
            run.close()
