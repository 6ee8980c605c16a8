"""A search with a Python objective: one generation at a time, value by value."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core.evaluate import judged
from gfopt.core.host.evaluator import HostEvaluator
from gfopt.core.host.failures import Failures
from gfopt.core.host.values import NOT_FINITE, Value, check_kind, evaluation_of
from gfopt.core.objective import Inputs, Objective
from gfopt.driver.engine.engine import Carry, Limits
from gfopt.driver.engine.host_search import HostSearch
from gfopt.driver.progress.interrupt import Interrupt
from gfopt.driver.result.history import Columns
from gfopt.driver.setup.setup import Setup
from gfopt.driver.step import keys_of_step
from gfopt.types import Evaluation, PyTree, Solution

#: Called as ``(step, row, value)`` as soon as an evaluation is finished.
Journal = Callable[[int, int, Value], None]

OWN = ("fitness", "num_evaluations", "num_valid")  # columns that are not the method's


class _Enough(Exception):
    """Ends a generation: its target, its budget or its time is reached."""


class HostEngine(HostSearch):
    """A search whose objective is called on the host; an ``Engine``.

    Args:
        setup: method, starting solution and precision.
        objective: any Python callable.
        inputs: what the objective needs beside the solution.
        evaluator: makes the calls.
        seed: of the run.
        first: fitness of the starting solution; infinity if it is not known.
        keep_x: whether the best solution is kept.
        known: values that are not to be paid for again, by step and row.
        journal: is told every new value.
    """

    path = "host"

    def __init__(
        self,
        setup: Setup,
        objective: Objective,
        inputs: Inputs,
        evaluator: HostEvaluator,
        seed: int,
        first: float,
        keep_x: bool,
        known: dict[tuple[int, int], Value],
        journal: Journal | None,
    ):
        super().__init__(setup.optimizer, setup.x0, seed, setup.x64)
        self.best_fitness = first
        self._x0, self._seed = setup.x0, seed
        self._objective, self._inputs = objective, inputs
        self._evaluator, self._keep_x = evaluator, keep_x
        self._known, self._journal = known, journal
        self._context = objective.context
        self._aux: PyTree = None  # of some valid row, for its form
        self.failures = Failures()
        # whether a number ever came back: then anything else is a failure
        self._answers = math.isfinite(first)
        self.num_barren = 0
        self.is_open = False
        self.prepare()

    def prepare(self) -> None:
        """Makes ready for the first call of ``advance``."""

    @property
    def carry(self) -> Carry:
        """All that goes on, as it is now."""
        return Carry(
            self.state,
            self._context,
            np.asarray(self.best_fitness),
            self.best_x if self._keep_x else (),
            np.asarray(self.num_barren),
        )

    def rounded(self, target: float) -> float:
        """Returns a target in the precision in which fitness is compared."""
        return target

    def begin(self, batch: PyTree, interrupt: Interrupt) -> float | None:
        """Evaluates the starting solution, unless the first generation begins with it.

        Returns:
            Its fitness, infinite where it failed or is not feasible;
            None where it was not evaluated, or Ctrl-C came first.

        Raises:
            ValueError: the objective returns something else than a number.
        """
        if self.begins_at(self._x0):
            return None
        values: list[Value] = []

        def settle(_: int, value: Value) -> None:
            interrupt.hold()  # what was paid for is not lost to Ctrl-C
            self._check(value)
            self._count(value)
            self._aux = value.aux
            values.append(value)

        keys: np.ndarray | None = None
        if self._objective.takes_key:
            key = keys_of_step(self._seed, 0).evaluate
            keys = np.asarray(jax.random.key_data(key))[None]
        x0 = jax.tree.map(np.array, self._x0)  # which may be written into
        try:
            self._call([x0], keys, batch, settle, interrupt)
        except KeyboardInterrupt:
            interrupt.take()
        finally:
            interrupt.hold()
        if not values:
            return None
        fitness = values[0].feasible_fitness
        self.best_fitness = min(fitness, self.best_fitness)
        return fitness

    @property
    def in_flight(self) -> int:
        """Nothing: a call of ``advance`` waits for what it has begun."""
        return 0

    def close(self) -> None:
        """Does nothing: there is nothing under way."""

    def _check(self, value: Value) -> None:
        """Refuses a function that returns the wrong kind before any number."""
        if not self._answers:
            check_kind(value.reason)
        self._answers |= not value.reason or value.reason in NOT_FINITE

    def _count(self, value: Value) -> None:
        if value.reason:
            self.failures.add(value.reason, value.traceback)

    def advance(self, limits: Limits, batch: PyTree, interrupt: Interrupt) -> Columns:
        """Evaluates the open generation, tells it, and returns its record as columns.

        It stays open, and can be finished by a later call, where the target, the
        number of evaluations, the deadline or Ctrl-C ends it before all rows are done.
        """
        step, rows = self.step, self.active_rows.tolist()
        done: dict[int, Value] = {}

        def settle(row: int, value: Value) -> None:
            self._count(value)
            done[row] = value
            fitness = value.feasible_fitness
            if fitness < self.best_fitness:
                self.remember(row, fitness, self._keep_x)
            if self._objective.batched:  # all of them are paid for already
                return
            if fitness <= limits.target or len(done) >= limits.evaluations:
                raise _Enough
            if time.monotonic() >= limits.deadline:
                raise _Enough

        def evaluate(missing: list[int]) -> None:
            def paid(index: int, value: Value) -> None:
                interrupt.hold()  # what was paid for is not lost to Ctrl-C
                self._check(value)
                row = missing[index]
                self._known[step, row] = value
                if self._journal is not None:
                    self._journal(step, row, value)
                settle(row, value)
                interrupt.let_pass()

            if not missing:
                return
            keys = None
            if self._objective.takes_key:
                keys = self.evaluation_keys(np.arange(self.rows))[missing]
            solutions = [self.solution(row) for row in missing]
            spare = self._evaluator.num_spare(len(rows))
            self._call(solutions, keys, batch, paid, interrupt, spare)

        try:
            for row in rows:
                if (step, row) in self._known:
                    settle(row, self._known[step, row])
            most = int(min(limits.evaluations, len(rows))) - len(done)
            missing = [row for row in rows if row not in done][: max(0, most)]
            if not self._answers and not self._objective.batched:
                # whether it returns numbers is seen before all are paid for
                evaluate(missing[:1])
                missing = missing[1:]
            evaluate(missing)
        except _Enough:
            pass
        except KeyboardInterrupt:
            interrupt.take()
        finally:
            interrupt.hold()
        self.is_open = len(done) < len(rows)
        if not self.is_open:
            self._close({row: done[row] for row in rows})
            for row in rows:
                del self._known[step, row]
        return self._columns(list(done.values()))

    def _call(
        self,
        solutions: list[Solution],
        keys: np.ndarray | None,
        batch: PyTree,
        paid: Callable[[int, Value], None],
        interrupt: Interrupt,
        num_spare: int = 0,
    ) -> None:
        inputs = self._inputs._replace(batch=batch, context=self._context)
        interrupt.let_pass()
        # in it runs what of JAX a function uses, if it is called here
        with self.precision():
            self._evaluator.values(
                self._objective, solutions, keys, inputs, paid, num_spare
            )

    def _close(self, values: dict[int, Value]) -> None:
        """Tells the generation."""
        known = (value.aux for value in values.values() if value.aux is not None)
        self._aux = next(known, self._aux)
        evaluation = evaluation_of(values, self.rows, self._aux)
        is_barren = all(value.reason for value in values.values())
        self.num_barren = self.num_barren + len(values) if is_barren else 0
        self._update(evaluation)
        self.tell(np.asarray(evaluation.fitness), evaluation.aux)

    def _update(self, evaluation: Evaluation) -> None:
        update = self._objective.update
        if update is None or (self._objective.returns_pairs and self._aux is None):
            return  # or no row has succeeded yet, so the form of aux is unknown
        fitness, valid, aux = evaluation
        with self.precision():
            active = jnp.asarray(self.population.active)
            fitness = jnp.asarray(fitness, self.dtype)
            self._context = update(self._context, judged(fitness, active, aux, valid))

    def _columns(self, values: list[Value]) -> Columns:
        if not values:
            return {}
        best = min(value.feasible_fitness for value in values)
        num_valid = sum(not value.reason for value in values)
        columns: dict[str, float | np.ndarray] = {
            "fitness": best if math.isfinite(best) else math.nan,
            "num_evaluations": len(values),
            "num_valid": num_valid,
            **self.info,
        }
        if self.is_open:  # a method's own count is of the generation before
            columns["num_valid"] = num_valid
        return {name: np.asarray([value]) for name, value in columns.items()}

    def restore(
        self, carry: Carry, counts: Mapping[int, int], history: Columns
    ) -> None:
        """Goes on from a snapshot, after so many turns at each tier, and their history.

        A generation that stays open is recorded with the diagnostics of the last one.
        """
        self.resume(carry.state, counts)
        self.best_fitness = float(carry.best_fitness)
        if self._keep_x:
            self.best_x = carry.best_x
        self.info = {k: v[-1] for k, v in history.items() if k not in OWN and v.size}
        self._context = carry.context
        self.num_barren = int(carry.num_barren)
