"""The runs of a sweep in a results file, from which an interrupted one goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gfopt.problems.problem import Problem
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.results import ResultStore
from gfopt.research.settings import described

SUITE = "sweep"


class Found(NamedTuple):
    """What is known already: ``float64[C, S]`` values, and ``bool[C, S]`` of which."""

    values: np.ndarray
    is_there: np.ndarray


class KeptSweep:
    """Runs that are kept in a directory, or, without one, not at all.

    A run is found by its problem's name, its setting, its budget, and the sweep's and
    its own seed. The file is that of ``gfopt bench``: a setting stands in place of a
    method, and of the trajectory the best value alone.

    Args:
        out: the directory, or None.
        seed: of the sweep.
    """

    def __init__(self, out: str | os.PathLike[str] | None, seed: int):
        self._seed = seed
        self._store = None if out is None else ResultStore(out, create=True)
        self._runs: dict[RunKey, Run] = {}
        self._noted: list[Run] = []
        self._has_session = False

    def __enter__(self) -> KeptSweep:
        if self._store is not None:
            self._store.claim()
            self._runs = {run.key: run for run in self._store.runs()}
        return self

    def __exit__(self, *_: object) -> None:
        if self._store is not None:
            self._store.close()

    def read(
        self, problem: Problem, settings: Sequence[Mapping[str, object]], seeds: int
    ) -> Found:
        """Returns what is known of settings with seeds from 0 on."""
        values = np.full((len(settings), seeds), np.nan)
        is_there = np.zeros(values.shape, bool)
        for place, setting in enumerate(settings if self._runs else ()):
            for number in range(seeds):
                run = self._runs.get(self._key(problem, setting, number))
                if run is not None:
                    is_there[place, number] = True
                    values[place, number] = run.value if run.trajectory else np.nan
        return Found(values, is_there)

    def add(
        self,
        problem: Problem,
        setting: Mapping[str, object],
        numbers: np.ndarray,
        values: np.ndarray,
        *,
        evaluations: int,
        seconds: float,
    ) -> None:
        """Notes runs of a setting, one for each seed; NaN is no value."""
        if self._store is None:
            return
        self._noted += [
            Run(
                key=self._key(problem, setting, int(number)),
                options=described(setting),
                evaluations=evaluations,
                status="budget",
                seconds=seconds,
                compile_seconds=0.0,
                trajectory=((evaluations, float(v)),) if np.isfinite(v) else (),
            )
            for number, v in zip(numbers, values, strict=True)
        ]

    def write(self) -> None:
        """Writes what was noted, all of it or nothing."""
        if self._store is None or not self._noted:
            return
        if not self._has_session:
            self._store.start_session("gfopt.sweep")
            self._has_session = True
        self._store.add(self._noted)
        self._noted = []

    def _key(
        self, problem: Problem, setting: Mapping[str, object], number: int
    ) -> RunKey:
        rest = described({k: v for k, v in setting.items() if k != "budget"})
        text = json.dumps(rest, sort_keys=True)
        if " at 0x" in text:
            raise ValueError(
                f"grid must hold values that are written the same way in the next "
                f"process, such as numbers and texts, to be kept; got {text}"
            )
        return RunKey(
            suite=SUITE,
            problem=problem.name,
            dimension=problem.dimension,
            instance=number,
            method=text,
            budget=int(setting["budget"]),  # type: ignore[call-overload]
            seed=self._seed,
            evaluator="jax",
        )
