"""``AskTell``: the user's own loop, in any order and in parts."""

from __future__ import annotations

import functools
import math
import pickle
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import jax
import numpy as np

from gfopt import checks, registry
from gfopt.core import trees
from gfopt.core.sense import Sense
from gfopt.driver.engine.host_search import HostSearch
from gfopt.driver.result.endings import Status, ending_of
from gfopt.driver.result.history import History
from gfopt.driver.result.result import MOST_KEPT, Result, reasons_with_values
from gfopt.driver.setup.arguments import as_solution, check_seed, values_told
from gfopt.driver.setup.method import against_noise
from gfopt.driver.setup.setup import setup
from gfopt.driver.trials.late_trials import Generation, LateTrials
from gfopt.optimizers.wrappers.bounded import Bounded
from gfopt.optimizers.wrappers.held import Held
from gfopt.protocol import as_method, layers
from gfopt.types import Optimizer, Solution

START = -1  # in place of a row: the starting solution


class Trial(NamedTuple):
    """One candidate that waits for its value.

    Attributes:
        id: its number in this run, from 0.
        solution: what to evaluate: NumPy arrays of its own.

    Example:
        >>> import gfopt
        >>> search = gfopt.AskTell("cma_es", [0.0, 0.0], sigma0=1.0)
        >>> trials = search.ask(2)
        >>> [trial.id for trial in trials], trials[0].solution.shape
        ([0, 1], (2,))
    """

    id: int
    solution: Solution


P = ParamSpec("P")
R = TypeVar("R")


def _locked(
    method: Callable[Concatenate[AskTell, P], R],
) -> Callable[Concatenate[AskTell, P], R]:
    """Lets one thread at a time into a method."""

    @functools.wraps(method)
    def call(self: AskTell, *args: P.args, **words: P.kwargs) -> R:
        with self._turn:
            return method(self, *args, **words)

    return cast("Callable[Concatenate[AskTell, P], R]", call)


class AskTell:
    """A search whose evaluations are the caller's business.

    ``ask`` hands out members of the open generation, ``tell`` takes their values in any
    order and in parts; the generation closes when all have been told, or by ``close``.
    The first trial is ``x0``, so that the result is never worse than that; sequences of
    tokens and trees of more than a million numbers are searched without it.
    A session can be pickled at any moment and goes on exactly where it was. Any number
    of threads may use it at once: each call has it for itself.

    Args:
        method: a name from ``gfopt list``, ``"auto"``, or an optimizer.
        x0: starting solution, as for ``minimize``.
        sigma0: first standard deviation, as for ``minimize``.
        bounds: as for ``minimize``.
        seed: of all randomness.
        options: fields of the method.
        maximize: look for the largest value.
        noisy: values differ from call to call, as for ``minimize``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value out of range.

    Example:
        >>> import gfopt
        >>> search = gfopt.AskTell("cma_es", [3.0, -2.0], sigma0=1.0, seed=1)
        >>> while not search.stop():
        ...     trials = search.ask()
        ...     search.tell(trials, [np.sum(trial.solution**2) for trial in trials])
        >>> search.result.fun < 1e-9
        True
    """

    def __init__(
        self,
        method: str | Optimizer,
        x0: Any,
        *,
        sigma0: Any = None,
        bounds: Any = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        maximize: bool = False,
        noisy: bool = False,
    ):
        check_seed(seed)
        checks.instance("maximize", maximize, bool, "True or False")
        checks.instance("noisy", noisy, bool, "True or False")
        start = setup(method, x0, sigma0, bounds, options, allows_model=not noisy)
        optimizer = against_noise(start.hosted) if noisy else start.hosted
        self._sense = Sense(maximize)
        self._began = time.monotonic()
        self._search = HostSearch(optimizer, start.x0, seed, start.x64)
        self._history = History(self._sense)
        self._failures: Counter[str] = Counter()
        self._late = LateTrials()
        self._turn = threading.Condition()  # notified of every generation that opens
        plain = optimizer
        while isinstance(plain, Held | Bounded):
            plain = plain.inner
        # other wrappers make generations of their own of it
        row = registry.row_of(plain) if len(layers(plain)) == 1 else None
        self._x0 = start.x0
        self._injects = row is not None and "injects" in row.flags
        self._waiting: list[tuple[Solution, float]] = []
        self._uses_late = row is not None and "tolerates_stale" in row.flags
        self._first_id = 0
        wants_start = trees.num_parameters(start.x0) <= MOST_KEPT
        wants_start &= not registry.takes_tokens(optimizer)
        with self._turn:
            self._open(wants_start and not self._search.begins_at(start.x0))

    def _open(self, with_start: bool = False) -> None:
        """Starts on the search's open generation."""
        self._rows = [START] * with_start + self._search.active_rows.tolist()
        self._is_member = np.array(self._rows) != START
        self._num_asked = 0  # how many of the rows were handed out
        self._fitness = np.full(len(self._rows), np.nan)
        self._told = np.zeros(len(self._rows), bool)
        self._num_free = len(self._rows)  # that are not taken by injected solutions
        self._place()
        self._turn.notify_all()

    def ask(self, n: int | None = None, *, timeout: float = 0.0) -> list[Trial]:
        """Hands out the next members of the open generation.

        Args:
            n: how many; all that are left by default.
            timeout: seconds to wait for a member where none is left, while other
                threads tell: without it, threads that ask again and again keep those
                from their work.

        Returns:
            At most ``n`` trials, fewer where fewer are left: an empty list says that
            values must be told, or the generation closed, first.

        Raises:
            TypeError, ValueError: where ``n`` is no integer from 1 up, or ``timeout``
                no number from 0 up.

        Example:
            >>> import concurrent.futures, gfopt
            >>> search = gfopt.AskTell("cma_es", [3.0, -2.0], sigma0=1.0, seed=1)
            >>> def work(_):
            ...     while search.result.nfev < 60:
            ...         for trial in search.ask(1, timeout=1.0):
            ...             search.tell(trial, np.sum(trial.solution**2))
            >>> with concurrent.futures.ThreadPoolExecutor(4) as pool:
            ...     done = list(pool.map(work, range(4)))
            >>> search.result.fun < 0.1
            True
        """
        if n is not None:
            checks.integer("n", n, 1)
        checks.non_negative("timeout", timeout)
        with self._turn:
            self._turn.wait_for(lambda: self._num_asked < self._num_free, timeout)
            start = self._num_asked
            stop = self._num_free if n is None else min(start + n, self._num_free)
            self._num_asked = stop
            first, rows = self._first_id + start, self._rows[start:stop]
            return [Trial(first + i, self._solution(row)) for i, row in enumerate(rows)]

    def _solution(self, row: int) -> Solution:
        if row == START:
            return jax.tree.map(np.array, self._x0)
        return self._search.solution(row)

    @_locked
    def tell(
        self,
        trials: Trial | int | Sequence[Trial] | Sequence[int],
        values: float | None | Iterable[float | None],
    ) -> None:
        """Takes values of trials, in any order and in parts.

        Args:
            trials: trials or their ids; or a single one.
            values: a number for each; None or NaN (or an infinity) for one that failed.

        Raises:
            TypeError: for something that is no trial or no number.
            ValueError: for an unknown trial, one that has its value already, or another
                number of values than of trials. Nothing has been taken in then.
        """
        ids, numbers = _told(trials, values)
        fitness, now = self._sense.fitness(numbers), ids - self._first_id
        self._check(ids, now)
        is_late = now < 0
        late = ids[is_late].tolist()
        if late:
            self._take_late(late, fitness[is_late])
            now, fitness = now[~is_late], fitness[~is_late]
        if now.size:
            self._fitness[now] = fitness
            self._told[now] = True
            self._note(now)
        if self._told.all():
            self._advance()
        if late and not self._uses_late:
            name = type(self._search.optimizer).__name__
            warnings.warn(
                f"{len(late)} value(s) came after their generation was closed: {name} "
                "cannot use them; they count for the best solution only",
                stacklevel=3,
            )

    def _check(self, ids: np.ndarray, now: np.ndarray) -> None:
        """Refuses ids that were not handed out, or that have a value already."""
        if not ids.size:
            return
        if now.max() >= self._num_asked:
            raise ValueError(
                f"trials must have been asked for; got id {ids[now.argmax()]}, "
                f"asked so far: {self._first_id + self._num_asked}"
            )
        is_open = now >= 0
        wrong = ids[is_open][self._told[now[is_open]]].tolist()
        wrong += [i for i in ids[~is_open].tolist() if i not in self._late]
        if len(set(ids.tolist())) < ids.size:
            wrong += [i for i, n in Counter(ids.tolist()).items() if n > 1]
        if wrong:
            raise ValueError(
                "trials must be waiting for their value, and be named once; got id "
                f"{wrong[0]}, which is named twice, has a value, was never asked for, "
                "or is of a generation that was closed long ago"
            )

    def _note(self, indices: np.ndarray) -> None:
        """Remembers the best of some values of the open generation, and failures."""
        fitness = self._fitness[indices]
        valid = np.isfinite(fitness)
        if not valid.all():
            self._failures["told as failed"] += int((~valid).sum())
            fitness = np.where(valid, fitness, np.inf)
        best = int(np.argmin(fitness))
        row, value = self._rows[indices[best]], float(fitness[best])
        if row == START:
            self._note_solution(value, self._x0)
        elif value < self._search.best_fitness:
            self._search.remember(row, value)
        for index in indices[~self._is_member[indices]]:
            self._history.begin(float(self._fitness[index]))

    def _note_solution(self, fitness: float, solution: Solution) -> None:
        """Remembers a solution that is in no row of the open generation, if best."""
        if fitness < self._search.best_fitness:
            self._search.best_fitness = fitness
            self._search.best_x = jax.tree.map(np.array, solution)

    @_locked
    def inject(
        self, solutions: Iterable[Solution], values: Iterable[float | None]
    ) -> None:
        """Takes in solutions that were evaluated elsewhere.

        A method flagged ``injects`` learns from them: they take the places of as many
        of its own candidates, of up to half a generation. That is the open one if none
        of it was handed out, else the next; what finds no place waits for a later one.
        Solutions that lie far off count as nearer ones in the same direction. Other
        methods can't use them, which a warning says. They count for the best solution,
        but not as evaluations.

        Args:
            solutions: each like ``x0``.
            values: a number for each; those of None or NaN are left out.

        Raises:
            TypeError: for something that is no number.
            ValueError: for a solution that is not like ``x0`` or lies outside of the
                bounds, or another number of values than of solutions. Nothing has been
                taken in then.

        Example:
            >>> import gfopt
            >>> search = gfopt.AskTell("cma_es", [3.0, -2.0], sigma0=1.0)
            >>> search.inject([[0.5, 0.0], [4.0, 4.0]], [0.25, 32.0])
            >>> search.result.fun, len(search.ask())  # x0 and four candidates
            (0.25, 5)
        """
        given = [self._like_x0(solution) for solution in solutions]
        numbers = values_told(values, len(given), "solutions")
        known = [
            (solution, float(fitness))
            for solution, fitness in zip(
                given, self._sense.fitness(numbers), strict=True
            )
            if math.isfinite(fitness)
        ]
        for solution, fitness in known:
            self._note_solution(fitness, solution)
        if self._injects:
            self._waiting += known
            self._place()
        elif known:
            name = type(self._search.optimizer).__name__
            warnings.warn(
                f"{name} cannot learn from injected solutions; they count for the best "
                "solution only",
                stacklevel=3,
            )

    def _like_x0(self, solution: Any) -> Solution:
        """Returns a solution in the form and precision of ``x0``."""
        solution = as_solution(solution)
        came, expected = jax.tree.map(np.shape, (solution, self._x0))
        if came != expected:
            raise ValueError(
                f"solutions must be like x0, of shape {expected}; got {came}"
            )
        space = as_method(self._search.optimizer).search_space
        if space is not None and not space.contains(solution):
            raise ValueError(
                f"solutions must lie within bounds; got {checks.shown(solution)}"
            )
        return jax.tree.map(
            lambda x, leaf: np.asarray(leaf, x.dtype), self._x0, solution
        )

    def _place(self) -> None:
        """Gives injected solutions the last rows, where none is handed out yet."""
        if self._num_asked:
            return
        least = len(self._rows) - int(self._is_member.sum()) // 2
        while self._waiting and self._num_free > least:
            solution, fitness = self._waiting.pop(0)
            self._num_free -= 1
            self._search.inject(self._rows[self._num_free], solution)
            self._fitness[self._num_free] = fitness
            self._told[self._num_free] = True

    @_locked
    def close(self) -> None:
        """Closes the open generation: what has no value yet counts as failed.

        The value of a trial that was handed out may still be told later. It counts for
        the best solution; a method that can use values of an earlier generation takes
        it in, others can't, which a warning then says. What is never told is forgotten
        after some generations: 2^18 numbers are kept, and the last generation.
        """
        missing = {
            self._first_id + i: (self._rows[i], self._clean(self._rows[i]))
            for i in np.flatnonzero(~self._told[: self._num_asked]).tolist()
        }
        if missing:
            population = self._search.population if self._uses_late else None
            rows = self._search.rows
            self._late.add(Generation(population, rows, missing))
        self._advance()

    def _clean(self, row: int) -> Solution:
        return self._x0 if row == START else self._search.clean(row)

    def _advance(self) -> None:
        search, fitness = self._search, self._fitness[self._is_member]
        told = fitness[self._told[self._is_member] & np.isfinite(fitness)]
        whole = np.full(search.rows, np.nan)
        whole[search.active_rows] = fitness
        self._first_id += len(self._rows)
        search.tell(whole)
        columns = {
            "fitness": told.min() if told.size else np.nan,
            "num_evaluations": self._num_told,
            "num_valid": told.size,
            **search.info,
        }
        named = {name: np.asarray([value]) for name, value in columns.items()}
        self._history.add(named, True)
        self._open()

    @property
    def _num_told(self) -> int:
        """Values of the open generation's own candidates."""
        return int((self._told & self._is_member)[: self._num_free].sum())

    def _take_late(self, late: list[int], fitness: np.ndarray) -> None:
        """Takes values of closed generations in: for the best, and where it can be."""
        told = dict(zip(late, fitness.tolist(), strict=True))
        for generation in self._late:
            by_row = np.full(generation.num_rows, np.nan)
            for i in [i for i in late if i in generation.missing]:
                row, solution = generation.missing.pop(i)
                if row == START:
                    self._history.begin(told[i])
                else:
                    by_row[row] = told[i]
                    self._history.nfev += 1
                if math.isfinite(told[i]):
                    self._note_solution(told[i], solution)
                else:
                    self._failures["told as failed"] += 1
            if generation.population is not None and np.isfinite(by_row).any():
                self._search.tell_late(generation.population, by_row)
        self._late.drop_complete()

    @_locked
    def stop(self) -> dict[str, Any]:
        """Returns the method's reasons to stop with their tolerances, by name."""
        names = self._search.reasons
        return reasons_with_values(self._search.optimizer, names) if names else {}

    @property
    @_locked
    def result(self) -> Result:
        """The outcome so far."""
        search, status, message = self._search, Status.RUNNING, "running"
        if reasons := search.reasons:
            best = search.best_fitness
            is_better = self._history.is_better(best)
            status, message = ending_of(
                search.optimizer, reasons, math.isfinite(best), is_better
            )
        return Result(
            x=jax.tree.map(np.array, search.best_x),
            fun=self._history.value(search.best_fitness),
            recommended=search.recommended(),
            success=status.is_success,
            status=status,
            message=message,
            nfev=self._history.nfev + self._num_told,
            nit=self._history.nit,
            failures=dict(self._failures.most_common()),
            history=self._history.table(),
            state=jax.tree.map(np.asarray, search.state),
            optimizer=search.optimizer,
            path="ask_tell",
            reason="evaluations are the caller's",
            seconds=time.monotonic() - self._began,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled; a clock has no meaning in another process."""
        self._history.complete()  # joined, which takes a tenth
        kept = {k: v for k, v in self.__dict__.items() if k != "_turn"}
        return kept | {"_began": time.monotonic() - self._began}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._began = time.monotonic() - state["_began"]
        self._turn = threading.Condition()

    @_locked
    def __reduce__(self) -> tuple[Any, ...]:
        """Returns what is pickled: as it is now, whatever other threads tell."""
        return _session, (type(self), pickle.dumps(self.__getstate__()))


def _session(kind: type[AskTell], state: bytes) -> AskTell:
    session = kind.__new__(kind)
    session.__setstate__(pickle.loads(state))
    return session


def _told(trials: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Reads the arguments of ``tell``: ids and numbers, NaN for failures."""
    if isinstance(trials, Trial | int | np.integer):
        trials, values = [trials], [values]
    checks.instance("trials", trials, (Sequence, np.ndarray), "trials or their ids")
    ids = [trial.id if type(trial) is Trial else trial for trial in trials]
    numbers = np.asarray(ids) if ids else np.zeros(0, np.int64)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise TypeError(
            f"trials must be trials or their ids; got {checks.shown(trials)}"
        )
    return numbers.astype(np.int64), values_told(values, len(ids), "trials")
