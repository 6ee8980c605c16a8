"""Many generations in one compiled call, with every limit inside the loop."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt.core import lazy
from gfopt.core.evaluate import Evaluator, best_row
from gfopt.core.objective import Inputs, Objective
from gfopt.driver import step as steps
from gfopt.driver.search import run_keys
from gfopt.optimizers.bounded import stop_reasons
from gfopt.types import Optimizer, PyTree, Solution, State

ROWS = 256  # generations that one call can record


class Carry(NamedTuple):
    """What goes on from call to call.

    Attributes:
        state: the method's state.
        context: the objective's context.
        best_fitness: the best so far, lower is better.
        best_x: its solution, or ``()`` where it is too large to copy.
        num_barren: generations in a row without one valid evaluation.
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
        barren: ``i32[]``, generations without a valid row after which to give up.
    """

    generations: jax.Array
    evaluations: jax.Array
    target: jax.Array
    barren: jax.Array


@jax.jit
def start(
    optimizer: Optimizer,
    key_data: jax.Array,
    x0: Solution,
    context: PyTree,
    best_fitness: jax.Array,
    best_x: Solution,
) -> Carry:
    """Makes the first carry."""
    state = optimizer.init(run_keys(key_data)[0], x0)
    return Carry(state, context, best_fitness, best_x, jnp.int32(0))


@partial(jax.jit, donate_argnames="carry")
def advance(
    optimizer: Optimizer,
    objective: Objective,
    evaluator: Evaluator,
    key_data: jax.Array,
    carry: Carry,
    frozen: PyTree,
    args: tuple[Any, ...],
    batch: PyTree,
    limits: Limits,
) -> tuple[Carry, jax.Array, steps.StepRecord, dict[str, jax.Array]]:
    """Runs generations until a limit is met.

    Returns:
        ``(carry, number of generations run, their records [ROWS], stop reasons)``.
    """
    run_key = run_keys(key_data)[1]

    def one(carry: Carry, evaluations: jax.Array) -> tuple[Carry, steps.StepRecord]:
        keys = steps.step_keys(run_key, carry.state.step)
        inputs = Inputs(frozen, args, batch, carry.context)
        state, context, row, population, evaluation = steps.generation(
            optimizer, objective, evaluator, keys, carry.state, inputs, evaluations
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
        barren = jnp.where(row.num_valid > 0, 0, carry.num_barren + 1)
        best = jnp.minimum(fitness, carry.best_fitness)
        return Carry(state, context, best, best_x, barren), row

    shapes = jax.eval_shape(one, carry, limits.evaluations)[1]
    rows = jax.tree.map(lambda leaf: jnp.zeros((ROWS, *leaf.shape), leaf.dtype), shapes)

    def unfinished(loop: tuple[Carry, Any, jax.Array, jax.Array]) -> jax.Array:
        carry, _, count, evaluations = loop
        met = (count >= limits.generations) | (evaluations <= 0)
        met |= carry.best_fitness <= limits.target
        met |= carry.num_barren >= limits.barren
        for holds in stop_reasons(optimizer, carry.state).values():
            met |= holds
        return ~met

    def body(loop: tuple[Carry, Any, jax.Array, jax.Array]) -> Any:
        carry, rows, count, evaluations = loop
        carry, row = one(carry, evaluations)
        rows = jax.tree.map(lambda whole, leaf: whole.at[count].set(leaf), rows, row)
        return carry, rows, count + 1, evaluations - row.num_evaluations

    first = (carry, rows, jnp.int32(0), limits.evaluations)
    carry, rows, count, _ = lax.while_loop(unfinished, body, first)
    return carry, count, rows, stop_reasons(optimizer, carry.state)


def columns(rows: steps.StepRecord, count: int) -> dict[str, np.ndarray]:
    """Returns the first ``count`` records as named columns."""
    fetched = jax.device_get(rows)
    info = fetched.info._asdict() if hasattr(fetched.info, "_asdict") else {}
    named = {
        "fitness": fetched.best_fitness,
        "num_evaluations": fetched.num_evaluations,
        "num_valid": fetched.num_valid,
        **info,
    }
    return {name: np.asarray(values)[:count] for name, values in named.items()}
