"""What a worker process of ``HostPool`` runs; the standard library only.

``host`` starts this file by its path. Importing it as a part of gfopt would import
JAX, half a second and 100 MB in every worker, whatever the function needs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import traceback
from multiprocessing import connection, parent_process
from typing import Any

RUN_NAME = "gfopt_host_worker"  # what ``__name__`` is in a worker
MOST_OF_TRACEBACK = 10_000  # characters, from the end


def reason_of(error: BaseException) -> str:
    """Returns ``"ZeroDivisionError: division by zero"``."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def traceback_of(error: BaseException) -> str:
    """Returns what Python prints of an exception, from below our own call."""
    began = error.__traceback__
    try:
        lines = traceback.format_exception(type(error), error, began and began.tb_next)
    except Exception:
        return ""
    return "".join(lines)[-MOST_OF_TRACEBACK:]


def call(fun: Any, arguments: bytes) -> bytes:
    """Makes one call; returns the pickled (value, status, reason, traceback)."""
    try:
        value = fun(*pickle.loads(arguments))
    except BaseException as error:  # also SystemExit: it costs this member only
        return pickle.dumps((None, "raised", reason_of(error), traceback_of(error)))
    try:
        return pickle.dumps((value, "ok", ""), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        reason = f"the result cannot be pickled: {reason_of(error)}"
        return pickle.dumps((None, "raised", reason))


def serve(pipe: connection.Connection) -> None:
    """Says hello, then loads functions and makes calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # so that a kill takes the programs that the call started
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent closed the pipe
        _answer(pipe)


def _answer(pipe: connection.Connection) -> None:
    fun = None
    pipe.send_bytes(b"")
    while True:
        kind, payload = pipe.recv()
        reply = b""
        if kind == "call":
            reply = call(fun, payload)
        else:
            try:
                fun = pickle.loads(payload)
            except BaseException as error:
                reply = reason_of(error).encode()
        pipe.send_bytes(reply)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is None:
        return
    connection.wait([parent.sentinel])
    # The parent was killed: the call under way is of no use any more.
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == RUN_NAME:
    serve(globals()["pipe"])
