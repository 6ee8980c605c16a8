"""Starts JAX processes that belong together, and waits for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Ended(NamedTuple):
    """What a process left behind."""

    code: int
    out: str
    err: str


def free_port() -> str:
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def run_together(
    arguments: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]
) -> list[Ended]:
    """Runs Python once with each of the arguments, all at a time.

    Args:
        arguments: what follows ``python``.
        environments: what is added to this process's variables.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    running = [
        subprocess.Popen(
            [sys.executable, *call],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=inherited | dict(more),
        )
        for call, more in zip(arguments, environments, strict=True)
    ]
    try:
        texts = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [Ended(p.returncode, *t) for p, t in zip(running, texts, strict=True)]
