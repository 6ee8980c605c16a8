"""A callback that hands each generation's numbers to a file or to a tracker."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

from gfopt import checks
from gfopt.driver.result.result import Result


class Tracker:
    """A callback of ``minimize`` that writes a row for each generation.

    A row holds the last numbers of ``Result.history``: ``nfev``, ``fitness``, ``best``
    and the method's diagnostics; its step is ``nfev``. A search that resumes from a
    checkpoint is written from its beginning.

    Args:
        log: called as ``log(row, step)``, which is how ``mlflow.log_metrics`` and the
            ``log`` of a Weights & Biases run are called; or the path of a file that
            ends in ``.jsonl`` or ``.csv`` and is overwritten.

    Raises:
        TypeError: for neither a function nor a path.
        ValueError: for a file of another kind.

    Example:
        >>> import gfopt
        >>> rows = []
        >>> tracker = gfopt.Tracker(lambda row, step: rows.append((step, row["best"])))
        >>> result = gfopt.minimize(lambda x: (x**2).sum(), [1.0, 2.0], budget=100,
        ...                         method="cma_es", callbacks=tracker, seed=1)
        >>> rows[-1] == (result.nfev, result.fun)
        True
    """

    def __init__(
        self, log: Callable[[dict[str, float], int], object] | str | os.PathLike[str]
    ):
        self._written = 0
        self._log = log if callable(log) else _file(log)

    def __call__(self, result: Result) -> None:
        """Writes what is new."""
        counts = result.history["nfev"]
        for place in range(self._written, len(counts)):
            row = {
                name: float(column[place]) for name, column in result.history.items()
            }
            self._log(row, int(counts[place]))
        self._written = len(counts)


def _file(log: str | os.PathLike[str]) -> _JSONLines | _CSV:
    checks.instance("log", log, (str, os.PathLike), "a function or a path")
    path = Path(log)
    checks.one_of("ending of log", path.suffix, (".jsonl", ".csv"))
    return _JSONLines(path) if path.suffix == ".jsonl" else _CSV(path)


class _JSONLines:
    """Writes rows as JSON; what is not a number is null."""

    def __init__(self, path: Path):
        self._path = path
        path.write_text("")

    def __call__(self, row: dict[str, float], step: int) -> None:
        known = {k: v if math.isfinite(v) else None for k, v in row.items()}
        with self._path.open("a") as file:
            file.write(json.dumps(known | {"nfev": step}) + "\n")


class _CSV:
    """Writes rows below a head with the names of the first one."""

    def __init__(self, path: Path):
        self._path = path
        self._names: list[str] = []
        path.write_text("")

    def __call__(self, row: dict[str, float], step: int) -> None:
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if not self._names:
                self._names = list(row)
                writer.writerow(self._names)
            values = row | {"nfev": step}
            writer.writerow(values[name] for name in self._names)
