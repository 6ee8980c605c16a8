"""BBOB runs through the C code of ``coco-experiment``, logged for ``cocopp``.

The same problems, starts and settings as in ``bbob_runs``, but every candidate is
evaluated by COCO on the host, one after the other, and COCO's observer writes its
files. A run ends with the evaluation that hits the last target.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from gfopt import checks
from gfopt.research.finished_runs import Run
from gfopt.research.host_runs import problem_of, run_one
from gfopt.research.plan import Batch

_FOLDER = "exdata"  # as in COCO's own examples
_UNFINISHED = ".unfinished"  # and a batch's name, as there may be several


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
    name, budget = batch.competitor.name, batch.budget // batch.dimension
    algorithm = f"{name}_{budget}D_seed{batch.seed}"
    exdata = (directory / _FOLDER).resolve()
    # no two batches of an algorithm share an instance: the first one is a name
    place = batch.function, batch.dimension, batch.instances[0]
    named = "f{:03}_d{:02}_i{:02}".format(*place)
    unfinished = f"{_UNFINISHED}_{algorithm}_{named}"
    shutil.rmtree(exdata / unfinished, ignore_errors=True)
    suite = cocoex.Suite(
        "bbob",
        "instances: " + ",".join(map(str, batch.instances)),
        f"dimensions: {batch.dimension} function_indices: {batch.function}",
    )
    observer = cocoex.Observer(
        "bbob",
        f'outer_folder: "{exdata}" result_folder: {unfinished} '
        f"algorithm_name: gfopt_{algorithm}",
    )
    try:
        runs = []
        for instance in batch.instances:
            place = (batch.function, batch.dimension, instance)
            problem = suite.get_problem_by_function_dimension_instance(*place, observer)
            try:
                known = replace(problem_of(batch, instance), fun=problem)
                runs.append(run_one(batch, instance, known))
            finally:
                problem.free()  # which completes its files
        finished = exdata / algorithm / named
        shutil.rmtree(finished, ignore_errors=True)  # its runs were never recorded
        finished.parent.mkdir(exist_ok=True)
        (exdata / unfinished).rename(finished)
    finally:
        shutil.rmtree(exdata / unfinished, ignore_errors=True)
    return runs


@contextmanager
def log_folder(directory: Path | None) -> Iterator[Path]:
    """Says where COCO's files go: a directory, or None for where they are removed.

    Of runs that machines share each would have some of the files, which are nobody's
    results: ``gfopt export --format coco`` writes them all, from the runs.
    """
    if directory is not None:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="gfopt-coco-") as place:
        yield Path(place)


def discard_unfinished(directory: Path) -> None:
    """Removes the files of batches that were interrupted, if there are any."""
    for folder in (directory / _FOLDER).glob(f"{_UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _cocoex() -> ModuleType:
    with checks.needed_by(
        "the evaluator coco", "coco-experiment", "pip install 'gfopt[bench]'"
    ):
        import cocoex
    cocoex.log_level("warning")  # it would print into the progress bar
    return cocoex
