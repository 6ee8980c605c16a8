"""One candidate of a search whose evaluations are the caller's, and its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gfopt import checks
from gfopt.driver.setup.arguments import values_told
from gfopt.types import PyTree, Solution


class Trial(NamedTuple):
    """One candidate that waits for its value.

    Attributes:
        id: its number in this run, from 0.
        solution: what to evaluate: NumPy arrays of its own.

    Example:
        >>> import gfopt
        >>> search = gfopt.AskTell("cma_es", [0.0, 0.0], sigma0=1.0)
        >>> trials = search.ask(2)
        >>> [trial.id for trial in trials], trials[0].solution.shape
        ([0, 1], (2,))
    """

    id: int
    solution: Solution


def as_told(
    trials: Any, values: Any, aux: Any
) -> tuple[np.ndarray, np.ndarray, list[PyTree] | None]:
    """Reads the arguments of ``tell``: ids, numbers, NaN for failures, and aux."""
    if isinstance(trials, Trial | int | np.integer):
        trials, values = [trials], [values]
        aux = None if aux is None else [aux]
    checks.instance("trials", trials, (Sequence, np.ndarray), "trials or their ids")
    ids = [trial.id if type(trial) is Trial else trial for trial in trials]
    numbers = np.asarray(ids) if ids else np.zeros(0, np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise TypeError(
            f"trials must be trials or their ids; got {checks.shown(trials)}"
        )
    others = None if aux is None else list(aux)
    if others is not None and len(others) != len(ids):
        raise ValueError(
            f"aux must be one for each of the {len(ids)} trials; got {len(others)}"
        )
    return numbers.astype(np.int64), values_told(values, len(ids), "trials"), others
