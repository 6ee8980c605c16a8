"""BBOB runs through the C code of ``coco-experiment``, logged for ``cocopp``.

The same problems, starts and settings as in ``bbob_runs``, but every candidate is
evaluated by COCO on the host, one after the other, and COCO's observer writes its
files. A run ends with the evaluation that hits the last target.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gfopt.driver.search import Search
from gfopt.problems.bbob_suite import bbob
from gfopt.research.bbob_runs import start_of
from gfopt.research.plan import Batch
from gfopt.research.results import Run, improvements
from gfopt.research.settings import optimizer_for
from gfopt.research.statistics import TARGETS


class CocoRunner:
    """COCO's suite and one observer for each method; a context manager.

    Args:
        directory: where the folder ``exdata`` with COCO's files will stand. A second
            session writes into a new folder beside that of the first.

    Raises:
        ImportError: without coco-experiment; it says what to install.
    """

    def __init__(self, directory: Path):
        try:
            import cocoex
        except ImportError:
            raise ImportError(
                "--evaluator coco needs coco-experiment: pip install 'gfopt[bench]'"
            ) from None
        self._cocoex = cocoex
        cocoex.log_level("warning")  # it would print into the progress bar
        self._exdata = (directory / "exdata").resolve()
        self._observers: dict[str, Any] = {}
        self._suites: dict[tuple[int, tuple[int, ...]], Any] = {}

    def run(self, batch: Batch) -> Iterator[Run]:
        """Runs a batch; yields each run when it is done."""
        for instance in batch.instances:
            problem = self._problem(batch, instance)
            try:
                yield _run_one(batch, instance, problem)
            finally:
                problem.free()  # which completes its files

    def close(self) -> None:
        """Completes the observers' files."""
        self._observers.clear()
        self._suites.clear()

    def __enter__(self) -> CocoRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _problem(self, batch: Batch, instance: int) -> Any:
        name = f"{batch.method}_{batch.budget // batch.dimension}D"
        if name not in self._observers:
            self._observers[name] = self._cocoex.Observer(
                "bbob",
                f'outer_folder: "{self._exdata}" result_folder: {name} '
                f"algorithm_name: gfopt_{name}",
            )
        place = (batch.dimension, (instance,))
        if place not in self._suites:
            self._suites[place] = self._cocoex.Suite(
                "bbob", f"instances: {instance}", f"dimensions: {batch.dimension}"
            )
        return self._suites[place].get_problem_by_function_dimension_instance(
            batch.function, batch.dimension, instance, self._observers[name]
        )


def _run_one(batch: Batch, instance: int, problem: Any) -> Run:
    x0, seed = start_of(batch, instance)
    optimizer = optimizer_for("bbob", batch.method, batch.dimension, batch.budget)
    f_opt = float(bbob(batch.function, batch.dimension, instance).f_opt)
    began = time.perf_counter()
    search = Search(optimizer, x0, seed, x64=True)
    compiled = time.perf_counter()
    values: list[float] = []
    status = ""
    while not status:
        fitness = np.full(search.size, np.inf)
        for row in search.active_rows:
            fitness[row] = problem(search.solution(row))
            values.append(fitness[row] - f_opt)
            if values[-1] <= TARGETS[-1] or len(values) >= batch.budget:
                status = "target" if values[-1] <= TARGETS[-1] else "budget"
                break
        else:
            search.advance(fitness, np.isfinite(fitness))
            status = ", ".join(search.stop_reasons())
    return Run(
        key=batch.key(instance),
        options=batch.options,
        evaluations=len(values),
        status=status,
        seconds=time.perf_counter() - compiled,
        compile_seconds=compiled - began,
        trajectory=improvements(np.arange(1, len(values) + 1), np.asarray(values)),
    )
