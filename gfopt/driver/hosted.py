"""A search with a Python objective: one generation at a time, value by value."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core.constraints import keeps
from gfopt.core.evaluate import judged
from gfopt.core.host.evaluator import HostEvaluator, HostValues, check_kind, spread
from gfopt.core.objective import Inputs, Objective
from gfopt.driver.failures import Failures
from gfopt.driver.progress import Interrupt
from gfopt.driver.search import Search
from gfopt.driver.setup import Setup
from gfopt.driver.step import keys_of_step
from gfopt.types import Optimizer, PyTree, Solution, State

#: ``(fitness, reason, aux)`` of a finished evaluation, lower is better.
Value = tuple[float, str, PyTree]
#: Called as ``(step, row, value)`` as soon as an evaluation is finished.
Journal = Callable[[int, int, Value], None]


OWN = ("fitness", "num_evaluations", "num_valid")  # columns that are not the method's
NOT_FINITE = ("returned NaN", "returned an infinity")


class _Enough(Exception):
    """Ends a generation: its target, its budget or its time is reached."""


class HostedSearch:
    """The state of a search whose objective is called on the host.

    Args:
        setup: method, starting solution and precision.
        objective: any Python callable.
        evaluator: makes the calls.
        inputs: what the objective needs beside the solution.
        seed: of the run.
        first: ``f(x0)``, lower is better; infinity if it is not known.
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
        self._setup, self._objective, self._seed = setup, objective, seed
        self._evaluator, self._inputs = evaluator, inputs
        self._keep_x, self._known, self._journal = keep_x, known, journal
        self._context = objective.context
        self._aux: PyTree = None  # of some valid row: what it looks like
        self._search = Search(setup.optimizer, setup.x0, seed, setup.x64)
        self._search.best_fitness = first
        self.failures = Failures()
        # whether a number ever came back: then anything else is a failure
        self._answers = np.isfinite(first)
        self.num_barren = 0
        self.is_open = False  # the last generation could not be completed

    @property
    def optimizer(self) -> Optimizer:
        """The method, at the tier that it asked for."""
        return self._search.optimizer

    @property
    def tier(self) -> int:
        """The tier of the method's rows."""
        return self._search.tier

    @property
    def size(self) -> int:
        """Evaluations of the open generation."""
        return self._search.active_rows.size

    @property
    def counts(self) -> dict[int, int]:
        """How many turns the search has made at each tier."""
        return self._search.counts

    def move(self, tier: int) -> None:
        """Moves the method to another tier of rows."""
        self._search.move(tier)

    @property
    def state(self) -> State:
        """The method's state."""
        return self._search.state

    @property
    def context(self) -> PyTree:
        """What the objective carries from step to step."""
        return self._context

    @property
    def best_fitness(self) -> float:
        """The best so far, lower is better."""
        return self._search.best_fitness

    @property
    def best_x(self) -> Solution:
        """The best solution so far as NumPy arrays; None where it is not kept."""
        return jax.tree.map(np.array, self._search.best_x) if self._keep_x else None

    @property
    def reasons(self) -> list[str]:
        """The method's own reasons to stop."""
        return self._search.stop_reasons()

    def rounded(self, target: float) -> float:
        """Returns a target in the precision in which the values are compared."""
        return target

    def recommended(self) -> Solution:
        """Returns the method's answer as NumPy arrays."""
        return self._search.recommended()

    def begin(self, batch: PyTree, interrupt: Interrupt) -> float | None:
        """Evaluates the starting solution, unless the first generation begins with it.

        Returns:
            Its value, lower is better, infinite where it failed or is not feasible;
            None where it was not evaluated, also because Ctrl-C came first.

        Raises:
            ValueError: the objective returns something else than a number.
        """
        if self._search.begins_at(self._setup.x0):
            return None
        found: list[float] = []

        def paid(_: int, fitness: float, reason: str, aux: PyTree) -> None:
            interrupt.hold()  # what was paid for is not lost to Ctrl-C
            self._check(reason)
            if reason:
                self.failures.add(reason)
            self._aux = aux
            found.append(fitness if keeps(aux) else np.inf)

        keys: np.ndarray | None = None
        if self._objective.takes_key:
            key = keys_of_step(self._seed, 0).evaluate
            keys = np.asarray(jax.random.key_data(key))[None]
        x0 = jax.tree.map(np.array, self._setup.x0)  # which may be written into
        try:
            self._call([x0], keys, batch, paid, interrupt)
        except KeyboardInterrupt:
            interrupt.take()
        finally:
            interrupt.hold()
        if not found:
            return None
        self._search.best_fitness = min(found[0], self._search.best_fitness)
        return found[0]

    def _check(self, reason: str) -> None:
        """Refuses a function that returns the wrong kind before any number."""
        if not self._answers:
            check_kind(reason)
        self._answers |= not reason or reason in NOT_FINITE

    def advance(
        self,
        evaluations: float,
        target: float,
        deadline: float,
        batch: PyTree,
        interrupt: Interrupt,
    ) -> dict[str, np.ndarray]:
        """Evaluates the open generation, tells it, and returns its record as columns.

        It stays open, and can be finished by a later call, where the target, the
        number of evaluations, the deadline or Ctrl-C ends it before all rows are done.
        """
        search, step = self._search, self._search.step
        rows = search.active_rows
        done: dict[int, Value] = {}

        def settle(row: int, value: Value) -> None:
            done[row] = value
            fitness, reason, aux = value
            if reason:
                self.failures.add(reason)
            if reason or not keeps(aux):
                fitness = np.inf
            if fitness < search.best_fitness:
                search.note(row, fitness, self._keep_x)
            if self._objective.batched:  # all of them are paid for already
                return
            if fitness <= target or len(done) >= evaluations:
                raise _Enough
            if time.monotonic() >= deadline:
                raise _Enough

        def paid(index: int, fitness: float, reason: str, aux: PyTree) -> None:
            interrupt.hold()  # what was paid for is not lost to Ctrl-C
            self._check(reason)
            value = (fitness, reason, aux)
            self._known[step, fresh[index]] = value
            if self._journal is not None:
                self._journal(step, fresh[index], value)
            settle(fresh[index], value)
            interrupt.let_pass()

        fresh: list[int] = []  # what is evaluated now
        try:
            for row in rows.tolist():
                if (step, row) in self._known:
                    settle(row, self._known[step, row])
                else:
                    fresh.append(row)
            fresh = fresh[: max(0, int(min(evaluations, rows.size)) - len(done))]
            if not self._answers and not self._objective.batched:
                # whether it returns numbers is seen before all are paid for
                rest, fresh = fresh[1:], fresh[:1]
                self._evaluate(fresh, batch, paid, interrupt)
                fresh = rest
            self._evaluate(fresh, batch, paid, interrupt)
        except _Enough:
            pass
        except KeyboardInterrupt:
            interrupt.take()
        finally:
            interrupt.hold()
        self.is_open = len(done) < rows.size
        if not self.is_open:
            self._tell(rows, done)
            for row in done:
                del self._known[step, row]
        return self._columns(done)

    def _evaluate(
        self,
        fresh: list[int],
        batch: PyTree,
        paid: Callable[..., None],
        interrupt: Interrupt,
    ) -> None:
        if not fresh:
            return
        search, keys = self._search, None
        if self._objective.takes_key:
            keys = search.evaluation_keys()[fresh]
        solutions = [search.solution(row) for row in fresh]
        self._call(solutions, keys, batch, paid, interrupt)

    def _call(
        self,
        solutions: list[Solution],
        keys: np.ndarray | None,
        batch: PyTree,
        paid: Callable[..., None],
        interrupt: Interrupt,
    ) -> None:
        inputs = self._inputs._replace(batch=batch, context=self._context)
        interrupt.let_pass()
        # in it runs what of JAX a function uses, if it is called here
        with self._search.precision():
            self._evaluator.values(self._objective, solutions, keys, inputs, paid)

    def _tell(self, rows: np.ndarray, done: dict[int, Value]) -> None:
        values = [done[row] for row in rows.tolist()]
        aux = [value[2] for value in values]
        self._aux = next((one for one in aux if one is not None), self._aux)
        if self._aux is not None and all(one is None for one in aux):
            aux[0] = jax.tree.map(np.zeros_like, self._aux)  # all of them failed
        found = HostValues(
            np.array([value[0] for value in values]),
            np.array([not value[1] for value in values]),
            aux,
            [value[1] for value in values],
        )
        told = spread(found, rows, self._search.rows)
        self.num_barren = 0 if found.valid.any() else self.num_barren + len(rows)
        self._update(*told)
        self._search.advance(*told)

    def _update(self, fitness: np.ndarray, valid: np.ndarray, aux: PyTree) -> None:
        search, update = self._search, self._objective.update
        if update is None or (self._objective.returns_pairs and self._aux is None):
            return  # or nothing came back yet: nobody knows what aux looks like
        with search.precision():
            active = jnp.asarray(search.population.active)
            told = jnp.asarray(fitness, search.dtype)
            evaluation = judged(told, active, aux, valid)
            self._context = update(self._context, evaluation)

    def _columns(self, done: dict[int, Value]) -> dict[str, np.ndarray]:
        if not done:
            return {}
        valid = [(fitness, aux) for fitness, reason, aux in done.values() if not reason]
        kept = [fitness for fitness, aux in valid if keeps(aux)]
        best = min(kept, default=np.nan)
        named: dict[str, Any] = {
            "fitness": -best if self._objective.maximize else best,
            "num_evaluations": len(done),
            "num_valid": len(valid),
            **self._search.info,
        }
        if self.is_open:  # a method's own count is of the generation before
            named["num_valid"] = len(valid)
        return {name: np.asarray([value]) for name, value in named.items()}

    def snapshot(self) -> PyTree:
        """Returns all that goes on, as a tree of arrays."""
        return {
            "state": self._search.state,
            "context": self._context,
            "best_fitness": np.asarray(self._search.best_fitness),
            "best_x": self._search.best_x if self._keep_x else (),
            "num_barren": np.asarray(self.num_barren),
        }

    def restore(
        self,
        snapshot: PyTree,
        counts: Mapping[int, int],
        history: Mapping[str, np.ndarray],
    ) -> None:
        """Goes on from a snapshot, after so many turns at each tier, and their history.

        A generation that stays open is recorded with the diagnostics of the last one.
        """
        setup, state = self._setup, snapshot["state"]
        search = Search(self.optimizer, setup.x0, self._seed, setup.x64, state, counts)
        search.best_fitness = float(snapshot["best_fitness"])
        if self._keep_x:
            search.best_x = snapshot["best_x"]
        search.info = {k: v[-1] for k, v in history.items() if k not in OWN and v.size}
        self._search, self._context = search, snapshot["context"]
        self.num_barren = int(snapshot["num_barren"])
