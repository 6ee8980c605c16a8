"""Other engines as executors: Dask, Slurm, pools of processes, Ray.

What counts is what an engine can do, not whose it is: ``submit(fun, *args)`` that
returns something with ``done()`` and ``result()``, or the pools' ``apply_async``.
"""

from __future__ import annotations

import functools
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any

from gfopt import checks
from gfopt.core.host import worker
from gfopt.core.host.calls import Outcome

_POLL = 0.05  # seconds between two looks at jobs that don't report by themselves


def as_executor(engine: Any) -> Executor | Callable[[], Executor]:
    """Returns an executor for whatever makes calls.

    Args:
        engine: an executor; a Dask ``Client``; a ``submitit`` executor, or anything
            else with ``submit``; a pool with ``apply_async``, such as those of
            ``multiprocessing`` and ``ray.util.multiprocessing``; or a function without
            arguments that makes an executor.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import concurrent.futures, multiprocessing.pool
        >>> executor = concurrent.futures.ThreadPoolExecutor(2)
        >>> as_executor(executor) is executor
        True
        >>> with multiprocessing.pool.ThreadPool(2) as pool:
        ...     as_executor(pool).submit(abs, -3).result()
        Outcome(value=3, status='ok', reason='', traceback='')
    """
    if isinstance(engine, Executor | type):  # a class makes one
        return engine
    if hasattr(engine, "apply_async"):
        return _Pool(engine)
    if hasattr(engine, "submit"):
        return _Jobs(engine)
    if callable(engine):
        return engine
    raise TypeError(
        "executor must be a concurrent.futures.Executor, a Dask Client, anything else "
        "with submit or apply_async, or a function that makes an executor; "
        f"got {checks.shown(engine)}"
    )


def _sent(
    fun: Callable[..., object], args: tuple[object, ...], words: dict[str, object]
) -> tuple[Callable[..., object], Callable[..., object], bytes]:
    """Returns the call that an engine makes: whatever is raised comes back as data."""
    fun = functools.partial(fun, **words) if words else fun
    return worker.call, fun, pickle.dumps(args, pickle.HIGHEST_PROTOCOL)


def _settle(future: Future[Outcome], answer: bytes | BaseException) -> None:
    """Takes what came back."""
    with suppress(Exception):  # a call that was given up has its outcome already
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(Outcome(*pickle.loads(answer)))


class _Pool(Executor):
    """Calls by ``apply_async``, which says when a call is over, not when it begins."""

    def __init__(self, pool: Any):
        self._apply = pool.apply_async

    def submit(
        self, fun: Callable[..., object], /, *args: object, **words: object
    ) -> Future[Any]:
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()
        call, *arguments = _sent(fun, args, words)
        take = functools.partial(_settle, future)
        self._apply(call, arguments, callback=take, error_callback=take)
        return future


class _Job(Future[Outcome]):
    """A call that an engine makes; to give it up is the engine's business."""

    def __init__(self, job: Any):
        super().__init__()
        self._job = job
        self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        """Ends the job where the engine can; False, as whether it did is unknown."""
        with suppress(Exception):
            self._job.cancel()
        return False

    def look(self) -> bool:
        """Takes the outcome of a job that is over; returns whether it is."""
        try:
            if not self._job.done():
                return False
            answer = self._job.result()
        except BaseException as error:
            answer = error
        _settle(self, answer)
        return True


class _Jobs(Executor):
    """Calls by ``submit``, whose jobs are looked at now and then."""

    def __init__(self, engine: Any):
        self._submit = engine.submit
        if hasattr(engine, "get_executor"):  # Dask: equal calls are not merged
            self._submit = functools.partial(engine.submit, pure=False)
        self._jobs: set[_Job] = set()
        self._lock = threading.Lock()

    def submit(
        self, fun: Callable[..., object], /, *args: object, **words: object
    ) -> Future[Any]:
        job = _Job(self._submit(*_sent(fun, args, words)))
        with self._lock:
            if not self._jobs:
                threading.Thread(target=self._watch, daemon=True).start()
            self._jobs.add(job)
        return job

    def _watch(self) -> None:
        while True:
            over = {job for job in list(self._jobs) if job.look()}
            with self._lock:
                self._jobs -= over
                if not self._jobs:
                    return
            time.sleep(_POLL)
