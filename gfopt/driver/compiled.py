"""A search with a JAX objective: many generations in one compiled call."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt.core import trees
from gfopt.core.evaluate import (
    Evaluator,
    best_row,
    default_evaluator,
    member_size,
)
from gfopt.core.objective import Inputs, Objective
from gfopt.driver import step as steps
from gfopt.driver.failures import Failures
from gfopt.driver.search import recommend
from gfopt.driver.setup import Setup
from gfopt.driver.tiers import at_tier
from gfopt.lazy import lazy
from gfopt.protocol import as_method, diagnostics
from gfopt.types import Optimizer, PyTree, Solution, State

ROWS = 256  # generations that one call can record
_MOST = 2**31 - 1  # what an i32 counts to


class Carry(NamedTuple):
    """What goes on from call to call.

    Attributes:
        state: the method's state.
        context: the objective's context.
        best_fitness: the best so far, lower is better.
        best_x: its solution, or ``()`` where it is too large to copy.
        num_barren: evaluations in the generations since the last valid one.
    """

    state: State
    context: PyTree
    best_fitness: jax.Array
    best_x: Solution
    num_barren: jax.Array


class Limits(NamedTuple):
    """Where a call must stop.

    Attributes:
        generations: ``i32[]``, at most ``ROWS``.
        evaluations: ``i32[]``, that may still be made.
        target: ``float[]``, in the internal sense; -inf for none.
        barren: ``i32[]``, evaluations without a valid one after which to give up.
    """

    generations: Any
    evaluations: Any
    target: Any
    barren: Any


class _Next(NamedTuple):
    """What the next generation needs.

    Attributes:
        evaluations: ``i32[]``, its active rows.
        tier: ``i32[]``, of rows, that it should have; None where there are no tiers.
    """

    evaluations: jax.Array
    tier: jax.Array | None


@jax.jit
def _next(optimizer: Optimizer, state: State) -> _Next:
    return _Next(
        steps.num_active(optimizer, state), as_method(optimizer).wanted_tier(state)
    )


@partial(jax.jit, static_argnames="types")
def _start(
    types: tuple[Any, ...],
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
    limits: Limits,
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

    def unfinished(loop: tuple[Carry, Any, jax.Array, jax.Array]) -> jax.Array:
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

    def body(loop: tuple[Carry, Any, jax.Array, jax.Array]) -> Any:
        carry, table, count, evaluations = loop
        carry, row = one(carry, evaluations)
        table = jax.tree.map(lambda whole, leaf: whole.at[count].set(leaf), table, row)
        return carry, table, count + 1, evaluations - row.num_evaluations

    first = (carry, table, jnp.int32(0), limits.evaluations)
    carry, table, count, _ = lax.while_loop(unfinished, body, first)
    state = carry.state
    return (
        carry,
        count,
        table,
        as_method(optimizer).stop(state),
        _next(optimizer, state),
    )


class CompiledSearch:
    """The state of a compiled search and the call that advances it.

    Args:
        setup: method, starting solution and precision.
        objective: a traceable objective.
        evaluator: a traceable evaluator, or None to choose one by size.
        inputs: what the objective needs beside the solution.
        seed: of the run.
        first: ``f(x0)``, lower is better; infinity if it is not known.
        keep_x: whether the best solution is kept.
    """

    path = "compiled"
    counts: Mapping[int, int] = {}  # its programs are compiled from the start
    size: int  # evaluations of the next generation

    def __init__(
        self,
        setup: Setup,
        objective: Objective,
        inputs: Inputs,
        evaluator: Evaluator | None,
        seed: int,
        first: float,
        keep_x: bool,
    ):
        self._setup, self._objective = setup, objective
        self._inputs, self.optimizer = inputs, setup.optimizer
        init_key, self._run_key = steps.seed_keys(seed)
        self.failures = Failures()
        self.reasons: list[str] = []
        with self._precision():
            x0 = jax.tree.map(jnp.array, setup.x0)  # a copy: the carry is donated
            self._carry = _start(
                trees.node_types(setup.optimizer),
                setup.optimizer,
                init_key,
                x0,
                objective.context,
                np.asarray(first, np.float64),
                x0 if keep_x else (),
            )
            self._asked_evaluator = evaluator
            self._prepare(_next(self.optimizer, self._carry.state))

    def _prepare(self, needed: _Next) -> None:
        """Makes ready for the next generation, at the tier that it asks for."""
        if needed.tier is not None and int(needed.tier) != self.tier:
            self.move(int(needed.tier))
            needed = _next(self.optimizer, self._carry.state)
        self.size = int(needed.evaluations)
        self._evaluator = self._asked_evaluator or self._default_evaluator()

    def _default_evaluator(self) -> Evaluator:
        optimizer, state = self.optimizer, self._carry.state
        rows = steps.population_size(optimizer, state)
        size = member_size(optimizer, state, self._setup.x0, rows)
        return default_evaluator(size, rows, self.size)

    @property
    def tier(self) -> int:
        """The tier of the method's rows."""
        return as_method(self.optimizer).tier

    def move(self, tier: int) -> None:
        """Moves the method to another tier of rows."""
        with self._precision():
            self.optimizer, state = at_tier(self.optimizer, self._carry.state, tier)
            state = jax.tree.map(jnp.asarray, state)
        self._carry = self._carry._replace(state=state)

    def _precision(self) -> Any:
        return jax.enable_x64(self._setup.x64)

    @property
    def state(self) -> State:
        """The method's state."""
        return self._carry.state

    @property
    def context(self) -> PyTree:
        """What the objective carries from step to step."""
        return self._carry.context

    @property
    def best_fitness(self) -> float:
        """The best so far, lower is better."""
        return float(self._carry.best_fitness)

    @property
    def best_x(self) -> Solution:
        """The best solution so far as NumPy arrays; None where it is not kept."""
        if not jax.tree.leaves(self._carry.best_x):
            return None
        return jax.tree.map(np.array, self._carry.best_x)

    @property
    def num_barren(self) -> int:
        """Evaluations in the generations since the last valid one."""
        return int(self._carry.num_barren)

    def rounded(self, target: float) -> float:
        """Returns a target in the precision in which the values are compared."""
        dtype = self._carry.best_fitness.dtype
        limit = float(np.finfo(dtype).max)
        return float(np.asarray(np.clip(target, -limit, limit), dtype))

    def recommended(self) -> Solution:
        """Returns the method's answer as NumPy arrays."""
        with self._precision():
            found = recommend(self.optimizer, self._carry.state)
        return jax.tree.map(np.asarray, found)

    def advance(
        self,
        generations: int,
        evaluations: float,
        target: float,
        barren: int,
        batch: PyTree,
    ) -> dict[str, np.ndarray]:
        """Runs up to ``generations`` and returns their records as columns."""
        # whole generations first: one that is cut short is a call of its own, which
        # no snapshot follows, so that a longer run goes on from before it
        is_cut = evaluations < self.size
        # and which is not told: few values are a bad generation
        before = jax.tree.map(np.array, self._carry.state) if is_cut else None
        with self._precision():
            limits = Limits(
                np.int32(min(generations, ROWS)),
                np.int32(min(evaluations, _MOST)),
                np.float64(target),
                np.int32(barren),
            )
            self._carry, count, table, reasons, needed = _advance(
                self.optimizer,
                self._objective,
                self._evaluator,
                self._run_key,
                self._carry,
                self._inputs._replace(batch=batch),
                limits,
            )
        columns = _columns(jax.device_get(table), int(count))
        failed = int((columns["num_evaluations"] - columns["num_valid"]).sum())
        if failed:
            self.failures["returned NaN or an infinity"] += failed
        if before is not None:
            self._carry = self._carry._replace(state=before)
            return columns
        self.reasons = [name for name, holds in reasons.items() if bool(holds)]
        with self._precision():
            self._prepare(needed)
        return columns

    def snapshot(self) -> PyTree:
        """Returns all that goes on, as a tree of arrays."""
        return self._carry._asdict()

    def restore(
        self,
        snapshot: PyTree,
        counts: Mapping[int, int],
        history: Mapping[str, np.ndarray],
    ) -> None:
        """Goes on from a snapshot; what else is given is for the host path."""
        del counts, history
        with self._precision():
            self._carry = Carry(**jax.tree.map(jnp.array, snapshot))
            found = as_method(self.optimizer).stop(self._carry.state)
            self._prepare(_next(self.optimizer, self._carry.state))
        self.reasons = [name for name, holds in found.items() if bool(holds)]


def _columns(rows: steps.StepRecord, count: int) -> dict[str, np.ndarray]:
    """Returns the first ``count`` records as named columns."""
    named = {
        "fitness": rows.best_fitness,
        "num_evaluations": rows.num_evaluations,
        "num_valid": rows.num_valid,
        **diagnostics(rows.info),
    }
    return {name: np.asarray(values)[:count] for name, values in named.items()}
