"""The results file: what is written is read, resumed, protected, and refused."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfopt.research.benchmark import settings_conflict
from gfopt.research.finished_runs import Run, RunKey, improvements
from gfopt.research.results import FILE_NAME, ResultStore

KEY = RunKey("bbob", "f8", 5, 1, "cma_es", 500, 0, "jax")
RUN = Run(KEY, {"sigma": 2.0}, 496, "budget", 0.25, 1.5, ((8, 31.5), (64, 1e-3)))
RUN = RUN._replace(tuning="none", population_size=8, optimum=79.48, failures=1)
RUN = RUN._replace(memory=4096, memory_kind="planned")


def _filled(directory: Path, *runs: Run) -> None:
    with ResultStore(directory, create=True) as store:
        store.start_session("gfopt bench")
        store.add(runs)


def test_what_is_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_TEST", "--x=1")
    others = [
        Run(KEY._replace(instance=i), {"a": None}, 9, "returned", 0.0, 0.0, ())
        for i in (10, 2)
    ]
    _filled(tmp_path / "new" / "folder", RUN, *others)
    with ResultStore(tmp_path / "new" / "folder") as store:
        assert store.runs() == [RUN, others[1], others[0]]  # ordered by key
        assert store.finished()[KEY] == {"sigma": 2.0}
        (session,) = store.sessions()
    assert session["command"] == "gfopt bench"
    assert {"gfopt", "jax", "numpy", "python"} <= set(session["versions"])
    machine = session["machine"]
    assert machine["cores"] >= 1 and machine["flags"]["XLA_TEST"] == "--x=1"
    assert not [name for name in machine["flags"] if "CACHE" in name]
    assert re.fullmatch("([0-9a-f]{12}(-dirty)?)?", session["versions"]["commit"])
    assert RUN.value == 1e-3 and others[0].value == np.inf


def test_a_run_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    _filled(tmp_path, RUN)
    _filled(
        tmp_path, RUN._replace(evaluations=1), RUN._replace(key=KEY._replace(seed=1))
    )
    with ResultStore(tmp_path) as store:
        assert [run.evaluations for run in store.runs()] == [496, 496]
        assert store.runs()[0] == RUN
        assert len(store.sessions()) == 2


def test_any_sql_reads_it(tmp_path: Path) -> None:
    _filled(tmp_path, RUN)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    query = "SELECT method, evaluations, trajectory FROM runs JOIN sessions"
    ((method, evaluations, trajectory),) = connection.execute(
        f"{query} ON sessions.id = runs.session"
    )
    connection.close()
    assert (method, evaluations) == ("cma_es", 496)
    assert json.loads(trajectory) == [[8, 31.5], [64, 1e-3]]


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken():
        yield RUN
        raise KeyboardInterrupt

    with ResultStore(tmp_path, create=True) as store:
        store.start_session("x")
        with pytest.raises(KeyboardInterrupt):
            store.add(broken())
        bad = RUN._replace(key=KEY._replace(instance=2), status=None)
        with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
            store.add([RUN, bad])
        assert store.runs() == []
        store.add([RUN])
    with ResultStore(tmp_path) as store:
        assert store.runs() == [RUN]


def test_two_processes_may_write(tmp_path: Path) -> None:
    with ResultStore(tmp_path, create=True) as one, ResultStore(tmp_path) as two:
        for number, store in enumerate((one, two)):
            store.start_session("x")
            store.add([RUN._replace(key=KEY._replace(seed=number))])
        assert one.runs() == two.runs() and len(one.runs()) == 2


def test_writing_needs_a_session(tmp_path: Path) -> None:
    with (
        ResultStore(tmp_path, create=True) as store,
        pytest.raises(RuntimeError, match="start_session"),
    ):
        store.add([RUN])


def test_wrong_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with pytest.raises(FileNotFoundError, match="holds no results.sqlite"):
        ResultStore(tmp_path)
    path.write_text("not a database at all, but long enough to look like one" * 9)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not a gfopt results file"):
        ResultStore(tmp_path, create=True)
    assert path.read_bytes() == before
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE runs (x)")
    other.close()
    with pytest.raises(ValueError, match="is not a gfopt results file"):
        ResultStore(tmp_path, create=True)
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError, match="unable to open"):
        ResultStore(tmp_path, create=True)
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        ResultStore(__file__, create=True)


def test_a_file_without_memory_takes_the_columns(tmp_path: Path) -> None:
    _filled(tmp_path, RUN)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    for name in ("memory", "memory_kind"):
        connection.execute(f"ALTER TABLE runs DROP COLUMN {name}")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    second = RUN._replace(key=KEY._replace(seed=1))
    _filled(tmp_path, RUN, second)
    with ResultStore(tmp_path) as store:
        assert store.runs() == [RUN._replace(memory=None, memory_kind=""), second]


def test_another_version_is_refused(tmp_path: Path) -> None:
    _filled(tmp_path, RUN)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(
        ValueError, match="version 7.*reads 3: read it with the gfopt that wrote it"
    ):
        ResultStore(tmp_path)


def test_damage_is_found_when_it_is_read(tmp_path: Path) -> None:
    _filled(tmp_path, *(RUN._replace(key=KEY._replace(instance=i)) for i in range(99)))
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)  # all but the first page
    path.write_bytes(bytes(data))
    with (
        ResultStore(tmp_path) as store,
        pytest.raises(ValueError, match="not a gfopt results file, or damaged"),
    ):
        store.runs()


def test_what_sqlite_makes_of_some_damage_is_documented(tmp_path: Path) -> None:
    with (
        ResultStore(tmp_path, create=True) as store,
        pytest.raises(ValueError, match="damaged"),
        store._errors(),
    ):
        raise MemoryError  # SQLite's "out of memory", for a schema that makes no sense


def test_other_settings_of_a_stored_run_are_named() -> None:
    stored = {KEY: {"sigma": 2.0, "size": 8}}
    assert settings_conflict(stored, {KEY: {"sigma": 2.0, "size": 8}}) is None
    assert settings_conflict(stored, {KEY._replace(seed=1): {"sigma": 1.0}}) is None
    found = settings_conflict(stored, {KEY: {"sigma": 1.0, "size": 8}})
    assert found == "cma_es on bbob: sigma: expected 1.0, found 2.0"
    found = settings_conflict(stored, {KEY: {"sigma": 2.0}})
    assert found is not None and "size" in found and "8" in found


@given(st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(float("nan"))), max_size=20))
@settings(deadline=None)
def test_improvements_keep_the_best_so_far(values) -> None:
    counts = 4 * np.arange(1, len(values) + 1)
    found = improvements(counts, np.array(values, float))
    best, expected = np.inf, []
    for count, value in zip(counts, values, strict=True):
        if value < best:  # never for NaN
            best = value
            expected.append((int(count), best))
    assert [n for n, _ in found] == [n for n, _ in expected]
    np.testing.assert_allclose(
        [v for _, v in found], [v for _, v in expected], rtol=1e-5, atol=1e-300
    )
