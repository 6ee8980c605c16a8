"""Anytime comparison on BBOB: targets reached within 10 D to 1000 D evaluations.

The 24 functions, instances 1 to 5 or others, in double precision. All start at the same
point of a problem (uniform in [-4, 4]^D, sigma 2) and are counted alike: after which
evaluation a run first reached each of the 51 targets f_opt + 10^2 .. 10^-8. Who takes
part:

- ours: a method by its name or ``auto``, on one of three paths: ``batched`` runs the
  instances of a function in one compiled program, ``compiled`` and ``host`` call
  ``gfopt.minimize`` for each problem, with a JAX or a Python objective;
- ``bipop``: ``cma.fmin2(restarts=9, bipop=True)``, and ``lq``, lq-CMA-ES,
  ``cma.fmin_lq_surr(restarts=9)``;
- ``slsqp``, ``lbfgsb``, ``cobyqa``: SciPy's, started again from points uniform in
  [-4, 4]^D; differences for a gradient are counted;
- ``ngopt``: nevergrad's, which is told its budget.

Everything else is at its defaults; what a peer's budget is stands in ``bbob_sides``.
Each side is saved when it is done, and the report compares what is there:

    export OMP_NUM_THREADS=1  # or lq is five times slower
    python benchmarks/bbob_side_by_side.py  # all of it, hours
    python benchmarks/bbob_side_by_side.py peers --sides lq --dimensions 5
    python benchmarks/bbob_side_by_side.py ours --method cma_es --path batched
    python benchmarks/bbob_side_by_side.py all --instances 11-20 --path host
    python benchmarks/bbob_side_by_side.py report --method cma_es
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from bbob_sides import (
    FUNCTIONS,
    INSTANCES,
    PEERS,
    Hits,
    check_values,
    run_ours,
    run_peer,
)
from common import RESULTS, parsed, save, show

from gfopt.research.statistics import TARGETS, ecdf, paired_difference_interval

NAME = "bbob_side_by_side"
BUDGETS = (10, 50, 100, 300, 1000)  # evaluations per dimension
GROUPS = {
    "separable": range(1, 6),
    "moderate": range(6, 10),
    "ill-conditioned": range(10, 15),
    "multi-modal": range(15, 20),
    "weak structure": range(20, 25),
}
# what is wanted of "auto": at least so much better than this peer
WANTED = {(b, "lq"): 0.05 if b == 100 else 0.0 for b in BUDGETS[:-1]}
WANTED[1000, "bipop"] = 0.0


def named(instances: Sequence[int]) -> str:
    """Returns the name of the files that hold what was found on some instances."""
    if tuple(instances) == INSTANCES:
        return NAME
    return f"{NAME}_{instances[0]}_{instances[-1]}"


def stored(name: str) -> dict[str, Any]:
    """Returns what was saved: a side by its name, then by its dimension."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["sides"] if path.exists() else {}


def store(
    file: str, name: str, dimension: int, found: list[Hits], **about: Any
) -> None:
    """Puts a side beside the others in the file."""
    sides = stored(file)
    entry = {"date": datetime.date.today().isoformat(), **about}
    entry["hits"] = [" ".join(map(str, row)) for row in found]
    sides.setdefault(name, {})[str(dimension)] = entry
    save(file, ["gfopt", "jax", "numpy"], {"sides": sides})


class Sides:
    """All sides in one dimension.

    Args:
        dimension: ``D``.
        instances: of each function.
    """

    def __init__(self, dimension: int, instances: Sequence[int] = INSTANCES):
        self.dimension = dimension
        self.of_function = np.repeat(FUNCTIONS, len(instances))
        self.reach: dict[str, int] = {}  # budget per dimension
        self.times: dict[str, np.ndarray] = {}  # [problems, targets]
        for name, entries in stored(named(instances)).items():
            if str(dimension) in entries:
                entry = entries[str(dimension)]
                rows = [[float(n) for n in row.split()] for row in entry["hits"]]
                self.times[name] = np.array(
                    [row + [np.inf] * (len(TARGETS) - len(row)) for row in rows]
                )
                self.reach[name] = entry["budget_per_dimension"]

    def solved(
        self, name: str, budget: int, functions: Sequence[int] = FUNCTIONS
    ) -> np.ndarray:
        """Returns the share of targets that was reached on each problem."""
        rows = np.isin(self.of_function, list(functions))
        return np.mean(self.times[name][rows] <= budget * self.dimension, axis=1)

    def peers(self, budget: int) -> list[str]:
        """Returns the peers that had such a budget."""
        return [n for n, most in self.reach.items() if n in PEERS and most >= budget]


def overall(sides: Sides, method: str) -> list[list[Any]]:
    """Compares with each peer at each budget."""
    rows = []
    for budget in BUDGETS:
        mine = sides.solved(method, budget)
        for peer in sides.peers(budget):
            theirs = sides.solved(peer, budget)
            found = paired_difference_interval(mine, theirs)
            wanted = WANTED.get((budget, peer))
            met = "" if wanted is None else "yes" if found[0] >= wanted else "NO"
            interval = f"[{found.low:+.3f}, {found.high:+.3f}]"
            row = [sides.dimension, budget, peer, mine.mean(), theirs.mean()]
            rows.append([*row, found.estimate, interval, met])
    return rows


def within(
    sides: Sides, method: str, parts: dict[str, Sequence[int]]
) -> list[list[Any]]:
    """Compares with the best peer on each part of the functions."""
    rows = []
    for budget in (b for b in BUDGETS if sides.peers(b)):
        for label, functions in parts.items():
            mine = sides.solved(method, budget, functions).mean()
            best, peer = max(
                (sides.solved(peer, budget, functions).mean(), peer)
                for peer in sides.peers(budget)
            )
            rows.append([sides.dimension, budget, label, peer, mine, best, mine - best])
    return rows


def report(
    method: str, dimensions: list[int], instances: Sequence[int], worst: int = 20
) -> None:
    """Prints ours against every peer, losses first, and draws the ECDF."""
    all_sides = [Sides(d, instances) for d in dimensions]
    print("\nshare of problems x targets reached\n")
    names = sorted({name for sides in all_sides for name in sides.times})
    show(
        ["D", "budget / D", *names],
        [
            [sides.dimension, budget]
            + [
                sides.solved(n, budget).mean()
                if sides.reach.get(n, 0) >= budget
                else ""
                for n in names
            ]
            for sides in all_sides
            for budget in BUDGETS
        ],
    )
    head = ["D", "budget / D"]
    tail = [method, "peer's", "difference"]
    there = [sides for sides in all_sides if method in sides.times]
    print(f"\n{method} against each peer, losses first, paired by problem\n")
    rows = [row for sides in there for row in overall(sides, method)]
    rows.sort(key=lambda row: row[5])
    show([*head, "peer", *tail, "95 % interval", "as wanted"], rows)
    each = {f"f{f}": [f] for f in FUNCTIONS}
    for title, parts, most in (
        ("group", GROUPS, len(BUDGETS) * len(GROUPS) * len(there)),
        ("function", each, worst),
    ):
        print(f"\nby {title}, against the best peer there, losses first\n")
        rows = [row for sides in there for row in within(sides, method, parts)]
        rows.sort(key=lambda row: row[6])
        show([*head, title, "best peer", *tail], rows[:most])
    draw(all_sides, names, RESULTS / f"{named(instances)}.png")


def draw(all_sides: list[Sides], names: list[str], path: pathlib.Path) -> None:
    """Saves the ECDF of all functions and of each group."""
    from matplotlib.figure import Figure

    panels = {"all": FUNCTIONS, **GROUPS}
    figure = Figure(figsize=(18, 3.4 * len(all_sides)), layout="constrained")
    axes = figure.subplots(
        len(all_sides), len(panels), sharex=True, sharey=True, squeeze=False
    )
    for row, sides in zip(axes, all_sides, strict=True):
        for axis, (title, functions) in zip(row, panels.items(), strict=True):
            chosen = np.isin(sides.of_function, list(functions))
            for number, name in enumerate(names):
                if name in sides.times:
                    budgets = np.geomspace(1, sides.reach[name], 200)
                    times = sides.times[name][chosen] / sides.dimension
                    width = 1.2 if name in PEERS else 2.4
                    axis.plot(
                        budgets,
                        ecdf(times, budgets),
                        f"C{number}",
                        lw=width,
                        label=name,
                    )
            axis.set(title=f"{title}, {sides.dimension}-D", xscale="log", ylim=(0, 1))
            axis.grid(alpha=0.3)
        row[0].set_ylabel("share of targets")
    for axis in axes[-1]:
        axis.set_xlabel("evaluations / D")
    axes[0, 0].legend()
    figure.savefig(path, dpi=70)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = ["all", "peers", "ours", "report"]
    parser.add_argument("part", nargs="?", default="all", choices=parts)
    parser.add_argument("--dimensions", default=[5, 10], type=int, nargs="+")
    parser.add_argument("--sides", default=list(PEERS), nargs="+", choices=PEERS)
    parser.add_argument("--budget", type=int, help="per D; by default the side's own")
    parser.add_argument("--method", default="auto", help="of ours")
    parser.add_argument("--instances", default="1-5", help="first and last")
    paths = ["batched", "compiled", "host"]
    parser.add_argument("--path", default="compiled", choices=paths, help="of ours")
    options = parsed(parser, dimensions=[2], sides=["slsqp"], budget=20)
    first, last = map(int, options.instances.split("-"))
    instances = tuple(range(first, last + 1))
    jax.config.update("jax_enable_x64", True)
    for d in options.dimensions:
        if options.part in ("all", "peers"):
            check_values(d, instances)
            for name in options.sides:
                peer, began = PEERS[name], time.perf_counter()
                if importlib.util.find_spec(peer.package) is None:
                    print(f"{name} is left out: it needs {peer.package}")
                    continue
                budget = options.budget or peer.budget
                found = run_peer(name, d, budget * d, instances)
                about = {
                    "version": f"{peer.package} "
                    + importlib.metadata.version(peer.package),
                    "budget_per_dimension": budget,
                    "seconds": round(time.perf_counter() - began),
                }
                store(named(instances), name, d, found, **about)
        if options.part in ("all", "ours"):
            budget = options.budget or BUDGETS[-1]
            found = run_ours(options.method, d, budget * d, instances, options.path)
            about = {"path": options.path, "budget_per_dimension": budget}
            store(named(instances), options.method, d, found, **about)
    if options.part in ("all", "report"):
        report(options.method, options.dimensions, instances)


if __name__ == "__main__":
    main()
