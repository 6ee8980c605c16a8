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
from gfopt.driver.checkpoint import Checkpoint
from gfopt.driver.progress import Interrupt


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


def test_in_the_objective_it_ends_the_call_and_keeps_the_others():
    fun = Recorded(lambda x: press() if len(fun.seen) == 7 else host_plateau(x))
    found = minimize(fun)
    assert (found.status, found.nfev, found.nit) == (Status.INTERRUPTED, 6, 1)
    assert found.message == "interrupted by Ctrl-C" and not found.success
    values = [host_plateau(x) for x in fun.seen[:6]]
    assert found.fun == min(values) and found.history["nfev"].tolist() == [5, 6]


def test_while_a_value_is_taken_in_it_waits(monkeypatch, tmp_path):
    """The value is paid for: it is recorded, and only then the search ends."""
    noted = []

    def note(self: Any, step: int, row: int, value: Any) -> None:
        noted.append((step, row))
        if len(noted) == 6:
            press()

    monkeypatch.setattr(Checkpoint, "note", note)
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


def test_in_a_compiled_call_it_waits_for_the_end_of_the_call():
    def ended() -> gfopt.Result:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        return minimize(plateau, budget=10**9)

    found = ended()
    assert found.status == Status.INTERRUPTED and found.path == "compiled"
    assert found.nfev == 1 + 4 * found.nit and len(found.history["best"]) == found.nit


def test_a_second_one_raises():
    def callback(result: gfopt.Result) -> None:
        press()
        press()

    for fun in (plateau, host_plateau):
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
        with pytest.raises(KeyboardInterrupt):
            interrupt.let_pass()


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
