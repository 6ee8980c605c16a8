"""The one record container: checkpoints, journals, replay logs, genomes, results.

A file is a magic number, a format version, a header (a JSON object that the caller
gives) and records, appended and never changed::

    file    = magic[8]  version u32  frame(header as JSON)  frame(record) ...
    frame   = length  payload  crc32(payload) u32
    length  = n u8, n ^ 0xA5 u8                              if n < 255
            = 255 u8, 255 ^ 0xA5 u8, n u64, crc32(n) u32     otherwise
    record  = 0 u8, size u32, description as JSON, array bytes ...
            | i u8, array bytes ...                          i-th description so far

A description is the kind, the meta and the arrays' names, dtypes and shapes. One that
was written before is named by a single byte, so a step of (seed u32, f32, f32), each
a 0-d array, costs 19 bytes although it is a record of its own that survives a kill.
The length carries its own check: without it a flipped bit there would look like a
record that was cut short, and everything behind it would be dropped in silence.
Integers are little-endian; there is no pickle.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.core import trees
from gfopt.types import PyTree

try:
    import fcntl
except ImportError:  # Windows: no lock against a second writer
    fcntl = None  # type: ignore[assignment]

MAGIC = b"gfopt\r\n\x00"  # text-mode copies and C strings break it, visibly
VERSION = 1
_LONG = 255  # the short length that says that a long one follows
_CHECK = 0xA5  # not 0, so that a tail of zero bytes is no empty record
_REMEMBERED = 255  # descriptions that a byte can name


class Record(NamedTuple):
    """One record: what it is, a JSON object, and arrays by name.

    Attributes:
        kind: what the record is, ``"step"``.
        meta: a JSON object with string keys; a tuple comes back as a list.
        arrays: arrays of any dtype but object; bitwise the same when read.
    """

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Contents(NamedTuple):
    """What ``read_records`` found; ``torn`` if the last record was cut short."""

    header: dict[str, Any]
    records: list[Record]
    torn: bool


class _Torn(Exception):
    """The file ends inside a frame."""


class _Corrupt(Exception):
    """The bytes of a frame are not those that were written."""


# ---------------------------------------------------------------- frames and records


def _frame(parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Returns the payload's parts between their length and their checksum."""
    length, crc = sum(len(part) for part in parts), 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    head = bytes([min(length, _LONG), min(length, _LONG) ^ _CHECK])
    if length >= _LONG:
        size = struct.pack("<Q", length)
        head += size + struct.pack("<I", zlib.crc32(size))
    return [head, *parts, struct.pack("<I", crc)]


def _exactly(file: FileIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            raise _Torn
        data += more
    return data


def _verify_frame(file: FileIO) -> tuple[int, int]:
    """Checks the frame at the file's position; returns its payload's place, length."""
    size = os.fstat(file.fileno()).st_size
    short, check = _exactly(file, 2)
    if check != short ^ _CHECK:
        rest = file.read(1 << 16)
        while rest and not any(rest):
            rest = file.read(1 << 16)
        # A power cut may leave zeros where data was to come; nothing was lost.
        raise _Torn if not (short or check or rest) else _Corrupt("length")
    length = short
    if short == _LONG:
        text, crc = struct.unpack("<8sI", _exactly(file, 12))
        if zlib.crc32(text) != crc:
            raise _Corrupt("length")
        (length,) = struct.unpack("<Q", text)
    start, crc, left = file.tell(), 0, length
    if start + length + 4 > size:
        raise _Torn
    while left:  # in blocks: a record may be a model
        block = _exactly(file, min(left, 1 << 20))
        crc, left = zlib.crc32(block, crc), left - len(block)
    if _exactly(file, 4) != struct.pack("<I", crc):
        # The last record of all: written in part, and the rest never reached the disk.
        raise _Torn if start + length + 4 == size else _Corrupt("checksum")
    return start, length


def _raw(array: np.ndarray) -> memoryview:
    """Returns an array's bytes, not copied (bfloat16 has no buffer of its own)."""
    if array.nbytes == 0:
        return memoryview(b"")
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def _dtype_name(dtype: np.dtype) -> str:
    if dtype.hasobject or dtype.fields is not None:
        raise TypeError(f"arrays must be plain numbers, bools or text; got {dtype}")
    return dtype.str if np.dtype(dtype.str) == dtype else dtype.name  # bfloat16: name


def _encode(record: Record) -> tuple[bytes, list[memoryview]]:
    kind, meta, arrays = record
    checks.instance("record.kind", kind, str, "a string")
    checks.instance("record.meta", meta, dict, "a dict")
    checks.instance("record.arrays", arrays, dict, "a dict of arrays")
    held = {str(name): np.asarray(array, order="C") for name, array in arrays.items()}
    named = [[name, _dtype_name(a.dtype), a.shape] for name, a in held.items()]
    description = _json("record.meta", [kind, meta, named])
    return description, [_raw(array) for array in held.values()]


def _decode(file: FileIO, length: int, known: list[bytes]) -> Record:
    """Reads the verified record at the file's position; extends ``known``."""
    (reference,) = _exactly(file, 1)
    if reference == 0:
        (size,) = struct.unpack("<I", _exactly(file, 4))
        description = _exactly(file, size)
        if len(known) < _REMEMBERED:
            known.append(description)
    else:
        description = known[reference - 1]
    kind, meta, named = json.loads(description)
    arrays = {name: np.empty(shape, np.dtype(dtype)) for name, dtype, shape in named}
    for array in arrays.values():
        view = _raw(array)
        while view:
            view = view[file.readinto(view) :]
    return Record(kind, meta, arrays)


def _json(name: str, value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must hold what JSON holds (dicts with string keys, lists, text,"
            f" numbers, bools, None), arrays go to arrays; got {checks.shown(value)}:"
            f" {error}"
        ) from error


# ------------------------------------------------------------------------- reading


def _read_header(file: FileIO, path: Path) -> dict[str, Any]:
    """Reads from the start up to the first record; raises _Torn, ValueError."""
    start = file.read(len(MAGIC)) or b""
    if start != MAGIC[: len(start)]:
        raise ValueError(
            f"{path} is not a gfopt record file: it starts with {start!r}, not {MAGIC!r}"
        )
    (version,) = struct.unpack("<I", _exactly(file, 4))
    if version > VERSION:
        raise ValueError(
            f"{path} has format version {version}; this gfopt reads up to {VERSION}."
            " Read it with the newer gfopt that wrote it"
        )
    try:
        start_at, length = _verify_frame(file)
        file.seek(start_at)
        header: dict[str, Any] = json.loads(_exactly(file, length))
    except _Corrupt as error:
        raise ValueError(
            f"{path} is corrupted at offset {len(MAGIC) + 4}: the header's {error} is"
            " wrong"
        ) from None
    file.seek(4, os.SEEK_CUR)
    return header


def _scan(file: FileIO, path: Path, known: list[bytes]) -> Iterator[Record]:
    """Yields the records from the file's position; stops before a torn tail.

    Afterwards the file stands behind the last whole record.
    """
    size = os.fstat(file.fileno()).st_size
    while (offset := file.tell()) < size:
        try:
            start, length = _verify_frame(file)
            file.seek(start)
            record = _decode(file, length, known)
        except _Torn:
            file.seek(offset)
            return
        except _Corrupt as error:
            raise ValueError(
                f"{path} is corrupted at offset {offset}: the record's {error} is wrong"
                f" ({size - offset} of {size} bytes cannot be read)"
            ) from None
        file.seek(start + length + 4)
        yield record


def read_records(path: str | os.PathLike[str]) -> Contents:
    """Reads a whole file.

    Args:
        path: a file that ``RecordWriter`` or ``write_snapshot`` wrote; it may be
            open for writing at this moment.

    Returns:
        ``(header, records, torn)``; ``torn`` says that the last record was cut short
        (the writer was killed, or is writing it) and is not among the records.

    Raises:
        ValueError: the file is not ours, of a newer version, or corrupted in the
            middle; the message says where.
    """
    place = Path(path)
    with open(place, "rb", buffering=0) as file:
        try:
            header = _read_header(file, place)
        except _Torn:
            raise ValueError(
                f"{place} ends inside its header: its writer was killed before the"
                " first record, nothing is lost with it"
            ) from None
        records = list(_scan(file, place, []))
        return Contents(header, records, file.tell() < os.fstat(file.fileno()).st_size)


# ------------------------------------------------------------------------- writing


class RecordWriter:
    """Appends records to a file that no other writer holds; a context manager.

    Attributes:
        path: the file.
        header: the file's header.
        torn: True if ``append_to`` dropped a record that was cut short.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "run.log"
        >>> with RecordWriter.create(path, {"kind": "log"}) as writer:
        ...     writer.write(Record("step", {}, {"loss": np.float32(0.5)}))
        >>> read_records(path).records
        [Record(kind='step', meta={}, arrays={'loss': array(0.5, dtype=float32)})]
    """

    header: dict[str, Any]
    torn: bool

    def __init__(self, path: str | os.PathLike[str]):
        """Opens and locks a file; use ``create`` or ``append_to``."""
        self.path = Path(path)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        # Not buffered: a write that failed half-way (disk full) can be taken back.
        self._file = FileIO(os.open(self.path, flags, 0o666), "r+")
        self._known: list[bytes] = []
        try:
            self._lock()
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], header: dict[str, Any]
    ) -> RecordWriter:
        """Starts a new file.

        Args:
            path: where; a file left without a whole header by a kill is replaced.
            header: a JSON object: what the file is and the configuration behind it.

        Returns:
            The open writer.

        Raises:
            FileExistsError: the file exists.
            RuntimeError: another writer holds the file.
        """
        writer = cls(path)
        try:
            try:
                _read_header(writer._file, writer.path)
            except _Torn:
                writer._start(header)
                return writer
            except ValueError:
                pass  # not ours, so all the more not to be replaced
            raise FileExistsError(
                f"{writer.path} exists: open it with append_to, or remove it"
            )
        except BaseException:
            writer.close()
            raise

    @classmethod
    def append_to(cls, path: str | os.PathLike[str]) -> RecordWriter:
        """Opens an existing file; checks all of it and cuts a torn tail off.

        Args:
            path: the file.

        Returns:
            The open writer, behind the last whole record.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: what ``read_records`` refuses.
            RuntimeError: another writer holds the file.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist: start it with create")
        writer = cls(path)
        try:
            writer.header = _read_header(writer._file, writer.path)
            for _ in _scan(writer._file, writer.path, writer._known):
                pass
            end = writer._file.tell()
            writer.torn = end < os.fstat(writer._file.fileno()).st_size
            writer._file.truncate(end)
        except BaseException as error:
            writer.close()
            if isinstance(error, _Torn):
                read_records(path)  # says it in words
            raise
        return writer

    def write(self, record: Record, sync: bool = True) -> None:
        """Appends one record.

        Args:
            record: what to write.
            sync: wait until it is on the disk. Without it the record survives a kill
                of the process, not a power cut.

        Raises:
            TypeError: the record holds what cannot be stored.
            OSError: the disk is full; the file is as it was before.
        """
        description, data = _encode(record)
        if description in self._known:
            head = bytes([self._known.index(description) + 1])
        else:
            head = b"\0" + struct.pack("<I", len(description)) + description
        self._append([head, *data])
        if head[0] == 0 and len(self._known) < _REMEMBERED:
            self._known.append(description)
        if sync:
            self.sync()

    def sync(self) -> None:
        """Waits until everything written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file and lets the next writer in."""
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{self.path} is being written by another writer, in this process or"
                " another one; close it first"
            ) from None
        except OSError:
            return  # a file system without locks
        ours = os.fstat(self._file.fileno())
        if not self.path.exists() or not os.path.samestat(ours, self.path.stat()):
            raise RuntimeError(f"{self.path} was replaced by another writer just now")

    def _start(self, header: dict[str, Any]) -> None:
        """Writes the header of an emptied file."""
        checks.instance("header", header, dict, "a dict")
        text = _json("header", header)
        self.header, self.torn = json.loads(text), False
        self._file.seek(0)
        self._file.truncate(0)
        start = MAGIC + struct.pack("<I", VERSION)
        self._put([start, *_frame([text])])
        self.sync()
        _sync_directory(self.path.parent)

    def _append(self, payload: list[bytes | memoryview]) -> None:
        offset = self._file.tell()
        try:
            self._put(_frame(payload))
        except BaseException:
            # Else the next record would stand behind a piece of this one.
            self._file.truncate(offset)
            self._file.seek(offset)
            raise

    def _put(self, parts: list[bytes | memoryview]) -> None:
        if sum(len(part) for part in parts) < 1 << 16:
            parts = [b"".join(parts)]  # one system call
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[self._file.write(view) :]


def write_snapshot(
    path: str | os.PathLike[str], header: dict[str, Any], records: Iterable[Record]
) -> None:
    """Writes a whole file at once: after a crash there is the old one or the new one.

    Args:
        path: the file, replaced if it exists; ``path`+ ".tmp"`` is used on the way.
        header: a JSON object.
        records: what to write.

    Raises:
        RuntimeError: another writer is writing this snapshot.
    """
    place = Path(path)
    # One name, not one per process: what a kill leaves there is used again.
    with RecordWriter(place.with_name(place.name + ".tmp")) as writer:
        writer._start(header)
        for record in records:
            writer.write(record, sync=False)
        writer.sync()
        if fcntl is None:
            writer.close()  # Windows renames no open file
        os.replace(writer.path, place)
        _sync_directory(place.parent)


def _sync_directory(path: Path) -> None:
    """Makes a new or renamed file's name durable, where a directory can be synced."""
    try:
        directory = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(directory)
    except OSError:
        pass
    finally:
        os.close(directory)


# --------------------------------------------------------------- trees and headers


def tree_to_record(
    kind: str, tree: PyTree, meta: dict[str, Any] | None = None
) -> Record:
    """Makes a record of a pytree of arrays, by the paths of its leaves.

    Args:
        kind: what the record is.
        tree: JAX or NumPy arrays and numbers; no typed keys (use ``key_data``).
        meta: a JSON object.

    Returns:
        The record.

    Raises:
        ValueError: two leaves have one path, ``{"a/b": x, "a": {"b": y}}``.
    """
    arrays: dict[str, np.ndarray] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = trees.path_name(path)
        if name in arrays:
            raise ValueError(f"tree must have one leaf for each path; got two {name!r}")
        arrays[name] = np.asarray(leaf)
    return Record(kind, meta or {}, arrays)


def record_to_tree(record: Record, template: PyTree) -> PyTree:
    """Makes the pytree of a record again.

    Args:
        record: what ``tree_to_record`` made.
        template: a tree of the same structure, shapes and dtypes: arrays, or
            ``jax.eval_shape`` of what makes them.

    Returns:
        The tree; NumPy where the template has NumPy arrays or numbers, else JAX.

    Raises:
        ValueError: the record does not fit; every difference is listed.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    wanted = {trees.path_name(path): leaf for path, leaf in leaves}
    wrong = differences(
        {name: _described(leaf) for name, leaf in wanted.items()},
        {name: _described(array) for name, array in record.arrays.items()},
    )
    if wrong:
        raise ValueError(
            f"the record {record.kind!r} does not fit the template:\n  "
            + "\n  ".join(wrong)
        )
    return structure.unflatten(
        _like(leaf, record.arrays[name]) for name, leaf in wanted.items()
    )


def _described(leaf: Any) -> str:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def _like(leaf: Any, array: np.ndarray) -> Any:
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return array
    if getattr(leaf, "committed", False):
        return jax.device_put(array, leaf.sharding)
    return jnp.asarray(array)


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Lists what differs between two nested dicts, one line for each key.

    Args:
        expected: what this run would write.
        found: what the file holds.

    Returns:
        Lines such as ``"method.sigma: expected 0.3, found 0.5"``; empty if equal. A
        tuple equals a list and NaN equals NaN, as after a way through JSON.

    Example:
        >>> differences({"seed": 1, "m": {"sigma": 0.3}}, {"m": {"sigma": 0.5}})
        ['seed: expected 1, found nothing', 'm.sigma: expected 0.3, found 0.5']
    """
    lines = []
    for key in [*expected, *(key for key in found if key not in expected)]:
        if key not in found:
            lines.append(f"{key}: expected {expected[key]!r}, found nothing")
        elif key not in expected:
            lines.append(f"{key}: expected nothing, found {found[key]!r}")
        elif isinstance(expected[key], dict) and isinstance(found[key], dict):
            inner = differences(expected[key], found[key])
            lines.extend(f"{key}.{line}" for line in inner)
        elif not _same(expected[key], found[key]):
            lines.append(f"{key}: expected {expected[key]!r}, found {found[key]!r}")
    return lines


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return not differences(a, b)
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
