"""The command ``gfopt`` as it is typed: exit codes, output, files, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gfopt import __version__, registry
from gfopt.cli import list_command
from gfopt.cli.main import main
from gfopt.methods_table import FLAGS
from gfopt.research import benchmark, environment, settings
from gfopt.research.baselines import BASELINES, Baseline
from gfopt.research.results import ResultStore
from gfopt.research.suites.catalogue import SUITES

TINY = "--methods random_search --functions 1,5 --dimensions 2 --instances 1-3".split()


class Ended:
    """What a command left behind."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        self.code = caught.value.code
        self.out, self.err = capsys.readouterr()


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")


def test_help_and_version(capsys) -> None:
    assert Ended(capsys, "--version").out == f"gfopt {__version__}\n"
    for arguments in ([], ["--help"], ["-h"]):
        ended = Ended(capsys, *arguments)
        assert ended.code == 0 and not ended.err
        for name in ("list", "bench", "report"):
            assert re.search(rf"^\W*{name} ", ended.out, re.M)
    ended = Ended(capsys, "bench", "--help")
    assert ended.code == 0
    for option in ("suite", "methods", "functions", "dimensions", "instances"):
        assert f"--{option}" in ended.out
    for option in ("budget", "seed", "evaluator", "out"):
        assert f"--{option}" in ended.out


def test_the_package_runs_as_the_command(capsys) -> None:
    for arguments in (["--version"], ["list", "--nonsense"]):
        ours = Ended(capsys, *arguments)
        command = [sys.executable, "-m", "gfopt", *arguments]
        found = subprocess.run(command, capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (ours.code, ours.out)
        assert found.stderr == ours.err


def test_list_shows_every_method_with_domain_and_flags(capsys) -> None:
    ended = Ended(capsys, "list")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    for row in registry.METHODS.values():
        assert f"{row.name} {row.cls.__name__} " in text
    assert ", ".join(sorted(registry.METHODS["mezo"].flags)) in text
    assert registry.METHODS["open_es"].domain in text
    for flag, meaning in FLAGS.items():
        assert f"{flag} {meaning}" in text


def test_suites_shows_what_each_costs_and_what_is_missing(capsys, monkeypatch) -> None:
    known = {**BASELINES, "elsewhere": Baseline("else", "no_such.part", print)}
    monkeypatch.setattr(list_command, "BASELINES", known)
    ended = Ended(capsys, "suites")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    # 10 functions, 3 methods and 15 instances with 1,000 evaluations for each of 5
    assert "any dimension 450 2,250,000" in text and "frames 15 min" in text
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", "80")  # names are what one types
        narrow = Ended(capsys, "suites").out
    assert all(f" {name} " in narrow for name in (*SUITES, *known))
    assert "elsewhere else no_such, which is missing" in text
    assert "scipy_de scipy scipy" in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("bnch", "'bnch'.*'bench'"),
        ("lst", "'lst'.*'list'"),
        ("--nope", "--nope"),
        ("list extra", "extra"),
        ("bench --method cma_es", "--method .*--methods"),
        ("bench --methods", "--methods"),
        ("bench --methods cma-es", "cma-es.*did you mean 'cma_es'"),
        ("bench --suite BBOB", "'BBOB'"),
        ("bench --functions 20-30", "from 1 to 24.*'20-30'"),
        ("bench --functions rastrigin", "did you mean"),
        ("bench --budget -5", "--budget.*'-5'"),
        ("bench --out=", "--out"),
        ("report", "DIR"),
        ("report no/such/place", "no/such/place holds no results.sqlite"),
    ],
)
def test_bad_input_is_answered_in_one_line(capsys, line: str, words: str) -> None:
    ended = Ended(capsys, *line.split())
    assert ended.code == 2 and ended.out == ""
    assert ended.err.count("\n") == 1 and ended.err.endswith("\n")
    assert ended.err.startswith("gfopt") and re.search(words, ended.err), ended.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bench") / "out"
    with pytest.raises(SystemExit) as caught:
        main(["bench", *TINY, "--budget", "40", "--out", str(directory)])
    assert caught.value.code == 0
    return directory


def test_bench_makes_results_and_report(finished: Path) -> None:
    with ResultStore(finished) as store:
        runs = store.runs()
        (session,) = store.sessions()
    assert [(r.key.problem, r.key.instance) for r in runs] == [
        (problem, instance) for problem in ("f1", "f5") for instance in (1, 2, 3)
    ]
    assert all(run.evaluations == 80 and run.trajectory for run in runs)
    expected = f"gfopt bench {' '.join(TINY)} --budget 40 --out {finished}"
    assert session["command"] == expected
    assert "random_search" in (finished / "report.html").read_text()


def test_what_is_finished_is_not_run_again(capsys, finished: Path) -> None:
    before = (finished / "results.sqlite").read_bytes()
    ended = Ended(capsys, "bench", *TINY, "--budget", "40", "--out", str(finished))
    assert ended.code == 0 and "all runs are there already" in ended.err
    assert "BBOB in 2-D, 40 evaluations per dimension" in ended.out
    assert re.search(r"random_search +0\.\d{3} .* 0 of 6 +1.00 +0 +480 ", ended.out)
    assert re.search(r"f5 linear slope +", ended.out)
    assert (finished / "results.sqlite").read_bytes() == before


def test_a_cell_that_fails_is_a_line_and_the_others_go_on(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = benchmark.run_batch

    def run_batch(batch, *others):
        if batch.problem == "f5":
            raise RuntimeError("no memory\nleft")
        return whole(batch, *others)

    monkeypatch.setattr(benchmark, "run_batch", run_batch)
    words = ["bench", *TINY, "--budget", "40", "--out", str(tmp_path)]
    ended = Ended(capsys, *words)
    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if "failed: " in line]
    assert line.endswith("failed: RuntimeError: no memory left") and "f5" in line
    assert "3 runs failed; to try again: gfopt bench" in ended.err
    with ResultStore(tmp_path) as store:
        assert {run.key.problem for run in store.runs()} == {"f1"}
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "150")
    assert Ended(capsys, *words).code == 0


def test_a_folder_that_another_process_writes_to_is_refused(capsys, tmp_path) -> None:
    with ResultStore(tmp_path, create=True) as store:
        store.claim()
        ended = Ended(capsys, "bench", *TINY, "--budget", "40", "--out", str(tmp_path))
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert "another process writes to" in ended.err


def test_runs_of_another_version_are_named(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["bench", *TINY, "--budget", "40", "--out", str(tmp_path)]
    old = environment.versions() | {"gfopt": "0.0.1"}
    with monkeypatch.context() as patch:
        patch.setattr(environment, "versions", lambda: old)
        with ResultStore(tmp_path, create=True) as store:
            store.start_session("gfopt bench")
    first, second = Ended(capsys, *words), Ended(capsys, *words)
    assert first.code == 0 and "runs of gfopt 0.0.1 (now " in first.err
    assert "holds runs of" not in second.err  # nothing is added to them


def test_report_needs_the_results_file_alone(capsys, finished, tmp_path) -> None:
    copy = tmp_path / "results.sqlite"
    copy.write_bytes((finished / "results.sqlite").read_bytes())
    ended = Ended(capsys, "report", str(tmp_path), "--figures", str(tmp_path / "f"))
    assert ended.code == 0
    assert [*tmp_path.glob("f/bbob_2D_*/ecdf_all_problems.png")]
    assert "BBOB in 2-D" in ended.out and str(tmp_path / "report.html") in ended.out
    theirs = (finished / "report.html").read_text()
    assert (tmp_path / "report.html").read_text() == theirs


def test_other_settings_are_refused_with_the_difference(
    capsys, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = settings._SETTINGS | {
        ("bbob", "random_search"): lambda dimension, budget: {"sigma": 0.5}
    }
    monkeypatch.setattr(settings, "_SETTINGS", changed)
    ended = Ended(capsys, "bench", *TINY, "--budget", "40", "--out", str(finished))
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert "random_search on bbob: sigma: expected 0.5, found 2.0" in ended.err
    # another budget is another run
    other = ["--budget", "41", "--instances", "1", "--functions", "5"]
    ended = Ended(capsys, "bench", *TINY, *other, "--out", str(finished))
    assert ended.code == 0 and "41 evaluations per dimension" in ended.out


def test_a_place_that_cannot_hold_results_is_refused(capsys, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "results.sqlite").write_text("no database, but a longer text" * 9)
    empty = tmp_path / "empty"
    with ResultStore(empty, create=True):
        pass
    newer = tmp_path / "newer"
    with ResultStore(newer, create=True) as store:
        path = store.path
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 4")
    connection.close()
    for arguments, words in (
        (("bench", "--out", file), "is not a directory"),
        (("bench", "--out", file / "below"), "Not a directory"),
        (("bench", "--out", strange), "is not a gfopt results file"),
        (("bench", "--out", newer), "format version 4"),
        (("report", strange), "is not a gfopt results file"),
        (("report", empty), "holds no runs yet"),
        (("report", file), "holds no results.sqlite"),
    ):
        ended = Ended(capsys, *map(str, arguments))
        assert ended.code == 2 and ended.err.count("\n") == 1, ended.err
        assert words in ended.err


def _process(code: str, *arguments: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=more.pop("stderr", subprocess.PIPE),
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


RUN = "from gfopt.cli.main import main; main()"


@pytest.mark.parametrize(
    ("blocked", "arguments", "words"),
    [
        (["typer", "rich"], ["list"], "gfopt: .*typer and rich.*'gfopt\\[bench\\]'"),
        (["rich"], [], "gfopt: .* needs rich: pip install 'gfopt\\[bench\\]'"),
    ],
)
def test_without_the_extra_one_line_says_what_to_install(
    blocked, arguments, words
) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); {RUN}"
    process = _process(code, *arguments)
    out, err = process.communicate()
    assert process.returncode == 2 and out == ""
    assert err.count("\n") == 1 and re.search(words, err), err


@pytest.mark.parametrize(
    ("blocked", "arguments", "words"),
    [
        ("cocoex", ["--evaluator", "coco"], "coco needs cocoex: pip install 'gfopt"),
        ("sklearn", [], "digits needs sklearn: pip install 'gfopt"),
        ("cocoex", ["--suite", "bbob-noisy"], "bbob-noisy needs cocoex: pip install"),
    ],
)
def test_a_suite_without_its_package_is_refused_before_anything_runs(
    capsys, monkeypatch, tmp_path: Path, blocked, arguments, words
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)
    ended = Ended(capsys, "bench", *arguments, "--out", str(tmp_path / "new"))
    assert ended.code == 2 and ended.out == "" and ended.err.count("\n") == 1
    assert words in ended.err
    assert not (tmp_path / "new").exists()


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ["bench", *TINY, "--functions", "1-4", "--budget", "8"]
    command += ["--out", str(tmp_path / "out dir")]
    process = _process(RUN, *command)
    assert process.stderr is not None
    line = process.stderr.readline()
    shape = (
        r"f1 2-D random_search: 3 done in .* s, of which .* s compiling, "
        r"3 of 12 runs, \d+ (s|min) left\n"
    )
    assert re.fullmatch(shape, line)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    (last,) = err.splitlines()[-1:]
    done = int(re.match(r"stopped: (\d+) of 12 runs are kept in ", last)[1])
    assert 3 <= done < 12
    # the command can be pasted: the folder's name has a space in it
    assert last.endswith(f"--out '{tmp_path / 'out dir'}'")
    with ResultStore(tmp_path / "out dir") as store:
        kept = store.runs()
    assert len(kept) == done

    # on a terminal, the same command shows a bar and runs the rest
    control, terminal = pty.openpty()
    process = _process(RUN, *command, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(control, 4096)
        except OSError:  # the other side is closed
            break
    out, _ = process.communicate(timeout=120)
    os.close(control)
    assert process.returncode == 0
    assert "12/12" in shown.decode() and "━" in shown.decode()
    assert "0 of 12" in out
    with ResultStore(tmp_path / "out dir") as store:
        runs = store.runs()
        assert len(store.sessions()) == 2
    assert len(runs) == 12
    assert [run for run in runs if run.key in {run.key for run in kept}] == kept
    assert (tmp_path / "out dir" / "report.html").is_file()
