"""Atari runs: a network learns a game, and what the method recommends is tested.

A run ends with the first generation that reaches its number of frames. Now and then,
and at the end, the recommended network plays episodes that no method has seen; these
frames are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gfopt.driver.minimize import minimize
from gfopt.driver.result import Result
from gfopt.problems.atari import FRAMES_PER_STEP, GAMES, Atari
from gfopt.research.plan import ATARI_MAX_STEPS, Batch
from gfopt.research.results import Run
from gfopt.research.settings import optimizer_for

NUM_TESTS = 4  # evenly over a run, the last one at its end
NUM_EPISODES = 20  # of a test
_FIRST_TEST_SEED = 10**6


def run_atari(batch: Batch, workers: int | None = None) -> Iterator[Run]:
    """Runs a batch; yields each run when it is done.

    Args:
        batch: of one instance or more.
        workers: processes that play; None for this one.
    """
    network = batch.evaluator.removeprefix("ale-")
    task = Atari(GAMES[batch.function - 1], network, max_steps=ATARI_MAX_STEPS)
    optimizer = optimizer_for("atari", batch.method, batch.dimension, batch.budget)
    seeds = range(_FIRST_TEST_SEED, _FIRST_TEST_SEED + NUM_EPISODES)
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

        began = time.perf_counter()
        objective: Any = task.objective()
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
        )
