"""Engines that are no executors: jobs with ``done``, pools, Dask, loky, MPI, Slurm."""

from __future__ import annotations

import multiprocessing.pool
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import gfopt
from gfopt.core.host.engines import as_executor
from gfopt.core.host.host import HostPool

MPI = {  # more processes than cores, and by root, as in a container
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engines.py"


class Job:
    """What ``submitit`` gives back: a job that is asked, not one that reports."""

    def __init__(self, fun: Any, args: tuple[Any, ...]):
        self._future = ThreadPoolExecutor(1).submit(fun, *args)
        self.is_cancelled = False

    def done(self) -> bool:
        return self.is_cancelled or self._future.done()

    def result(self) -> Any:
        if self.is_cancelled:
            raise RuntimeError("the job was cancelled")
        return self._future.result()

    def cancel(self) -> None:
        self.is_cancelled = True


class Cluster:
    """The least that an engine must do."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, fun: Any, *args: Any) -> Job:
        self.jobs.append(Job(fun, args))
        return self.jobs[-1]


def divided(x: int) -> float:
    return 6 / x


def test_jobs_are_asked_until_they_are_done():
    cluster = Cluster()
    with HostPool(cluster) as pool:
        for _ in range(2):  # its thread ends in between, and is started again
            outcomes = pool.map(divided, [(1,), (0,), (3,)])
            assert [outcome.value for outcome in outcomes] == [6.0, None, 2.0]
            assert outcomes[1].reason == "ZeroDivisionError: division by zero"
            time.sleep(0.2)
    assert len(cluster.jobs) == 6


def test_a_job_that_runs_out_of_time_is_cancelled():
    cluster = Cluster()
    try:
        outcomes = HostPool(cluster, timeout=0.3).map(waiting, [(False,), (True,)])
        assert [outcome.status for outcome in outcomes] == ["ok", "timeout"]
        assert [job.is_cancelled for job in cluster.jobs] == [False, True]
    finally:
        FOREVER.set()


FOREVER = threading.Event()


def waiting(waits: bool) -> None:
    if waits:
        FOREVER.wait()


def test_pools_with_apply_async():
    with multiprocessing.pool.ThreadPool(2) as threads:
        found = gfopt.minimize(largest, [1.5, -0.5], workers=threads, seed=1, budget=30)
        outcomes = HostPool(threads).map(divided, [(0,), (2,)])
    alone = gfopt.minimize(largest, [1.5, -0.5], workers=1, seed=1, budget=30)
    assert found.fun == alone.fun and found.path == "host"
    assert [outcome.status for outcome in outcomes] == ["raised", "ok"]


def largest(x: Any) -> float:
    return float(max(abs(x)))


def test_what_cannot_make_calls_is_refused():
    for engine in (3, "dask", [1]):
        with pytest.raises(TypeError, match="executor must be .*Dask Client.*got"):
            as_executor(engine)
    with pytest.raises(TypeError, match="workers must be"):
        gfopt.minimize(largest, [1.0], workers="dask")


@pytest.mark.skipif(os.name != "posix", reason="kills by a signal of POSIX")
@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("dask", "distributed", "pip install 'gfopt[distributed]'"),
        ("loky", "loky", "pip install 'gfopt[distributed]'"),
        ("pool", "multiprocessing", ""),
        ("ray", "ray", "pip install ray"),
        ("mpi", "mpi4py", "apt install openmpi-bin && pip install mpi4py"),
    ],
)
def test_real_engines_give_the_result_of_one_process(name, module, install):
    """By the script that the documentation names; ``submitit`` there takes a minute."""
    pytest.importorskip(module, reason=install)
    command = [sys.executable, str(SCRIPT), name]
    if name == "mpi":
        if shutil.which("mpiexec") is None:
            pytest.skip(install)
        start = ["mpiexec", "-n", "2", sys.executable, "-m", "mpi4py.futures"]
        command = [*start, str(SCRIPT), name]
    root = str(SCRIPT.parents[1])
    environment = os.environ | MPI | {"PYTHONPATH": os.pathsep.join([root, *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith(name)]
    assert done.returncode == 0 and "ANOTHER" not in done.stdout, done.stderr
    assert f"{name}: highest: 21 evaluations, no failure" in lines
    assert any("ArithmeticError: too far up" in line for line in lines)
    assert (name != "dask") or "dask: killed: 21 evaluations, no failure" in lines
