"""Parallel use on BBOB: targets reached within rounds of eight evaluations.

The 24 functions, instances 1 to 5, in 5-D and 10-D; starts, targets and what is counted
as in ``bbob_side_by_side.py``, except that time is counted in rounds: eight evaluations
at the same time, or fewer where an optimizer has fewer to hand out. Who takes part:

- ours: ``AskTell.ask(8)`` with ``auto``, with ``cma_es`` and eight candidates, with
  ``lq_cma_es`` and ``batch_size=8``, and with ``asynchronous=True``; each begins again
  from a point uniform in [-4, 4]^D where it has converged;
- ``pycma``: ``cma.fmin2`` with ``popsize=8`` and ``restarts=9``, which doubles it;
- ``ngopt``: nevergrad's with ``num_workers=8``, which is told its budget.

    export OMP_NUM_THREADS=1
    python benchmarks/parallel_rounds.py                       # all sides, hours
    python benchmarks/parallel_rounds.py run --sides auto
    python benchmarks/parallel_rounds.py report
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from bbob_sides import FUNCTIONS, INSTANCES, Enough, Watch
from common import RESULTS, parsed, save, show

import gfopt
from gfopt.research.statistics import TARGETS, paired_difference_interval

NAME = "parallel_rounds"
WORKERS = 8
ROUNDS = (10, 30, 60, 200)


class Rounds(Watch):
    """A problem that notes in which round each target was reached."""

    def values(self, points: Sequence[Any]) -> list[float]:
        """Evaluates points, eight at a time, or raises where the run is over."""
        found = []
        for place, x in enumerate(points):
            if place % WORKERS == 0:
                if self.count >= self.budget or len(self.hits) == len(TARGETS):
                    raise Enough
                self.count += 1
            value = float(_value(self.problem, np.asarray(x, np.float64)))
            found.append(value)
            while len(self.hits) < len(TARGETS):
                if value - self.f_opt > TARGETS[len(self.hits)]:
                    break
                self.hits.append(self.count)
        return found


_value = jax.jit(lambda problem, x: problem(x))


def ask_tell(method: str, **words: Any) -> Callable[[Rounds], None]:
    """Returns a search by ``AskTell`` that hands out up to eight at a time."""

    def run(rounds: Rounds) -> None:
        rng, x0 = np.random.default_rng(rounds.seed), rounds.x0
        for seed in range(rounds.seed, rounds.seed + 10**6):
            search = gfopt.AskTell(method, x0, sigma0=2.0, seed=seed, **words)
            while not search.stop():
                trials = search.ask(WORKERS)
                search.tell(trials, rounds.values([t.solution for t in trials]))
            x0 = rng.uniform(-4, 4, x0.size)

    return run


def pycma(rounds: Rounds) -> None:
    """Runs pycma, whose populations are evaluated in parallel."""
    import cma

    options = {"seed": 1 + rounds.seed % (2**31 - 2), "verbose": -9, "popsize": WORKERS}
    words: dict[str, Any] = {"parallel_objective": rounds.values, "restarts": 9}
    cma.fmin2(None, rounds.x0, 2.0, options, **words)


def ngopt(rounds: Rounds) -> None:
    """Runs NGOpt, eight candidates at a time."""
    import nevergrad

    space = nevergrad.p.Array(init=rounds.x0).set_mutation(sigma=2.0)
    space.random_state.seed(rounds.seed)
    words = {"budget": WORKERS * rounds.budget, "num_workers": WORKERS}
    search = nevergrad.optimizers.NGOpt(space, **words)
    while True:
        asked = [search.ask() for _ in range(WORKERS)]
        values = rounds.values([candidate.value for candidate in asked])
        for candidate, value in zip(asked, values, strict=True):
            search.tell(candidate, value)


class Side(NamedTuple):
    """How a side runs, and its package."""

    run: Callable[[Rounds], None]
    package: str


SIDES = {
    "auto": Side(ask_tell("auto", batch_size=WORKERS), "gfopt"),
    "cma_es_8": Side(ask_tell("cma_es", options={"population_size": 8}), "gfopt"),
    "lq_cma_es_8": Side(ask_tell("lq_cma_es", options={"batch_size": 8}), "gfopt"),
    "asynchronous": Side(ask_tell("cma_es", asynchronous=True), "gfopt"),
    "pycma": Side(pycma, "cma"),
    "ngopt": Side(ngopt, "nevergrad"),
}


def stored() -> dict[str, dict[str, Any]]:
    """Returns what was saved: by side, by dimension, the round of each target."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text())["sides"] if path.exists() else {}


def measure(name: str, dimension: int, most: int) -> None:
    """Runs a side on every problem and saves it."""
    found = []
    for function in FUNCTIONS:
        for instance in INSTANCES:
            rounds = Rounds(function, dimension, instance, most)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    SIDES[name].run(rounds)
                except Enough:
                    pass
            found.append(" ".join(map(str, rounds.hits)))
    sides = stored()
    entry = {"rounds": most, "hits": found}
    sides.setdefault(name, {})[str(dimension)] = entry
    save(NAME, ["gfopt", "jax", "numpy"], {"workers": WORKERS, "sides": sides})


def solved(entry: dict[str, Any], rounds: int) -> np.ndarray:
    """Returns the share of targets within some rounds, of each problem."""
    reached = [[int(n) <= rounds for n in line.split()] for line in entry["hits"]]
    return np.array([sum(line) / len(TARGETS) for line in reached])


def report(dimensions: Sequence[int]) -> None:
    """Prints the shares, then ours against each peer, losses first."""
    sides, shares, pairs = stored(), [], []
    for dimension in dimensions:
        for count in ROUNDS:
            found = {
                name: solved(sides[name][str(dimension)], count)
                for name in SIDES
                if sides.get(name, {}).get(str(dimension), {"rounds": 0})["rounds"]
                >= count
            }
            means = [f"{found[n].mean():.3f}" if n in found else "" for n in SIDES]
            shares.append([dimension, count, *means])
            for mine in found:
                for peer in found:
                    if SIDES[mine].package == "gfopt" != SIDES[peer].package:
                        gap = paired_difference_interval(found[mine], found[peer])
                        interval = f"[{gap.low:+.3f}, {gap.high:+.3f}]"
                        row = [dimension, count, mine, peer, gap.estimate, interval]
                        pairs.append(row)
    show(["D", "rounds", *SIDES], shares)
    print("\nours against each peer, losses first, paired by problem\n")
    pairs.sort(key=lambda row: row[4])
    show(["D", "rounds", "ours", "peer", "difference", "95 % interval"], pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ["all", "run", "report"]
    parser.add_argument("part", nargs="?", default="all", choices=parts)
    parser.add_argument("--dimensions", default=[5, 10], type=int, nargs="+")
    parser.add_argument("--sides", default=list(SIDES), nargs="+", choices=SIDES)
    parser.add_argument("--rounds", type=int, default=ROUNDS[-1])
    few: dict[str, Any] = {"dimensions": [2], "sides": ["auto", "pycma"]}
    options = parsed(parser, **few, rounds=10)
    jax.config.update("jax_enable_x64", True)
    if options.part in ("all", "run"):
        for name in options.sides:
            if importlib.util.find_spec(SIDES[name].package) is None:
                print(f"{name} is left out: it needs {SIDES[name].package}")
                continue
            for dimension in options.dimensions:
                measure(name, dimension, options.rounds)
    if options.part in ("all", "report"):
        report(options.dimensions)


if __name__ == "__main__":
    main()
