"""Trackers write every generation once, whatever they write to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import gfopt


def bowl(x):
    return float(np.sum((x - 1) ** 2)) if x[0] > -5 else float("nan")


def searched(**words) -> gfopt.Result:
    objective = gfopt.Objective(bowl, traceable=False)
    return gfopt.minimize(
        objective, [0.0, 2.0], method="random_search", seed=3, **words
    )


def test_every_generation_is_a_row_of_its_file(tmp_path: Path) -> None:
    paths = [tmp_path / "run.jsonl", tmp_path / "run.csv"]
    result = searched(budget=100, callbacks=[gfopt.Tracker(path) for path in paths])
    lines = [json.loads(line) for line in paths[0].read_text().splitlines()]
    rows = [*csv.DictReader(paths[1].read_text().splitlines())]
    # the last generation is cut off by the budget, and is a row like the others
    assert len(lines) == len(rows) == result.nit + 1 > 2
    for name in ("nfev", "fitness", "best"):
        expected = result.history[name]
        np.testing.assert_allclose([line[name] for line in lines], expected)
        np.testing.assert_allclose([float(row[name]) for row in rows], expected)


def test_a_file_is_written_anew_and_holds_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("old\n")
    tracker = gfopt.Tracker(path)
    tracker._log({"nfev": 4.0, "fitness": float("nan")}, 4)
    assert json.loads(path.read_text()) == {"nfev": 4, "fitness": None}


def test_a_search_that_goes_on_is_written_from_its_beginning(tmp_path: Path) -> None:
    saved, steps = tmp_path / "saved", []
    first = searched(budget=64, checkpoint=saved)
    tracker = gfopt.Tracker(lambda row, step: steps.append(step))
    second = searched(budget=160, checkpoint=saved, callbacks=tracker)
    assert steps == second.history["nfev"].tolist()
    assert len(steps) > first.nit


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("run.txt", "ending of log must be one of '.jsonl', '.csv'"),
        (3, "a path; got 3"),
    ],
)
def test_what_is_no_log_is_refused(log, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        gfopt.Tracker(log)
