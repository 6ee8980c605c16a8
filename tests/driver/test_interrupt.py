"""Ctrl-C: the search ends, nothing that was paid for is lost, a second one raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
from driver.shared import SMALL, X0, Recorded, host_plateau, plateau, same

import gfopt
from gfopt import Status
from gfopt.driver.engine.compiled import CompiledEngine
from gfopt.driver.loop.checkpoint import Checkpoint
from gfopt.driver.progress.interrupt import FIRST, Interrupt
from gfopt.driver.storage.storage import read_records


def minimize(fun: Any, **words: Any) -> gfopt.Result:
    return gfopt.minimize(fun, X0, **(SMALL | {"budget": 20} | words))


@pytest.fixture(autouse=True)
def as_it_was():
    before = signal.getsignal(signal.SIGINT)
    assert before is signal.default_int_handler
    yield
    assert signal.getsignal(signal.SIGINT) is before


def press(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


def pressing(times: int, at: int) -> Recorded:
    """Returns an objective in whose call ``at`` Ctrl-C is pressed."""

    def value(x: Any) -> float:
        for _ in range(times * (len(fun.seen) == at)):
            press()
        return host_plateau(x)

    fun = Recorded(value)
    return fun


def test_in_the_objective_the_generation_is_finished(capfd, tmp_path):
    fun = pressing(1, at=7)
    found = minimize(fun, checkpoint=tmp_path / "run")
    assert (found.status, found.nfev, found.nit) == (Status.INTERRUPTED, 9, 2)
    assert found.message == "interrupted by Ctrl-C" and not found.success
    assert "ends after this generation; once more stops now" in capfd.readouterr().err
    kinds = [record.kind for record in read_records(tmp_path / "run").records]
    assert kinds == ["snapshot"]  # saved; all values are in it
    same(minimize(fun, checkpoint=tmp_path / "run").x, minimize(host_plateau).x)
    assert len(fun.seen) == 20


def test_twice_in_the_objective_ends_the_call_and_keeps_the_others(tmp_path):
    fun = pressing(2, at=7)
    found = minimize(fun, checkpoint=tmp_path / "run")
    assert (found.status, found.nfev, found.nit) == (Status.INTERRUPTED, 6, 1)
    values = [host_plateau(x) for x in fun.seen[:6]]
    assert found.fun == min(values) and found.history["nfev"].tolist() == [5, 6]
    same(minimize(fun, checkpoint=tmp_path / "run").x, minimize(host_plateau).x)
    assert len(fun.seen) == 21  # the call that was stopped is made again


def test_while_a_value_is_taken_in_it_waits(monkeypatch, tmp_path):
    """The value is paid for: it is recorded, and only then the search ends."""
    noted = []

    def write(self: Any, step: int, row: int, value: Any) -> None:
        noted.append((step, row))
        if len(noted) == 6:
            press()
            press()

    monkeypatch.setattr(Checkpoint, "write", write)
    found = minimize(host_plateau, checkpoint=tmp_path / "run")
    assert (found.status, found.nfev, len(noted)) == (Status.INTERRUPTED, 7, 6)


@pytest.mark.parametrize("fun", [plateau, host_plateau], ids=["compiled", "host"])
def test_between_two_steps_it_waits_for_the_next(fun):
    seen = []

    def callback(result: gfopt.Result) -> None:
        if result.nit == 2:
            press()
            seen.append("went on")

    found = minimize(fun, callbacks=callback, budget=41)
    assert (found.status, found.nit, seen) == (Status.INTERRUPTED, 2, ["went on"])
    same(found.recommended, minimize(fun, budget=found.nfev).recommended)


def test_in_a_compiled_call_it_waits_for_the_end_of_the_call(monkeypatch):
    advance = CompiledEngine.advance

    def pressed(self: Any, *args: Any) -> Any:
        press()  # by no clock: a busy machine may be anywhere after a second
        return advance(self, *args)

    monkeypatch.setattr(CompiledEngine, "advance", pressed)
    found = minimize(plateau, budget=10**9)
    assert found.nit > 0
    assert found.status == Status.INTERRUPTED and found.path == "compiled"
    assert found.nfev == 1 + 4 * found.nit and len(found.history["best"]) == found.nit


def test_a_third_one_raises():
    def callback(result: gfopt.Result) -> None:
        for _ in range(times):
            press()

    for fun in (plateau, host_plateau):
        times = 2
        assert minimize(fun, callbacks=callback).status == Status.INTERRUPTED
        times = 3
        with pytest.raises(KeyboardInterrupt):
            minimize(fun, callbacks=callback)


def test_elsewhere_it_means_what_it_meant():
    def ours(number: int, frame: Any) -> None:
        calls.append(number)

    calls: list[int] = []
    before = signal.signal(signal.SIGINT, ours)
    try:
        found = minimize(host_plateau, callbacks=press, budget=8)
    finally:
        signal.signal(signal.SIGINT, before)
    assert found.status == Status.BUDGET and calls == [signal.SIGINT] * 2


def test_in_another_thread_nothing_is_installed():
    results = []
    thread = threading.Thread(
        target=lambda: results.append(minimize(host_plateau, budget=4))
    )
    thread.start()
    thread.join()
    assert results[0].nfev == 4


def test_let_pass_raises_what_was_held_back():
    with Interrupt() as interrupt:
        press()
        assert interrupt.seen
        interrupt.let_pass()
        with pytest.raises(KeyboardInterrupt):
            interrupt.let_pass(at=1)


WAITS = """
import sys, time
import gfopt
from driver.functions import highest
from driver.shared import SMALL, X0
def slow(x):
    value = highest(x)
    print("called", flush=True)
    time.sleep(0.3)
    return value
def main():
    words = SMALL | {"checkpoint": sys.argv[1], "budget": 21}
    found = gfopt.minimize(slow, X0, **words)
    print(found.status.name, found.nfev, flush=True)
if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("times", [1, 2])
def test_from_the_terminal_once_and_twice(tmp_path, times):
    """As a user runs it: what was told is in the file, and is not paid for again."""
    path = tmp_path / "run"
    command = [sys.executable, "-u", "-c", WAITS, str(path)]
    words: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, text=True, env=environment, **words) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = iter(process.stdout.readline, "")
        for _ in range(7):
            assert next(lines) == "called\n"
        process.send_signal(signal.SIGINT)
        assert (
            next(line for line in process.stderr if line.strip()) == FIRST.decode()[1:]
        )
        if times == 2:
            process.send_signal(signal.SIGINT)
        name, count = next(line for line in lines if line != "called\n").split()
    assert name == "INTERRUPTED" and process.returncode == 0
    assert int(count) == 9 if times == 1 else int(count) in (6, 7)
    with subprocess.Popen(command, text=True, env=environment, **words) as process:
        assert process.stdout is not None
        lines = process.stdout.readlines()
        process.communicate()
    assert lines.count("called\n") == 21 - int(count)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_from_the_terminal():
    """Both paths in a program of its own, as a user runs it."""
    program = textwrap.dedent("""
        import time
        import gfopt
        def slow(x):
            value = abs(float(x[0]))
            print("evaluated", flush=True)
            time.sleep(0.2)
            return value
        def quick(x):
            return abs(x[0])
        def show(result):
            print(result.status.name, result.path, result.nfev > 0, flush=True)
        words = {"method": "random_search", "budget": 10**9}
        show(gfopt.minimize(slow, [1.0], **words))
        say = lambda result: print("step")
        show(gfopt.minimize(quick, [1.0], callbacks=say, **words))
    """)
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        for word in ("evaluated", "step"):
            for _ in range(3):
                assert next(lines) == f"{word}\n"
            process.send_signal(signal.SIGINT)
            ended = next(line for line in lines if line != f"{word}\n")
            path = "host" if word == "evaluated" else "compiled"
            assert ended == f"INTERRUPTED {path} True\n"
        assert next(lines, None) is None
    assert process.returncode == 0
