"""Checkpoints of ``minimize``: the state now and then, every paid value at once.

The file is a record container (``storage``): its header is the configuration, then
come at most one ``snapshot`` with the history up to it and the ``value`` records of
evaluations that finished after it. A run that goes on restores the snapshot and takes
the values as paid for; since a step's candidates follow from the state and the step, it
then makes exactly the evaluations that are missing. The file with the snapshot before
stays beside it, and is gone on from where the last one is damaged.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
import types
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gfopt import checks
from gfopt.core.constraints import ConstraintValues
from gfopt.core.host.values import Value
from gfopt.core.objective import Objective
from gfopt.driver.setup.setup import Setup
from gfopt.driver.storage.recovery import is_of, recovered
from gfopt.driver.storage.storage import (
    Contents,
    Record,
    RecordWriter,
    differences,
    previous,
    record_to_tree,
    tree_to_record,
)
from gfopt.driver.storage.tree_records import with_table, without_table
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


class Checkpoint:
    """The file of one run, held against a second writer; a context manager.

    Attributes:
        snapshot: the last snapshot in the file, None if there is none.
        history: columns of the generations up to it.
        finished: the record of the result, if the run has ended.
        known: values behind it, by step and row; whoever closes a generation deletes
            its values.

    Args:
        path: the file, made if it is missing.
        config: what must be the same for a run to go on, a JSON object.

    Raises:
        ValueError: the file is of another configuration; the message says how.
        RuntimeError: another process is writing it.
    """

    def __init__(self, path: str | os.PathLike[str], config: dict[str, Any]):
        self._path = Path(path)
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
            elif not is_of(previous(self._path), self._header):
                return
            self._load(contents)
        except BaseException:
            self.close()
            raise

    def _open(self) -> Contents | None:
        """Opens the file; returns what is in it, None for one without a header."""
        path, contents = self._path, None
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

    def _compare(self, found: dict[str, Any]) -> None:
        lines = differences(self._header, found)
        if lines:
            raise ValueError(
                "\n  ".join([f"checkpoint {self._path} is of another run:", *lines])
                + "\nUse another path, or the arguments with which it was started."
            )

    def _load(self, contents: Contents | None) -> None:
        asked = self._path, self._header, contents, "snapshot"
        records, is_damaged = recovered(*asked)
        for record in records:
            if record.kind == "snapshot":
                self.snapshot, self.history = without_table(record)
            elif record.kind == "result":
                self.finished = record
            else:
                step, row = (int(record.arrays[name]) for name in ("step", "row"))
                self.known[step, row] = _as_value(record)
        if is_damaged:
            self._replace(records, keep=False)

    @property
    def meta(self) -> dict[str, Any]:
        """What the snapshot says of the run; empty without one."""
        return {} if self.snapshot is None else self.snapshot.meta

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next snapshot."""
        pause = max(SAVE_SECONDS, self._save_seconds / SAVE_SHARE)
        return time.monotonic() >= self._last_save + pause

    def write(self, step: int, row: int, value: Value) -> None:
        """Writes a finished evaluation."""
        self._writer.write(_as_record(step, row, value), sync=False)

    def finish(self, record: Record) -> None:
        """Writes the result of a run that has ended, see ``finished``."""
        self._writer.write(record)

    def save(
        self, meta: dict[str, Any], tree: PyTree, history: dict[str, np.ndarray]
    ) -> None:
        """Replaces the file's contents by a snapshot and what is known beyond it.

        Args:
            meta: a JSON object.
            tree: all that goes on, arrays only.
            history: columns of the generations so far.
        """
        began = time.monotonic()
        snapshot = with_table(tree_to_record("snapshot", tree, meta), history)
        values = (_as_record(*at, value) for at, value in self.known.items())
        self._replace([snapshot, *values], keep=True)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - began

    def _replace(self, records: list[Record], keep: bool) -> None:
        if os.name == "nt":
            self._writer.close()  # Windows replaces no open file
        writer = RecordWriter.replace(self._path, self._header, records, keep=keep)
        self._writer.close()  # only now: no second writer gets in between
        self._writer = writer

    def restored(self, template: PyTree) -> PyTree:
        """Returns the snapshot's tree in the form of ``template``."""
        if self.snapshot is None:
            raise ValueError(f"{self._path} holds no snapshot")
        return record_to_tree(self.snapshot, template)

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def configuration(
    setup: Setup, objective: Objective, seed: int, frozen: PyTree, args: Any
) -> dict[str, Any]:
    """Returns what decides a run's trajectory, as a JSON object."""
    fun = objective.fun
    return {
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


def described(value: Any, _within: tuple[Any, ...] = ()) -> Any:
    """Describes anything in JSON: numbers as they are, large arrays by a checksum.

    A function is its name and a checksum of its numbers: those written in it, its
    defaults, and what it closes over.

    Example:
        >>> import gfopt
        >>> described([np.zeros(3), gfopt.rademacher()])
        [[0.0, 0.0, 0.0], {'type': 'Noise', 'kind': 'rademacher', 'cached': None}]
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | jax.Array | np.generic):
        is_key = jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)
        if is_key and isinstance(value, jax.Array):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.dtype.hasobject:  # its bytes are addresses
            return described(array.tolist(), _within)
        if array.size <= 16 and array.dtype.kind in "iuf":
            return array.tolist()
        crc = zlib.crc32(np.ascontiguousarray(array).tobytes())
        return f"{array.dtype}{list(array.shape)} crc32 {crc:08x}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        parts = {name: described(getattr(value, name), _within) for name in names}
        return {"type": type(value).__name__, **parts}
    if isinstance(value, dict):
        return {str(key): described(part, _within) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part, _within) for part in value]
    if isinstance(value, functools.partial):
        return described([value.func, value.args, value.keywords], _within)
    value = getattr(value, "__wrapped__", value)  # of jit
    if isinstance(value, types.FunctionType) and value not in _within:
        inside = [
            _numbers(value.__code__),
            value.__defaults__,
            value.__kwdefaults__,
            [c.cell_contents for c in value.__closure__ or () if c != types.CellType()],
        ]
        text = json.dumps(described(inside, (*_within, value)))
        return f"{value.__qualname__} crc32 {zlib.crc32(text.encode()):08x}"
    return getattr(value, "__qualname__", type(value).__qualname__)


def _numbers(code: types.CodeType) -> list[Any]:
    """Returns the numbers in a function: what tells one schedule from another.

    Not its byte code, which another version of Python changes.
    """
    found: list[Any] = []
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            found += _numbers(part)
        elif isinstance(part, int | float):
            found.append(part)
    return found


def _as_record(step: int, row: int, value: Value) -> Record:
    fitness, reason, aux = value
    meta: dict[str, Any] = {"reason": reason} if reason else {}
    arrays: dict[str, np.ndarray] = {
        "step": np.asarray(step, np.uint32),
        "row": np.asarray(row, np.uint32),
        "fitness": np.asarray(fitness, np.float64),
    }
    if aux is not None:
        meta["aux"] = _skeleton(aux)
        for number, leaf in enumerate(jax.tree.leaves(aux)):
            arrays[f"aux{number}"] = np.asarray(leaf)
    return Record("value", meta, arrays)


def _as_value(record: Record) -> Value:
    arrays = record.arrays
    aux = None
    if "aux" in record.meta:
        leaves = (arrays[f"aux{number}"] for number in range(len(arrays) - 3))
        aux = _fleshed(record.meta["aux"], leaves)
    return Value(float(arrays["fitness"]), record.meta.get("reason", ""), aux)


def _skeleton(tree: PyTree) -> Any:
    """Describes a tree's containers in JSON: ``[type, [keys,] parts]``, 0 for a leaf.

    Raises:
        TypeError: for a container that JSON cannot bring back.
    """
    if type(tree) is dict:
        keys = sorted(tree)
        return ["dict", keys, [_skeleton(tree[key]) for key in keys]]
    if type(tree) in (list, tuple):
        return [type(tree).__name__, None, [_skeleton(part) for part in tree]]
    if isinstance(tree, ConstraintValues):
        return ["constraints", None, [_skeleton(part) for part in tree]]
    if tree is None or jax.tree_util.all_leaves([tree]):
        return None if tree is None else 0
    raise TypeError(
        "aux must be made of dicts, lists, tuples and arrays where there is a "
        f"checkpoint; got {checks.shown(tree)}"
    )


def _fleshed(skeleton: Any, leaves: Any) -> PyTree:
    if not skeleton:
        return next(leaves) if skeleton == 0 else None
    kind, keys, parts = skeleton
    made = [_fleshed(part, leaves) for part in parts]
    if kind == "constraints":
        return ConstraintValues(*made)
    if kind == "dict":
        return dict(zip(keys, made, strict=True))
    return made if kind == "list" else tuple(made)
