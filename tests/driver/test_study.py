"""A study in a file that several programs share."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import gfopt
from gfopt.driver import study as module
from gfopt.driver.storage import study_file
from gfopt.driver.storage.settings_json import as_json, from_json
from gfopt.driver.storage.study_file import crc_of_settings

START = ("cma_es", [3.0, -2.0])


def sphere(x: Any) -> float:
    return float(np.sum(np.square(x)))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "study.db")


def log(path: str) -> list[tuple[int, str, float | None, str]]:
    with closing(sqlite3.connect(path)) as file, file:
        query = "SELECT trial, kind, value, note FROM log ORDER BY seq"
        return file.execute(query).fetchall()


def finish(study: gfopt.Study, trial: int, value: float) -> None:
    with study._file.alone() as file:
        study_file.tell(file, trial, value, "")


def straight(num_trials: int) -> gfopt.Result:
    """Returns what one program finds in memory."""
    search = gfopt.AskTell(*START, seed=1)
    for _ in range(num_trials):
        (trial,) = search.ask(1)
        search.tell(trial, sphere(trial.solution))
    return search.result


def test_programs_in_turn_make_the_search_of_one(path: str) -> None:
    made = gfopt.Study(path, *START, seed=1, budget=50)
    other = gfopt.Study(path)
    for number in range(10):
        (made, other)[number % 2].work(sphere, trials=5)
    result, expected = other.result, straight(50)
    assert result.status is gfopt.Status.BUDGET
    assert result.nfev == expected.nfev == 50
    assert result.fun == expected.fun
    np.testing.assert_array_equal(result.x, expected.x)
    np.testing.assert_array_equal(
        result.history["fitness"], expected.history["fitness"]
    )


def _works(path: str) -> None:
    gfopt.Study(path).work(slow)


def slow(x: Any) -> float:
    time.sleep(0.02)
    return sphere(x)


def test_programs_at_once_make_the_search_of_one(path: str) -> None:
    study = gfopt.Study(path, *START, seed=1, budget=40)
    context = multiprocessing.get_context("spawn")
    programs = [context.Process(target=_works, args=(path,)) for _ in range(2)]
    for program in programs:
        program.start()
    for program in programs:
        program.join()
    result, expected = study.result, straight(40)
    assert (result.nfev, result.fun) == (40, expected.fun)
    np.testing.assert_array_equal(result.x, expected.x)
    told = [trial for trial, kind, *_ in log(path) if kind == "tell"]
    assert sorted(told) == list(range(40))


def _dies(path: str) -> None:
    gfopt.Study(path).work(lambda _: os.kill(os.getpid(), signal.SIGKILL))


def test_a_dead_program_gives_its_trial_back(path: str) -> None:
    study = gfopt.Study(path, *START, seed=1, budget=12, attempts=2)
    program = multiprocessing.get_context("spawn").Process(target=_dies, args=(path,))
    program.start()
    program.join()
    assert program.exitcode == -signal.SIGKILL
    assert [kind for _, kind, *_ in log(path)] == ["ask"]
    result = study.work(sphere)
    assert (result.nfev, result.failures, result.fun) == (12, {}, straight(12).fun)


def test_a_trial_whose_programs_die_counts_as_failed(path: str) -> None:
    study = gfopt.Study(path, *START, seed=1, budget=12, attempts=2, patience=0.01)
    for _ in range(2):  # twice begun, never told
        assert study._begun().id == 0
        time.sleep(0.02)
    result = study.work(sphere)
    assert (result.nfev, result.failures) == (12, {"its programs died": 1})


def test_a_value_that_comes_twice_counts_once(path: str) -> None:
    study = gfopt.Study(path, *START, seed=1, budget=12, patience=0.01)
    late = study._begun()
    time.sleep(0.02)
    again = gfopt.Study(path)
    assert again._begun().id == late.id
    finish(again, late.id, 1.0)
    finish(study, late.id, 2.0)
    assert [value for _, kind, value, _ in log(path) if kind == "tell"] == [1.0]
    assert study.work(sphere).nfev == 12


def test_ctrl_c_gives_the_trial_back(path: str) -> None:
    study = gfopt.Study(path, *START, seed=1, budget=12, attempts=1)

    def interrupted(_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.work(interrupted)
    assert study.work(sphere).failures == {}


def test_failures_are_counted_and_shown_once(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def fails(x: Any) -> float:
        calls.append(x)
        if len(calls) % 3 == 0:
            raise OSError("no licence")
        return np.inf if len(calls) % 4 == 0 else sphere(x)

    study = gfopt.Study(path, *START, seed=1, budget=12)
    with caplog.at_level(logging.WARNING, "gfopt"):
        result = study.work(fails)
    assert result.failures == {"OSError: no licence": 4, "returned an infinity": 2}
    (record,) = caplog.records
    assert 'raise OSError("no licence")' in record.getMessage()


def test_a_function_without_numbers_is_refused_before_it_costs_trials(
    path: str,
) -> None:
    study = gfopt.Study(path, *START, seed=1, budget=12)
    with pytest.raises(ValueError, match="fun must return a real number; got None"):
        study.work(lambda x: None)
    assert study.work(lambda x: np.array([sphere(x)])).failures == {}


def test_ends_at_the_target_and_in_the_users_sense(path: str) -> None:
    study = gfopt.Study(path, *START, maximize=True, target=-0.5)
    result = study.work(lambda x: -sphere(x))
    assert result.status is gfopt.Status.TARGET
    assert result.fun >= -0.5
    assert result.success
    assert study.work(sphere).nfev == result.nfev  # over is over


def test_a_search_that_converges_is_over(path: str) -> None:
    study = gfopt.Study(path, "cma_es", [1.0], options={"tol_x": 0.1}, sigma0=0.2)
    assert study.work(sphere).status is gfopt.Status.CONVERGED


def test_spaces_go_through_the_file(path: str) -> None:
    spaces = gfopt.spaces
    bounds = {"a": spaces.real(1e-3, 1.0, log=True), "b": spaces.integer(0, 9)}
    made = gfopt.Study(path, "cma_es", {"a": 0.1, "b": 3.0}, bounds=bounds, budget=30)
    seen = []

    def fun(x: Any) -> float:
        seen.append(x)
        return x["a"] + (x["b"] - 4) ** 2

    opened = gfopt.Study(path)
    assert opened.work(fun).fun < made.work(fun).history["fitness"][0]
    assert all(1e-3 <= x["a"] <= 1 and x["b"] in range(10) for x in seen)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"seed": 2}, "another search"),
        ({"budget": 7}, "another budget: null, not 7"),
    ],
)
def test_other_settings_are_refused(
    path: str, words: dict[str, Any], message: str
) -> None:
    gfopt.Study(path, *START, seed=1)
    with pytest.raises(ValueError, match=message):
        gfopt.Study(path, *START, **{"seed": 1} | words)


def test_other_versions_are_refused(path: str) -> None:
    gfopt.Study(path, *START)
    with closing(sqlite3.connect(path)) as file, file:
        (text,) = file.execute("SELECT json FROM settings").fetchone()
        settings = json.loads(text) | {"versions": {"gfopt": "0", "jax": "0"}}
        text = json.dumps(settings)
        row = text, crc_of_settings(file, text)
        file.execute("UPDATE settings SET json = ?, crc = ?", row)
    with pytest.raises(ValueError, match="another versions"):
        gfopt.Study(path)


def test_another_candidate_is_noticed(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gfopt.Study(path, *START).work(sphere, trials=3)
    monkeypatch.setattr(module, "_checksum", lambda trial: f"{trial.id}"[1:])
    with pytest.raises(ValueError, match="trial 0 of .* is another solution here"):
        gfopt.Study(path).work(sphere)


def test_what_is_not_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="method and x0 must be given for a new"):
        gfopt.Study(tmp_path / "none.db")
    text = tmp_path / "text.db"
    text.write_text("a text, long enough to be no header of a database" * 4)
    with pytest.raises(ValueError, match="path must be a study that can be read"):
        gfopt.Study(text)
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as file, file:
        file.execute("CREATE TABLE settings (json TEXT)")
    with pytest.raises(ValueError, match="path must be a study; .* something else"):
        gfopt.Study(other)
    with pytest.raises(ValueError, match="path must be a study that can be read"):
        gfopt.Study(tmp_path / "missing" / "study.db", *START)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE log SET value = value + 1e-9 WHERE seq = 4",
        "UPDATE log SET at = at - 1 WHERE seq = 3",
        "UPDATE log SET note = 'x' WHERE seq = 3",
        "DELETE FROM log WHERE seq = 2",
        "DELETE FROM log WHERE seq = 5",  # the trial that waits
        "UPDATE settings SET json = replace(json, '12', '11')",
        "UPDATE settings SET crc = crc + 1",
        "UPDATE hands SET starts = 9",
        "UPDATE hands SET trial = 1",
        "DELETE FROM hands",
    ],
)
def test_what_was_changed_by_accident_is_noticed(path: str, change: str) -> None:
    study = gfopt.Study(path, *START, seed=1, budget=12)
    study.work(sphere, trials=2)
    study._begun()
    with closing(sqlite3.connect(path)) as file, file:
        assert file.execute(change).rowcount == 1
    with pytest.raises(ValueError, match=r"study\.db.* is damaged"):
        gfopt.Study(path).work(sphere)


def test_a_damaged_file_gives_an_error_or_the_same_result(path: str) -> None:
    gfopt.Study(path, *START, seed=1, budget=12).work(sphere, trials=9)
    whole, expected, num_errors = Path(path).read_bytes(), straight(12).fun, 0
    used = [at for at, byte in enumerate(whole) if byte]
    for at in used[7 :: len(used) // 11]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x5A
        Path(path).write_bytes(damaged)
        try:
            assert gfopt.Study(path).work(sphere).fun == expected
        except ValueError as error:
            assert "study.db" in str(error)
            num_errors += 1
    assert num_errors > 6


_FULL = """
import resource, sys
import gfopt
path = sys.argv[1]
study = gfopt.Study(path, "cma_es", [3.0, -2.0], seed=1, budget=400)
study.work(lambda x: float(x @ x), trials=9)
def fun(x):
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
    return float(x @ x)
try:
    study.work(fun)
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="a limit of POSIX")
def test_a_full_disk_is_an_error_and_costs_one_value(path: str) -> None:
    command = [sys.executable, "-W", "error", "-c", _FULL, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "path must be a study that can be read and written; " in done.stdout
    assert len(done.stdout.splitlines()) == 1 and not done.stderr
    told = [trial for trial, kind, *_ in log(path) if kind == "tell"]
    assert told[:9] == list(range(9))
    result = gfopt.Study(path).work(sphere, trials=30 - len(told))
    assert (result.nfev, result.fun) == (30, straight(30).fun)


def test_a_folder_that_cannot_be_written(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    study = gfopt.Study(path, *START, seed=1, budget=12)
    monkeypatch.setattr(sqlite3, "connect", refused)
    with pytest.raises(ValueError, match="written; .*study.db.*unable to open"):
        study.work(sphere)


@pytest.mark.parametrize(
    ("arguments", "words", "error", "message"),
    [
        (START, {"budget": 0}, ValueError, "budget"),
        (START, {"target": np.nan}, ValueError, "target"),
        (START, {"attempts": 0}, ValueError, "attempts"),
        (START, {"patience": 0}, ValueError, "patience"),
        (("nelder", [1.0]), {}, ValueError, "nelder_mead"),
        ((gfopt.CMAES(), [1.0]), {}, TypeError, "method must be a method's name"),
        (("cma_es", [object()]), {}, TypeError, "x0 must be made of numbers"),
    ],
)
def test_bad_input(
    path: str, arguments: Any, words: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gfopt.Study(path, *arguments, **words)
    assert not Path(path).exists()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda parts: (
        st.lists(parts)
        | st.lists(parts).map(tuple)
        | st.dictionaries(st.text() | st.integers(), parts)
    ),
    max_leaves=10,
)


@given(_VALUES)
def test_settings_come_back(value: Any) -> None:
    assert from_json(json.loads(json.dumps(as_json("x0", value)))) == value


def test_arrays_come_back() -> None:
    array = np.array([[1, 2], [3, 4]], np.float32)
    back = from_json(json.loads(json.dumps(as_json("x0", array))))
    np.testing.assert_array_equal(back, array, strict=True)
