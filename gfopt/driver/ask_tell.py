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
from gfopt.driver.trials.late_trials import ClosedGeneration, LateTrials
from gfopt.driver.trials.trials import START, OpenTrials
from gfopt.optimizers.wrappers.bounded import Bounded
from gfopt.optimizers.wrappers.held import Held
from gfopt.protocol import Optimizer, as_method, layers
from gfopt.types import PyTree, Solution


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
        x0: PyTree,
        *,
        sigma0: PyTree = None,
        bounds: PyTree = None,
        seed: int = 0,
        options: Mapping[str, object] | None = None,
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
        wants_start = trees.num_parameters(start.x0) <= MOST_KEPT
        wants_start &= not registry.takes_tokens(optimizer)
        rows = self._search.active_rows.tolist()
        if wants_start and not self._search.begins_at(start.x0):
            rows = [START, *rows]
        self._trials = OpenTrials(0, rows)

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
            TypeError, ValueError: for an ``n`` other than an integer from 1 up, or a
                ``timeout`` below 0.

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
            self._turn.wait_for(
                lambda: self._trials.num_asked < self._trials.num_free, timeout
            )
            rows = self._trials.hand_out(n)
            return [Trial(i, self._solution(row)) for i, row in rows.items()]

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
            TypeError: for something other than trials and numbers.
            ValueError: for an unknown trial, one that has its value already, or another
                number of values than of trials. Nothing has been taken in then.
        """
        ids, numbers = _as_told(trials, values)
        fitness, open_trials = self._sense.fitness(numbers), self._trials
        open_trials.check(ids, self._late)
        is_late = ids < open_trials.first_id
        late = ids[is_late].tolist()
        if late:
            self._tell_late(dict(zip(late, fitness[is_late].tolist(), strict=True)))
        if len(late) < ids.size:
            places = ids[~is_late] - open_trials.first_id
            open_trials.tell(places, fitness[~is_late])
            self._count(places)
        if open_trials.is_told.all():
            self._advance()
        if late and not self._uses_late:
            name = type(self._search.optimizer).__name__
            warnings.warn(
                f"{len(late)} value(s) came after their generation was closed: {name} "
                "cannot use them; they count for the best solution only",
                stacklevel=3,
            )

    def _count(self, places: np.ndarray) -> None:
        """Counts failures among new values, and takes the best of them if it is one."""
        trials = self._trials
        fitness = trials.fitness[places]
        valid = np.isfinite(fitness)
        if not valid.all():
            self._failures["told as failed"] += int((~valid).sum())
            fitness = np.where(valid, fitness, np.inf)
        best = int(np.argmin(fitness))
        row, lowest = trials.rows[places[best]], float(fitness[best])
        if row == START:
            self._improve(lowest, self._x0)
        elif lowest < self._search.best_fitness:
            self._search.remember(row, lowest)
        for place in places[~trials.is_member[places]]:
            self._history.begin(float(trials.fitness[place]))

    def _improve(self, fitness: float, solution: Solution) -> None:
        """Takes a solution that is not in the open generation, if it is the best."""
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
            TypeError: for something other than numbers.
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
        copies = [self._like_x0(solution) for solution in solutions]
        numbers = values_told(values, len(copies), "solutions")
        known = [
            (solution, float(fitness))
            for solution, fitness in zip(
                copies, self._sense.fitness(numbers), strict=True
            )
            if math.isfinite(fitness)
        ]
        for solution, fitness in known:
            self._improve(fitness, solution)
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

    def _like_x0(self, solution: Solution) -> Solution:
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
        """Gives injected solutions their places, where there is room."""
        while self._waiting and self._trials.takes_injected():
            solution, fitness = self._waiting.pop(0)
            self._search.inject(self._trials.inject(fitness), solution)

    @_locked
    def close(self) -> None:
        """Closes the open generation: what has no value yet counts as failed.

        The value of a trial that was handed out may still be told later. It counts for
        the best solution; a method that can use values of an earlier generation takes
        it in, others can't, which a warning then says. Trials that are never told are
        forgotten after some generations: 2^18 numbers are stored, and the last
        generation in any case.
        """
        missing = {
            i: (row, self._x0 if row == START else self._search.clean(row))
            for i, row in self._trials.missing().items()
        }
        if missing:
            population = self._search.population if self._uses_late else None
            self._late.add(ClosedGeneration(population, self._search.rows, missing))
        self._advance()

    def _advance(self) -> None:
        """Tells the open generation, and opens the next."""
        search, trials = self._search, self._trials
        fitness = trials.fitness[trials.is_member]
        valid = fitness[np.isfinite(fitness)]
        whole = np.full(search.rows, np.nan)
        whole[search.active_rows] = fitness
        search.tell(whole)
        columns = {
            "fitness": valid.min() if valid.size else np.nan,
            "num_evaluations": trials.num_told,
            "num_valid": valid.size,
            **search.info,
        }
        self._history.add({k: np.asarray([v]) for k, v in columns.items()}, True)
        self._trials = OpenTrials(trials.next_id, search.active_rows.tolist())
        self._place()
        self._turn.notify_all()

    def _tell_late(self, fitness: dict[int, float]) -> None:
        """Takes fitness of closed generations, by id."""
        for generation in self._late:
            rows = np.full(generation.num_rows, np.nan)
            for i in [i for i in fitness if i in generation.missing]:
                row, solution = generation.missing.pop(i)
                if row == START:
                    self._history.begin(fitness[i])
                else:
                    rows[row] = fitness[i]
                    self._history.nfev += 1
                if math.isfinite(fitness[i]):
                    self._improve(fitness[i], solution)
                else:
                    self._failures["told as failed"] += 1
            if generation.population is not None and np.isfinite(rows).any():
                self._search.tell_late(generation.population, rows)
        self._late.drop_complete()

    @_locked
    def stop(self) -> dict[str, object]:
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
            nfev=self._history.nfev + self._trials.num_told,
            nit=self._history.nit,
            failures=dict(self._failures.most_common()),
            history=self._history.table(),
            state=jax.tree.map(np.asarray, search.state),
            optimizer=search.optimizer,
            path="ask_tell",
            reason="evaluations are the caller's",
            seconds=time.monotonic() - self._began,
        )

    def __getstate__(self) -> dict[str, PyTree]:
        """Returns what is pickled; a clock has no meaning in another process."""
        self._history.complete()  # joined, which takes a tenth
        kept = {k: v for k, v in self.__dict__.items() if k != "_turn"}
        return kept | {"_began": time.monotonic() - self._began}

    def __setstate__(self, state: dict[str, PyTree]) -> None:
        self.__dict__.update(state)
        self._began = time.monotonic() - state["_began"]
        self._turn = threading.Condition()

    @_locked
    def __reduce__(self) -> tuple[object, ...]:
        """Returns what is pickled: as it is now, whatever other threads tell."""
        return _session, (type(self), pickle.dumps(self.__getstate__()))


def _session(kind: type[AskTell], state: bytes) -> AskTell:
    session = kind.__new__(kind)
    session.__setstate__(pickle.loads(state))
    return session


def _as_told(trials: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
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
