"""Exported tables hold what the store holds."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from gfopt.research.exports import export
from gfopt.research.finished_runs import Run, RunKey

KEY = RunKey("mine", 'a, "b"', 5, 1, "cma_es", 500, 0, "python")
RUN = Run(KEY, {"sigma": 2.0}, 496, "budget", 0.25, 1.5, ((8, 31.5), (64, 1e-3)))
RUNS = [RUN, RUN._replace(key=KEY._replace(instance=2), trajectory=(), optimum=7.5)]


def test_a_csv_file_holds_what_the_runs_hold(tmp_path: Path) -> None:
    runs, trajectories = (
        [*csv.DictReader(path.read_text().splitlines())]
        for path in export(RUNS, tmp_path, "csv")
    )
    assert [row["instance"] for row in runs] == ["1", "2"]
    assert json.loads(runs[0]["options"]) == {"sigma": 2.0}
    assert (runs[0]["optimum"], runs[1]["optimum"]) == ("", "7.5")
    assert [(r["problem"], r["evaluation"], r["value"]) for r in trajectories] == [
        ('a, "b"', "8", "31.5"),
        ('a, "b"', "64", "0.001"),
    ]


def test_a_parquet_file_holds_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install pyarrow")
    runs, trajectories = map(parquet.read_table, export(RUNS, tmp_path, "parquet"))
    assert runs.column("optimum").to_pylist() == [None, 7.5]
    assert trajectories.select(["evaluation", "value"]).to_pydict() == {
        "evaluation": [8, 64],
        "value": [31.5, 1e-3],
    }
    export([], tmp_path, "parquet")


def test_parquet_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        export(RUNS, tmp_path, "parquet")


def test_iohprofiler_finds_every_run_and_improvement(tmp_path: Path) -> None:
    bbob = RunKey("bbob", "f8", 2, 3, "open_es", 20, 0, "jax")
    runs = [*RUNS, RUN._replace(key=bbob, evaluations=64, optimum=1.0)]
    folders = export(runs, tmp_path, "ioh")
    assert [folder.name for folder in folders] == ["cma_es", "open_es"]
    (own,) = folders[0].glob("*.json")
    (ours,) = folders[1].glob("*.json")
    assert ours.name == "IOHprofiler_f8_original_Rosenbrock.json"
    for path in (own, ours):
        described = json.loads(path.read_text())
        (scenario,) = described["scenarios"]
        (run,) = scenario["runs"]  # a run without a value has nothing to show
        lines = (path.parent / scenario["path"]).read_text().splitlines()
        # the first value came at 8; a run begins at 1
        assert lines[:4] == ["evaluations raw_y", "1 inf", "8 31.5", "64 0.001"]
        assert run["best"]["evals"] == 64 and run["best"]["y"] == 1e-3
        # the end of a run is a line, too
        assert lines[-1].split()[0] == str(run["evals"])
        assert not described["maximization"]


def test_iohinspector_reads_it(tmp_path: Path) -> None:
    inspector = pytest.importorskip("iohinspector", reason="pip install iohinspector")
    (folder, *_) = export(RUNS, tmp_path, "ioh")
    manager = inspector.DataManager()
    manager.add_folder(str(folder))
    data = manager.load(monotonic=True, include_meta_data=True)
    assert data["raw_y"].to_list()[:3] == [float("inf"), 31.5, 1e-3]
    assert data["evaluations"].to_list()[:3] == [1, 8, 64]
    assert set(data["algorithm_name"].to_list()) == {"cma_es"}
