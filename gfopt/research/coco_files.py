"""Runs on BBOB as COCO's own files, which ``cocopp`` reads beside published ones.

What COCO's observer would have written of the same runs, without the points: the
evaluations at which a run got better (``.dat``) and its best value at certain times
(``.tdat``), in folders for each algorithm.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gfopt.research.finished_runs import Run

FOLDER = "coco"
_Chosen = Callable[[Run], Iterable[tuple[int, float]]]
_HEAD = (
    "% f evaluations | g evaluations | best noise-free fitness - Fopt ({:.12e}) + sum "
    "g_i+ | measured fitness | best measured fitness or single-digit g-values | x1 | "
    "x2...\n"
)


def write_coco(runs: Sequence[Run], directory: Path) -> list[Path]:
    """Writes ``directory/coco/<algorithm>`` for each method, budget and seed.

    Args:
        runs: those on BBOB with a value or more are written.
        directory: that is there.

    Returns:
        The folders, what ``cocopp`` takes.

    Raises:
        OSError: where they cannot be written.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.key.suite == "bbob" and run.trajectory:
            key = run.key
            name = f"{key.method}_{key.budget // key.dimension}D_seed{key.seed}"
            name += "" if key.evaluator == "jax" else f"_{key.evaluator}"
            groups.setdefault(name, []).append(run)
    folders = []
    for name, ours in groups.items():
        folder = directory / FOLDER / name
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier export
        folder.mkdir(parents=True)
        for function in {run.key.problem for run in ours}:
            _write(name, [run for run in ours if run.key.problem == function], folder)
        folders.append(folder)
    return folders


def _write(algorithm: str, runs: Sequence[Run], folder: Path) -> None:
    """Writes the runs of one function: an index, and two files for each dimension."""
    number = runs[0].key.problem.removeprefix("f")
    data = folder / f"data_f{number}"
    data.mkdir()
    index = []
    for dimension in sorted({run.key.dimension for run in runs}):
        some = [run for run in runs if run.key.dimension == dimension]
        some.sort(key=lambda run: run.key.instance)
        name = f"bbobexp_f{number}_DIM{dimension}"
        (data / f"{name}.dat").write_text("".join(_lines(some, _improvements)))
        (data / f"{name}.tdat").write_text("".join(_lines(some, _times)))
        ends = ", ".join(
            f"{run.key.instance}:{run.evaluations}|{run.value:.1e}" for run in some
        )
        index.append(
            f"suite = 'bbob', funcId = {number}, DIM = {dimension}, Precision = "
            f"1.000e-08, algId = 'gfopt_{algorithm}', coco_version = '2.8', logger = "
            "'bbob', data_format = 'bbob-new2', settings = ''\n% written by gfopt\n"
            f"data_f{number}/{name}.dat, {ends}\n"
        )
    (folder / f"bbobexp_f{number}.info").write_text("".join(index))


def _lines(runs: Iterable[Run], chosen: _Chosen) -> Iterator[str]:
    for run in runs:
        optimum = run.optimum or 0.0
        yield _HEAD.format(optimum)
        for count, value in chosen(run):
            best = optimum + value
            yield f"{count} 0 {value:+.9e} {best:+.9e} {best:+.9e}\n"


def _improvements(run: Run) -> list[tuple[int, float]]:
    return [*run.trajectory, (run.evaluations, run.value)]


def _times(run: Run) -> Iterator[tuple[int, float]]:
    """Yields the best value at COCO's times: 20 in a decade, and round numbers of D."""
    most, size = run.evaluations, run.key.dimension
    decades = range(math.ceil(math.log10(most + 1)) + 1)
    times = {math.floor(10 ** (power / 20)) for power in range(20 * len(decades))}
    times |= {size * digit * 10**power for digit in (1, 2, 5) for power in decades}
    counts, values = zip(*run.trajectory, strict=True)
    for count in sorted({time for time in times if time < most} | {most}):
        place = int(np.searchsorted(counts, count, side="right")) - 1
        if place >= 0:
            yield count, values[place]
