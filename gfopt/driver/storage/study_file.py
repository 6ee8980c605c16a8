"""The file of a study: settings, a log of trials, and who has which trial.

The log is only appended to: ``ask`` when a trial is handed out first, ``tell`` when its
value comes. SQLite keeps several programs apart, but has no checksums of its own: every
row has one here, which in the log starts from that of the row before.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import NamedTuple

from gfopt import __version__
from gfopt.types import JsonObject

_FORMAT = 2
_TABLES = """
CREATE TABLE settings (json TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, trial INTEGER NOT NULL, kind TEXT NOT NULL,
    value REAL, note TEXT NOT NULL, at REAL NOT NULL, crc INTEGER NOT NULL,
    UNIQUE (trial, kind)
);
CREATE TABLE hands (
    trial INTEGER PRIMARY KEY, host TEXT NOT NULL, process INTEGER NOT NULL,
    beat REAL NOT NULL, starts INTEGER NOT NULL, crc INTEGER NOT NULL
);
"""


class Entry(NamedTuple):
    """A line of the log.

    Attributes:
        seq: its number.
        trial: the trial's.
        kind: ``"ask"`` or ``"tell"``.
        value: what was told; None for a failed trial.
        note: of a trial a checksum of its solution, of a failure its reason.
        at: when, seconds since 1970.
        crc: checksum of all this, from that of the line before.
    """

    seq: int
    trial: int
    kind: str
    value: float | None
    note: str
    at: float
    crc: int


class Hand(NamedTuple):
    """Who has a trial.

    Attributes:
        trial: its number.
        host: the program's machine.
        process: the program.
        beat: its last sign of life, seconds since 1970; 0 after it gave the trial back.
        starts: how often the trial was begun.
    """

    trial: int
    host: str
    process: int
    beat: float
    starts: int

    def is_dead(self, patience: float) -> bool:
        """Tells whether the program is gone, or silent for ``patience`` seconds."""
        if abs(time.time() - self.beat) > patience:
            return True
        host, process = _me()
        # elsewhere than on POSIX, signal 0 is no question but ends the process
        if self.host != host or self.process == process or os.name != "posix":
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return False


class StudyFile:
    """A file that several programs open; what it does stands in ``with alone():``."""

    def __init__(self, path: str):
        self.path = path
        self._held: sqlite3.Connection | None = None

    def settings(self, given: JsonObject | None) -> JsonObject:
        """Returns the settings in the file, which is made if need be.

        Raises:
            ValueError: the file is not a study, or one with other settings or versions.
        """
        ours: JsonObject = {
            "format": _FORMAT,
            "versions": {"gfopt": __version__, "jax": version("jax")},
        }
        with self.alone() as file:
            if not file.execute("SELECT 1 FROM sqlite_master").fetchone():
                if given is None:
                    raise ValueError(f"path must be a study; {self.path!r} is empty")
                for table in _TABLES.split(";"):
                    file.execute(table)
                text = json.dumps(ours | given)
                crc = crc_of_settings(file, text)
                file.execute("INSERT INTO settings VALUES (?, ?)", (text, crc))
            try:
                text, crc = file.execute("SELECT json, crc FROM settings").fetchone()
                settings: JsonObject = json.loads(text)
            except (sqlite3.Error, TypeError, ValueError):
                raise ValueError(
                    f"path must be a study; {self.path!r} is something else, or damaged"
                ) from None
            (found,) = file.execute("PRAGMA integrity_check(1)").fetchone()
            _check(found == "ok", found)
            is_right = crc == crc_of_settings(file, text)
            _check(is_right, "wrong checksum of the settings")
        wanted = ours | (json.loads(json.dumps(given)) if given else {})
        for name, value in wanted.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"the study {self.path!r} has another {name}: "
                    f"{json.dumps(settings.get(name))}, not {json.dumps(value)}; "
                    "open it with its own, or name another path"
                )
        return settings

    @contextmanager
    def alone(self, last: bool = False) -> Iterator[sqlite3.Connection]:
        """Keeps all other programs out; all is written, or nothing.

        With ``last`` it is on the disk afterwards: a value outlives a power cut. Else a
        cut may take the last entries back, never an entry without those after it.
        """
        with self.connected() as file:
            file.execute(f"PRAGMA synchronous = {'FULL' if last else 'NORMAL'}")
            file.execute("BEGIN IMMEDIATE")
            try:
                yield file
                file.execute("COMMIT")
            except BaseException:
                if file.in_transaction:  # an error may have ended it
                    file.execute("ROLLBACK")
                raise

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Holds a connection open, for all that happens within."""
        if self._held is not None:
            yield self._held
            return
        try:
            with closing(
                sqlite3.connect(self.path, timeout=600, isolation_level=None)
            ) as self._held:
                self._held.execute("PRAGMA journal_mode = WAL")
                yield self._held
        except (sqlite3.DatabaseError, MemoryError) as error:  # by some damage
            raise ValueError(
                "path must be a study that can be read and written; "
                f"{self.path!r}: {error}"
            ) from error
        finally:
            self._held = None

    @contextmanager
    def beating(self, seconds: float) -> Iterator[None]:
        """Gives signs of life for the trials that this process has."""
        over = threading.Event()
        query = "UPDATE hands SET beat = ? WHERE beat > 0 AND host = ? AND process = ?"

        def beat() -> None:
            while not over.wait(seconds):
                try:
                    with closing(sqlite3.connect(self.path, timeout=600)) as file, file:
                        file.execute(query, (time.time(), *_me()))
                except sqlite3.Error:  # the next sign may get through
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


START = Entry(0, -1, "", None, "", 0.0, 0)  # what the first entry follows


def entries(file: sqlite3.Connection, after: Entry) -> list[Entry]:
    """Returns what was logged after an entry.

    Raises:
        sqlite3.DatabaseError: where it is not what was written.
    """
    query = "SELECT * FROM log WHERE seq > ? ORDER BY seq"
    found = list(map(Entry._make, file.execute(query, (after.seq,)).fetchall()))
    for before, entry in itertools.pairwise([after, *found]):
        is_right = entry.seq == before.seq + 1
        is_right &= entry.crc == crc_of(entry[:-1], before.crc)
        _check(is_right, f"wrong checksum of entry {before.seq + 1}")
    return found


def hands(file: sqlite3.Connection) -> list[Hand]:
    """Returns who has a trial.

    Raises:
        sqlite3.DatabaseError: where it is not what was written.
    """
    found = []
    for *row, crc in file.execute("SELECT * FROM hands").fetchall():
        found.append(Hand(*row))
        _check(crc == _crc_of_hand(found[-1]), "wrong checksum of who has a trial")
    return found


def take(file: sqlite3.Connection, trial: int, starts: int) -> None:
    """Writes that this program has a trial."""
    _hold(file, Hand(trial, *_me(), time.time(), starts))


def give_back(file: sqlite3.Connection, trial: int) -> None:
    """Lets the next program have a trial, as if this one had not begun it."""
    for hand in hands(file):
        if hand[:3] == (trial, *_me()):
            _hold(file, hand._replace(beat=0.0, starts=hand.starts - 1))


def _hold(file: sqlite3.Connection, hand: Hand) -> None:
    query = "INSERT OR REPLACE INTO hands VALUES (?, ?, ?, ?, ?, ?)"
    file.execute(query, (*hand, _crc_of_hand(hand)))


def ask(file: sqlite3.Connection, trial: int, checksum: str) -> Entry:
    """Logs that a trial was handed out; returns the entry."""
    return _append(file, trial, "ask", None, checksum)


def tell(file: sqlite3.Connection, trial: int, value: float, note: str) -> None:
    """Logs a value, unless the trial has one from another program."""
    query = "SELECT 1 FROM log WHERE trial = ? AND kind = 'tell'"
    if file.execute(query, (trial,)).fetchone():
        return
    is_valid = math.isfinite(value)
    note = note or ("" if is_valid else f"value {value}")
    note = note.encode(errors="replace").decode()  # what no file can hold
    _append(file, trial, "tell", float(value) if is_valid else None, note)
    file.execute("DELETE FROM hands WHERE trial = ?", (trial,))


def failures(file: sqlite3.Connection) -> dict[str, int]:
    """Returns why trials failed, and how often."""
    query = (
        "SELECT note, COUNT(*) FROM log WHERE kind = 'tell' AND value IS NULL "
        "GROUP BY note ORDER BY COUNT(*) DESC"
    )
    return dict(file.execute(query).fetchall())


def _me() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _append(
    file: sqlite3.Connection, trial: int, kind: str, value: float | None, note: str
) -> Entry:
    last = file.execute("SELECT * FROM log ORDER BY seq DESC LIMIT 1").fetchone()
    before = START if last is None else Entry(*last)
    row = (before.seq + 1, trial, kind, value, note, time.time())
    entry = Entry(*row, crc_of(row, before.crc))
    file.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)", entry)
    return entry


def crc_of_settings(file: sqlite3.Connection, text: str) -> int:
    """Returns the checksum of the settings and of the tables' forms."""
    query = "SELECT name, sql FROM sqlite_master ORDER BY name"
    return crc_of([text, file.execute(query).fetchall()])


def crc_of(row: object, before: int = 0) -> int:
    """Returns the checksum of what JSON holds, from that of what stands before it."""
    return zlib.crc32(json.dumps(row).encode(), before)


def _crc_of_hand(hand: Hand) -> int:
    return crc_of(hand._replace(beat=0.0))  # signs of life are not worth one


def _check(is_right: bool, what: str) -> None:
    if not is_right:
        raise sqlite3.DatabaseError(f"the file is damaged: {what}")
