"""Objectives for worker processes: to import them loads NumPy and nothing else."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np


def highest(x: Any) -> float:
    """The largest absolute value: bitwise the same everywhere."""
    return float(np.max(np.abs(x)))


def slow_on_the_right(x: Any) -> float:
    """Does not come back in time where the first number is large."""
    if x[0] > 1.5:
        time.sleep(60)
    return highest(x)


def fails_on_the_right(x: Any) -> float:
    """Raises where the first number is large."""
    if x[0] > 1.5:
        raise ValueError("too far right")
    return highest(x)


def deadly_on_the_right(x: Any) -> float:
    """Takes its process along where the first number is large."""
    if x[0] > 1.5:
        os._exit(3)
    return highest(x)


def logged(x: Any, path: str, kill_at: int) -> float:
    """Writes a line for each call, and at the ``kill_at``-th of them is killed."""
    value = highest(x)  # a tracer ends here
    with open(path, "a+") as file:
        file.write(f"{x.tolist()}\n")
        file.flush()
        file.seek(0)
        if len(file.readlines()) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    return value
