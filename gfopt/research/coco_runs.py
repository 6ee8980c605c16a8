"""BBOB runs through the C code of ``coco-experiment``, logged for ``cocopp``.

The same problems, starts and settings as in ``bbob_runs``, but every candidate is
evaluated by COCO on the host, one after the other, and COCO's observer writes its
files. A run ends with the evaluation that hits the last target.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from gfopt.driver.search import Search
from gfopt.problems.bbob_suite import bbob
from gfopt.research.bbob_runs import start_of
from gfopt.research.finished_runs import Run, improvements
from gfopt.research.plan import Batch
from gfopt.research.settings import optimizer_for
from gfopt.research.statistics import TARGETS
from gfopt.types import Optimizer

_FOLDER = "exdata"  # as in COCO's own examples
_UNFINISHED = ".unfinished"


def run_coco(batch: Batch, directory: Path) -> list[Run]:
    """Runs a batch of one instance or more.

    COCO's files of a finished batch stand in ``directory/exdata/<algorithm>``, which
    is what ``cocopp`` takes; those of an interrupted one are removed, so that no
    problem is in them twice.

    Args:
        batch: of BBOB, in a dimension that COCO has.
        directory: where the folder ``exdata`` stands or will stand.

    Raises:
        ImportError: without coco-experiment; it says what to install.
    """
    cocoex = _cocoex()
    algorithm = f"{batch.method}_{batch.budget // batch.dimension}D_seed{batch.seed}"
    exdata = (directory / _FOLDER).resolve()
    discard_unfinished(directory)
    suite = cocoex.Suite(
        "bbob",
        "instances: " + ",".join(map(str, batch.instances)),
        f"dimensions: {batch.dimension} function_indices: {batch.function}",
    )
    observer = cocoex.Observer(
        "bbob",
        f'outer_folder: "{exdata}" result_folder: {_UNFINISHED} '
        f"algorithm_name: gfopt_{algorithm}",
    )
    optimizer = optimizer_for("bbob", batch.method, batch.dimension, batch.budget)
    began = time.perf_counter()
    _compile(optimizer, start_of(batch, batch.instances[0])[0])
    compile_seconds = (time.perf_counter() - began) / len(batch.instances)
    try:
        runs = []
        for instance in batch.instances:
            place = (batch.function, batch.dimension, instance)
            problem = suite.get_problem_by_function_dimension_instance(*place, observer)
            try:
                run = _run_one(batch, instance, optimizer, problem)
            finally:
                problem.free()  # which completes its files
            runs.append(run._replace(compile_seconds=compile_seconds))
        # no two batches of an algorithm share an instance: the first one is a name
        name = "f{:03}_d{:02}_i{:02}".format(*place[:2], batch.instances[0])
        finished = exdata / algorithm / name
        shutil.rmtree(finished, ignore_errors=True)  # its runs were never recorded
        finished.parent.mkdir(exist_ok=True)
        (exdata / _UNFINISHED).rename(finished)
    finally:
        discard_unfinished(directory)
    return runs


def discard_unfinished(directory: Path) -> None:
    """Removes the files of a batch that was interrupted, if there are any."""
    shutil.rmtree(directory / _FOLDER / _UNFINISHED, ignore_errors=True)


def _cocoex() -> Any:
    try:
        import cocoex
    except ImportError:
        raise ImportError(
            "the evaluator coco needs coco-experiment: pip install 'gfopt[bench]'"
        ) from None
    cocoex.log_level("warning")  # it would print into the progress bar
    return cocoex


def _compile(optimizer: Optimizer, x0: np.ndarray) -> None:
    search = Search(optimizer, x0, 0, x64=True)
    search.advance(np.zeros(search.rows), np.ones(search.rows, bool))


def _run_one(batch: Batch, instance: int, optimizer: Optimizer, problem: Any) -> Run:
    x0, seed = start_of(batch, instance)
    f_opt = float(bbob(batch.function, batch.dimension, instance).f_opt)
    began = time.perf_counter()
    search = Search(optimizer, x0, seed, x64=True)
    values: list[float] = []
    status = ""
    while not status:
        fitness = np.full(search.rows, np.inf)
        for row in search.active_rows:
            fitness[row] = problem(search.solution(int(row)))
            values.append(fitness[row] - f_opt)
            if values[-1] <= TARGETS[-1] or len(values) >= batch.budget:
                status = "target" if values[-1] <= TARGETS[-1] else "budget"
                break
        else:
            search.advance(fitness, np.isfinite(fitness))
            status = min(search.stop_reasons(), default="")
    return Run(
        key=batch.key(instance),
        options=batch.options,
        evaluations=len(values),
        status=status,
        seconds=time.perf_counter() - began,
        compile_seconds=0.0,
        trajectory=improvements(np.arange(1, len(values) + 1), np.asarray(values)),
    )
