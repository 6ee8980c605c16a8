"""The log of a run of zeroth-order SGD, written as the run goes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

import numpy as np

from gfopt.driver.replay.replay import (
    END,
    KIND,
    NAMES,
    ReplayLog,
    columns_of,
    header_of,
)
from gfopt.driver.storage.records import JSON, Record
from gfopt.driver.storage.storage import Contents, RecordWriter
from gfopt.protocol import Optimizer
from gfopt.types import Solution

SYNC_EVERY = 100  # steps that a power cut may take, at most


class LogWriter:
    """Writes the log of a search as it goes; a context manager.

    A file that exists is continued after its last whole record, if it is of this run.

    Args:
        path: the file.
        optimizer: the method.
        x0: what it starts from.

    Raises:
        ValueError: for another method, or a file of another kind.
        RuntimeError: another process is writing it.
    """

    def __init__(
        self, path: str | os.PathLike[str], optimizer: Optimizer, x0: Solution
    ):
        header = {"kind": KIND, **header_of(optimizer, x0)}
        self._known: ReplayLog | None = None
        self._count, self._has_end = 0, False
        try:
            self._writer = RecordWriter.create(path, header)
        except FileExistsError:
            self._writer, contents = RecordWriter.append_to(path)
            try:
                self._load(contents, header)
            except BaseException:
                self._writer.close()
                raise
        self._synced = self._count

    def _load(self, contents: Contents, header: JSON) -> None:
        path = self._writer.path
        if contents.header != header:
            raise ValueError(
                f"log must be a new file, or one of this run; {path} "
                f"has the header {contents.header}, not {header}"
            )
        self._known = ReplayLog(**columns_of(contents), header=header)
        self._count = len(self._known)
        self._has_end = contents.records[-1:] == [END]
        if contents.lost:
            warnings.warn(
                f"{path} is damaged or was cut short; lost: {'; '.join(contents.lost)}."
                f" Its first {self._count} steps are kept, the others made again",
                stacklevel=4,
            )
        if contents.num_sound < len(contents.records):
            steps = self._known.record()
            writer = RecordWriter.replace(path, header, [steps], keep=True)
            self._writer.close()
            self._writer = writer

    def update(self, columns: Mapping[str, np.ndarray]) -> None:
        """Appends the steps that are not in the file yet.

        Args:
            columns: of all complete generations so far, by name.

        Raises:
            ValueError: the file is of another run.
        """
        if not columns:
            return
        if self._known is not None:
            # a search that resumes from a checkpoint repeats some steps
            size = min(len(self._known), len(columns["seed"]))
            for name in NAMES.values():
                known = getattr(self._known, name)[:size]
                if not np.array_equal(known, columns[name][:size]):
                    raise ValueError(
                        f"log must be a new file, or one of this run; "
                        f"{self._writer.path} holds other steps"
                    )
            if size == len(self._known):
                self._known = None
        arrays = {short: columns[name][self._count :] for short, name in NAMES.items()}
        if not arrays["seed"].size:
            return
        self._count += arrays["seed"].size
        sync = self._count - self._synced >= SYNC_EVERY
        self._writer.write(Record("", {}, arrays), sync=sync)
        self._has_end = False
        self._synced = self._count if sync else self._synced

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if not self._has_end:
                self._writer.write(END)
        finally:
            self._writer.close()
        if kind is None and self._known is not None:
            warnings.warn(
                f"{self._writer.path} holds {len(self._known)} steps, and this run "
                "made fewer: its weights are those of the log's beginning, log[:nit]",
                stacklevel=3,
            )
