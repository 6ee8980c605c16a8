"""A search with a JAX objective: many generations in one compiled call."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from gfopt.core import trees
from gfopt.core.evaluate import Evaluator, best_row, default_evaluator, member_size
from gfopt.core.host.failures import Failures
from gfopt.core.objective import Inputs, Objective
from gfopt.core.processes import Processes
from gfopt.driver import step as steps
from gfopt.driver.engine.engine import Carry, Limits, reasons_that_hold
from gfopt.driver.engine.host_search import recommend
from gfopt.driver.engine.tiers import at_tier
from gfopt.driver.progress.interrupt import Interrupt
from gfopt.driver.result.history import Columns
from gfopt.driver.setup.setup import Setup
from gfopt.lazy import lazy
from gfopt.protocol import Optimizer, as_method, diagnostics
from gfopt.types import PyTree, Solution, State

ROWS = 256  # generations that one call can record
CALL_SECONDS = 0.25  # that a call should last: limits are looked at between
_MOST = 2**31 - 1  # what an i32 counts to


class _Limits(NamedTuple):
    """``Limits`` as arguments of the program, without what a clock decides."""

    generations: ArrayLike
    evaluations: ArrayLike
    target: ArrayLike
    barren: ArrayLike


class _Next(NamedTuple):
    """What the next generation needs.

    Attributes:
        evaluations: ``i32[]``, its active rows.
        tier: ``i32[]``, the tier of rows that it asks for; None without tiers.
    """

    evaluations: jax.Array
    tier: jax.Array | None


# carry, records so far, how many they are, evaluations that are left
Loop: TypeAlias = tuple[Carry, steps.StepRecord, jax.Array, jax.Array]


@jax.jit
def _next(optimizer: Optimizer, state: State) -> _Next:
    return _Next(
        steps.num_active(optimizer, state), as_method(optimizer).wanted_tier(state)
    )


@partial(jax.jit, static_argnames="types")
def _start(
    types: tuple[object, ...],
    optimizer: Optimizer,
    key_data: jax.Array,
    x0: Solution,
    context: PyTree,
    best_fitness: jax.Array,
    best_x: Solution,
) -> Carry:
    state = optimizer.init(steps.wrapped(key_data), x0)
    return Carry(state, context, best_fitness, best_x, jnp.int32(0))


@partial(jax.jit, donate_argnames="carry")
def _advance(
    optimizer: Optimizer,
    objective: Objective,
    evaluator: Evaluator,
    key_data: jax.Array,
    carry: Carry,
    inputs: Inputs,
    limits: _Limits,
) -> tuple[Carry, jax.Array, steps.StepRecord, dict[str, jax.Array], _Next]:
    """Runs generations until a limit is met, at least one.

    Returns:
        ``(carry, number of generations run, their records [ROWS], stop reasons, what
        the next generation needs)``.
    """
    run_key = steps.wrapped(key_data)

    def one(carry: Carry, evaluations: jax.Array) -> tuple[Carry, steps.StepRecord]:
        keys = steps.step_keys(run_key, carry.state.step)
        state, context, row, population, evaluation = steps.generation(
            optimizer,
            objective,
            evaluator,
            keys,
            carry.state,
            inputs._replace(context=carry.context),
            evaluations,
        )
        index, fitness = best_row(evaluation)
        fitness = fitness.astype(carry.best_fitness.dtype)
        best_x = carry.best_x
        if jax.tree.leaves(best_x):
            member = jax.tree.map(lambda leaf: leaf[index], population.members)
            best_x = lax.cond(
                fitness < carry.best_fitness,
                lambda: lazy.materialise(optimizer.decode(carry.state, member)),
                lambda: carry.best_x,
            )
        failed = carry.num_barren + row.num_evaluations
        barren = jnp.where(row.num_valid > 0, 0, failed)
        best = jnp.minimum(fitness, carry.best_fitness)
        return Carry(state, context, best, best_x, barren), row

    shapes = jax.eval_shape(one, carry, limits.evaluations)[1]
    table = jax.tree.map(
        lambda leaf: jnp.zeros((ROWS, *leaf.shape), leaf.dtype), shapes
    )

    def unfinished(loop: Loop) -> jax.Array:
        carry, _, count, evaluations = loop
        needed = _next(optimizer, carry.state)
        met = (count >= limits.generations) | (evaluations < needed.evaluations)
        met |= carry.best_fitness <= limits.target
        if needed.tier is not None:
            met |= needed.tier != as_method(optimizer).tier
        met |= carry.num_barren >= limits.barren
        for holds in as_method(optimizer).stop(carry.state).values():
            met |= holds
        return ~met | (count == 0)

    def body(loop: Loop) -> Loop:
        carry, table, count, evaluations = loop
        carry, row = one(carry, evaluations)
        table = jax.tree.map(lambda whole, leaf: whole.at[count].set(leaf), table, row)
        return carry, table, count + 1, evaluations - row.num_evaluations

    first: Loop = (carry, table, jnp.int32(0), jnp.asarray(limits.evaluations))
    carry, table, count, _ = lax.while_loop(unfinished, body, first)
    state = carry.state
    return (
        carry,
        count,
        table,
        as_method(optimizer).stop(state),
        _next(optimizer, state),
    )


class CompiledEngine:
    """The state of a compiled search, and the call that advances it; an ``Engine``.

    Args:
        setup: method, starting solution and precision.
        objective: a traceable objective.
        inputs: what the objective needs beside the solution.
        evaluator: a traceable evaluator, or None to choose one by size.
        processes: that make the search.
        seed: of the run.
        first: fitness of the starting solution; infinity if it is not known.
        keep_x: whether the best solution is kept.
    """

    path = "compiled"
    counts: Mapping[int, int] = {}  # its programs are compiled from the start

    def __init__(
        self,
        setup: Setup,
        objective: Objective,
        inputs: Inputs,
        evaluator: Evaluator | None,
        processes: Processes,
        seed: int,
        first: float,
        keep_x: bool,
    ):
        self._setup, self._objective = setup, objective
        self._inputs, self.optimizer = inputs, setup.optimizer
        init_key, self._run_key = steps.seed_keys(seed)
        self.failures, self.reasons = Failures(), list[str]()
        self.size, self.is_open = 0, False
        self._pace, self._processes = _Pace(), processes
        with self._precision():
            x0 = jax.tree.map(jnp.array, setup.x0)  # a copy: the carry is donated
            self.carry = _start(
                trees.node_types(setup.optimizer),
                setup.optimizer,
                init_key,
                x0,
                objective.context,
                np.asarray(first, np.float64),
                x0 if keep_x else (),
            )
            self._asked_evaluator = evaluator
            self._prepare(_next(self.optimizer, self.carry.state))

    def _prepare(self, needed: _Next) -> None:
        """Makes ready for the next generation, at the tier that it asks for."""
        if needed.tier is not None and int(needed.tier) != self._tier:
            self.move(int(needed.tier))
            needed = _next(self.optimizer, self.carry.state)
        self.size = int(needed.evaluations)
        self._evaluator = self._asked_evaluator or self._default_evaluator()

    def _default_evaluator(self) -> Evaluator:
        optimizer, state = self.optimizer, self.carry.state
        rows = steps.population_size(optimizer, state)
        size = member_size(optimizer, state, self._setup.x0, rows)
        return default_evaluator(size, rows, self.size)

    @property
    def _tier(self) -> int:
        return as_method(self.optimizer).tier

    def move(self, tier: int) -> None:
        """Moves the method to another tier of rows."""
        with self._precision():
            self.optimizer, state = at_tier(self.optimizer, self.carry.state, tier)
            state = jax.tree.map(jnp.asarray, state)
        self.carry = self.carry._replace(state=state)

    def _precision(self) -> AbstractContextManager[object]:
        return jax.enable_x64(self._setup.x64)

    @property
    def best_fitness(self) -> float:
        """The best so far, lower is better."""
        return float(self.carry.best_fitness)

    @property
    def num_barren(self) -> int:
        """Evaluations in the generations since the last valid one."""
        return int(self.carry.num_barren)

    def rounded(self, target: float) -> float:
        """Returns a target in the precision in which fitness is compared."""
        dtype = self.carry.best_fitness.dtype
        limit = float(np.finfo(dtype).max)
        return float(np.asarray(np.clip(target, -limit, limit), dtype))

    def recommended(self) -> Solution:
        """Returns the method's answer as NumPy arrays."""
        with self._precision():
            solution = recommend(self.optimizer, self.carry.state)
        return jax.tree.map(np.asarray, solution)

    @property
    def in_flight(self) -> int:
        """Nothing: a call of ``advance`` waits for what it has begun."""
        return 0

    def close(self) -> None:
        """Does nothing: there is nothing under way."""

    def begin(self, batch: PyTree, interrupt: Interrupt) -> None:
        """Does nothing: the probe has evaluated the starting solution."""

    def advance(self, limits: Limits, batch: PyTree, interrupt: Interrupt) -> Columns:
        """Runs generations in one call and returns their records as columns."""
        # whole generations first: one that is cut short is a call of its own, which
        # no snapshot follows, so that a longer run resumes before it
        self.is_open = limits.evaluations < self.size
        # and it is not told to the method: a few rows are not a generation
        before = jax.tree.map(np.array, self.carry.state) if self.is_open else None
        began = time.monotonic()
        pace = self._processes.first(self._pace.generations)
        generations = min(pace, limits.generations, ROWS)
        with self._precision():
            self.carry, count, table, reasons, needed = _advance(
                self.optimizer,
                self._objective,
                self._evaluator,
                self._run_key,
                self.carry,
                self._inputs._replace(batch=batch),
                _Limits(
                    np.int32(generations),
                    np.int32(min(limits.evaluations, _MOST)),
                    np.float64(limits.target),
                    np.int32(limits.barren),
                ),
            )
        columns = _columns(jax.device_get(table), int(count))
        failed = int((columns["num_evaluations"] - columns["num_valid"]).sum())
        if failed:
            self.failures["returned NaN or an infinity"] += failed
        if before is not None:
            self.carry = self.carry._replace(state=before)
            return columns
        self.reasons = reasons_that_hold(reasons)
        with self._precision():
            self._prepare(needed)
        self._pace.add(time.monotonic() - began, int(count), limits.deadline)
        return columns

    def restore(
        self, carry: Carry, counts: Mapping[int, int], history: Columns
    ) -> None:
        """Goes on from a snapshot; ``counts`` and ``history`` are for the host path."""
        with self._precision():
            self.carry = jax.tree.map(jnp.array, carry)
            reasons = as_method(self.optimizer).stop(self.carry.state)
            self._prepare(_next(self.optimizer, self.carry.state))
        self.reasons = reasons_that_hold(reasons)


class _Pace:
    """How many generations a call should run, from how long they take."""

    def __init__(self) -> None:
        self.generations, self._calls = 1, 0

    def add(self, seconds: float, count: int, deadline: float) -> None:
        """Takes in the time of a call; that of the first is mostly compilation."""
        self._calls += 1
        if self._calls == 1:
            return
        left = min(CALL_SECONDS, deadline - time.monotonic())
        fitting = max(1, int(left * count / max(seconds, 1e-9)))
        self.generations = min(2 * self.generations, fitting, ROWS)


def _columns(rows: steps.StepRecord, count: int) -> Columns:
    """Returns the first ``count`` records as named columns."""
    named = {
        "fitness": rows.best_fitness,
        "num_evaluations": rows.num_evaluations,
        "num_valid": rows.num_valid,
        **diagnostics(rows.info),
    }
    return {name: np.asarray(values)[:count] for name, values in named.items()}
