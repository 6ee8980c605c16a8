"""Atari runs: a network learns a game, and what the method recommends is tested.

A run ends with the first generation that reaches its number of frames. Now and then,
and at the end, the recommended network plays episodes of its own, whose frames are not
counted. The tiny network plays for minutes: 200 steps, always the same beginning, one
episode for a test, since nothing is random. The papers' networks play as in the papers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gfopt.driver.minimize import minimize
from gfopt.driver.result.result import Result
from gfopt.problems.environments.atari import Atari
from gfopt.problems.environments.atari_emulator import FRAMES_PER_STEP
from gfopt.research.finished_runs import Run
from gfopt.research.host_runs import rows_of
from gfopt.research.memory_use import RESIDENT, ResidentMemory
from gfopt.research.plan import Batch

NUM_TESTS = 5  # evenly over a run, the last one at its end
_FIRST_TEST_SEED = 10**6


class Protocol(NamedTuple):
    """How a network plays; see ``Atari``. A test has ``num_test_episodes``."""

    max_steps: int
    num_no_ops: int
    num_test_episodes: int


SHORT = Protocol(max_steps=200, num_no_ops=1, num_test_episodes=1)
LONG = Protocol(max_steps=5000, num_no_ops=30, num_test_episodes=200)


def run_atari(batch: Batch, workers: int | None = None) -> Iterator[Run]:
    """Runs a batch; yields each run when it is done.

    Args:
        batch: of one instance or more.
        workers: processes that play; None for this one.
    """
    network = batch.evaluator.removeprefix("ale-")
    protocol = SHORT if network == "tiny" else LONG
    task = Atari(
        batch.problem,
        network,
        max_steps=protocol.max_steps,
        num_no_ops=protocol.num_no_ops,
    )
    optimizer: Any = batch.optimizer
    seeds = range(_FIRST_TEST_SEED, _FIRST_TEST_SEED + protocol.num_test_episodes)
    for instance in batch.instances:
        key = jax.random.fold_in(jax.random.key(batch.seed), instance)
        trajectory: list[tuple[int, float]] = []

        def look(
            result: Result, trajectory: list[tuple[int, float]] = trajectory
        ) -> bool:
            frames = int(result.context.num_steps) * FRAMES_PER_STEP
            if frames * NUM_TESTS >= (len(trajectory) + 1) * batch.budget:
                scores = task.returns(seeds, result.recommended)
                trajectory.append((frames, -round(float(scores.mean()), 4)))
            return frames >= batch.budget

        began, memory = time.perf_counter(), ResidentMemory()
        objective = task.objective()
        result = minimize(
            objective,
            task.init(key),
            method=optimizer,
            budget=batch.budget,
            seed=int(np.asarray(jax.random.key_data(key))[-1]),
            workers=workers,
            callbacks=look,
        )
        yield Run(
            key=batch.key(instance),
            options=batch.options,
            evaluations=result.nfev,
            status="budget",
            seconds=time.perf_counter() - began,
            compile_seconds=0.0,
            trajectory=tuple(trajectory),
            tuning=batch.tuning,
            population_size=rows_of(result),
            failures=sum(result.failures.values()),
            # processes of their own play in memory of their own
            memory=memory.peak() if workers in (None, 1) else None,
            memory_kind=RESIDENT,
        )
