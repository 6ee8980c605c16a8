"""10^6 tells from 16 threads, and a session whose trials are mostly never told.

    python benchmarks/many_tells.py [--tells 1000000]

Sixteen threads ask for one trial at a time and tell its value, of a method with fewer
members than threads. Wanted: no value lost, none told twice, memory flat within 5 % of
the process from a tenth of the tells on. Then 1,200 generations of 64 trials with 50
numbers each, of which one is told before ``close``: memory, and the size of a pickle.
"""

from __future__ import annotations

import argparse
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import parsed, save, show

import gfopt

THREADS = 16


def megabytes() -> float:
    """Returns the resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def by_threads(count: int) -> dict[str, Any]:
    options = {"population_size": 12, "sigma": 0.1}
    search = gfopt.AskTell("open_es", np.ones(10), options=options)
    # how often each trial was told, and by each thread: memory that does not grow
    told, by_thread = np.full(count + THREADS, 7, np.uint8), [0] * THREADS
    told[:] = 0
    memory: list[float] = []

    def work(thread: int) -> None:
        while sum(by_thread) < count:
            for trial in search.ask(1, timeout=60.0):
                search.tell(trial, float(np.sum(trial.solution**2)))
                told[trial.id] += 1
                by_thread[thread] += 1
                if trial.id % (count // 10) == 0:
                    memory.append(megabytes())

    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, at_the_end = time.perf_counter() - began, megabytes()
    return {
        "tells": sum(by_thread),
        "lost": sum(by_thread) - search.result.nfev,
        "doubled": int(np.sum(told > 1)),
        "tells a second": sum(by_thread) / seconds,
        "fewest of a thread": min(by_thread),
        "most of a thread": max(by_thread),
        "MB at each tenth": [round(number, 1) for number in [*memory[1:], at_the_end]],
        "growth, %": 100 * (at_the_end / memory[1] - 1),
    }


def never_told(generations: int = 1200) -> dict[str, float]:
    options = {"population_size": 64, "sigma": 0.1}
    search = gfopt.AskTell("open_es", np.ones(50), options=options)
    memory = []
    for number in range(generations):
        trials = search.ask()
        search.tell(trials[0], float(np.sum(trials[0].solution ** 2)))
        search.close()
        if number == generations // 10:
            memory.append(megabytes())
    return {
        "generations": generations,
        "MB at a tenth": memory[0],
        "MB at the end": megabytes(),
        "MB pickled": len(pickle.dumps(search)) / 2**20,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tells", type=int, default=1_000_000)
    given = parsed(options, tells=500)
    found = {"16 threads": by_threads(given.tells), "never told": never_told()}
    for name, figures in found.items():
        print(f"\n{name}")
        show(list(figures), [list(figures.values())])
    save("many_tells", ["gfopt", "jax", "numpy"], found)


if __name__ == "__main__":
    main()
