"""The one record container: checkpoints, journals, replay logs, genomes, results.

A file is a header (a JSON object that the caller gives: what the file is and the
configuration behind it) and records that are appended and never changed, each with
its length and checksum; ``records`` describes the bytes. A record that was cut short
by a kill is noticed and dropped, a damaged one is an error that says where it is.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from gfopt import checks
from gfopt.driver import records as layout
from gfopt.driver.records import Record
from gfopt.driver.tree_records import differences, record_to_tree, tree_to_record

try:
    import fcntl
except ImportError:  # Windows: no lock against a second writer
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Contents",
    "Record",
    "RecordWriter",
    "differences",
    "read_records",
    "record_to_tree",
    "tree_to_record",
    "write_snapshot",
]


class Contents(NamedTuple):
    """What a file holds; ``torn`` if its last record was cut short."""

    header: dict[str, Any]
    records: list[Record]
    torn: bool


def read_records(path: str | os.PathLike[str]) -> Contents:
    """Reads a whole file.

    Args:
        path: a file that ``RecordWriter`` or ``write_snapshot`` wrote; it may be
            open for writing at this moment.

    Returns:
        ``(header, records, torn)``; ``torn`` says that the last record was cut short
        (its writer was killed, or is writing it) and is not among the records.

    Raises:
        ValueError: the file is not ours, of a newer version, or corrupted before its
            end; the message says where.
    """
    place = Path(path)
    with open(place, "rb", buffering=0) as file:
        try:
            header = layout.read_header(file, place)
        except layout.Torn:
            raise ValueError(
                f"{place} ends inside its header: its writer was killed before the"
                " first record, so nothing is lost; remove it"
            ) from None
        records = list(layout.scan(file, place, []))
        return Contents(header, records, file.tell() < layout.size_of(file))


def lock(descriptor: int) -> bool:
    """Locks an open file until it is closed; False where another one holds it.

    There are file systems, and there is Windows, without locks: True.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


class RecordWriter:
    """Appends records to a file that no other writer holds; a context manager.

    Attributes:
        path: the file.
        header: the file's header.
        torn: True if ``append_to`` dropped a record that was cut short.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "run.log"
        >>> with RecordWriter.create(path, {"kind": "log"}) as writer:
        ...     writer.write(Record("step", {}, {"loss": np.float32(0.5)}))
        >>> read_records(path).records
        [Record(kind='step', meta={}, arrays={'loss': array(0.5, dtype=float32)})]
    """

    header: dict[str, Any]
    torn: bool = False

    def __init__(self, path: str | os.PathLike[str]):
        """Opens and locks a file; use ``create`` or ``append_to``."""
        self.path = Path(path)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        # Not buffered: a write that failed half-way (disk full) can be taken back.
        self._file = FileIO(os.open(self.path, flags, 0o666), "r+")
        self._known: list[bytes] = []  # the descriptions in the file so far
        try:
            self._lock()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], header: dict[str, Any]
    ) -> RecordWriter:
        """Starts a new file.

        Args:
            path: where; a file that a kill left without a whole header is replaced.
            header: a JSON object: what the file is and the configuration behind it.

        Returns:
            The open writer.

        Raises:
            FileExistsError: the file exists.
            RuntimeError: another writer holds the file.
        """
        writer = cls(path)
        try:
            if not writer._is_unstarted():
                raise FileExistsError(
                    f"{path} exists: open it with append_to, or remove it"
                )
            writer._start(header)
        except BaseException:
            writer.close()
            raise
        return writer

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
            if writer._is_unstarted():
                read_records(path)  # refuses it in words
            writer.header = layout.read_header(writer._file, writer.path)
            for _ in layout.scan(writer._file, writer.path, writer._known):
                pass
            end = writer._file.tell()
            writer.torn = end < layout.size_of(writer._file)
            writer._file.truncate(end)
        except BaseException:
            writer.close()
            raise
        return writer

    def write(self, record: Record, sync: bool = True) -> None:
        """Appends one record.

        Args:
            record: what to write.
            sync: wait until it is on the disk. Without it the record survives a kill
                of the process, but not a power cut.

        Raises:
            TypeError: the record holds what cannot be stored.
            OSError: the disk is full, ...; the file is as it was before.
        """
        offset, num_known = self._file.tell(), len(self._known)
        try:
            self._put(layout.frame(layout.encode(record, self._known)))
        except BaseException:
            # Else the next record would stand behind a piece of this one.
            del self._known[num_known:]
            self._file.truncate(offset)
            self._file.seek(offset)
            raise
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
        if not lock(self._file.fileno()):
            raise RuntimeError(
                f"{self.path} is held by another writer, in this process or in another"
                " one; close it first"
            )
        if fcntl is None:
            return
        ours = os.fstat(self._file.fileno())
        if not self.path.exists() or not os.path.samestat(ours, self.path.stat()):
            raise RuntimeError(f"{self.path} was replaced by another writer just now")

    def _is_unstarted(self) -> bool:
        """Returns whether the file has no whole header (and so no record)."""
        try:
            layout.read_header(self._file, self.path)
        except layout.Torn:
            return True
        except ValueError:
            return False  # not ours, and so not ours to replace
        finally:
            self._file.seek(0)
        return False

    def _start(self, header: dict[str, Any]) -> None:
        """Empties the file and writes its header."""
        checks.instance("header", header, dict, "a dict")
        text = layout.to_json("header", header)
        self.header = json.loads(text)
        self._file.truncate(0)
        self._put(
            [layout.MAGIC + struct.pack("<I", layout.VERSION), *layout.frame([text])]
        )
        self.sync()
        _sync_directory(self.path.parent)

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
        path: the file, replaced if it exists; ``path.tmp`` is used on the way.
        header: a JSON object.
        records: what to write.

    Raises:
        RuntimeError: another writer is writing this snapshot.
    """
    place = Path(path)
    # One name, not one for each process: what a kill leaves there is used again.
    with RecordWriter(place.with_name(place.name + ".tmp")) as writer:
        writer._start(header)
        for record in records:
            writer.write(record, sync=False)
        writer.sync()
        if fcntl is None:
            writer.close()  # Windows renames no open file; elsewhere keep the lock
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
