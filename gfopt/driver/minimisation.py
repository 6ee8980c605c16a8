"""The loop of ``minimize``: advance, record, save, report, until something ends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, registry
from gfopt.core import trees
from gfopt.core.evaluate import Evaluator
from gfopt.core.host.evaluator import HostEvaluator, host
from gfopt.core.objective import Inputs, Objective
from gfopt.driver.batches import Batches
from gfopt.driver.checkpoint import Checkpoint
from gfopt.driver.compiled import ROWS, CompiledSearch
from gfopt.driver.endings import Status, ending_of
from gfopt.driver.failures import Failures
from gfopt.driver.finished import OPEN, Ends, from_record, to_record
from gfopt.driver.history import History
from gfopt.driver.hosted import HostedSearch
from gfopt.driver.probe import Probe, probe, value_of
from gfopt.driver.progress import Interrupt, ProgressLine
from gfopt.driver.result import MOST_KEPT, Result
from gfopt.driver.setup import Setup
from gfopt.driver.step import keys_of_step
from gfopt.types import PyTree

if TYPE_CHECKING:
    from gfopt.driver.log_writer import LogWriter

BARREN = 10  # generations in a row without one valid value after which it gives up,
LEAST_BARREN = 40  # but not before so many evaluations: some methods make one a step
INTERRUPTED = "interrupted by Ctrl-C"
CALL_SECONDS = 0.25  # that a compiled call should last: limits are looked at between
SAVE_SECONDS = 1.0  # between two snapshots, at least
SAVE_SHARE = 0.05  # of the time that may go into snapshots

Callback = Callable[[Result], Any]


class Minimisation:
    """One search: its engine, its records, and when it ends.

    Args:
        made: method, starting solution and precision.
        objective: what is minimised.
        evaluator: what was asked for, or None.
        inputs: frozen leaves and arguments.
        seed: of the run.
        batches: the data of each step.
        saved: the checkpoint, or None.
        starts_feasible: whether the starting solution keeps all constraints.
        log: is told the records of complete generations, or None.
    """

    def __init__(
        self,
        made: Setup,
        objective: Objective,
        evaluator: Evaluator | HostEvaluator | None,
        inputs: Inputs,
        seed: int,
        batches: Batches,
        saved: Checkpoint | None,
        starts_feasible: bool = True,
        log: LogWriter | None = None,
    ):
        self._began = self._last_save = time.monotonic()
        self._before = 0.0  # seconds of the sessions before this one
        self._save_seconds = 0.0
        self._made, self._seed, self._batches = made, seed, batches
        self._objective, self._saved, self._log = objective, saved, log
        self._evaluator, self._inputs = evaluator, inputs
        self._starts_feasible = starts_feasible
        self._history = History(objective.maximize, None)
        self._reason = "interrupted before it was known"
        self._keeps_x = trees.num_parameters(made.x0) <= MOST_KEPT
        self._search: CompiledSearch | HostedSearch

    def _prepare(self) -> None:
        """Finds out which path runs, and makes its engine."""
        saved, made = self._saved, self._made
        meta = {} if saved is None or saved.snapshot is None else saved.snapshot.meta
        objective, inputs = _closed(self._objective, self._inputs)
        found = self._probe(objective, self._evaluator, inputs, meta)
        self._reason, first = found.reason, found.value
        if not found.traceable and made.costly is not None:
            self._made = made = made._replace(optimizer=made.costly)
        fitness = math.inf
        if first is not None:
            if not self._starts_feasible:
                first = math.nan  # a value of no feasible solution
            self._history.begin(first)
            if math.isfinite(first):
                fitness = -first if objective.maximize else first
        keep_x, seed = self._keeps_x, self._seed
        if found.traceable:
            traced: Any = self._evaluator
            self._search = CompiledSearch(
                made, objective, inputs, traced, seed, fitness, keep_x
            )
        else:
            asked = self._evaluator
            calls = asked if isinstance(asked, HostEvaluator) else host()
            known = {} if saved is None else saved.known
            note = None if saved is None else saved.note
            self._search = HostedSearch(
                made, objective, inputs, calls, seed, fitness, keep_x, known, note
            )
        if found.value is not None and not math.isfinite(found.value):
            self._search.failures.add("returned NaN or an infinity")
        if saved is not None and meta:
            self._restore(saved, meta)

    @property
    def _evaluates_start(self) -> bool:
        """Whether the starting solution is one like those that are searched."""
        return self._keeps_x and not registry.takes_tokens(self._made.optimizer)

    def _begin(self, interrupt: Interrupt) -> None:
        """Evaluates the starting solution where the probe did not."""
        search, history = self._search, self._history
        is_known = history.first_value is not None or history.nit > 0
        if is_known or not self._evaluates_start or isinstance(search, CompiledSearch):
            return
        fitness = search.begin(self._first_batch(), interrupt)
        if fitness is None:
            return
        value = -fitness if self._objective.maximize else fitness
        history.begin(value if math.isfinite(value) else math.nan)

    def _first_batch(self) -> PyTree:
        with jax.enable_x64(self._made.x64):
            try:
                return self._batches.at(0)
            except StopIteration:
                raise ValueError(
                    "batches must hold at least one batch; got none"
                ) from None

    def _probe(
        self,
        objective: Objective,
        evaluator: Any,
        inputs: Inputs,
        meta: Mapping[str, Any],
    ) -> Probe:
        """Decides between the paths; a run that goes on stays on its own."""
        is_host = isinstance(evaluator, HostEvaluator)
        if meta:
            found = Probe(meta["path"] == "compiled", meta["reason"], meta["first"])
            if found.traceable and is_host:
                raise ValueError(
                    "workers and evaluator must not ask for Python calls where the "
                    "checkpoint is of a compiled run, whose values differ in the last "
                    f"bits; got {checks.shown(evaluator)}"
                )
        elif is_host:
            return Probe(False, "workers or a host evaluator were asked for", None)
        else:
            batch = self._first_batch()
            with jax.enable_x64(self._made.x64):
                inputs = inputs._replace(batch=batch, context=objective.context)
                key = None
                if objective.takes_key:
                    key = keys_of_step(self._seed, 0).evaluate
                asked = objective, self._made.x0, key, inputs
                found = probe(*asked)
                is_unknown = found.traceable and found.value is None
                if is_unknown and self._evaluates_start:
                    found = found._replace(value=value_of(*asked))
        if not found.traceable and evaluator is not None and not is_host:
            raise ValueError(
                "evaluator must be gfopt.host(...) for a function that JAX cannot "
                f"trace ({found.reason}); got {checks.shown(evaluator)}"
            )
        return found

    def run(
        self,
        budget: float,
        max_seconds: float,
        target: float | None,
        callbacks: tuple[Callback, ...],
        progress: bool,
    ) -> Result:
        """Advances the search until something ends it."""
        saved = self._saved
        ends = Ends(
            budget if math.isfinite(budget) else None,
            max_seconds if math.isfinite(max_seconds) else None,
            target,
        )
        if saved is not None and saved.finished is not None:
            known = from_record(saved.finished, ends, self._made, self._objective)
            if known is not None:
                return known
        costly = self._made.costly
        found = self._prepared(budget, max_seconds, target, callbacks, progress)
        if saved is not None and self._keeps_x and found.status not in OPEN:
            is_costly = costly is not None and self._made.optimizer is costly
            tier = self._search.tier
            saved.finish(to_record(found, ends, is_costly, tier))
        return found

    def _prepared(
        self,
        budget: float,
        max_seconds: float,
        target: float | None,
        callbacks: tuple[Callback, ...],
        progress: bool,
    ) -> Result:
        shown = ProgressLine(budget) if progress else nullcontext()
        with Interrupt() as interrupt, shown as line:
            try:
                if self._saved is None or self._saved.snapshot is None:
                    interrupt.let_pass(at=1)  # nothing is lost yet
                self._prepare()
            except KeyboardInterrupt:
                seconds = self._seconds
                return unstarted(self._made, self._reason, seconds, self._history)
            finally:
                interrupt.hold()
            return self._run(budget, max_seconds, target, callbacks, line, interrupt)

    def _run(
        self,
        budget: float,
        max_seconds: float,
        target: float | None,
        callbacks: tuple[Callback, ...],
        line: ProgressLine | None,
        interrupt: Interrupt,
    ) -> Result:
        sign = -1.0 if self._objective.maximize else 1.0
        goal = -math.inf if target is None else self._search.rounded(sign * target)
        deadline = self._began + max_seconds - self._before
        one_by_one = bool(callbacks) or not self._batches.is_empty
        pace = _Pace(1 if one_by_one else ROWS, deadline)
        self._begin(interrupt)
        ending = self._ending(budget, deadline, goal)
        if ending is None and interrupt.seen:
            ending = Status.INTERRUPTED, INTERRUPTED
        if self._saved is not None and self._saved.snapshot is None:
            self._save()  # what the start cost is not to be paid for again
        while ending is None:
            try:
                with jax.enable_x64(self._made.x64):
                    batch = self._batches.at(self._history.nit)
            except StopIteration:
                ending = Status.BUDGET, "batches came to their end"
                break
            self._advance(budget, deadline, goal, batch, pace, interrupt)
            if self._log is not None:
                self._log.update(self._history.complete())
            if line is not None:
                line.update(self._history.nit, self._history.nfev, self._fun)
            ending = self._ending(budget, deadline, goal)
            if _called(callbacks, self._result) and ending is None:
                ending = Status.CALLBACK, "a callback ended the search"
            if ending is None and interrupt.seen:
                ending = Status.INTERRUPTED, INTERRUPTED
        if line is not None:
            line.update(self._history.nit, self._history.nfev, self._fun, True)
        self._save()
        return self._result(*ending)

    def _advance(
        self,
        budget: float,
        deadline: float,
        goal: float,
        batch: PyTree,
        pace: _Pace,
        interrupt: Interrupt,
    ) -> None:
        """Runs one or more generations."""
        search, left = self._search, budget - self._history.nfev
        if isinstance(search, HostedSearch):
            self._save_if_due()
            columns = search.advance(left, goal, deadline, batch, interrupt)
            self._history.add(columns, not search.is_open)
            return
        # a generation that the budget cuts short is not saved: with a larger budget
        # the run goes on from before it
        is_open = left < search.size
        self._save() if is_open else self._save_if_due()
        began = time.monotonic()
        count = pace.generations
        columns = search.advance(count, left, goal, self._most_barren, batch)
        pace.took(time.monotonic() - began, len(columns["fitness"]))
        self._history.add(columns, not is_open)

    def _ending(
        self, budget: float, deadline: float, goal: float
    ) -> tuple[Status, str] | None:
        search = self._search
        if search.best_fitness <= goal:
            return Status.TARGET, f"target reached: {self._fun:.10g}"
        if search.num_barren >= self._most_barren:
            most = search.failures.most_common(1)
            why = f"; most often: {most[0][0]}" if most else ""
            message = f"no valid value in {search.num_barren} evaluations{why}"
            return Status.FAILED, message
        if search.reasons:
            has_value = math.isfinite(search.best_fitness)
            names, is_better = search.reasons, self._history.is_better(self._fun)
            return ending_of(search.optimizer, names, has_value, is_better)
        if self._history.nfev >= budget:
            return Status.BUDGET, f"budget of {budget:.0f} evaluations used"
        # however long the first program compiles, one evaluation is made
        if time.monotonic() >= deadline and self._history.nfev:
            return Status.SECONDS, f"time is up after {self._seconds:.1f} s"
        return None

    @property
    def _most_barren(self) -> int:
        if math.isfinite(self._search.best_fitness):
            return 2**31 - 1  # what was valid once can be met again
        return max(LEAST_BARREN, BARREN * self._search.size)

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def _fun(self) -> float:
        best = self._search.best_fitness
        if math.isinf(best):
            return math.nan
        return -best if self._objective.maximize else best

    def _result(
        self, status: Status = Status.RUNNING, message: str = "running"
    ) -> Result:
        search = self._search
        with jax.enable_x64(self._made.x64):
            context = jax.tree.map(jnp.array, search.context)  # the carry is donated
        return Result(
            x=search.best_x,
            fun=self._fun,
            recommended=search.recommended(),
            success=status.is_success,
            status=status,
            message=message,
            nfev=self._history.nfev,
            nit=self._history.nit,
            failures=dict(search.failures.most_common()),
            history=self._history.table(),
            state=jax.tree.map(np.asarray, search.state),
            optimizer=search.optimizer,
            path=search.path,
            reason=self._reason,
            seconds=self._seconds,
            context=context,
        )

    def _save_if_due(self) -> None:
        pause = max(SAVE_SECONDS, self._save_seconds / SAVE_SHARE)
        if time.monotonic() >= self._last_save + pause:
            self._save()

    def _save(self) -> None:
        """Writes a snapshot, unless a generation is open that it must not contain."""
        if self._saved is None or self._history.is_open:
            return
        began = time.monotonic()
        meta = {
            "path": self._search.path,
            "tier": self._search.tier,
            "counts": {str(k): n for k, n in self._search.counts.items()},
            "reason": self._reason,
            "first": self._history.first_value,
            "seconds": self._seconds,
            "failures": dict(self._search.failures),
        }
        self._saved.save(meta, self._search.snapshot(), self._history.complete())
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - began

    def _restore(self, saved: Checkpoint, meta: Mapping[str, Any]) -> None:
        if meta["tier"] != self._search.tier:
            self._search.move(meta["tier"])
        with jax.enable_x64(self._made.x64):
            snapshot = saved.restored(self._search.snapshot())
            counts = {int(k): n for k, n in meta.get("counts", {}).items()}
            self._search.restore(snapshot, counts, saved.history)
        self._search.failures = Failures(meta["failures"])
        self._before = meta["seconds"]
        self._history.add(saved.history, True)


def unstarted(
    made: Setup, reason: str, seconds: float, history: History | None = None
) -> Result:
    """Returns the result of a search that was interrupted before it began."""
    history = History(False, None) if history is None else history
    x0, first = jax.tree.map(np.array, made.x0), history.first_value
    return Result(
        x=x0 if trees.num_parameters(x0) <= MOST_KEPT else None,
        fun=math.nan if first is None else first,
        recommended=x0,
        success=False,
        status=Status.INTERRUPTED,
        message=f"{INTERRUPTED} before the first generation",
        nfev=history.nfev,
        nit=0,
        failures={},
        history=history.table(),
        state=None,
        optimizer=made.optimizer,
        path="none",
        reason=reason,
        seconds=seconds,
    )


class _Pace:
    """How many generations a compiled call should run, from how long they take."""

    def __init__(self, most: int, deadline: float):
        self.generations = 1
        self._most, self._deadline = most, deadline
        self._calls = 0

    def took(self, seconds: float, count: int) -> None:
        """Takes in the time of a call; that of the first is mostly compilation."""
        self._calls += 1
        if self._calls == 1 or not count:
            return
        each = seconds / count
        left = min(CALL_SECONDS, self._deadline - time.monotonic())
        fitting = max(1, int(left / max(each, 1e-9)))
        self.generations = min(2 * self.generations, fitting, self._most)


def _closed(objective: Objective, inputs: Inputs) -> tuple[Objective, Inputs]:
    """Moves arguments that are no arrays (a name, a function) into the function."""
    plain = (int, float, np.ndarray, np.generic, jax.Array)
    if all(isinstance(leaf, plain) for leaf in jax.tree.leaves(inputs.args)):
        return objective, inputs
    fun, args = objective.fun, inputs.args
    bound = replace(objective, fun=lambda *head, **words: fun(*head, *args, **words))
    return bound, inputs._replace(args=())


def _called(callbacks: tuple[Callback, ...], result: Callable[[], Result]) -> bool:
    """Calls all callbacks; returns whether one of them ends the search."""
    if not callbacks:
        return False
    now, ends = result(), False
    for callback in callbacks:
        try:
            ends |= bool(callback(now))
        except StopIteration:
            ends = True
    return ends
