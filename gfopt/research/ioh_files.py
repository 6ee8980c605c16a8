"""Runs on functions as IOHprofiler's files, which IOHanalyzer and iohinspector read.

For each method a folder, in it for each problem a JSON file that lists the runs, and
for each dimension a file with the evaluations at which a run got better.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from gfopt.research.finished_runs import Run
from gfopt.research.summary import OURS, name_of, sections
from gfopt.types import JsonObject

FOLDER = "ioh"


def write_ioh(runs: Sequence[Run], directory: Path) -> list[Path]:
    """Writes ``directory/ioh/<suite and budget>/<method>``.

    Values are those of the trajectories, f - f_opt where the optimum is known. Points
    are not kept, and so not written.

    Args:
        runs: those on functions, BBOB's or the user's, that have a value are written.
        directory: that is there.

    Returns:
        The folders of the methods.

    Raises:
        OSError: where they cannot be written.
    """
    shutil.rmtree(directory / FOLDER, ignore_errors=True)  # of an earlier export
    wanted = [run for run in runs if run.trajectory and run.key.suite not in OURS[1:]]
    folders: dict[Path, dict[str, list[Run]]] = {}
    for run in wanted:
        key = run.key
        place = _plain(f"{key.suite}_{key.budget}_seed{key.seed}_{key.evaluator}")
        folder = directory / FOLDER / place / _plain(key.method)
        folders.setdefault(folder, {}).setdefault(key.problem, []).append(run)
    numbers = {
        problem: number
        for section in sections(wanted)
        for number, problem in enumerate(section.problems, 1)
    }
    for folder, problems in folders.items():
        folder.mkdir(parents=True)
        for problem, some in problems.items():
            named = problem.removeprefix("f")
            is_bbob = some[0].key.suite == "bbob"
            _write(some, int(named) if is_bbob else numbers[problem], folder)
    return list(folders)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)


def _write(runs: Sequence[Run], number: int, folder: Path) -> None:
    """Writes the runs of a method on a problem."""
    key = runs[0].key
    name = _plain(name_of(key).partition(" ")[2] or key.problem)
    data = f"data_f{number}_{name}"
    (folder / data).mkdir()
    scenarios = []
    for dimension in sorted({run.key.dimension for run in runs}):
        some = [run for run in runs if run.key.dimension == dimension]
        path = f"{data}/IOHprofiler_f{number}_DIM{dimension}.dat"
        (folder / path).write_text("".join(map(_lines, some)))
        listed = [_listed(run) for run in some]
        scenarios.append({"dimension": dimension, "path": path, "runs": listed})
    described: JsonObject = {
        "version": "0.4.2",
        "suite": key.suite,
        "function_id": number,
        "function_name": name,
        "maximization": False,
        "algorithm": {"name": key.method, "info": json.dumps(runs[0].options)},
        "attributes": ["evaluations", "raw_y"],
        "scenarios": scenarios,
    }
    place = folder / f"IOHprofiler_f{number}_{name}.json"
    place.write_text(json.dumps(described, indent=1))


def _lines(run: Run) -> str:
    pairs = [*run.trajectory]
    if pairs[0][0] > 1:  # a run is known by its line 1
        pairs.insert(0, (1, math.inf))
    if pairs[-1][0] < run.evaluations:
        pairs.append((run.evaluations, run.value))
    rows = "".join(f"{count} {value:.12g}\n" for count, value in pairs)
    return f"evaluations raw_y\n{rows}"


def _listed(run: Run) -> JsonObject:
    count, value = run.trajectory[-1]
    best = {"evals": count, "y": value, "x": [0.0] * run.key.dimension}
    return {"instance": run.key.instance, "evals": run.evaluations, "best": best}
