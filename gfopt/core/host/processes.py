"""Worker processes of our own, so that a death or a timeout costs one call only.

Every worker has a pipe and one call at a time: a worker that ends, or that is ended
because its time is up, can be blamed on exactly that call, and a new one takes its
place. (``ProcessPoolExecutor`` fails all calls when one worker dies, and cannot end a
call that runs too long.) Workers are spawned, never forked: JAX is multi-threaded.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import pickle
import runpy
import signal
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import connection
from typing import Literal

from gfopt.core.host import worker as host_worker
from gfopt.core.host.calls import Outcome, Run, Tally
from gfopt.core.host.worker import reason_of

_SPAWN = multiprocessing.get_context("spawn")
_GRACE = 2.0  # seconds that an idle worker has to end by itself
_POLL = 1.0  # seconds after which a silent worker is looked at
_HELP = (
    "define fun at the top level of a module that can be imported (not in a function,"
    " a notebook or a REPL), or pass an executor that ships code, such as loky's"
)


class _Worker:
    """One process, its pipe, and what it is doing."""

    def __init__(self) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.state: Literal["starting", "loading", "idle", "busy"] = "starting"
        self.fun: bytes | None = None  # the pickled function that it was sent
        self.call = -1
        self.deadline = math.inf
        # A function of the standard library, so that a worker need not import gfopt.
        arguments = (host_worker.__file__, {"pipe": theirs}, host_worker.RUN_NAME)
        self.process = _SPAWN.Process(target=runpy.run_path, args=arguments)
        try:
            self.process.start()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            theirs.close()

    def send(self, kind: str, payload: bytes) -> None:
        with contextlib.suppress(OSError):  # if it has just died, its pipe says so
            self.pipe.send((kind, payload))

    def end(self, grace: float = 0.0) -> str:
        """Ends the process and what it started; returns how it ended."""
        self.pipe.close()
        if grace > 0:
            self.process.join(grace)
        pid = self.process.pid
        if pid and self.process.is_alive():
            # Not on Windows; and it may be too young to lead a group.
            with contextlib.suppress(AttributeError, OSError):
                os.killpg(pid, signal.SIGKILL)
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        if code >= 0:
            return f"its worker process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"its worker process was killed by {name}"


class WorkerProcesses:
    """Up to ``size`` workers, started when there is work, replaced when they end."""

    def __init__(self, size: int, timeout: float | None):
        self._size = size
        self._timeout = timeout
        self._workers: list[_Worker] = []
        self._fun = b""
        self._proven = False  # whether a worker ever got as far as holding a function
        self._false_starts = 0
        self._closed = False
        self._owner = os.getpid()
        self._lock = threading.Lock()
        _open.add(self)

    def run(self, fun: Callable[..., object], tally: Tally) -> Run:
        """Settles every call; on an error, Ctrl-C included, ends all workers."""
        with self._lock:
            pickled = _pickled(fun)
            # The same object for the same function: a worker then has it already.
            self._fun = self._fun if self._fun == pickled else pickled
            try:
                while tally.num_open:
                    self._assign(tally)
                    self._listen(tally)
                    yield
            except GeneratorExit:  # calls are given up; who makes none stays
                self._end_all(0.0, [w for w in self._workers if w.state == "busy"])
                raise
            except BaseException:
                self._end_all(0.0, self._workers)
                raise

    def close(self) -> None:
        """Ends the workers."""
        self._closed = True
        self._end_all(_GRACE, self._workers)

    def _assign(self, tally: Tally) -> None:
        """Gives every idle worker a call, and starts workers if there are too few."""
        if self._closed:
            raise RuntimeError("the HostPool was closed while it was in use")
        for worker in [w for w in self._workers if w.state == "idle"]:
            if not worker.process.is_alive():  # killed from outside: blame no call
                self._workers.remove(worker)
                worker.end()
        while len(self._workers) < min(self._size, tally.num_open):
            self._workers.append(_Worker())
        for worker in self._workers:
            while worker.state == "idle" and tally.waiting:
                if worker.fun is not self._fun:
                    worker.state, worker.fun = "loading", self._fun
                    worker.send("load", self._fun)
                    break
                call = tally.waiting.popleft()
                try:
                    payload = pickle.dumps(tally.calls[call], pickle.HIGHEST_PROTOCOL)
                except Exception as error:
                    what = "the arguments cannot be pickled: "
                    tally.settle(call, Outcome.of_error(error, what))
                    continue
                worker.state, worker.call = "busy", call
                worker.send("call", payload)
                # Its time starts here: not in the queue, not while it imports.
                worker.deadline = time.monotonic() + (self._timeout or math.inf)

    def _listen(self, tally: Tally) -> None:
        """Waits for news and takes in all that there is."""
        active = [worker for worker in self._workers if worker.state != "idle"]
        if not active:
            return
        now = time.monotonic()
        patience = min(_POLL, *(worker.deadline - now for worker in active))
        ready = connection.wait([w.pipe for w in active], max(patience, 0.0))
        now = time.monotonic()
        for worker in active:
            if worker.pipe in ready:
                self._receive(worker, tally)
            elif worker.deadline <= now:
                self._workers.remove(worker)
                worker.end()
                reason = f"no result within {self._timeout:g} s"
                tally.settle(worker.call, Outcome(None, "timeout", reason))
            # A program that a dead worker had started may keep its pipe open.
            elif not (ready or worker.process.is_alive() or worker.pipe.poll()):
                self._lose(worker, tally)

    def _receive(self, worker: _Worker, tally: Tally) -> None:
        message = None
        with contextlib.suppress(EOFError, OSError):
            message = worker.pipe.recv_bytes()
        if message is None:
            self._lose(worker, tally)
            return
        if worker.state == "busy":
            try:
                outcome = Outcome(*pickle.loads(message))
            except Exception as error:
                what = "the result cannot be unpickled: "
                outcome = Outcome.of_error(error, what)
            tally.settle(worker.call, outcome)
        elif worker.state == "loading":
            # An answer may come in the next map, if the others made all the calls.
            if message and worker.fun is self._fun:
                raise ValueError(
                    f"fun cannot be loaded in a worker process ({message.decode()});"
                    f" {_HELP}"
                )
            worker.fun = None if message else worker.fun
            self._proven, self._false_starts = True, 0
        worker.state, worker.deadline = "idle", math.inf

    def _lose(self, worker: _Worker, tally: Tally) -> None:
        self._workers.remove(worker)
        how = worker.end(_GRACE)
        if worker.state == "busy":
            tally.settle(worker.call, Outcome(None, "died", how))
            return
        self._false_starts += 1
        if self._false_starts >= (3 if self._proven else 1):
            what = "load fun" if worker.state == "loading" else "start"
            raise RuntimeError(
                f"a worker could not {what}: {how}, and its error is printed above."
                " Workers import the script that was started: it must be a file, and do"
                " its work under `if __name__ == '__main__':`"
            )

    def _end_all(self, grace: float, workers: list[_Worker]) -> None:
        self._workers = [worker for worker in self._workers if worker not in workers]
        if os.getpid() != self._owner:
            return  # a forked child: they are not its workers
        for worker in workers:
            worker.pipe.close()  # tells them all before waiting for the first
        deadline = time.monotonic() + grace
        for worker in workers:
            idle = worker.state == "idle"
            worker.end(max(deadline - time.monotonic(), 0.0) if idle else 0.0)


def _pickled(fun: Callable[..., object]) -> bytes:
    try:
        return pickle.dumps(fun, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise ValueError(
            f"fun must be picklable to be sent to worker processes; got {fun!r}"
            f" ({reason_of(error)}); {_HELP}"
        ) from error


_open: weakref.WeakSet[WorkerProcesses] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, and so run before it waits for workers
def _close_all() -> None:
    for processes in list(_open):
        processes.close()
