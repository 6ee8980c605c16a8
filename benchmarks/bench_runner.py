"""gfopt bench under SIGKILL, and its report of many runs.

A benchmark on a problem of its own, two processes, is killed at random times, each time
after at least one more run, and started again; then nothing may be lost or doubled: a
run that was once in the file is there at the end, as it was, and each key once. Then
the report of 10^5 made-up rows: seconds and bytes.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import parsed, save

from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.report import page
from gfopt.research.results import ResultStore

MODULE = """
import time
from gfopt.problems import Problem

def slow(x):
    time.sleep(0.002)
    return float((x ** 2).sum())

problems = Problem(slow, bounds=[(-5, 5)] * 3, optimum=0.0)

def wander(fun, x0, budget, seed):
    while True:
        fun(x0)
        x0 = 0.9 * x0
"""


def killed(times: int) -> dict[str, int]:
    """Kills the command; returns how often, and what became of its runs."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kill_me.py").write_text(MODULE)
        words = "-m gfopt bench --problems kill_me:problems --methods kill_me:wander"
        words += " --budget 60 --workers 2 --out out --instances 1-100000"
        kept: dict[RunKey, Run] = {}
        lost = changed = kills = 0
        while kills < times:
            process = subprocess.Popen(
                [sys.executable, *words.split()],
                cwd=folder,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env=os.environ | {"JAX_PLATFORMS": "cpu"},
            )
            process.stderr.readline()  # of its first run
            time.sleep(rng.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
            kills += 1
            with ResultStore(Path(folder) / "out") as store:
                now = {run.key: run for run in store.runs()}
            lost += len(kept.keys() - now.keys())
            changed += sum(now.get(key, run) != run for key, run in kept.items())
            kept = now
            print(f"{kills} kills, {len(kept)} runs", end="\r", flush=True)
        print()
        instances = [key.instance for key in kept]
        doubled = len(instances) - len(set(instances))
    found = {"kills": kills, "runs": len(kept), "lost": lost, "doubled": doubled}
    return found | {"changed": changed}


def reported(rows: int) -> dict[str, float]:
    """Makes the report of many runs: seconds and megabytes."""
    rng, runs = np.random.default_rng(0), []
    methods, problems = [f"method_{i}" for i in range(10)], [f"f{i}" for i in range(24)]
    for number in range(rows):
        method, problem = methods[number % 10], problems[number // 10 % 24]
        key = RunKey("made up", problem, 5, number // 240, method, 5000, 0, "python")
        count = np.unique(rng.integers(1, 5000, 60))
        values = np.geomspace(100, 10 ** rng.uniform(-9, 1), count.size)
        pairs = tuple(zip(count.tolist(), values.tolist(), strict=True))
        runs.append(Run(key, {}, 5000, "budget", 0.1, 0.0, pairs, optimum=0.0))
    began = time.perf_counter()
    text = page(runs, [])
    seconds = time.perf_counter() - began
    return {"rows": rows, "seconds": seconds, "megabytes": len(text.encode()) / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parsed(parser, kills=1, rows=200)
    results = {"report": reported(options.rows)}
    print(results["report"])
    results["kills"] = killed(options.kills)
    print(results["kills"])
    save("bench_runner", ["gfopt", "jax", "numpy"], results)


if __name__ == "__main__":
    main()
