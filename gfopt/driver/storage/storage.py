"""The one record container: checkpoints, journals, replay logs, genomes, results.

A file is a header (a JSON object that the caller gives: what the file is, and its
configuration) and records that are appended and never changed, each with
its length and checksum; ``records`` describes the bytes. A record that was cut short
by a kill, or damaged, is noticed wherever it is: it is left out, and said to be lost.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from gfopt import checks
from gfopt.driver.storage import records as layout
from gfopt.driver.storage.records import JSON, Record

try:
    import fcntl
except ImportError:  # Windows: no lock against a second writer
    fcntl = None  # type: ignore[assignment]


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        header: what the file is.
        records: all that are whole.
        lost: a line for each piece that was cut short or damaged.
        num_sound: how many of the records stand before the first of those pieces.
    """

    header: JSON
    records: list[Record]
    lost: list[str]
    num_sound: int


def read_records(path: str | os.PathLike[str]) -> Contents:
    """Reads a whole file.

    Args:
        path: a file that ``RecordWriter`` or ``write_snapshot`` wrote; it may be
            open for writing at this moment.

    Returns:
        Header, records, and what is lost.

    Raises:
        ValueError: the file is not ours, of another version, or its header is damaged.
    """
    place = Path(path)
    with open(place, "rb", buffering=0) as file:
        return _contents(file, place, layout.Chain())


def _contents(file: FileIO, place: Path, chain: layout.Chain) -> Contents:
    try:
        header = layout.read_header(file, place, chain)
    except layout.Torn:
        raise ValueError(
            f"{place} ends inside its header: its writer was killed before the"
            " first record, so nothing is lost; remove it"
        ) from None
    return Contents(header, *layout.scan(file, chain))


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

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "run.log"
        >>> with RecordWriter.create(path, {"kind": "log"}) as writer:
        ...     writer.write(Record("step", {}, {"loss": np.float32(0.5)}))
        >>> read_records(path).records
        [Record(kind='step', meta={}, arrays={'loss': array(0.5, dtype=float32)})]
    """

    header: JSON

    def __init__(self, path: str | os.PathLike[str]):
        """Opens and locks a file; use ``create`` or ``append_to``."""
        self.path = Path(path)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        # Not buffered: a write that failed half-way (disk full) can be taken back.
        self._file = FileIO(os.open(self.path, flags, 0o666), "r+")
        self._chain = layout.Chain()  # of what is in the file so far
        try:
            self._lock()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: JSON) -> RecordWriter:
        """Starts a new file.

        Args:
            path: where; a file that a kill left without a whole header is replaced.
            header: a JSON object: what the file is, and its configuration.

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
    def append_to(cls, path: str | os.PathLike[str]) -> tuple[RecordWriter, Contents]:
        """Opens an existing file; checks all of it and cuts a torn tail off.

        Args:
            path: the file.

        Returns:
            The open writer, after the last whole record, and what the file holds.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: what ``read_records`` refuses.
            RuntimeError: another writer holds the file.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} does not exist: start it with create")
        writer = cls(path)
        try:
            contents = _contents(writer._file, writer.path, writer._chain)
            writer.header = contents.header
            writer._file.truncate(writer._file.tell())
        except BaseException:
            writer.close()
            raise
        return writer, contents

    @classmethod
    def replace(
        cls,
        path: str | os.PathLike[str],
        header: JSON,
        records: Iterable[Record],
        *,
        keep: bool = False,
    ) -> RecordWriter:
        """Writes a whole file at once: after a crash there is the old or the new one.

        Args:
            path: the file, replaced if it exists; ``path.tmp`` is used on the way.
            header: a JSON object.
            records: what to write.
            keep: what the file was stays as ``path.prev``.

        Returns:
            The open writer: no other one gets in between.

        Raises:
            OSError: the disk is full, ...; the file is as it was before.
            RuntimeError: another writer is writing this file.
        """
        place = Path(path)
        # One name, not one for each process: what a kill leaves there is used again.
        writer = cls(place.with_name(place.name + ".tmp"))
        try:
            writer._start(header)
            for record in records:
                writer.write(record, sync=False)
            writer.sync()
            if keep and place.exists():
                _keep(place)
            if fcntl is None:
                writer.close()  # Windows renames no open file; elsewhere keep the lock
            os.replace(writer.path, place)
            _sync_directory(place.parent)
        except BaseException:
            writer.close()
            writer.path.unlink(missing_ok=True)  # the disk may be full
            raise
        if fcntl is None:
            return cls.append_to(place)[0]
        writer.path = place
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
        offset, chain = self._file.tell(), self._chain
        self._chain = layout.Chain(chain.crc, dict(chain.known))
        try:
            self._put(layout.frame(layout.encode(record, self._chain), self._chain))
        except BaseException:
            # Else the next record would follow a piece of this one.
            self._chain = chain
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
            layout.read_header(self._file, self.path, layout.Chain())
        except layout.Torn:
            return True
        except ValueError:
            return False  # not ours, and so not ours to replace
        finally:
            self._file.seek(0)
        return False

    def _start(self, header: JSON) -> None:
        """Empties the file and writes its header."""
        checks.instance("header", header, dict, "a dict")
        text = layout.to_json("header", header)
        self.header = json.loads(text)
        start = layout.MAGIC + struct.pack("<I", layout.VERSION)
        self._chain = layout.Chain(zlib.crc32(start))
        self._file.truncate(0)
        self._put([start, *layout.frame([text], self._chain)])
        self.sync()
        _sync_directory(self.path.parent)

    def _put(self, parts: list[bytes | memoryview]) -> None:
        if sum(len(part) for part in parts) < 1 << 16:
            parts = [b"".join(parts)]  # one system call
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[self._file.write(view) :]
        except OSError as error:  # which does not say of which file
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def write_snapshot(
    path: str | os.PathLike[str],
    header: JSON,
    records: Iterable[Record],
    *,
    keep: bool = False,
) -> None:
    """Writes a whole file at once, as ``RecordWriter.replace``, and closes it."""
    RecordWriter.replace(path, header, records, keep=keep).close()


def previous(path: Path) -> Path:
    """Returns where ``replace`` keeps what a file was before."""
    return path.with_name(path.name + ".prev")


def _keep(place: Path) -> None:
    before = previous(place)
    before.unlink(missing_ok=True)
    try:
        os.link(place, before)
    except OSError:  # a file system without links
        shutil.copyfile(place, before)


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
