"""The loop of ``minimize``: advance, record, save, report, until something ends it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, registry
from gfopt.core import trees
from gfopt.core.host.failures import Failures
from gfopt.driver.engine.engine import Carry, Engine, Limits
from gfopt.driver.loop.checkpoint import Checkpoint
from gfopt.driver.loop.finished import (
    INTERRUPTED,
    OPEN,
    Ends,
    from_record,
    to_record,
    unstarted,
)
from gfopt.driver.loop.job import Job
from gfopt.driver.progress.interrupt import Interrupt
from gfopt.driver.progress.progress import ProgressLine
from gfopt.driver.result.endings import Status, ending_of
from gfopt.driver.result.history import History
from gfopt.driver.result.result import MOST_KEPT, Result
from gfopt.protocol import as_method
from gfopt.types import PyTree

if TYPE_CHECKING:
    from gfopt.driver.replay.log_writer import LogWriter

BARREN = 10  # generations in a row without one valid value after which it gives up,
LEAST_BARREN = 40  # but not before so many evaluations: some methods make one a step

Callback = Callable[[Result], object]


class Loop:
    """One search: its engine, its records, and when it ends.

    Args:
        job: what is searched, and how.
        checkpoint: the file of the run, or None.
        log: is told the records of complete generations, or None.
        starts_feasible: whether the starting solution meets all constraints.
    """

    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint | None,
        log: LogWriter | None,
        starts_feasible: bool,
    ):
        self._began = time.monotonic()
        self._before = 0.0  # seconds of the sessions before this one
        self._job, self._setup = job, job.setup
        self._checkpoint, self._log = checkpoint, log
        self._starts_feasible = starts_feasible
        self._history = History(job.objective.sense)
        self._reason = "interrupted before it was known"
        self._keeps_x = trees.num_parameters(job.setup.x0) <= MOST_KEPT
        # whether the starting solution is like those that are searched
        is_for_tokens = registry.takes_tokens(job.setup.optimizer)
        self._evaluates_start = self._keeps_x and not is_for_tokens

    def run(
        self, ends: Ends, callbacks: tuple[Callback, ...], progress: bool
    ) -> Result:
        """Advances the search until something ends it."""
        saved = self._checkpoint
        if saved is not None and saved.finished is not None:
            with checks.whole_file("checkpoint", saved.path):
                asked = saved.finished, ends, self._setup, self._job.objective
                result = from_record(*asked)
            if result is not None:
                return result
        is_shown = progress and self._job.processes.is_first
        shown = ProgressLine(ends.most_evaluations) if is_shown else nullcontext()
        with Interrupt() as interrupt, shown as line:
            try:
                if saved is None or saved.snapshot is None:
                    interrupt.let_pass(at=1)  # nothing is lost yet
                self._engine = self._new_engine()
            except KeyboardInterrupt:
                seconds = self._seconds
                return unstarted(self._setup, self._reason, seconds, self._history)
            finally:
                interrupt.hold()
            with closing(self._engine):
                result = self._run(ends, callbacks, line, interrupt)
        if saved is not None and self._keeps_x and result.status not in OPEN:
            saved.finish(to_record(result, ends))
        return result

    def _new_engine(self) -> Engine:
        """Finds out which path runs, and returns its engine."""
        saved, job = self._checkpoint, self._job.closed()
        path = job.path(saved, self._evaluates_start)
        self._reason, first = path.reason, math.inf
        if path.fitness is not None:
            # only the value of a feasible solution counts
            first = path.fitness if self._starts_feasible else math.inf
            self._history.begin(first)
        first = first if math.isfinite(first) else math.inf
        engine = job.engine(path, first, self._keeps_x, saved)
        if engine.path == "host":
            self._setup = self._setup._replace(optimizer=self._setup.hosted)
        if path.fitness is not None and not math.isfinite(path.fitness):
            engine.failures.add(path.failure, path.traceback)
        if saved is not None and saved.snapshot is not None:
            with checks.whole_file("checkpoint", saved.path):
                self._restore(engine, saved)
        return engine

    def _begin(self, interrupt: Interrupt) -> None:
        """Evaluates the starting solution where the probe did not."""
        history = self._history
        is_known = history.first_value is not None or history.nit > 0
        if self._evaluates_start and not is_known:
            fitness = self._engine.begin(self._job.first_batch(), interrupt)
            if fitness is not None:
                history.begin(fitness)

    def _run(
        self,
        ends: Ends,
        callbacks: tuple[Callback, ...],
        line: ProgressLine | None,
        interrupt: Interrupt,
    ) -> Result:
        goal = -math.inf
        if ends.target is not None:
            goal = self._engine.rounded(self._job.objective.sense.fitness(ends.target))
        one_by_one = bool(callbacks) or not self._job.batches.is_empty
        limits = Limits(
            generations=1 if one_by_one else math.inf,
            evaluations=ends.most_evaluations,
            target=goal,
            deadline=self._began + ends.most_seconds - self._before,
            barren=0,
        )
        self._begin(interrupt)
        ending = self._ending(limits, interrupt)
        if self._checkpoint is not None and self._checkpoint.snapshot is None:
            self._save()  # what the start cost is not to be paid for again
        while ending is None:
            try:
                with jax.enable_x64(self._setup.x64):
                    batch = self._job.batches.at(self._history.nit)
            except StopIteration:
                ending = Status.BUDGET, "batches came to their end"
                break
            self._advance(limits, batch, interrupt)
            if self._log is not None:
                self._log.update(self._history.complete())
            self._show(line)
            is_called_off = _called(callbacks, self._result)
            ending = self._ending(limits, interrupt, is_called_off)
        self._show(line, is_last=True)
        self._save()
        return self._result(*ending)

    def _show(self, line: ProgressLine | None, is_last: bool = False) -> None:
        if line is not None:
            history = self._history
            line.update(history.nit, history.nfev, self._fun, is_last)

    def _advance(self, limits: Limits, batch: PyTree, interrupt: Interrupt) -> None:
        """Runs one or more generations."""
        engine, saved = self._engine, self._checkpoint
        left = limits.evaluations - self._history.nfev
        # no snapshot holds a generation that the budget cuts short: with a larger
        # budget the run resumes before it
        if saved is not None and (left < engine.size or saved.is_due):
            self._save()
        now = limits._replace(evaluations=left, barren=self._most_barren)
        columns = engine.advance(now, batch, interrupt)
        self._history.add(columns, not engine.is_open)

    def _ending(
        self, limits: Limits, interrupt: Interrupt, is_called_off: bool = False
    ) -> tuple[Status, str] | None:
        """Returns why the search ends and a message, None where it goes on."""
        engine, nfev = self._engine, self._history.nfev
        # however long the first program compiles, one evaluation is made
        is_late = time.monotonic() >= limits.deadline and nfev > 0
        wishes = is_late, is_called_off, interrupt.seen
        is_late, is_called_off, is_interrupted = self._job.processes.some(*wishes)
        if engine.best_fitness <= limits.target:
            return Status.TARGET, f"target reached: {self._fun:.10g}"
        if engine.num_barren >= self._most_barren:
            most = engine.failures.most_common(1)
            why = f"; most often: {most[0][0]}" if most else ""
            message = f"no valid value in {engine.num_barren} evaluations{why}"
            return Status.FAILED, message
        if reasons := engine.reasons:
            has_value = math.isfinite(engine.best_fitness)
            is_better = self._history.is_better(engine.best_fitness)
            return ending_of(engine.optimizer, reasons, has_value, is_better)
        if nfev >= limits.evaluations:
            return Status.BUDGET, f"budget of {limits.evaluations:.0f} evaluations used"
        if is_late:
            return Status.SECONDS, f"time is up after {self._seconds:.1f} s"
        if is_called_off:
            return Status.CALLBACK, "a callback ended the search"
        if is_interrupted and not engine.in_flight:
            return Status.INTERRUPTED, INTERRUPTED
        return None

    @property
    def _most_barren(self) -> int:
        if math.isfinite(self._engine.best_fitness):
            return 2**31 - 1  # what was valid once can be met again
        return max(LEAST_BARREN, BARREN * self._engine.size)

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    @property
    def _fun(self) -> float:
        return self._history.value(self._engine.best_fitness)

    def _result(
        self, status: Status = Status.RUNNING, message: str = "running"
    ) -> Result:
        engine, history = self._engine, self._history
        carry = engine.carry
        with jax.enable_x64(self._setup.x64):
            context = jax.tree.map(jnp.array, carry.context)  # the carry is donated
        return Result(
            x=jax.tree.map(np.array, carry.best_x) if self._keeps_x else None,
            fun=self._fun,
            recommended=engine.recommended(),
            success=status.is_success,
            status=status,
            message=message,
            nfev=history.nfev,
            nit=history.nit,
            failures=dict(engine.failures.most_common()),
            history=history.table(),
            state=jax.tree.map(np.asarray, carry.state),
            optimizer=engine.optimizer,
            path=engine.path,
            reason=self._reason,
            seconds=self._seconds,
            context=context,
            maximize=self._job.objective.sense.maximize,
        )

    def _save(self) -> None:
        """Writes a snapshot, unless a generation is open that it must not contain."""
        if self._checkpoint is None or self._history.is_open:
            return
        engine = self._engine
        meta = {
            "path": engine.path,
            "tier": as_method(engine.optimizer).tier,
            "counts": {str(tier): count for tier, count in engine.counts.items()},
            "reason": self._reason,
            "first": self._history.first_value,
            "seconds": self._seconds,
            "failures": dict(engine.failures),
        }
        snapshot = engine.carry._asdict()
        self._checkpoint.save(meta, snapshot, self._history.complete())

    def _restore(self, engine: Engine, saved: Checkpoint) -> None:
        meta = saved.meta
        if meta["tier"] != as_method(engine.optimizer).tier:
            engine.move(meta["tier"])
        with jax.enable_x64(self._setup.x64):
            carry = Carry(**saved.restored(engine.carry._asdict()))
            counts = {int(tier): n for tier, n in meta.get("counts", {}).items()}
            engine.restore(carry, counts, saved.history)
        engine.failures = Failures(meta["failures"])
        self._before = meta["seconds"]
        self._history.restore(saved.history)


def _called(callbacks: tuple[Callback, ...], result: Callable[[], Result]) -> bool:
    """Calls all callbacks; returns whether one of them ends the search."""
    if not callbacks:
        return False
    now, is_over = result(), False
    for callback in callbacks:
        try:
            is_over |= bool(callback(now))
        except StopIteration:
            is_over = True
    return is_over
