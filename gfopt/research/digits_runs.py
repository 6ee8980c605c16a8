"""Digits runs: a small network learns to read, and is tested as it goes.

A method sees mini-batches of the training images; every so often its recommendation,
not the best it has seen, is tried on the held-out ones. The runs of a batch use one
program, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax

from gfopt.core.objective import Objective
from gfopt.driver.run import run
from gfopt.driver.step import population_size
from gfopt.problems.classification import Classification, digits
from gfopt.problems.networks import mlp
from gfopt.protocol import Optimizer
from gfopt.research.finished_runs import Run
from gfopt.research.memory_use import PLANNED, planned
from gfopt.research.plan import DIGITS_SIZES, Batch
from gfopt.research.programs import program
from gfopt.types import Key, Solution, State

NUM_TESTS = 30  # of the held-out accuracy, evenly over a run


def run_digits(batch: Batch) -> Iterator[Run]:
    """Runs a batch; yields each run when it is done."""
    optimizer: Any = batch.optimizer
    for instance in batch.instances:
        # the start and the noise differ from run to run, and so does the split
        key = jax.random.fold_in(jax.random.key(batch.seed), instance)
        start_key, init_key, key = jax.random.split(key, 3)
        task, network = digits(instance), mlp(start_key, DIGITS_SIZES)
        state = optimizer.init(init_key, network)
        size = population_size(optimizer, state)
        generations = max(1, batch.budget // (size * NUM_TESTS))
        arguments = (optimizer, task, network, key)
        began = time.perf_counter()
        call = program(_segment, *arguments, state, generations=generations)
        compile_seconds = time.perf_counter() - began
        began, evaluations = time.perf_counter(), 0
        trajectory: list[tuple[int, float]] = []
        while not trajectory or evaluations + generations * size <= batch.budget:
            state, accuracy, count = call(*arguments, state)
            evaluations += int(count)
            trajectory.append((evaluations, round(1 - float(accuracy), 6)))
            if not count:  # it asks for nothing, and would for ever
                break
        yield Run(
            key=batch.key(instance),
            options=batch.options,
            evaluations=evaluations,
            status="budget" if count else "stalled",
            seconds=time.perf_counter() - began,
            compile_seconds=compile_seconds,
            trajectory=tuple(trajectory),
            tuning=batch.tuning,
            population_size=size,
            memory=planned(call),
            memory_kind=PLANNED,
        )


@partial(jax.jit, static_argnames="generations")
def _segment(
    optimizer: Optimizer,
    task: Classification,
    network: Solution,
    key: Key,
    state: State,
    generations: int,
) -> tuple[State, jax.Array, jax.Array]:
    result = run(
        optimizer,
        Objective(task),
        network,
        key=key,
        generations=generations,
        state=state,
        batches=task.batches,
    )
    count = result.history["nfev"][-1]
    return result.state, task.accuracy(result.recommended), count
