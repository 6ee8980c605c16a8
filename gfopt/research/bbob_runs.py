"""BBOB runs in JAX: all instances of a batch in one compiled program.

Everything is computed in double precision. The program runs a hundred generations of
all instances; it is called until every run has hit the last target, has stopped by
itself or has used its budget. What a run did beyond its end is cut off. Batches that
differ in the function alone share the program.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import trees
from gfopt.core.objective import Objective
from gfopt.driver.run import run
from gfopt.problems import bbob_switch
from gfopt.problems.bbob_suite import BBOBProblem, bbob_batch
from gfopt.protocol import as_method
from gfopt.research.finished_runs import Run, improvements
from gfopt.research.plan import Batch
from gfopt.research.settings import optimizer_for
from gfopt.research.statistics import TARGETS
from gfopt.types import Key, Optimizer, State

GENERATIONS = 100  # in a call


def start_of(batch: Batch, instance: int) -> tuple[np.ndarray, int]:
    """Draws where and with which seed a run starts.

    Args:
        batch: its method does not matter: all start at the same point.
        instance: of the function.

    Returns:
        ``(x0 [D], seed)``, x0 uniform in [-4, 4]^D.
    """
    numbers = (batch.seed, batch.function, batch.dimension, instance)
    rng = np.random.default_rng(numbers)
    return rng.uniform(-4, 4, batch.dimension), int(rng.integers(2**31))


def run_bbob(batch: Batch) -> list[Run]:
    """Runs a batch of one instance or more."""
    optimizer = optimizer_for("bbob", batch.method, batch.dimension, batch.budget)
    problems = bbob_switch.uniform(
        bbob_batch(batch.function, batch.dimension, batch.instances)
    )
    starts = [start_of(batch, instance) for instance in batch.instances]
    with jax.enable_x64(True):
        began = time.perf_counter()
        keys = jax.vmap(jax.random.key)(np.array([seed for _, seed in starts]))
        x0 = np.stack([x0 for x0, _ in starts])
        states = _init(trees.node_types(optimizer), optimizer, keys, x0)
        function = np.int32(batch.function)
        call = _compiled(optimizer, function, problems, keys, states, np.int32(0))
        compiled = time.perf_counter()
        log = _Log(batch, _reason_names(optimizer, states))
        step = 0
        while not log.is_finished:
            states, *found = call(
                optimizer, function, problems, keys, states, np.int32(step)
            )
            log.append(*(np.array(array) for array in found))
            step += GENERATIONS
        ended = time.perf_counter()
    count = len(batch.instances)
    return log.runs((ended - compiled) / count, (compiled - began) / count)


@functools.partial(jax.jit, static_argnames="types")
def _init(
    types: tuple[Any, ...], optimizer: Optimizer, keys: Key, x0: jax.Array
) -> State:
    # the first half of the run's key, as the drivers split it
    return jax.vmap(lambda key, x: optimizer.init(jax.random.split(key)[0], x))(
        keys, x0
    )


def _compiled(*arguments: Any) -> jax.stages.Compiled:
    """Returns the program of ``_segment`` for arguments of these types."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda *a: a, *arguments))
    return _compiled_for(structure, tuple(leaves))


@functools.lru_cache(maxsize=32)
def _compiled_for(
    structure: jax.tree_util.PyTreeDef, leaves: tuple[jax.ShapeDtypeStruct, ...]
) -> jax.stages.Compiled:
    return _segment.lower(*jax.tree.unflatten(structure, leaves)).compile()


@jax.jit
def _segment(
    optimizer: Optimizer,
    function: jax.Array,
    problems: BBOBProblem,
    keys: Key,
    states: State,
    step: jax.Array,
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    def one(problem: BBOBProblem, key: Key, state: State) -> Any:
        result = run(
            optimizer,
            Objective(lambda x: bbob_switch.value(function, problem, x)),
            problem.x_opt,  # for its shape only: the run goes on from the state
            key=key,
            generations=GENERATIONS,
            # one step counter for all, so that a method's schedule stays a branch
            state=state._replace(step=step),
            stop=lambda state, info: _reason(optimizer, state),
        )
        fitness, evaluations = result.history[:2]
        return result.state, fitness - problem.f_opt, evaluations, result.status

    return jax.vmap(one)(problems, keys, states)


def _reason(optimizer: Optimizer, state: State) -> jax.Array:
    """Returns 1 + the number of the method's first reason to stop that holds, or 0."""
    code = jnp.int32(0)
    reasons = as_method(optimizer).stop(state)
    for number, name in reversed(list(enumerate(sorted(reasons), 1))):
        code = jnp.where(reasons[name], number, code)
    return code


def _reason_names(optimizer: Optimizer, states: State) -> list[str]:
    """Returns the names behind the codes of ``_reason``."""
    found = jax.eval_shape(
        jax.vmap(lambda state: as_method(optimizer).stop(state)), states
    )
    return sorted(found)


class _Log:
    """What the runs of a batch did, and which of them have ended."""

    def __init__(self, batch: Batch, reasons: list[str]):
        count = len(batch.instances)
        self._batch = batch
        self._reasons = reasons
        self._values: list[np.ndarray] = []
        self._evaluations: list[np.ndarray] = []
        self._used = np.zeros(count, int)
        self._status = [""] * count

    @property
    def is_finished(self) -> bool:
        """Whether every run has ended."""
        return all(self._status)

    def append(
        self, values: np.ndarray, evaluations: np.ndarray, codes: np.ndarray
    ) -> None:
        """Takes a segment: ``[R, G]`` values and evaluations, ``[R]`` stop codes."""
        for row, status in enumerate(self._status):
            counts = self._used[row] + np.cumsum(evaluations[row])
            # what goes on after the end is nobody's; the first generation always counts
            over = (counts > self._batch.budget) & (counts > evaluations[row][0])
            cut = over | (evaluations[row] == 0) | bool(status)
            hits = (values[row] <= TARGETS[-1]) & ~cut
            if hits.any():
                cut[np.argmax(hits) + 1 :] = True
            if not status:
                is_over = over.any() or counts[-1] >= self._batch.budget
                status = self._ending(hits.any(), is_over, codes[row])
                # what asks for nothing, and does not say why, would never end
                is_stalled = not evaluations[row].any()
                self._status[row] = status or ("stalled" if is_stalled else "")
            values[row, cut], evaluations[row, cut] = np.nan, 0
            self._used[row] += evaluations[row].sum()
        self._values.append(values)
        self._evaluations.append(evaluations)

    def _ending(self, is_hit: bool, is_over: bool, code: int) -> str:
        if is_hit:
            return "target"
        if is_over:
            return "budget"
        return self._reasons[code - 1] if code else ""

    def runs(self, seconds: float, compile_seconds: float) -> list[Run]:
        """Returns the runs, each with its share of the times."""
        values = np.concatenate(self._values, axis=1)
        counts = np.cumsum(np.concatenate(self._evaluations, axis=1), axis=1)
        return [
            Run(
                key=self._batch.key(instance),
                options=self._batch.options,
                evaluations=int(self._used[row]),
                status=self._status[row],
                seconds=seconds,
                compile_seconds=compile_seconds,
                trajectory=improvements(counts[row], values[row]),
            )
            for row, instance in enumerate(self._batch.instances)
        ]
