"""``AskTell``: the user's own loop, in any order and in parts."""

from __future__ import annotations

import functools
import math
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar, cast

import jax
import numpy as np

from gfopt import checks, registry
from gfopt.core import trees
from gfopt.core.sense import Sense
from gfopt.driver.engine.host_search import HostSearch
from gfopt.driver.result.endings import Status, ending_of
from gfopt.driver.result.history import History
from gfopt.driver.result.result import MOST_KEPT, Result, reasons_with_values
from gfopt.driver.setup.any_order import check_any_order
from gfopt.driver.setup.arguments import as_solution, check_seed, values_told
from gfopt.driver.setup.method import against_noise
from gfopt.driver.setup.setup import setup
from gfopt.driver.trials.any_order import AnyOrder
from gfopt.driver.trials.base import Kept, Trials
from gfopt.driver.trials.generations import Generations
from gfopt.driver.trials.trial import Trial, as_told
from gfopt.optimizers.wrappers.bounded import Bounded
from gfopt.optimizers.wrappers.held import Held
from gfopt.protocol import Optimizer, as_method, layers
from gfopt.types import PyTree, Solution

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
        asynchronous: hand a trial out whenever one is asked for, and tell the method
            values as they come, as for ``minimize``.
        batch_size: how many trials are evaluated at once, for ``"auto"``, which then
            asks for as many at a time.

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
        asynchronous: bool = False,
        batch_size: int = 1,
    ):
        check_seed(seed)
        flags = {"maximize": maximize, "noisy": noisy, "asynchronous": asynchronous}
        for name, flag in flags.items():
            checks.instance(name, flag, bool, "True or False")
        checks.integer("batch_size", batch_size, 1)
        start = setup(
            method,
            x0,
            sigma0,
            bounds,
            options,
            allows_model=not noisy,
            any_order=asynchronous,
            batch_size=batch_size,
        )
        optimizer = against_noise(start.hosted) if noisy else start.hosted
        self._sense, self._x0 = Sense(maximize), start.x0
        self._began = time.monotonic()
        self._search = HostSearch(optimizer, start.x0, seed, start.x64)
        self._history = History(self._sense)
        self._kept = Kept(self._search, self._history, start.x0)
        self._turn = threading.Condition()  # notified where there is a trial to ask for
        wants_start = trees.num_parameters(start.x0) <= MOST_KEPT
        wants_start &= not registry.takes_tokens(optimizer)
        wants_start = wants_start and not self._search.begins_at(start.x0)
        self._trials: Trials
        if asynchronous:
            check_any_order(optimizer)
            self._trials = AnyOrder(self._kept, wants_start)
        else:
            self._trials = Generations(self._kept, wants_start, _flags(optimizer))

    def ask(self, n: int | None = None, *, timeout: float = 0.0) -> list[Trial]:
        """Hands out the next members of the open generation.

        Args:
            n: how many; by default all that are left, or as many as a generation has
                where the search is asynchronous.
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
            self._turn.wait_for(lambda: self._trials.can_ask, timeout)
            return self._trials.hand_out(n)

    @_locked
    def tell(
        self,
        trials: Trial | int | Sequence[Trial] | Sequence[int],
        values: float | None | Iterable[float | None],
        aux: PyTree = None,
    ) -> None:
        """Takes values of trials, in any order and in parts.

        Args:
            trials: trials or their ids; or a single one.
            values: a number for each; None or NaN (or an infinity) for one that failed.
            aux: what a method such as ``GridArchive`` takes beside the value, for each:
                the behaviour; None for one that failed. None if it takes nothing.

        Raises:
            TypeError: for something other than trials and numbers.
            ValueError: for an unknown trial, one that has its value already, or another
                number of values than of trials; for aux that differs in form, or in an
                asynchronous search. Nothing has been taken in then.
        """
        ids, numbers, others = as_told(trials, values, aux)
        num_unused = self._trials.tell(ids, self._sense.fitness(numbers), others)
        self._notify()
        if num_unused:
            name = type(self._search.optimizer).__name__
            warnings.warn(
                f"{num_unused} value(s) came after their generation was closed: {name} "
                "cannot use them; they count for the best solution only",
                stacklevel=3,
            )

    def _notify(self) -> None:
        if self._trials.can_ask:
            self._turn.notify_all()

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
            self._kept.improve(fitness, solution)
        is_used = self._trials.inject(known)
        self._notify()
        if known and not is_used:
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

    @_locked
    def close(self) -> None:
        """Closes the open generation: what has no value yet counts as failed.

        The value of a trial that was handed out may still be told later. It counts for
        the best solution; a method that can use values of an earlier generation takes
        it in, others can't, which a warning then says. Trials that are never told are
        forgotten after some generations: 2^18 numbers are stored, and the last
        generation in any case. In an asynchronous search the method is told what has
        come so far; all trials still wait for their values.
        """
        self._trials.close()
        self._notify()

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
            failures=dict(self._kept.failures.most_common()),
            history=self._history.table(),
            state=jax.tree.map(np.asarray, search.state),
            optimizer=search.optimizer,
            path="ask_tell",
            reason="evaluations are the caller's",
            seconds=time.monotonic() - self._began,
            maximize=self._sense.maximize,
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


def _flags(optimizer: Optimizer) -> frozenset[str]:
    """Returns the flags of a method; none within wrappers.

    They make generations of their own of it.
    """
    while isinstance(optimizer, Held | Bounded):
        optimizer = optimizer.inner
    row = registry.row_of(optimizer) if len(layers(optimizer)) == 1 else None
    return frozenset() if row is None else row.flags
