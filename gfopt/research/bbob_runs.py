"""BBOB runs in JAX: all instances of a batch in one compiled program.

Everything is computed in double precision. The program runs a hundred generations of
all instances; it is called until every run has hit the last target, has stopped by
itself or has used its budget. Every value counts, in the order of the rows; what a run
did beyond its end is cut off. Batches that differ in the function alone share the
program.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import trees
from gfopt.core.objective import Objective
from gfopt.driver.run import run
from gfopt.problems import BBOBProblem, bbob_batch
from gfopt.problems.bbob_suite import switch
from gfopt.protocol import Optimizer, as_method
from gfopt.research.finished_runs import Run, improvements
from gfopt.research.memory_use import PLANNED, planned
from gfopt.research.plan import Batch
from gfopt.research.programs import program
from gfopt.research.statistics import TARGETS
from gfopt.types import Evaluation, Key, State

GENERATIONS = 100  # in a call


def run_bbob(batch: Batch) -> list[Run]:
    """Runs a batch of one instance or more."""
    optimizer: Any = batch.optimizer
    problems = switch.uniform(
        bbob_batch(batch.function, batch.dimension, batch.instances)
    )
    starts = [batch.start(instance) for instance in batch.instances]
    with jax.enable_x64(True):
        began = time.perf_counter()
        keys = jax.vmap(jax.random.key)(np.array([seed for _, seed in starts]))
        x0 = np.stack([x0 for x0, _ in starts])
        states = _init(trees.node_types(optimizer), optimizer, keys, x0)
        function = np.int32(batch.function)
        size = _population_size(optimizer, states)
        # what every generation found, by generation and row
        context = np.int32(0), np.full((GENERATIONS, size), np.nan)
        fixed = optimizer, function, context, problems, keys
        call = program(_segment, *fixed, states, np.int32(0))
        compiled = time.perf_counter()
        log = _Log(batch, _reason_names(optimizer, states), size)
        step = 0
        while not log.is_finished:
            states, *records = call(*fixed, states, np.int32(step))
            log.append(*(np.array(array) for array in records))
            step += GENERATIONS
        ended = time.perf_counter()
    count, optima = len(batch.instances), np.asarray(problems.f_opt).tolist()
    found = log.runs((ended - compiled) / count, (compiled - began) / count, optima)
    memory = planned(call)
    share = None if memory is None else memory // count
    return [run._replace(memory=share, memory_kind=PLANNED) for run in found]


@functools.partial(jax.jit, static_argnames="types")
def _init(
    types: tuple[object, ...], optimizer: Optimizer, keys: Key, x0: jax.Array
) -> State:
    # the first half of the run's key, as the drivers split it
    return jax.vmap(lambda key, x: optimizer.init(jax.random.split(key)[0], x))(
        keys, x0
    )


@jax.jit
def _segment(
    optimizer: Optimizer,
    function: jax.Array,
    context: tuple[jax.Array, jax.Array],
    problems: BBOBProblem,
    keys: Key,
    states: State,
    step: jax.Array,
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    def one(
        problem: BBOBProblem, key: Key, state: State
    ) -> tuple[State, jax.Array, jax.Array, jax.Array]:
        result = run(
            optimizer,
            Objective(
                lambda x, context: switch.value(function, problem, x),
                context=context,
                update=_noted,
            ),
            problem.x_opt,  # for its shape only: the run goes on from the state
            key=key,
            generations=GENERATIONS,
            # one step counter for all, so that a method's schedule stays a branch
            state=state._replace(step=step),
            stop=lambda state, info: _reason(optimizer, state),
        )
        values = result.context[1] - problem.f_opt
        evaluations = jnp.diff(result.history["nfev"], prepend=0)
        return result.state, values, evaluations, result.stopped

    return jax.vmap(one)(problems, keys, states)


def _noted(
    context: tuple[jax.Array, jax.Array], evaluation: Evaluation
) -> tuple[jax.Array, jax.Array]:
    """Writes a generation's values into its row."""
    step, values = context
    fitness = jnp.where(evaluation.valid, evaluation.fitness, jnp.nan)
    return step + 1, values.at[step].set(fitness)


def _population_size(optimizer: Optimizer, states: State) -> int:
    ask = jax.vmap(lambda state: optimizer.ask(jax.random.key(0), state))
    return jax.eval_shape(ask, states).active.shape[1]


def _reason(optimizer: Optimizer, state: State) -> jax.Array:
    """Returns 1 + the number of the method's first reason to stop that holds, or 0."""
    code = jnp.int32(0)
    reasons = as_method(optimizer).stop(state)
    for number, name in reversed(list(enumerate(sorted(reasons), 1))):
        code = jnp.where(reasons[name], number, code)
    return code


def _reason_names(optimizer: Optimizer, states: State) -> list[str]:
    """Returns the names behind the codes of ``_reason``."""
    reasons = jax.eval_shape(
        jax.vmap(lambda state: as_method(optimizer).stop(state)), states
    )
    return sorted(reasons)


class _Log:
    """What the runs of a batch did, value by value, and which of them have ended."""

    def __init__(self, batch: Batch, reasons: list[str], size: int):
        count = len(batch.instances)
        self._batch, self._reasons, self._size = batch, reasons, size
        self._values = [np.empty(0)] * count
        self._status = [""] * count

    @property
    def is_finished(self) -> bool:
        """Whether every run has ended."""
        return all(self._status)

    def append(
        self, values: np.ndarray, evaluations: np.ndarray, codes: np.ndarray
    ) -> None:
        """Takes a segment.

        Args:
            values: ``[R, G, P]``, of which those of active rows count.
            evaluations: ``[R, G]``, the number of active rows, which stand first.
            codes: ``[R]``, of the methods' reasons to stop.
        """
        is_active = np.arange(values.shape[2]) < evaluations[..., None]
        for row, status in enumerate(self._status):
            if status:
                continue  # what goes on after the end is nobody's
            left = self._batch.budget - self._values[row].size
            segment = values[row][is_active[row]][:left]
            hits = np.flatnonzero(segment <= TARGETS[-1])
            if hits.size:
                segment = segment[: hits[0] + 1]
            self._values[row] = np.append(self._values[row], segment)
            if hits.size:
                self._status[row] = "target"
            elif segment.size == left:
                self._status[row] = "budget"
            elif codes[row]:
                self._status[row] = self._reasons[codes[row] - 1]
            elif not segment.size:  # it asks for nothing, and would for ever
                self._status[row] = "stalled"

    def runs(
        self, seconds: float, compile_seconds: float, optima: Sequence[float]
    ) -> list[Run]:
        """Returns the runs, each with its share of the times, and its ``f_opt``."""
        return [
            Run(
                key=self._batch.key(instance),
                options=self._batch.options,
                evaluations=values.size,
                status=status,
                seconds=seconds,
                compile_seconds=compile_seconds,
                trajectory=improvements(np.arange(1, values.size + 1), values),
                tuning=self._batch.tuning,
                population_size=self._size,
                optimum=optimum,
                failures=int(np.isnan(values).sum()),
            )
            for instance, values, status, optimum in zip(
                self._batch.instances, self._values, self._status, optima, strict=True
            )
        ]
