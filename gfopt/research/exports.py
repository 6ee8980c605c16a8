"""Results for other programs: two tables, COCO's files, or IOHprofiler's.

``runs`` has a row for each run, ``trajectories`` one for each improvement; both begin
with the columns of the run's key, by which they are joined.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from gfopt import checks
from gfopt.research.coco_files import write_coco
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.ioh_files import write_ioh

FORMATS = ("csv", "parquet", "coco", "ioh")
_NUMBERS = ("evaluation", "value")


def export(runs: Sequence[Run], directory: Path, form: str) -> list[Path]:
    """Writes the two tables, or folders for other tools, and returns where they are.

    Args:
        runs: of a store.
        directory: that is there.
        form: ``"csv"``, ``"parquet"``, ``"coco"`` or ``"ioh"``.

    Raises:
        ImportError: for Parquet without pyarrow, with the line that installs it.
        OSError: where they cannot be written.
    """
    if form in ("coco", "ioh"):
        return (write_coco if form == "coco" else write_ioh)(runs, directory)
    write = _csv if form == "csv" else _parquet
    rest = [name for name in Run._fields[1:] if name != "trajectory"]
    tables = {
        "runs": ((*RunKey._fields, *rest), (_row(run, rest) for run in runs)),
        "trajectories": (
            (*RunKey._fields, *_NUMBERS),
            ((*run.key, *pair) for run in runs for pair in run.trajectory),
        ),
    }
    paths = []
    for name, (columns, rows) in tables.items():
        paths.append(directory / f"{name}.{form}")
        write(paths[-1], columns, rows)
    return paths


def _row(run: Run, names: Iterable[str]) -> tuple[object, ...]:
    values = run._replace(options=json.dumps(run.options))._asdict()  # type: ignore[arg-type]
    return (*run.key, *(values[name] for name in names))


def _csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _parquet(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    with checks.needed_by("Parquet", "pyarrow", "pip install pyarrow"):
        import pyarrow
        from pyarrow import parquet
    filled = [*zip(*rows, strict=True)] or [()] * len(columns)
    table = pyarrow.table(dict(zip(columns, map(list, filled), strict=True)))
    parquet.write_table(table, path)
