"""A search that several programs share: one SQLite file, any number of hands.

The file holds the settings and one log: which trial was handed out when, and which
value came when. A search is a function of its settings and of that log, so that every
program replays it and asks for the next trial by itself; there is no server.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from sqlite3 import Connection
from typing import Any

import jax
import numpy as np

from gfopt import checks
from gfopt.core.host.evaluator import host
from gfopt.core.host.failures import Failures
from gfopt.core.host.values import check_kind
from gfopt.core.objective import Inputs, Objective
from gfopt.core.sense import Sense
from gfopt.driver.ask_tell import AskTell
from gfopt.driver.result.endings import Status
from gfopt.driver.result.result import Result
from gfopt.driver.storage import study_file
from gfopt.driver.storage.settings_json import as_json, from_json
from gfopt.driver.storage.study_file import Entry, StudyFile
from gfopt.driver.trials.trial import Trial
from gfopt.types import Solution

_LIMITS = ("budget", "target", "attempts", "patience")
_TREES = ("x0", "sigma0", "bounds", "options")  # settings that are not plain JSON


class Study:
    """A search in a file that several programs open at the same time.

    Each program asks for a trial that nobody has, evaluates it and writes its value;
    the next generation opens when all values of the last one are there, unless the
    search is asynchronous. A program that
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
        asynchronous: no generation is waited for, as for ``minimize``.
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
        asynchronous: bool = False,
        budget: int | None = None,
        target: float | None = None,
        attempts: int = 3,
        patience: float = 60.0,
    ):
        checks.instance("path", path, (str, os.PathLike), "a path")
        self.path = os.fspath(path)
        given = replay = None
        if method is not None:
            checks.instance("method", method, str, "a method's name")
            _check_limits(budget, target, attempts, patience)
            search = {
                "method": method,
                "x0": x0,
                "sigma0": sigma0,
                "bounds": bounds,
                "seed": seed,
                "options": dict(options or {}),
                "maximize": maximize,
                "noisy": noisy,
                "asynchronous": asynchronous,
            }
            search |= {name: as_json(name, search[name]) for name in _TREES}
            given = {
                "search": search,
                "budget": budget,
                "target": None if target is None else float(target),
                "attempts": attempts,
                "patience": float(patience),
            }
            replay = _Replay(search)  # refuses what is wrong before there is a file
        elif not os.path.exists(self.path):
            raise ValueError(
                f"method and x0 must be given for a new study; {self.path!r} "
                "does not exist"
            )
        self._file = StudyFile(self.path)
        with checks.whole_file("study", self.path):
            self._settings = self._file.settings(given)
            _check_limits(**{name: self._settings[name] for name in _LIMITS})
            self._replay = replay or _Replay(self._settings["search"])

    def work(
        self, fun: Callable[[Solution], float], *, trials: int | None = None
    ) -> Result:
        """Evaluates trials until the study is over.

        A call that raises, or returns something else than a finite number, costs its
        trial. Of each type of exception the first traceback in this program is logged
        as a warning (logger ``gfopt``), the others are counted. Ctrl-C gives the trial
        back and is raised again.

        Args:
            fun: the objective, of one solution.
            trials: how many this program evaluates at most.

        Returns:
            The result so far; that of the whole study once it is over.

        Raises:
            TypeError, ValueError: where ``trials`` is not an integer from 1 up, or
                ``fun`` returns something else than a number before any program's did.
        """
        checks.is_callable("fun", fun)
        if trials is not None:
            checks.integer("trials", trials, 1)
        num_done, pause = 0, 0.01
        objective, failures = Objective(fun), Failures()
        beats = self._file.beating(self._settings["patience"] / 4)
        with beats, self._file.connected():
            while trials is None or num_done < trials:
                trial = self._begun()
                if trial is not None:
                    self._evaluate(objective, failures, trial)
                    num_done, pause = num_done + 1, 0.01
                elif self._is_over():
                    break
                else:
                    time.sleep(pause)
                    pause = min(2 * pause, 1.0)
            return self.result

    def _evaluate(self, objective: Objective, failures: Failures, trial: Trial) -> None:
        try:
            (value,) = host().values(objective, [trial.solution], None, Inputs())
            if not self._replay.has_value:
                check_kind(value.reason)
        except BaseException:
            with self._file.alone() as file:
                study_file.give_back(file, trial.id)
            raise
        if value.reason:
            failures.add(value.reason, value.traceback)
        with self._file.alone(last=True) as file:
            study_file.tell(file, trial.id, value.fitness, value.reason[:1000])

    @property
    def result(self) -> Result:
        """The outcome so far, of all programs."""
        failures = Failures()
        with self._caught_up() as file:
            for reason, count in study_file.failures(file).items():
                failures.add(reason, count=count)
            result = dataclasses.replace(
                self._replay.session.result,
                failures=dict(failures.most_common()),
                reason=f"several programs share {self.path}",
            )
        ending = self._ending()
        if ending is None:
            return result
        status, message = ending
        return dataclasses.replace(
            result, status=status, message=message, success=status.is_success
        )

    def _ending(self) -> tuple[Status, str] | None:
        """Returns why the study itself is over, if it is."""
        target, budget = self._settings["target"], self._settings["budget"]
        if target is not None and self._replay.has_reached(target):
            return Status.TARGET, f"target = {target:g}"
        if budget is not None and self._replay.num_told >= budget:
            return Status.BUDGET, f"budget = {budget}"
        return None

    def _is_over(self) -> bool:
        with self._caught_up():
            return bool(self._ending() or self._replay.session.stop())

    @contextmanager
    def _caught_up(self) -> Iterator[Connection]:
        """Keeps other programs out while the search stands at the end of the log."""
        try:
            with self._file.alone() as file:
                self._read(file)
                yield file
        except BaseException:
            # it may know of a trial that was never written
            self._replay = _Replay(self._settings["search"])
            raise

    def _read(self, file: Connection) -> None:
        """Brings the search to the end of the log: it replays what others did."""
        for entry in study_file.entries(file, self._replay.last):
            if not self._replay.took(entry):
                raise ValueError(
                    f"trial {entry.trial} of {self.path!r} is another solution here "
                    "than where it was handed out: all programs of a study need the "
                    "same versions and the same kind of machine"
                )

    def _begun(self) -> Trial | None:
        """Takes a trial that nobody has, of a program that died or a new one."""
        with self._caught_up() as file:
            return self._given_back(file) or self._new(file)

    def _given_back(self, file: Connection) -> Trial | None:
        hands = study_file.hands(file)
        if {hand.trial for hand in hands} != set(self._replay.waiting):
            raise ValueError(
                f"the study {self.path!r} is damaged: trials without a value and "
                "without a program"
            )
        for hand in hands:
            if not hand.is_dead(self._settings["patience"]):
                continue
            if hand.starts < self._settings["attempts"]:
                study_file.take(file, hand.trial, hand.starts + 1)
                return self._replay.waiting[hand.trial]
            study_file.tell(file, hand.trial, math.nan, "its programs died")
            self._read(file)
        return None

    def _new(self, file: Connection) -> Trial | None:
        replay, budget = self._replay, self._settings["budget"]
        if budget is not None and replay.num_asked >= budget:
            return None
        if self._ending() or replay.session.stop():
            return None
        trial = replay.ask()
        if trial is not None:
            replay.last = study_file.ask(file, trial.id, _checksum(trial))
            study_file.take(file, trial.id, 1)
        return trial


def _check_limits(
    budget: int | None, target: float | None, attempts: int, patience: float
) -> None:
    if budget is not None:
        checks.integer("budget", budget, 1)
    if target is not None:
        checks.finite("target", target)
    checks.integer("attempts", attempts, 1)
    checks.positive("patience", patience)


class _Replay:
    """The search as far as the log is known.

    Attributes:
        session: the search itself.
        waiting: the trials that have no value, by number.
        last: the last entry that it knows.
        num_asked: trials that were handed out.
        num_told: those that have a value, or failed.
    """

    def __init__(self, search: Mapping[str, Any]):
        self.session = _session(search)
        self.waiting: dict[int, Trial] = {}
        self.last = study_file.START
        self.num_asked = self.num_told = 0
        self._sense = Sense(search["maximize"])
        self._best = math.inf  # value so far, lower is better

    def ask(self) -> Trial | None:
        """Returns the next trial, or None until the generation is told."""
        for trial in self.session.ask(1):
            self.waiting[trial.id] = trial
            self.num_asked += 1
            return trial
        return None

    def took(self, entry: Entry) -> bool:
        """Does what an entry says; tells whether it could be done."""
        if entry.kind == "ask":
            trial = self.ask()
            if trial is None or (trial.id, _checksum(trial)) != (
                entry.trial,
                entry.note,
            ):
                return False
        else:
            self.session.tell(self.waiting.pop(entry.trial), entry.value)
            self.num_told += 1
            if entry.value is not None:
                self._best = min(self._best, self._sense.fitness(entry.value))
        self.last = entry
        return True

    @property
    def has_value(self) -> bool:
        """Whether any trial has a value."""
        return math.isfinite(self._best)

    def has_reached(self, target: float) -> bool:
        """Tells whether a value is as good as ``target``."""
        return self._best <= self._sense.fitness(target)


def _session(search: Mapping[str, Any]) -> AskTell:
    """Makes the search of a study's settings."""
    words = {k: from_json(v) if k in _TREES else v for k, v in search.items()}
    return AskTell(words.pop("method"), words.pop("x0"), **words)


def _checksum(trial: Trial) -> str:
    """Returns a checksum of a trial's numbers."""
    checksum = 0
    for leaf in jax.tree.leaves(trial.solution):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    return f"{checksum:08x}"
