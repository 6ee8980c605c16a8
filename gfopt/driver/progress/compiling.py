"""Whether a thread is compiling, as seen from another one.

JAX says when it has compiled, not that it does; but what it does stands on the stack of
the thread. A version of JAX whose modules have other names is never seen compiling.
"""

from __future__ import annotations

import sys
import threading
import time

_MODULES = (
    "jax._src.interpreters.partial_eval",  # traces
    "jax._src.interpreters.mlir",  # lowers
    "jax._src.compiler",
)


class CompileWatch:
    """Says for how long the thread that makes it has been compiling, when asked.

    Example:
        >>> CompileWatch().seconds() is None
        True
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._since: float | None = None

    def seconds(self) -> float | None:
        """Returns the seconds since it was first seen to compile, or None."""
        frame = sys._current_frames().get(self._thread)
        while frame is not None and frame.f_globals.get("__name__") not in _MODULES:
            frame = frame.f_back
        now = time.monotonic()
        if frame is None:
            self._since = None
            return None
        self._since = now if self._since is None else self._since
        return now - self._since
