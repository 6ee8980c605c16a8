"""Checkpoints: after a kill the same call goes on, and pays for nothing twice."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driver import functions
from driver.shared import (
    SMALL,
    X0,
    compilations,
    host_plateau,
    plateau,
    same,
    same_result,
)

import gfopt
from gfopt import Status
from gfopt.driver.loop import checkpoint as checkpoints
from gfopt.driver.storage import records as layout
from gfopt.driver.storage import storage
from gfopt.driver.storage.storage import previous, read_records

FILES = Path(__file__).parent / "files"


class Killed(BaseException):
    """Leaves on the disk what a SIGKILL leaves: nothing is written any more."""


class Mortal:
    """An objective that is killed in some of its calls, and counts those that end."""

    def __init__(self, fun: Any = host_plateau, *deaths: int):
        self.fun, self.deaths = fun, set(deaths)
        self.began = self.ended = 0

    def __call__(self, x: Any, *args: Any, **words: Any) -> Any:
        jax.tree.map(np.asarray, x)  # a tracer ends here
        self.began += 1
        if self.began in self.deaths:
            raise Killed
        value = self.fun(x, *args, **words)
        self.ended += 1
        return value


def minimize(fun: Any, path: Any = None, x0: Any = X0, **words: Any) -> gfopt.Result:
    return gfopt.minimize(fun, x0, checkpoint=path, **(SMALL | {"budget": 21} | words))


def through_deaths(fun: Any, path: Any, **words: Any) -> gfopt.Result:
    """Calls ``minimize`` again until it is not killed."""
    for _ in range(20):
        try:
            return minimize(fun, path, **words)
        except Killed:
            continue
    raise AssertionError("it was killed again and again")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.gfopt"


@pytest.fixture(params=[False, True], ids=["journal", "snapshots"])
def often(request, monkeypatch):
    """With a snapshot before every generation, and with hardly any."""
    if request.param:
        monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SECONDS", 0.0)
        monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SHARE", math.inf)
    return request.param


@pytest.fixture(scope="module")
def straight():
    return minimize(host_plateau)


# ---- killed


def test_repeated_kills_cost_the_calls_that_they_hit(often, path, straight):
    fun = Mortal(host_plateau, 1, 2, 6, 7, 12, 19, 22)
    found = through_deaths(fun, path)
    same_result(found, straight)
    assert fun.ended == found.nfev == 21 and fun.began == 28


def run_child(tmp_path: Any, body: str) -> int:
    program = "\n".join(
        [
            "import os, signal, gfopt, gfopt.driver.loop.checkpoint as module",
            "from driver import functions",
            "from driver.shared import SMALL, X0, plateau",
            body,
        ]
    )
    folders = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": folders},
    )
    return done.returncode


def test_sigkill_on_the_host_path(tmp_path, path):
    log, args = tmp_path / "calls", (str(tmp_path / "calls"), 11)
    code = run_child(
        tmp_path,
        f"gfopt.minimize(functions.logged, X0, budget=21, args={args},"
        f" checkpoint={str(path)!r}, **SMALL)",
    )
    assert code == -signal.SIGKILL and len(log.read_text().splitlines()) == 11
    found = minimize(functions.logged, path, args=args)
    same_result(found, minimize(functions.highest))
    lines = log.read_text().splitlines()
    assert found.nfev == 21 and len(lines) == 22
    assert lines[10] == lines[11]  # the call that was killed is the only one made twice
    assert len(set(lines)) == 21


def test_sigkill_on_the_compiled_path(tmp_path, path):
    code = run_child(
        tmp_path,
        "module.SAVE_SECONDS, module.SAVE_SHARE = 0.0, float('inf')\n"
        "kill = lambda r: r.nit == 4 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "gfopt.minimize(plateau, X0, budget=31, callbacks=kill,"
        f" checkpoint={str(path)!r}, **SMALL)",
    )
    assert code == -signal.SIGKILL
    assert read_records(path).records[0].arrays["state/step"] == 3
    same_result(minimize(plateau, path, budget=31), minimize(plateau, budget=31))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_while_a_snapshot_is_written(often, path, straight, monkeypatch, when):
    replace, calls = os.replace, []

    def killed(*names: Any) -> None:
        calls.append(names)
        if len(calls) == 2:
            if when == "after":
                replace(*names)
            raise Killed
        replace(*names)

    monkeypatch.setattr(storage.os, "replace", killed)
    fun = Mortal()
    same_result(through_deaths(fun, path), straight)
    assert fun.ended == fun.began == 21 and len(calls) >= 2


def test_a_kill_before_the_first_snapshot(path, straight, monkeypatch):
    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.RecordWriter, "replace", killed)
        with pytest.raises(Killed):
            minimize(host_plateau, path)
    assert read_records(path).records == []
    same_result(minimize(host_plateau, path), straight)


def test_the_probes_call_is_not_paid_for_again(path):
    def fun(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return jnp.sum(x) * 0.0
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return host_plateau(x)

    calls: list[int] = [0] * 4  # the first run is not killed
    straight = minimize(fun)
    calls.clear()
    found = through_deaths(fun, path)
    same_result(found, straight)
    assert found.path == "host" and len(calls) == found.nfev + 1


def test_a_torn_tail_costs_what_it_held(path, straight):
    fun = Mortal(host_plateau, 15)
    with pytest.raises(Killed):
        minimize(fun, path)
    whole = path.read_bytes()
    for cut, lost in ((0, 0), (1, 1), (22, 1), (24, 2)):  # a record has 23 bytes
        path.write_bytes(whole[: len(whole) - cut])
        again = Mortal()
        with damaged(cut):
            same_result(minimize(again, path), straight)
        assert again.ended == 7 + lost


def damaged(is_damaged: Any = True) -> Any:
    """Expects the warning about a damaged file."""
    if not is_damaged:
        return contextlib.nullcontext()
    return pytest.warns(UserWarning, match="is damaged or was cut short; lost: ")


@pytest.fixture
def saved(path, monkeypatch):
    """A file with a save before it, values behind the snapshot, and calls to go."""
    monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("gfopt.driver.loop.checkpoint.SAVE_SHARE", math.inf)
    with pytest.raises(Killed):
        minimize(Mortal(host_plateau, 16), path)
    before = previous(path)
    kinds = [[r.kind for r in read_records(p).records] for p in (before, path)]
    assert kinds == [["snapshot", *["value"] * 4], ["snapshot", *["value"] * 2]]
    return {p: p.read_bytes() for p in (before, path)}


def snapshot_of(path: Any, whole: bytes) -> range:
    """Returns where in the file the snapshot is."""
    path.write_bytes(whole)
    with open(path, "rb", buffering=0) as file:
        chain = layout.Chain()
        layout.read_header(file, path, chain)
        start = file.tell()
        end = start + 2 + 12 + layout.verify_frame(file, chain) + 4
    return range(start, end)


def test_damage_anywhere_costs_some_calls_and_no_result(saved, path, straight):
    """Cut or flipped in the header, the snapshot, its history, or a value."""
    for before, whole in saved.items():
        before.write_bytes(whole)
    where = snapshot_of(path, saved[path])
    middle, end = (where.start + where.stop) // 2, where.stop
    for at, ended in [(5, 12), (60, 12), (where.start, 10), (middle, 10), (end, 9)]:
        path.write_bytes(saved[path][:at])
        previous(path).write_bytes(saved[previous(path)])
        again = Mortal()
        with damaged(at != end):
            same_result(minimize(again, path), straight)
        assert again.ended <= ended, at
    for at in (3, 60, where.start + 1, middle, where.stop - 1, end + 30):
        flipped = bytearray(saved[path])
        flipped[at] ^= 0x10
        path.write_bytes(flipped)
        previous(path).write_bytes(saved[previous(path)])
        again = Mortal()
        with damaged():
            same_result(minimize(again, path), straight)
        assert again.ended <= 12, at


def test_without_the_save_before_it_starts_again_and_says_so(saved, path, straight):
    where = snapshot_of(path, saved[path])
    flipped = bytearray(saved[path])
    flipped[where.start + 40] ^= 1
    path.write_bytes(flipped)
    previous(path).unlink()
    again = Mortal()
    with damaged():
        same_result(minimize(again, path), straight)
    # the two values behind the damage are not paid for again
    assert again.ended == 19
    path.write_bytes(saved[path][:60] + b"?" + saved[path][61:])
    previous(path).unlink()
    with pytest.raises(ValueError, match="damaged at offset 12, in its header"):
        minimize(host_plateau, path)


def test_the_save_of_a_run_that_was_removed_is_not_used(saved, path):
    path.unlink()
    again = Mortal()
    minimize(again, path, budget=8)
    assert again.ended == 8


FULL = """
import os, resource, signal, sys
import gfopt
from driver.shared import SMALL, X0, host_plateau as base
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
calls = []
def host_plateau(x):
    value = base(x)
    if len(calls) == 10:
        size = os.stat(sys.argv[1]).st_size + 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    calls.append(value)
    return value
try:
    gfopt.minimize(host_plateau, X0, budget=21, checkpoint=sys.argv[1], **SMALL)
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_is_an_error_and_loses_one_call(path, straight):
    """With a limit of the size of files for a full disk: the same path of errors."""
    command = [sys.executable, "-c", FULL, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(path)], done.stderr
    assert not read_records(path).lost
    same_result(minimize(host_plateau, path), straight)


def test_a_save_that_fails_leaves_the_file_and_no_rest(path, monkeypatch):
    minimize(host_plateau, path, budget=8)
    whole = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            minimize(host_plateau, path, budget=21)
    assert [p.name for p in sorted(path.parent.iterdir())] == [
        "run.gfopt",
        "run.gfopt.prev",
    ]
    assert path.read_bytes().startswith(whole[:-200])
    same_result(minimize(host_plateau, path), minimize(host_plateau))


def test_a_file_of_before_0_1_0_is_refused_by_name(path):
    """Written by commit 82cf517, the same call as in this file."""
    path.write_bytes((FILES / "before_0.1.0.gfopt").read_bytes())
    with pytest.raises(ValueError, match=r"version 1, .* older, from before 0\.1\.0"):
        minimize(host_plateau, path)


def test_files_of_0_1_0_stay_readable(path):
    """Those here were written once; a format that can't read them is another one."""
    path.write_bytes((FILES / "format_2.gfopt").read_bytes())
    again = Mortal(host_plateau)
    same_result(minimize(again, path), minimize(host_plateau))
    assert again.ended == 21 - 13
    x0 = {"w": np.zeros((3, 2), np.float32), "b": np.zeros(3, np.float32)}
    found = gfopt.genome.load(FILES / "format_2.genome", x0)
    assert np.all(found["w"] != 0) and found["b"].shape == (3,)
    log = gfopt.ReplayLog.read(FILES / "format_2.log")
    assert log.seed.tolist() == [7, 9] and log.header["noise"] == "rademacher"
    assert log.projected_gradient.tolist() == [2, 1]


def test_failures_and_values_that_are_not_finite_are_recorded(often, path):
    def fun(x: Any) -> Any:
        if x[0] > 1.45:
            raise OSError("no disk")
        return np.nan if x[0] > 1.35 else host_plateau(x)

    mortal = Mortal(fun, 3, 8, 14)
    found = through_deaths(mortal, path)
    same_result(found, minimize(Mortal(fun)))
    assert mortal.began - 3 == found.nfev == 21
    assert set(found.failures) == {"OSError: no disk", "returned NaN"}


def test_aux_and_context_go_on(often, path):
    def fun(x: Any, context: Any) -> Any:
        aux = {1: x.copy(), 2: [np.float32(context), (3, None)], 3: ()}
        return host_plateau(x) + float(context), aux

    def update(context: Any, evaluation: Any) -> Any:
        aux = evaluation.aux
        assert isinstance(aux[2][1], tuple) and aux[2][0].dtype == np.float32
        return context + jnp.max(aux[1]) / 3 + aux[2][1][0][0]

    words = {"has_aux": True, "context": np.float64(0.5), "update": update}
    straight = minimize(gfopt.Objective(Mortal(fun), **words))
    mortal = Mortal(fun, 3, 10, 16)
    same_result(through_deaths(gfopt.Objective(mortal, **words), path), straight)
    assert mortal.ended == 21


class Descriptor(NamedTuple):
    x: Any


def test_aux_that_no_record_can_hold_is_refused(path):
    objective = gfopt.Objective(
        lambda x: (host_plateau(x), Descriptor(x)), has_aux=True
    )
    assert minimize(objective).nfev == 21
    with pytest.raises(TypeError, match="aux must be made of dicts, lists, tuples"):
        minimize(objective, path)


def test_an_iterator_of_batches_is_read_on(often, path):
    def data() -> Any:
        for step in range(100):
            yield np.float64(step / 7)

    def fun(x: Any, batch: Any) -> float:
        return host_plateau(x) + float(batch)

    straight = minimize(Mortal(fun), batches=data())
    mortal = Mortal(fun, 5, 6, 13)
    for _ in range(4):
        try:
            found = minimize(mortal, path, batches=data())
        except Killed:
            continue
    same_result(found, straight)
    assert mortal.ended == 21


# ---- finished, and called again


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ({"budget": 20}, Status.BUDGET),
        ({"budget": 18}, Status.BUDGET),  # in the middle of a generation
        ({"budget": 3}, Status.BUDGET),  # of the first
        ({"target": 1.3, "budget": 90}, Status.TARGET),
        ({"batches": [0, 0, 0]}, Status.BUDGET),
    ],
    ids=["budget", "middle", "first", "target", "batches"],
)
@pytest.mark.parametrize("kind", ["compiled", "host"])
def test_a_finished_run_returns_at_once(path, kind, words, status):
    base = plateau if kind == "compiled" else host_plateau
    if "batches" in words:
        fun = Mortal(lambda x, _: host_plateau(x)) if kind == "host" else ignoring
    else:
        fun = Mortal(base) if kind == "host" else base
    first = minimize(fun, path, **words)
    assert first.status == status and first.path == kind
    count = getattr(fun, "ended", 0)
    jax.clear_caches()
    with compilations() as names:
        again = minimize(fun, path, **words)
    same_result(again, first)
    assert names == [] and again.seconds == first.seconds
    assert getattr(fun, "ended", 0) == count
    assert again.optimizer == first.optimizer and again.reason == first.reason


def ignoring(x: Any, batch: Any) -> Any:
    return plateau(x) + 0 * batch


@pytest.mark.parametrize("fun", [plateau, host_plateau], ids=["compiled", "host"])
def test_a_finished_run_within_wrappers_returns_at_once(path, fun):
    """A tree with a fixed leaf, restarts at a larger size, constraints."""
    x0 = {"a": np.array(X0), "b": 2.0}
    words: dict[str, Any] = {
        "bounds": {"a": gfopt.spaces.real(-3, 3), "b": gfopt.spaces.real(2, 2)},
        "method": gfopt.Restarts(gfopt.CMAES(population_size=4, tol_x=0.1)),
        "options": None,
        "constraints": [lambda x: x["a"][0] - 2],
        "budget": 120,
    }
    first = gfopt.minimize(lambda x: fun(x["a"]), x0, checkpoint=path, **words)
    again = gfopt.minimize(lambda x: fun(x["a"]), x0, checkpoint=path, **words)
    same((again.x, again.state, again.history), (first.x, first.state, first.history))
    assert again.seconds == first.seconds and again.message == first.message


def test_a_finished_run_goes_on_where_it_would_have(path):
    first = minimize(host_plateau, path, budget=9)
    second = minimize(host_plateau, path, budget=None, max_seconds=1e-9)
    assert (first.nfev, second.nfev) == (9, 9) and second.status == Status.SECONDS
    third = minimize(host_plateau, path, budget=13)
    same_result(third, minimize(host_plateau, budget=13))
    saved = read_records(path).records[0].meta["seconds"]
    met = minimize(host_plateau, path, budget=13, target=1.5)
    assert met.status == Status.TARGET and met.seconds >= saved


def test_a_converged_run_stays_converged(path):
    fun = Mortal(lambda x: float(np.round(x[0] ** 2, 1)))
    words = {"method": "cma_es", "options": None, "budget": 500, "x0": [0.5]}
    first = minimize(fun, path, **words)
    count = fun.ended
    again = minimize(fun, path, **words)
    same_result(again, first)
    assert first.status == Status.CONVERGED and fun.ended == count < 500


@pytest.mark.parametrize("fun", [plateau, host_plateau], ids=["compiled", "host"])
def test_a_larger_budget_goes_on(path, fun):
    straight = minimize(fun, budget=30)
    for budget in (3, 10, 17, 30):
        found = minimize(fun, path, budget=budget)
        assert found.nfev == budget
    same_result(found, straight)
    assert minimize(fun, path, budget=5).nfev >= 5  # a smaller one is used up


def test_a_larger_budget_pays_for_the_rest_only(path):
    fun = Mortal()
    for budget in (3, 10, 17, 30):
        minimize(fun, path, budget=budget)
        assert fun.ended == budget


def test_the_clock_goes_on(path):
    def fun(x: Any) -> float:
        time.sleep(0.05)
        return host_plateau(x)

    first = minimize(fun, path, budget=9)
    again = minimize(fun, path, budget=None, max_seconds=first.seconds / 2)
    assert (again.status, again.nfev) == (Status.SECONDS, 9)
    assert again.seconds > 9 * 0.05  # what the first one slept


@pytest.mark.parametrize("fun", [plateau, host_plateau], ids=["compiled", "host"])
def test_a_generation_that_stays_open_keeps_its_diagnostics(often, path, fun):
    for budget in (18, 19, 20):
        found = minimize(fun, path, budget=budget)
        same_result(found, minimize(fun, budget=budget))
    assert found.nfev == 20 and np.isfinite(found.history["sigma"]).all()


def test_a_second_writer_is_refused(often, path, straight):
    refused = []

    def second(result: gfopt.Result) -> None:
        with pytest.raises(RuntimeError, match="held by another writer"):
            minimize(host_plateau, path)
        refused.append(result.nit)

    same_result(minimize(host_plateau, path, callbacks=second), straight)
    assert refused == [1, 2, 3, 4, 5]
