"""Heavy-tailed evaluation times: waiting for all, cutting stragglers off, not waiting.

    python benchmarks/asynchronous.py [--seeds 12] [--simulated 15] [--parallel 4]

CMA-ES in ten dimensions with 16 workers. A call takes a lognormal time, sigma 1.5: its
mean is 3.1 medians, the slowest of 16 takes some 20. Measured is the time to the target
1e-6, in medians of a call, and the evaluations; the seeds of the search and of the
times are paired. Wanted: without waiting at least 2 times faster than waiting for all.

First threads that sleep, 50 ms in the median, on the sphere. Then a simulated clock
(``AskTell``, and a heap of ends of calls) on three functions. A call that is cut off
frees its worker at once, as where a process or a job is ended.
"""

from __future__ import annotations

import argparse
import heapq
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from common import parsed, save, show

import gfopt
from gfopt.research.statistics import bootstrap_interval

WORKERS, DIMENSION, SIGMA, TARGET = 16, 10, 1.5, 1e-6
UNIT = 0.05  # seconds, the median of a call that sleeps
QUORUM = 0.75
BUDGET = 40_000


class Way(NamedTuple):
    """How a search deals with slow calls.

    Attributes:
        population_size: 10 is the default, 16 has a candidate for each worker.
        quorum: share of a generation that is waited for.
        asynchronous: nothing is waited for.
    """

    population_size: int
    quorum: float = 1.0
    asynchronous: bool = False


WAYS = {
    "waits for all, P 10": Way(10),
    "waits for all, P 16": Way(16),
    "cut off at 12 of 16": Way(16, QUORUM),
    "asynchronous, P 10": Way(10, asynchronous=True),
    "asynchronous, P 16": Way(16, asynchronous=True),
}
BASE = "waits for all, P 16"


def sphere(x: np.ndarray) -> float:
    return float(np.sum((x - 1) ** 2))


def ellipsoid(x: np.ndarray) -> float:
    return float(np.sum(10.0 ** (6 * np.arange(x.size) / (x.size - 1)) * (x - 1) ** 2))


def rosenbrock(x: np.ndarray) -> float:
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


STARTS = {sphere: 3.0, ellipsoid: 3.0, rosenbrock: -1.0}


def arguments(way: Way, fun: Any, seed: int) -> dict[str, Any]:
    """Returns the arguments that ``minimize`` and ``AskTell`` share."""
    return {
        "method": "cma_es",
        "x0": np.full(DIMENSION, STARTS[fun]),
        "sigma0": 1.0,
        "seed": seed,
        "options": {"population_size": way.population_size},
        "asynchronous": way.asynchronous,
    }


def slept(name: str, seed: int) -> tuple[float, int]:
    """Returns the time to the target and the evaluations, with threads that sleep."""
    way, lock, rng = WAYS[name], threading.Lock(), np.random.default_rng(seed)

    def value(x: np.ndarray) -> float:
        with lock:
            seconds = UNIT * rng.lognormal(0.0, SIGMA)
        time.sleep(seconds)
        return sphere(x)

    # more threads than workers: a call that was cut off sleeps on, and holds no worker
    with ThreadPoolExecutor(40 * WORKERS) as threads:
        began = time.perf_counter()
        result = gfopt.minimize(
            value,
            budget=BUDGET,
            target=TARGET,
            evaluator=gfopt.host(threads, workers=WORKERS, quorum=way.quorum),
            **arguments(way, sphere, seed),
        )
        seconds = time.perf_counter() - began
    assert result.status == gfopt.Status.TARGET
    return seconds / UNIT, result.nfev


def simulated(name: str, fun: Any, seed: int) -> tuple[float, int]:
    """Returns the same with a simulated clock; infinity if the budget ends first."""
    way, rng = WAYS[name], np.random.default_rng(seed)
    search = gfopt.AskTell(**arguments(way, fun, seed))
    search.tell(search.ask(1), [fun(np.full(DIMENSION, STARTS[fun]))])
    if way.asynchronous:
        return _streamed(search, fun, rng)
    now = 0.0
    while search.result.nfev < BUDGET:
        trials = search.ask()
        ends, busy = [], [0.0] * WORKERS
        for _ in trials:  # the first free worker takes the next call
            ends.append(heapq.heappop(busy) + rng.lognormal(0.0, SIGMA))
            heapq.heappush(busy, ends[-1])
        last = np.sort(ends)[int(np.ceil(way.quorum * len(ends))) - 1]
        values = [
            fun(trial.solution) if end <= last else None
            for trial, end in zip(trials, ends, strict=True)
        ]
        reached = [
            end
            for end, one in zip(ends, values, strict=True)
            if one is not None and one <= TARGET
        ]
        search.tell(trials, values)
        if reached:
            return now + float(min(reached)), search.result.nfev
        now += float(last)
    return np.inf, search.result.nfev


def _streamed(
    search: gfopt.AskTell, fun: Any, rng: np.random.Generator
) -> tuple[float, int]:
    under_way: list[tuple[float, int, Any]] = []
    now, count = 0.0, 1
    while count < BUDGET:
        for trial in search.ask(WORKERS - len(under_way)):
            end = now + rng.lognormal(0.0, SIGMA)
            heapq.heappush(under_way, (end, trial.id, trial))
        now, _, trial = heapq.heappop(under_way)
        value = fun(trial.solution)
        count += 1
        if value <= TARGET:
            return now, count
        search.tell(trial, value)
    return np.inf, count


def summary(runs: dict[str, list[tuple[float, int]]]) -> dict[str, Any]:
    """Returns medians, and the times of ``BASE`` over those of each way, paired."""
    found = {}
    most = np.finfo(float).max  # for a run that did not arrive
    base = np.array([min(seconds, most) for seconds, _ in runs[BASE]])
    for name, pairs in runs.items():
        times, counts = np.array(pairs, float).T
        ratios = base / np.minimum(times, most)
        _, *ends = bootstrap_interval(ratios, np.median)
        found[name] = {
            "time": float(np.median(times)),
            "evaluations": float(np.median(counts)),
            "times faster": float(np.median(ratios)),
            "interval": [round(float(end), 2) for end in ends],
            "missed": int(np.isinf(times).sum()),
            "runs": [[min(seconds, most), count] for seconds, count in pairs],
        }
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=12, help="with threads")
    options.add_argument("--simulated", type=int, default=15, help="simulated")
    options.add_argument("--parallel", type=int, default=4, help="runs at a time")
    given = parsed(options, seeds=1, simulated=1)
    results: dict[str, Any] = {}
    with ProcessPoolExecutor(given.parallel) as pool:
        jobs: dict[str, Any] = {
            "sphere, threads that sleep": {
                name: [pool.submit(slept, name, seed) for seed in range(given.seeds)]
                for name in WAYS
            }
        }
        for fun in STARTS:
            jobs[f"{fun.__name__}, simulated"] = {
                name: [
                    pool.submit(simulated, name, fun, seed)
                    for seed in range(given.simulated)
                ]
                for name in WAYS
            }
        for title, ways in jobs.items():
            runs = {
                name: [job.result() for job in listed] for name, listed in ways.items()
            }
            results[title] = summary(runs)
            print(f"\n{title}: times in medians of a call")
            keys = "time", "evaluations", "times faster", "interval", "missed"
            rows = [
                [name, *(line[key] for key in keys)]
                for name, line in results[title].items()
            ]
            show(["", *keys], rows)
    setting = {"workers": WORKERS, "dimension": DIMENSION, "sigma": SIGMA}
    save(
        "asynchronous",
        ["gfopt", "jax", "numpy"],
        {"setting": setting | {"target": TARGET, "seconds of a median": UNIT}}
        | results,
    )


if __name__ == "__main__":
    main()
