"""A search that several programs share: one SQLite file, any number of hands.

The file holds the settings and one log: which trial was handed out when, and which
value came when. A search is a function of its settings and of that log, so that every
program replays it and asks for the next trial by itself; there is no server.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np

from gfopt import __version__, checks
from gfopt.driver.ask_tell import AskTell, Trial
from gfopt.driver.result.endings import Status
from gfopt.driver.result.result import Result
from gfopt.spaces.domains import Domain
from gfopt.types import Solution

_LOG = logging.getLogger(__name__)
_FORMAT = 1
_TABLES = """
CREATE TABLE settings (json TEXT NOT NULL);
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, trial INTEGER NOT NULL, kind TEXT NOT NULL,
    value REAL, note TEXT NOT NULL, at REAL NOT NULL, UNIQUE (trial, kind)
);
CREATE TABLE hands (
    trial INTEGER PRIMARY KEY, host TEXT NOT NULL, process INTEGER NOT NULL,
    beat REAL NOT NULL, starts INTEGER NOT NULL
);
"""


class Study:
    """A search in a file that several programs open at the same time.

    Each program asks for a trial that nobody has, evaluates it and writes its value;
    the next generation opens when all values of the last one are there. A program that
    dies gives its trial back: to whoever asks next, at once if it ran on the same
    machine, else when ``patience`` seconds have passed without a sign of life.
    Programs may come and go; all must run on one file system that SQLite can lock, with
    the same versions of gfopt and JAX, since each computes the candidates by itself.

    Args:
        path: the file; it is made if it does not exist.
        method: a name from ``gfopt list``. Without it the file is opened as it is.
        x0: starting solution: numbers in arrays, lists, tuples and dicts.
        sigma0: first standard deviation, as for ``minimize``.
        bounds: as for ``minimize``.
        seed: of all randomness.
        options: fields of the method that JSON can hold.
        maximize: look for the largest value.
        noisy: values differ from call to call.
        budget: how many trials are handed out at most; no limit if None.
        target: end when a value is at least as good.
        attempts: how often a trial is begun before its programs' deaths count as its
            failure.
        patience: seconds without a sign of life until a program counts as dead.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value out of range, a file that is not a study, or one that
            was made with other settings or versions.

    Example:
        >>> import gfopt, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/study.db"
        ...     study = gfopt.Study(path, "cma_es", [3.0, -2.0], budget=60)
        ...     some = gfopt.Study(path).work(lambda x: sum(x**2), trials=20)
        ...     rest = study.work(lambda x: sum(x**2))
        >>> some.nfev, rest.nfev, rest.message
        (20, 60, 'budget = 60')
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        method: str | None = None,
        x0: Any = None,
        *,
        sigma0: Any = None,
        bounds: Any = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        maximize: bool = False,
        noisy: bool = False,
        budget: int | None = None,
        target: float | None = None,
        attempts: int = 3,
        patience: float = 60.0,
    ):
        checks.instance("path", path, (str, os.PathLike), "a path")
        self.path = os.fspath(path)
        given = None
        if method is not None:
            checks.instance("method", method, str, "a method's name")
            if budget is not None:
                checks.integer("budget", budget, 1)
            if target is not None:
                checks.finite("target", target)
            checks.integer("attempts", attempts, 1)
            checks.positive("patience", patience)
            search = {
                "method": method,
                "x0": _plain("x0", x0),
                "sigma0": _plain("sigma0", sigma0),
                "bounds": _plain("bounds", bounds),
                "seed": seed,
                "options": _plain("options", dict(options or {})),
                "maximize": maximize,
                "noisy": noisy,
            }
            given = {
                "search": search,
                "budget": budget,
                "target": None if target is None else float(target),
                "attempts": attempts,
                "patience": float(patience),
            }
            _session(search)  # refuses what is wrong before there is a file
        elif not os.path.exists(self.path):
            raise ValueError(
                f"method and x0 must be given for a new study; {self.path!r} "
                "does not exist"
            )
        self._file: sqlite3.Connection | None = None  # while this program works
        self._settings = self._opened(given)
        self._session: AskTell | None = None
        self._waiting: dict[int, Trial] = {}
        self._num_read = 0  # entries of the log that the session knows
        self._num_asked = 0
        self._num_told = 0
        self._best = math.inf  # value so far, lower is better

    def work(
        self, fun: Callable[[Solution], float], *, trials: int | None = None
    ) -> Result:
        """Evaluates trials until the study is over.

        A call that raises costs its trial: the first traceback of this program is
        logged as a warning (logger ``gfopt``), the others are counted. Ctrl-C gives the
        trial back and is raised again.

        Args:
            fun: the objective, of one solution.
            trials: how many this program evaluates at most.

        Returns:
            The result so far; that of the whole study once it is over.

        Raises:
            TypeError, ValueError: where ``trials`` is not an integer from 1 up.
        """
        checks.is_callable("fun", fun)
        if trials is not None:
            checks.integer("trials", trials, 1)
        done, pause = 0, 0.01
        self._is_first = True
        with self._beating(), self._connected() as self._file:
            try:
                while trials is None or done < trials:
                    trial = self._begun()
                    if trial is not None:
                        self._evaluate(fun, trial)
                        done, pause = done + 1, 0.01
                    elif self._is_over():
                        break
                    else:
                        time.sleep(pause)
                        pause = min(2 * pause, 1.0)
                return self.result
            finally:
                self._file = None

    def _evaluate(self, fun: Callable[[Solution], float], trial: Trial) -> None:
        try:
            value, note = float(fun(trial.solution)), ""
        except Exception as error:
            value, note = math.nan, f"{type(error).__name__}: {error}"[:1000]
            if self._is_first:
                _LOG.warning("trial %d failed", trial.id, exc_info=True)
            self._is_first = False
        except BaseException:
            self._give_back(trial.id)
            raise
        self._finish(trial.id, value, note)

    @property
    def result(self) -> Result:
        """The outcome so far, of all programs."""
        with self._transaction() as file:
            session = self._caught_up(file)
            result = dataclasses.replace(
                session.result,
                failures=dict(_failures(file)),
                reason=f"several programs share {self.path}",
            )
            ending = self._ending()
        if ending is None:
            return result
        status, message = ending
        return dataclasses.replace(
            result, status=status, message=message, success=status.is_success
        )

    @property
    def _sign(self) -> float:
        return -1.0 if self._settings["search"]["maximize"] else 1.0

    def _ending(self) -> tuple[Status, str] | None:
        """Returns why the study itself is over, if it is."""
        target, budget = self._settings["target"], self._settings["budget"]
        if target is not None and self._best <= self._sign * target:
            return Status.TARGET, f"target = {target:g}"
        if budget is not None and self._num_told >= budget:
            return Status.BUDGET, f"budget = {budget}"
        return None

    def _is_over(self) -> bool:
        with self._transaction() as file:
            session = self._caught_up(file)
            return bool(self._ending() or session.stop())

    # What follows touches the file.

    def _opened(self, given: dict[str, Any] | None) -> dict[str, Any]:
        """Returns the settings in the file, which is made if need be."""
        ours = {
            "format": _FORMAT,
            "versions": {"gfopt": __version__, "jax": version("jax")},
        }
        with self._transaction() as file:
            if not file.execute("SELECT 1 FROM sqlite_master").fetchone():
                if given is None:
                    raise ValueError(f"path must be a study; {self.path!r} is empty")
                for table in _TABLES.split(";"):
                    file.execute(table)
                text = json.dumps(ours | given)
                file.execute("INSERT INTO settings VALUES (?)", (text,))
            try:
                (text,) = file.execute("SELECT json FROM settings").fetchone()
                settings: dict[str, Any] = json.loads(text)
            except (sqlite3.Error, TypeError, ValueError):
                raise ValueError(
                    f"path must be a study; {self.path!r} is something else"
                ) from None
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
    def _transaction(self, last: bool = False) -> Iterator[sqlite3.Connection]:
        """Holds the file alone; all is written, or nothing.

        With ``last`` it is on the disk afterwards: a value outlives a power cut. Else a
        cut may take the last entries back, never an entry without those after it.
        """
        try:
            with self._connected() as file:
                file.execute(f"PRAGMA synchronous = {'FULL' if last else 'NORMAL'}")
                file.execute("BEGIN IMMEDIATE")
                try:
                    yield file
                    file.execute("COMMIT")
                except BaseException:
                    self._session = None  # it may know what was never written
                    file.execute("ROLLBACK")
                    raise
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"path must be a study that can be written; {self.path!r}: {error}"
            ) from error

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection of ``work``, or one that is closed afterwards."""
        if self._file is not None:
            yield self._file
            return
        with closing(
            sqlite3.connect(self.path, timeout=600, isolation_level=None)
        ) as file:
            file.execute("PRAGMA journal_mode = WAL")
            yield file

    def _caught_up(self, file: sqlite3.Connection) -> AskTell:
        """Brings the session to the end of the log: it replays what others did."""
        if self._session is None:
            self._session = _session(self._settings["search"])
            self._waiting, self._num_read = {}, 0
            self._num_asked, self._num_told, self._best = 0, 0, math.inf
        session = self._session
        for seq, number, kind, value, note in file.execute(
            "SELECT seq, trial, kind, value, note FROM log WHERE seq > ? ORDER BY seq",
            (self._num_read,),
        ).fetchall():
            if kind == "ask":
                (trial,) = session.ask(1) or (None,)
                if trial is None or (trial.id, _digest(trial)) != (number, note):
                    raise ValueError(
                        f"trial {number} of {self.path!r} is another solution here "
                        "than where it was handed out: all programs of a study need "
                        "the same versions and the same kind of machine"
                    )
                self._waiting[number] = trial
                self._num_asked += 1
            else:
                session.tell(self._waiting.pop(number), value)
                self._num_told += 1
                if value is not None:
                    self._best = min(self._best, self._sign * value)
            self._num_read = seq
        return session

    def _begun(self) -> Trial | None:
        """Takes a trial that nobody has, of a program that died or a new one."""
        with self._transaction() as file:
            session = self._caught_up(file)
            for hand in map(_Hand._make, file.execute("SELECT * FROM hands")):
                if not hand.is_dead(self._settings["patience"]):
                    continue
                if hand.starts < self._settings["attempts"]:
                    _take(file, hand.trial, hand.starts + 1)
                    return self._waiting[hand.trial]
                _tell(file, hand.trial, math.nan, "its programs died")
            session = self._caught_up(file)
            budget = self._settings["budget"]
            if budget is not None and self._num_asked >= budget:
                return None
            if self._ending() or session.stop():
                return None
            trials = session.ask(1)
            if not trials:
                return None
            (trial,) = trials
            note = _digest(trial)
            self._num_read = _append(file, trial.id, "ask", None, note)
            _take(file, trial.id, 1)
            self._waiting[trial.id] = trial
            self._num_asked += 1
            return trial

    def _finish(self, trial: int, value: float, note: str) -> None:
        """Writes a value, unless the trial has one from another program."""
        with self._transaction(last=True) as file:
            query = "SELECT 1 FROM log WHERE trial = ? AND kind = 'tell'"
            if not file.execute(query, (trial,)).fetchone():
                _tell(file, trial, value, note)

    def _give_back(self, trial: int) -> None:
        """Lets the next program have the trial, as if it had not begun."""
        with self._transaction() as file:
            query = (
                "UPDATE hands SET beat = 0, starts = starts - 1 WHERE trial = ? "
                "AND host = ? AND process = ?"
            )
            file.execute(query, (trial, *_me()))

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Gives signs of life for the trials that this process has."""
        over = threading.Event()

        def beat() -> None:
            query = (
                "UPDATE hands SET beat = ? WHERE beat > 0 AND host = ? AND process = ?"
            )
            while not over.wait(self._settings["patience"] / 4):
                with closing(sqlite3.connect(self.path, timeout=600)) as file, file:
                    file.execute(query, (time.time(), *_me()))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class _Hand(NamedTuple):
    """Who has a trial: a program, its last sign of life, how many began before."""

    trial: int
    host: str
    process: int
    beat: float
    starts: int

    def is_dead(self, patience: float) -> bool:
        if time.time() - self.beat > patience:
            return True
        host, process = _me()
        if self.host != host or self.process == process:
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # somebody else's
            return False
        return False


def _me() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _take(file: sqlite3.Connection, trial: int, starts: int) -> None:
    row = (trial, *_me(), time.time(), starts)
    file.execute("INSERT OR REPLACE INTO hands VALUES (?, ?, ?, ?, ?)", row)


def _append(
    file: sqlite3.Connection, trial: int, kind: str, value: float | None, note: str
) -> int:
    row = (trial, kind, value, note, time.time())
    query = "INSERT INTO log (trial, kind, value, note, at) VALUES (?, ?, ?, ?, ?)"
    return int(file.execute(query, row).lastrowid or 0)


def _tell(file: sqlite3.Connection, trial: int, value: float, note: str) -> None:
    is_valid = math.isfinite(value)
    note = note or ("" if is_valid else f"value {value}")
    _append(file, trial, "tell", value if is_valid else None, note)
    file.execute("DELETE FROM hands WHERE trial = ?", (trial,))


def _failures(file: sqlite3.Connection) -> list[tuple[str, int]]:
    """Returns why trials failed, and how often."""
    return file.execute(
        "SELECT note, COUNT(*) FROM log WHERE kind = 'tell' AND value IS NULL "
        "GROUP BY note ORDER BY COUNT(*) DESC"
    ).fetchall()


def _digest(trial: Trial) -> str:
    """Returns a checksum of a trial's numbers."""
    digest = 0
    for leaf in jax.tree.leaves(trial.solution):
        digest = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), digest)
    return f"{digest:08x}"


def _session(search: Mapping[str, Any]) -> AskTell:
    """Makes the search of a study's settings."""
    trees = ("x0", "sigma0", "bounds", "options")
    words = {k: _tree(v) if k in trees else v for k, v in search.items()}
    return AskTell(words.pop("method"), words.pop("x0"), **words)


def _plain(name: str, value: Any) -> Any:
    """Returns a value as JSON: containers by name, numbers and texts as they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Domain):
        return ["domain", dataclasses.asdict(value)]
    if isinstance(value, dict):
        return ["dict", [[key, _plain(name, part)] for key, part in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_plain(name, part) for part in value]]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return ["array", array.tolist(), array.dtype.name]
    raise TypeError(
        f"{name} must be made of numbers, texts, arrays, lists, tuples, dicts and "
        f"domains, since the study's file holds it; got {checks.shown(value)}"
    )


def _tree(plain: Any) -> Any:
    """Returns the value that ``_plain`` was given."""
    if not isinstance(plain, list):
        return plain
    kind, parts = plain[0], plain[1]
    if kind == "domain":
        return Domain(**parts)
    if kind == "array":
        return np.asarray(parts, plain[2])
    if kind == "dict":
        return {key: _tree(part) for key, part in parts}
    made = [_tree(part) for part in parts]
    return made if kind == "list" else tuple(made)
