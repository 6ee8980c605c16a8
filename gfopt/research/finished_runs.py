"""A finished run: what it is found by, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class RunKey(NamedTuple):
    """What a run is found by.

    Attributes:
        suite: ``"bbob"``, ``"digits"``, ``"atari"``, or a name of the user's.
        problem: its name in the suite: ``"f8"``, a game, a problem of the user's.
        dimension: ``D``.
        instance: of the problem: its shift and rotation, the split of the data, the
            first network, the start.
        method: a registered name, or that of another competitor.
        budget: evaluations in all; of a game, frames.
        seed: of the start and of the method.
        evaluator: ``"jax"``, ``"coco"``, ``"ale-"`` and a network's name, or
            ``"python"``.
    """

    suite: str
    problem: str
    dimension: int
    instance: int
    method: str
    budget: int
    seed: int
    evaluator: str


class Run(NamedTuple):
    """A finished run.

    Attributes:
        key: what it is found by.
        options: the method's settings, as JSON holds them.
        evaluations: how many were made.
        status: why it ended: ``"target"``, ``"budget"`` or the method's own reason.
        seconds: wall time; the share of one run where a batch ran at once.
        compile_seconds: wall time of tracing and compiling, the same way.
        trajectory: pairs (evaluations, value). On functions the improvements of the
            best f - f_opt, or of f, evaluation by evaluation; on the digits the
            held-out error at regular intervals; of a game (frames, minus the score of
            the recommended network).
        tuning: how much tuning stands behind the settings.
        population_size: of the first step, where the method is one of ours.
        optimum: what is subtracted from the values of the trajectory; None where the
            optimum is not known.
        failures: evaluations that gave no value.
        memory: bytes at most, None where it is not known.
        memory_kind: ``"planned"`` by the compiler, the share of one run where a batch
            ran at once; or ``"resident"`` in the process that made the run, with all
            that Python, JAX and earlier runs had left there.
    """

    key: RunKey
    options: Mapping[str, object]
    evaluations: int
    status: str
    seconds: float
    compile_seconds: float
    trajectory: tuple[tuple[int, float], ...]
    tuning: str = ""
    population_size: int | None = None
    optimum: float | None = None
    failures: int = 0
    memory: int | None = None
    memory_kind: str = ""

    @property
    def value(self) -> float:
        """The last value of the trajectory; infinity if there is none."""
        return self.trajectory[-1][1] if self.trajectory else float("inf")


def improvements(
    evaluations: np.ndarray, values: np.ndarray
) -> tuple[tuple[int, float], ...]:
    """Returns where the best so far got better, with ten digits.

    Args:
        evaluations: ``[n]``, ascending.
        values: ``[n]``; NaN where nothing was valid.

    Example:
        >>> improvements(np.array([8, 16, 24]), np.array([5.0, 7.0, 0.25]))
        ((8, 5.0), (24, 0.25))
    """
    best = np.fmin.accumulate(np.where(np.isnan(values), np.inf, values))
    before = np.concatenate([[np.inf], best[:-1]])
    rows = np.flatnonzero(best < before)
    return tuple((int(evaluations[i]), float(f"{best[i]:.10g}")) for i in rows)
