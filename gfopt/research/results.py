"""The results of benchmark runs in one SQLite file, written as they come.

A run is found by its key: suite, problem, dimension, instance, method, budget, seed
and evaluator. A run that is in the file is never run or written again, so that an
interrupted benchmark goes on where it stopped and a larger one adds what is missing.
Every table and figure is made from this file alone. SQL reads it, too::

    SELECT method, avg(evaluations) FROM runs WHERE suite = 'bbob' GROUP BY method;
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from gfopt import checks
from gfopt.driver.storage.storage import lock
from gfopt.research.environment import environment, now, versions
from gfopt.research.finished_runs import Run, RunKey
from gfopt.types import JsonObject

FILE_NAME = "results.sqlite"
_APPLICATION_ID = 0x67666F70  # "gfop", in the header of the file
_VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,       -- UTC
    command TEXT NOT NULL,
    versions TEXT NOT NULL,      -- JSON: gfopt, its commit, jax, numpy, python, ...
    machine TEXT NOT NULL        -- JSON: platform, processor, JAX device, flags
);
CREATE TABLE IF NOT EXISTS runs (
    suite TEXT NOT NULL,
    problem TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    method TEXT NOT NULL,
    budget INTEGER NOT NULL,     -- evaluations in all
    seed INTEGER NOT NULL,
    evaluator TEXT NOT NULL,
    options TEXT NOT NULL,       -- JSON: the method's settings
    evaluations INTEGER NOT NULL,
    status TEXT NOT NULL,        -- why it ended
    seconds REAL NOT NULL,       -- its share of its batch, without compilation
    compile_seconds REAL NOT NULL,
    trajectory TEXT NOT NULL,    -- JSON: [[evaluations, value], ...]
    tuning TEXT NOT NULL,        -- how much stands behind the settings
    population_size INTEGER,     -- of the first step, where it is known
    optimum REAL,                -- subtracted from the values, where it is known
    failures INTEGER NOT NULL,   -- evaluations without a value
    memory INTEGER,              -- bytes at most, where they are known
    memory_kind TEXT NOT NULL,   -- 'planned' by the compiler, or 'resident'
    session INTEGER NOT NULL REFERENCES sessions (id),
    finished TEXT NOT NULL,      -- UTC
    PRIMARY KEY (suite, problem, dimension, instance, method, budget, seed, evaluator)
) WITHOUT ROWID;
"""
#: What makes a file of version 2 one of version 3.
_MEMORY = (
    "ALTER TABLE runs ADD COLUMN memory INTEGER",
    "ALTER TABLE runs ADD COLUMN memory_kind TEXT NOT NULL DEFAULT ''",
    "PRAGMA user_version = 3",
)

_COLUMNS = (*RunKey._fields, *Run._fields[1:])
_JSON = ("options", "trajectory")
_NUMBERS = ("dimension", "instance", "budget", "seed", "evaluations", "failures")
_TYPES: dict[str, Any] = dict.fromkeys(_NUMBERS, int) | {
    "seconds": float,
    "compile_seconds": float,
    "population_size": int | None,
    "optimum": float | None,
    "memory": int | None,
}


class ResultStore:
    """The file; a context manager.

    Args:
        directory: where ``results.sqlite`` is, or will be.
        create: make the directory and the file if they are missing.

    Raises:
        FileNotFoundError: the file is missing and is not to be made.
        ValueError: the file is not ours, damaged, or of another version; later
            calls, too, may find that it is damaged.
        OSError: the directory cannot be made, or the file not be read or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with ResultStore(place, create=True) as store:
        ...         len(store.finished())
        0
    """

    def __init__(self, directory: str | os.PathLike[str], *, create: bool = False):
        self.path = Path(directory) / FILE_NAME
        self._session: int | None = None
        self._lock: TextIO | None = None  # SQLite's own would be lost with a close
        if create:
            if self.path.parent.exists() and not self.path.parent.is_dir():
                raise NotADirectoryError(f"{directory} is not a directory")
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.is_file():
            raise FileNotFoundError(
                f"{directory} holds no {FILE_NAME}, which gfopt bench --out makes"
            )
        with self._errors():
            self._connection = sqlite3.connect(self.path, timeout=30)
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns SQLite's errors into those that the class documents."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise  # an impossible row: our own mistake
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}") from None
        except (sqlite3.DatabaseError, MemoryError) as error:  # by some damage
            raise ValueError(
                f"{self.path} is not a gfopt results file, or damaged: {error}"
            ) from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path} is damaged: {error}") from None

    def _check(self) -> None:
        with self._errors():
            (identity,) = self._connection.execute("PRAGMA application_id").fetchone()
            version = self._version()
            (tables,) = self._connection.execute(
                "SELECT count(*) FROM sqlite_master"
            ).fetchone()
            if tables == 0:
                self._connection.executescript(
                    f"BEGIN IMMEDIATE; PRAGMA application_id = {_APPLICATION_ID};"
                    f"PRAGMA user_version = {_VERSION}; {_SCHEMA} COMMIT;"
                )
                return
        if identity != _APPLICATION_ID:
            raise ValueError(f"{self.path} is not a gfopt results file")
        if version == 2:
            self._take_memory()
        elif version != _VERSION:
            raise ValueError(
                f"{self.path} has format version {version}, this gfopt reads "
                f"{_VERSION}: read it with the gfopt that wrote it"
            )

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _take_memory(self) -> None:
        """Adds the columns that version 2 did not have."""
        with self._errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._version() == 2:  # and no other process was quicker
                for statement in _MEMORY:
                    self._connection.execute(statement)

    def claim(self) -> None:
        """Keeps others from claiming this file until it is closed.

        SQLite lets several processes write; two commands that fill in what is missing
        would only do the same work twice.

        Raises:
            ValueError: where another process has claimed it.
        """
        self._lock = open(self.path.with_suffix(".lock"), "a")  # noqa: SIM115
        if not lock(self._lock.fileno()):
            raise ValueError(
                f"another process writes to {self.path} right now: wait for it, or "
                "choose another directory"
            )

    def start_session(self, command: str) -> None:
        """Notes who writes: the command, the versions and the machine."""
        session = environment(command)
        texts = json.dumps(session["versions"]), json.dumps(session["machine"])
        row = (session["started"], command, *texts)
        with self._errors(), self._connection:
            cursor = self._connection.execute(
                "INSERT INTO sessions (started, command, versions, machine)"
                " VALUES (?, ?, ?, ?)",
                row,
            )
        self._session = cursor.lastrowid

    def add(self, runs: Iterable[Run]) -> None:
        """Writes finished runs; one that is there already stays as it is.

        Raises:
            RuntimeError: before ``start_session``.
        """
        if self._session is None:
            raise RuntimeError("add needs a session: call start_session first")
        rows = [(*row_of(run), self._session, now()) for run in runs]
        marks = ", ".join("?" * (len(_COLUMNS) + 2))
        with self._errors(), self._connection:
            self._connection.executemany(
                f"INSERT INTO runs ({', '.join(_COLUMNS)}, session, finished) VALUES "
                f"({marks}) ON CONFLICT DO NOTHING",
                rows,
            )

    def finished(self) -> dict[RunKey, JsonObject]:
        """Returns the keys of all runs, each with the method's settings."""
        columns = ", ".join(RunKey._fields)
        rows = self._rows(f"SELECT {columns}, options FROM runs")
        with checks.whole_file("gfopt results file", self.path):
            return {RunKey(*row[:-1]): _object(row[-1]) for row in rows}

    def runs(self) -> list[Run]:
        """Returns all runs, ordered by their keys."""
        rows = self._rows(
            f"SELECT {', '.join(_COLUMNS)} FROM runs"
            f" ORDER BY {', '.join(RunKey._fields)}"
        )
        with checks.whole_file("gfopt results file", self.path):
            return [run_of(row) for row in rows]

    def other_versions(self) -> list[str]:
        """Returns the versions behind earlier runs that are not those of today.

        Returns:
            A text for each, such as ``"gfopt 0.1.0 (now 0.2.0)"``.
        """
        now, others = versions(), set()
        for session in self.sessions():
            before = session["versions"]
            others |= {
                f"{name} {before[name]} (now {now[name]})"
                for name in ("gfopt", "jax", "jaxlib")
                if before.get(name, now[name]) != now[name]
            }
        return sorted(others)

    def sessions(self) -> list[JsonObject]:
        """Returns when, how and where the runs were made, oldest first."""
        rows = self._rows(
            "SELECT started, command, versions, machine FROM sessions ORDER BY id"
        )
        with checks.whole_file("gfopt results file", self.path):
            return [
                {
                    "started": started,
                    "command": command,
                    "versions": _object(packages),
                    "machine": _object(machine),
                }
                for started, command, packages, machine in rows
            ]

    def _rows(self, query: str) -> list[Any]:
        with self._errors():
            return self._connection.execute(query).fetchall()

    def close(self) -> None:
        """Closes the file and gives up its claim."""
        self._connection.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def row_of(run: Run) -> list[Any]:
    """Returns a run as the columns of the file hold it: numbers and texts."""
    rounded = run._replace(
        seconds=round(run.seconds, 4), compile_seconds=round(run.compile_seconds, 4)
    )
    fields = [
        json.dumps(value, separators=(",", ":")) if name in _JSON else value
        for name, value in zip(Run._fields[1:], rounded[1:], strict=True)
    ]
    return [*run.key, *fields]


def run_of(row: Sequence[Any]) -> Run:
    """Returns the run of such columns.

    Raises:
        ValueError: they are not those of a run; TypeError or KeyError likewise.

    Example:
        >>> key = RunKey("bbob", "f1", 5, 1, "cma_es", 500, 0, "jax")
        >>> run = Run(key, {"sigma": 2.0}, 500, "budget", 1.5, 0.5, ((1, 3.0),))
        >>> run_of(row_of(run)) == run
        True
    """
    for name, value in zip(_COLUMNS, row, strict=True):
        if not isinstance(value, _TYPES.get(name, str)):
            raise TypeError(f"{name} is {checks.shown(value)}")
    size = len(RunKey._fields)
    fields = dict(zip(Run._fields[1:], row[size:], strict=True))
    fields |= {
        "options": _object(fields["options"]),
        "trajectory": json.loads(fields["trajectory"]),
    }
    fields["trajectory"] = tuple((int(n), float(v)) for n, v in fields["trajectory"])
    return Run(RunKey(*row[:size]), **fields)


def _object(text: str) -> JsonObject:
    """Reads an object in JSON."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError(f"{checks.shown(text)} is no object in JSON")
    return found
