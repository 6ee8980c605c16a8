"""Checkpoints of ``minimize``: the state now and then, every paid value at once.

The file is a record container (``storage``): its header is the configuration, then
come at most one ``snapshot`` with the history up to it and the ``value`` records of
evaluations that finished after it. A run that goes on restores the snapshot and takes
the values as paid for; since a step's candidates follow from the state and the step, it
then makes exactly the evaluations that are missing. The file with the snapshot before
stays beside it, and is gone on from where the last one is damaged.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import jax
import numpy as np

from gfopt import checks
from gfopt.core.host.values import Value
from gfopt.core.objective import Objective
from gfopt.driver.loop.value_records import record_to_value, value_to_record
from gfopt.driver.setup.setup import Setup
from gfopt.driver.storage.fingerprint import described
from gfopt.driver.storage.records import JSON, Record
from gfopt.driver.storage.recovery import is_of, recovered
from gfopt.driver.storage.storage import Contents, RecordWriter, previous
from gfopt.driver.storage.tree_records import (
    differences,
    record_to_tree,
    tree_to_record,
    with_table,
    without_table,
)
from gfopt.types import PyTree

SAVE_SECONDS = 1.0  # between two snapshots, at least
SAVE_SHARE = 0.05  # of the time that may go into snapshots

_FLAGS = (
    "takes_key",
    "has_aux",
    "batched",
    "maximize",
    "takes_row",
)  # of the objective

# what a snapshot says of its run
SNAPSHOT: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "tier": (int,),
    "reason": (str, type(None)),
    "first": (float, int, type(None)),
    "seconds": (float, int),
    "failures": (dict,),
}


class Checkpoint:
    """The file of one run, held against a second writer; a context manager.

    Attributes:
        path: the file.
        snapshot: the last snapshot in the file, None if there is none.
        history: columns of the generations up to it.
        finished: the record of the result, if the run has ended.
        known: values after it, by step and row; closing a generation deletes its
            values.

    Args:
        path: the file, created if it is missing.
        config: what must be the same for a run to go on, a JSON object.

    Raises:
        ValueError: the file is of another configuration; the message says how.
        RuntimeError: another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], config: JSON):
        self.path = Path(path)
        self._header = {"kind": "minimize", "config": config}
        self.snapshot: Record | None = None
        self.history: dict[str, np.ndarray] = {}
        self.known: dict[tuple[int, int], Value] = {}
        self.finished: Record | None = None
        self._last_save, self._save_seconds = time.monotonic(), 0.0
        contents = self._open()
        try:
            if contents is not None:
                self._compare(contents.header)
            elif not is_of(previous(self.path), self._header):
                return
            self._load(contents)
        except BaseException:
            self.close()
            raise

    def _open(self) -> Contents | None:
        """Opens the file; returns what is in it, None for one without a header."""
        path, contents = self.path, None
        if not path.exists():
            previous(path).unlink(missing_ok=True)  # of a run that was removed
        try:
            self._writer = RecordWriter.create(path, self._header)
        except FileExistsError:
            try:
                self._writer, contents = RecordWriter.append_to(path)
            except ValueError:
                if not is_of(previous(path), self._header):
                    raise
                self._writer = RecordWriter.replace(path, self._header, [])
        return contents

    def _compare(self, header: JSON) -> None:
        lines = differences(self._header, header)
        if lines:
            raise ValueError(
                "\n  ".join([f"checkpoint {self.path} is of another run:", *lines])
                + "\nUse another path, or the arguments with which it was started."
            )

    def _load(self, contents: Contents | None) -> None:
        asked = self.path, self._header, contents, "snapshot"
        records, is_damaged = recovered(*asked)
        with checks.whole_file("checkpoint", self.path):
            for record in records:
                self._take(record)
        if is_damaged:
            self._replace(records, keep=False)

    def _take(self, record: Record) -> None:
        if record.kind == "snapshot":
            for name, kinds in SNAPSHOT.items():
                what = f"a {kinds[0].__name__}"
                checks.instance(name, record.meta.get(name), kinds, what)
            self.snapshot, self.history = without_table(record)
        elif record.kind == "result":
            self.finished = record
        else:
            step, row = (int(record.arrays[name]) for name in ("step", "row"))
            self.known[step, row] = record_to_value(record)

    @property
    def meta(self) -> JSON:
        """What the snapshot says of the run; empty without one."""
        return {} if self.snapshot is None else self.snapshot.meta

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next snapshot."""
        pause = max(SAVE_SECONDS, self._save_seconds / SAVE_SHARE)
        return time.monotonic() >= self._last_save + pause

    def write(self, step: int, row: int, value: Value) -> None:
        """Writes a finished evaluation."""
        self._writer.write(value_to_record(step, row, value), sync=False)

    def finish(self, record: Record) -> None:
        """Writes the result of a run that has ended, see ``finished``."""
        self._writer.write(record)

    def save(self, meta: JSON, tree: PyTree, history: dict[str, np.ndarray]) -> None:
        """Replaces the file's contents by a snapshot and what is known beyond it.

        Args:
            meta: a JSON object.
            tree: all that goes on, arrays only.
            history: columns of the generations so far.
        """
        began = time.monotonic()
        snapshot = with_table(tree_to_record("snapshot", tree, meta), history)
        values = (value_to_record(*at, value) for at, value in self.known.items())
        self._replace([snapshot, *values], keep=True)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - began

    def _replace(self, records: list[Record], keep: bool) -> None:
        if os.name == "nt":
            self._writer.close()  # Windows replaces no open file
        writer = RecordWriter.replace(self.path, self._header, records, keep=keep)
        self._writer.close()  # only now: no second writer gets in between
        self._writer = writer

    def restored(self, template: PyTree) -> PyTree:
        """Returns the snapshot's tree in the form of ``template``."""
        if self.snapshot is None:
            raise ValueError(f"{self.path} holds no snapshot")
        return record_to_tree(self.snapshot, template)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def configuration(
    setup: Setup,
    objective: Objective,
    seed: int,
    frozen: PyTree,
    args: PyTree,
    is_asynchronous: bool = False,
) -> JSON:
    """Returns what decides a run's trajectory, as a JSON object."""
    fun = objective.fun
    more = {"asynchronous": True} if is_asynchronous else {}
    return more | {
        "method": described(setup.optimizer),
        "x0": described(setup.x0),
        "precision": [str(leaf.dtype) for leaf in jax.tree.leaves(setup.x0)],
        "seed": seed,
        "fun": getattr(fun, "__qualname__", type(fun).__qualname__),
        **{name: getattr(objective, name) for name in _FLAGS},
        "context": described(objective.context),
        "frozen": described(frozen),
        "args": described(args),
    }
