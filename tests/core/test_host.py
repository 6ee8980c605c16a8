"""Calls that raise, hang, crash; workers, executors, and what is left behind.

Worker processes import functions by name, and pytest's importlib mode gives test
modules none: the functions here are the standard library's, or a module written to
``tmp_path``.
"""

import functools
import gc
import math
import multiprocessing
import operator
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from gfopt.core.host.host import HostPool, Outcome

needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals and groups")


def values(outcomes):
    return [outcome.value for outcome in outcomes]


def shown(outcomes):
    """Outcomes without what Python prints of an exception."""
    return [outcome._replace(traceback="") for outcome in outcomes]


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def leave(code=None):
    """A call for ``builtins.exec``: ends its process if a code is given."""
    end = "" if code is None else f"import os; os._exit({code})"
    return (end, {})


def is_running(pid):
    """Whether a process exists and is no zombie."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state[0] != "Z"


def ends_soon(pid):
    deadline = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """Something to import that no worker can know from elsewhere."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "host_functions.py").write_text(
        textwrap.dedent("""
        import os, sys, time
        def meet(folder, name):  # its caller waits here until another is here, too
            (folder / name).touch()
            while len(os.listdir(folder)) < 2:
                time.sleep(.01)
            return os.getpid()
        def modules(_): return sorted(sys.modules)
        def norm(x): return float((x ** 2).sum())
        def unpicklable(x): return lambda: x
        class Sour(Exception):
            def __str__(self): raise ValueError
        def sour(): raise Sour
        def far_below(x):
            try:
                raise KeyError
            except KeyError as error:
                raise LookupError("nothing is here") from error
        """)
    )
    sys.path.insert(0, str(folder))
    import host_functions

    yield host_functions
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def two(module):  # after it: a worker gets the path of its time
    with HostPool(workers=2) as pool:
        yield pool


@pytest.mark.parametrize(
    "arguments", [{}, {"workers": 1}, {"executor": ThreadPoolExecutor}]
)
def test_calls_without_processes(arguments):
    with HostPool(**arguments) as pool:
        assert values(pool.map(lambda a, b: a * b, [(i, 2) for i in range(9)])) == [
            2 * i for i in range(9)
        ]
        assert shown(pool.map(operator.truediv, [(1, 0), (1, 2)])) == [
            Outcome(None, "raised", "ZeroDivisionError: division by zero"),
            Outcome(0.5, "ok", ""),
        ]
        assert pool.map(math.sqrt, []) == []


@pytest.mark.parametrize(
    "arguments", [{}, {"workers": 2}, {"executor": ThreadPoolExecutor}]
)
def test_outcomes_are_noted_as_they_come(arguments):
    noted = {}

    def stop(i, outcome):
        raise LookupError("found")

    with HostPool(**arguments, retries=1) as pool:
        calls = [(1, 0), (1, 2), (1, 4)]
        outcomes = pool.map(operator.truediv, calls, noted.setdefault)
        assert noted == dict(enumerate(outcomes)) and len(noted) == 3
        with pytest.raises(LookupError):
            pool.map(operator.truediv, calls, stop)
        assert pool.map(operator.truediv, calls) == outcomes


def test_interrupts_pass_through_calls_made_here():
    for error in (KeyboardInterrupt, SystemExit):
        with HostPool() as pool, pytest.raises(error):
            pool.map(functools.partial(exec, f"raise {error.__name__}"), [()])


def test_workers_keep_the_order_and_take_several_functions(two, module, tmp_path):
    delays = [(0.05 * (i % 2),) for i in range(6)]
    assert statuses(two.map(time.sleep, delays)) == ["ok"] * 6
    calls = [(i,) for i in range(50)]
    assert values(two.map(math.sqrt, calls)) == [math.sqrt(i) for i in range(50)]
    power = functools.partial(operator.pow, 2)
    assert values(two.map(power, calls)) == [2**i for i in range(50)]
    met = values(two.map(module.meet, [(tmp_path, name) for name in "ab"]))
    assert len(set(met)) == 2


def test_what_a_call_raises_costs_that_call(two, module):
    assert shown(two.map(operator.truediv, [(1, 0), (1, 2)])) == [
        Outcome(None, "raised", "ZeroDivisionError: division by zero"),
        Outcome(0.5, "ok", ""),
    ]
    (left, stayed) = shown(two.map(sys.exit, [(3,), (1, 2)]))
    assert left == Outcome(None, "raised", "SystemExit: 3")
    assert stayed.status == "raised" and "TypeError" in stayed.reason
    (sour,) = two.map(module.sour, [()])
    assert sour.reason == "Sour: (its message cannot be shown)"
    (result,) = two.map(module.unpicklable, [(1,)])
    assert result.status == "raised" and "result cannot be pickled" in result.reason
    bad, good = two.map(len, [(lambda: 0,), ("ab",)])
    assert bad.status == "raised" and "arguments cannot be pickled" in bad.reason
    assert good == Outcome(2, "ok", "")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"workers": 2}, {"executor": ThreadPoolExecutor}, {"executor": "pool"}],
)
def test_a_traceback_begins_at_the_function(arguments, module):
    if "executor" in arguments and arguments["executor"] == "pool":
        context = multiprocessing.get_context("spawn")
        make = functools.partial(ProcessPoolExecutor, 1, mp_context=context)
        arguments = {"executor": make}
    with HostPool(**arguments) as pool:
        (outcome,) = pool.map(module.far_below, [(0,)])
    assert outcome.reason == "LookupError: nothing is here"
    lines = [line.strip() for line in outcome.traceback.splitlines()]
    assert lines[0].startswith(("Traceback", "KeyError", "concurrent.futures"))
    assert lines[-1] == outcome.reason and "raise KeyError" in lines
    where = [line for line in lines if line.startswith("File")]
    assert "executor" in arguments or "host_functions.py" in where[0]


def test_large_arrays_go_both_ways(two, module):
    x = np.ones(1_000_000)
    assert values(two.map(module.norm, [(x,)] * 3)) == [1e6] * 3
    assert [v.sum() for v in values(two.map(np.multiply, [(x, 2)] * 3))] == [2e6] * 3


def test_a_worker_imports_nothing_of_its_own(module):
    with HostPool(workers=2) as pool:
        (names,) = values(pool.map(module.modules, [(0,)]))
    assert not {"gfopt", "jax", "numpy"} & set(names)


def test_a_worker_that_was_late_for_one_function_makes_the_next():
    with HostPool(workers=2) as pool:
        for i in range(20):
            power = functools.partial(operator.pow, i)
            assert values(pool.map(power, [(2,), (3,)])) == [i**2, i**3]


def test_a_dead_worker_costs_its_call_only(two):
    calls = [leave(3 if i == 4 else None) for i in range(10)]
    outcomes = two.map(exec, calls)
    assert statuses(outcomes) == ["died" if i == 4 else "ok" for i in range(10)]
    assert outcomes[4].reason == "its worker process ended with exit code 3"
    assert statuses(two.map(exec, calls[:4])) == ["ok"] * 4


@needs_posix
def test_a_crash_is_named(two):
    crash = ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", {})
    assert two.map(exec, [crash, leave()]) == [
        Outcome(None, "died", "its worker process was killed by SIGSEGV"),
        Outcome(None, "ok", ""),
    ]


@needs_posix
def test_a_worker_that_dies_between_two_maps_is_replaced(two):
    for pid in set(values(two.map(os.getpid, [()] * 20))):
        os.kill(pid, signal.SIGKILL)
        assert ends_soon(pid)
    assert statuses(two.map(math.sqrt, [(1,)] * 4)) == ["ok"] * 4


def test_a_timeout_counts_from_the_start_of_the_call():
    with HostPool(timeout=0.4) as pool:  # one worker: 3 * 0.2 s in the queue
        began = time.monotonic()
        outcomes = pool.map(time.sleep, [(0.2,), (60,), (0.2,), (0.2,)])
        assert statuses(outcomes) == ["ok", "timeout", "ok", "ok"]
        assert outcomes[1].reason == "no result within 0.4 s"
        assert time.monotonic() - began < 20


@needs_posix
def test_a_timeout_ends_the_programs_that_the_call_started(tmp_path):
    said = tmp_path / "pid"
    program = f"import subprocess; p = subprocess.Popen(['sleep', '60'])\nopen({str(said)!r}, 'w').write(str(p.pid)); p.wait()"  # noqa: E501
    with HostPool(timeout=1.0) as pool:
        assert statuses(pool.map(exec, [(program, {})])) == ["timeout"]
    assert ends_soon(int(said.read_text()))


@pytest.mark.parametrize("arguments", [{}, {"workers": 2}, {"executor": 2}])
def test_retries_make_a_failed_call_again(arguments, tmp_path):
    marker = tmp_path / "marker"
    if "executor" in arguments:
        arguments = {"executor": functools.partial(ThreadPoolExecutor, 2)}
    code = (
        f"import os\nif not os.path.exists({str(marker)!r}):\n"
        f"    open({str(marker)!r}, 'w').close(); 1 / 0"
    )
    with HostPool(**arguments, retries=1) as pool:
        assert statuses(pool.map(exec, [(code, {})])) == ["ok"]
        assert statuses(pool.map(operator.truediv, [(1, 0)])) == ["raised"]


def test_retries_after_a_death(tmp_path):
    marker = str(tmp_path / "marker")
    code = (
        f"import os\nif not os.path.exists({marker!r}):\n"
        f"    open({marker!r}, 'w').close(); os._exit(1)"
    )
    with HostPool(workers=2, retries=1) as pool:
        outcomes = pool.map(exec, [(code, {}), leave(), leave(7)])
        assert statuses(outcomes) == ["ok", "ok", "died"]


@pytest.mark.parametrize("in_threads", [False, True])
def test_stragglers_are_cut_off(in_threads):
    executor = ThreadPoolExecutor(3) if in_threads else None
    with HostPool(executor, workers=3) as pool:
        began = time.monotonic()
        calls = [(0.0,), (3.0,), (0.0,), (0.01,)]
        outcomes = pool.map(time.sleep, calls, enough=3)
        assert statuses(outcomes) == ["ok", "cut off", "ok", "ok"]
        assert "enough others" in outcomes[1].reason
        assert in_threads or time.monotonic() - began < 2.5
        # what fails is not enough: then all are waited for
        outcomes = pool.map(math.sqrt, [(-1,), (-1,), (4,)], enough=2)
        assert statuses(outcomes) == ["raised", "raised", "ok"]
        assert statuses(pool.map(math.sqrt, [(1,)] * 4)) == ["ok"] * 4


def test_calls_are_added_to_a_stream_while_others_run(two):
    noted = {}
    stream = two.stream(math.sqrt, noted.setdefault)
    for i in range(8):
        assert stream.add((i * i,)) == i
        if i % 3 == 2:
            stream.wait()
    while stream.num_open:
        stream.wait()
    assert {i: outcome.value for i, outcome in noted.items()} == {
        i: i for i in range(8)
    }
    stream.add((81,))  # after all have come back
    while stream.num_open:
        stream.wait()
    assert noted[8].value == 9


def test_functions_that_workers_cannot_get_are_refused(two, module, tmp_path):
    with pytest.raises(ValueError, match="fun must be picklable.*top level.*loky"):
        two.map(lambda x: x, [(1,)])
    path = tmp_path / "gone_functions.py"
    path.write_text("def identity(x): return x")
    sys.path.insert(0, str(tmp_path))
    try:
        import gone_functions
    finally:
        sys.path.remove(str(tmp_path))
    with pytest.raises(ValueError, match="cannot be loaded.*ModuleNotFound.*top level"):
        two.map(gone_functions.identity, [(1,)])
    assert values(two.map(math.sqrt, [(4,)])) == [2.0]  # and the pool goes on


def test_threads_that_run_out_of_time_are_given_up():
    with ThreadPoolExecutor(2) as threads:
        with HostPool(threads, timeout=0.3) as pool:
            outcomes = pool.map(time.sleep, [(1.0,), (0,), (1.0,), (0,)])
            assert statuses(outcomes) == ["timeout", "ok", "timeout", "timeout"]
            assert "hold the executor" in outcomes[3].reason
        assert threads.submit(len, "still the caller's").result()


def test_a_broken_executor_is_made_anew_and_the_culprit_found():
    context = multiprocessing.get_context("spawn")
    make = functools.partial(ProcessPoolExecutor, 2, context)
    with HostPool(make, workers=2) as pool:
        calls = [leave(1 if i == 2 else None) for i in range(5)]
        expected = ["ok", "ok", "died", "ok", "ok"]
        assert statuses(pool.map(exec, calls)) == expected


def test_a_broken_executor_that_cannot_be_made_anew():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        pool = HostPool(executor)
        outcomes = pool.map(exec, [leave(1), leave()])
        assert statuses(outcomes) == ["died", "died"]
        assert "the executor broke: BrokenProcessPool" in outcomes[0].reason
        with pytest.raises(RuntimeError, match="executor is broken.*function that"):
            pool.map(math.sqrt, [(1,)])


def test_loky():
    loky = pytest.importorskip("loky")
    make = functools.partial(loky.get_reusable_executor, max_workers=2)
    with HostPool(make, workers=2) as pool:
        assert values(pool.map(lambda x: x + 1, [(i,) for i in range(4)])) == [
            *range(1, 5)
        ]
        calls = [leave(1 if i == 1 else None) for i in range(3)]
        assert statuses(pool.map(exec, calls)) == ["ok", "died", "ok"]


@pytest.mark.parametrize("how", ["close", "with", "deletion"])
def test_no_process_is_left(how):
    pool = HostPool(workers=2)
    pids = set(values(pool.map(os.getpid, [()] * 10)))
    if how == "close":
        pool.close()
        pool.close()
    elif how == "with":
        with pool:
            pass
    if how == "deletion":
        del pool
        gc.collect()
    else:
        with pytest.raises(RuntimeError, match="closed"):
            pool.map(math.sqrt, [(1,)])
    assert all(map(ends_soon, pids))


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", path],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


BUSY = """
import os, sys, time
def work(pid_file, seconds):
    open(pid_file, "w").write(str(os.getpid()))
    time.sleep(seconds)
if __name__ == "__main__":
    from gfopt.core.host.host import HostPool
    pool = HostPool(workers=2)
    print("ready", flush=True)
    pool.map(work, [(sys.path[0] + "/a", 60), (sys.path[0] + "/b", 60)])
"""


@needs_posix
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_parent_leaves_no_worker(tmp_path, how):
    with script(tmp_path, BUSY) as parent:
        files = [tmp_path / "a", tmp_path / "b"]
        deadline = time.monotonic() + 120
        while not all(f.exists() and f.read_text() for f in files):
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.02)
        os.killpg(parent.pid, how)
        _, errors = parent.communicate(timeout=120)
        assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)
        assert all(ends_soon(int(f.read_text())) for f in files)


def test_a_script_may_end_without_closing(tmp_path):
    text = """
    def work(x):
        return x + 1
    if __name__ == "__main__":
        from gfopt.core.host.host import HostPool
        pool = HostPool(workers=2)
        print([outcome.value for outcome in pool.map(work, [(1,), (2,)])])
    """
    with script(tmp_path, text) as parent:
        assert parent.communicate(timeout=120) == ("[2, 3]\n", "")


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    text = """
    from gfopt.core.host.host import HostPool
    import math
    HostPool(workers=2).map(math.sqrt, [(1,), (2,)])
    """
    with script(tmp_path, text) as parent:
        _, errors = parent.communicate(timeout=120)
        assert parent.returncode == 1
        assert "under `if __name__ == '__main__':`" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"executor": 3}, TypeError, "executor must be a concurrent.futures.Executor"),
        ({"workers": 0}, ValueError, "workers must be an integer, 1 or above; got 0"),
        ({"workers": 2.5}, TypeError, "workers must be"),
        ({"timeout": 0}, ValueError, "timeout must be a finite number above 0"),
        ({"timeout": "1"}, TypeError, "timeout must be a number"),
        ({"retries": -1}, ValueError, "retries must be an integer, 0 or above"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        HostPool(**arguments)


def test_bad_calls():
    with HostPool() as pool:
        with pytest.raises(TypeError, match="fun must be callable"):
            pool.map(3, [(1,)])
        with pytest.raises(TypeError, match=r"calls\[1\] must be a tuple of arguments"):
            pool.map(math.sqrt, [(1,), 2])
    with HostPool(executor=dict) as pool, pytest.raises(TypeError, match=r"executor\("):
        pool.map(math.sqrt, [(1,)])
