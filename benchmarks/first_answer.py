"""How long a person waits for the first answer, this build beside an older one.

    python benchmarks/first_answer.py --base 82cf517 --turns 9

Each run is a new process without a compilation cache; JAX is imported before the clock
starts. The two builds take turns; the table holds medians of the seconds of
``minimize`` (``call``), of the whole process (``wall``) and of its processors
(``cpu``), and of the longest pause between two evaluations. ``call_cpu`` are the
processor seconds of the call, which other work on the machine changes least;
``wait_cpu`` those of ``import gfopt``, too: one build loads its modules there and the
other in the call. ``warm`` rows run twice in one cache folder; the second run counts.
Each build has bytecode, as an installed package has, made first. Beside them stands
pycma's ``fmin2``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, builds, parsed

PLACE = RESULTS / "first_answer.json"

# name: (method, numbers, evaluations, whether a cache is kept)
CASES = {
    "auto, 2 numbers, 600": ("auto", 2, 600, False),
    "auto, 5 numbers, 500": ("auto", 5, 500, False),
    "auto, 10 numbers, 1000": ("auto", 10, 1000, False),
    "auto, 2 numbers, 600, warm": ("auto", 2, 600, True),
    "auto, 5 numbers, 500, warm": ("auto", 5, 500, True),
    "cma_es, 5 numbers, 500": ("cma_es", 5, 500, False),
    "differential_evolution, 5 numbers, 500": ("differential_evolution", 5, 500, False),
    "nelder_mead, 5 numbers, 500": ("nelder_mead", 5, 500, False),
    "cma_es, 10 numbers, 20000": ("cma_es", 10, 20_000, False),
    "auto, 10 numbers, 20000": ("auto", 10, 20_000, False),
}
SLOW = [name for name in CASES if "20000" in name]


def child(method: str, dimension: int, budget: int) -> dict[str, float]:
    """Minimises a quadratic function; returns seconds of the call and of pauses."""
    import jax  # noqa: F401  # is no part of what is measured
    import numpy as np

    moments: list[float] = []
    scales = np.arange(1.0, dimension + 1)

    # in a long run the minimum moves: a search that has found it would end
    speed = 1e-3 if budget >= 20_000 else 0.0

    def fun(x: Any) -> float:
        moments.append(time.perf_counter())
        center = 1 + speed * len(moments)
        return float((scales * (np.asarray(x) - center) ** 2).sum())

    loaded = time.process_time()
    if method == "pycma":
        import cma

        began, used = time.perf_counter(), time.process_time()
        cma.fmin2(fun, [0.0] * dimension, 0.3, {"maxfevals": budget, "verbose": -9})
    else:
        import gfopt

        began, used = time.perf_counter(), time.process_time()
        gfopt.minimize(fun, [0.0] * dimension, method=method, budget=budget, seed=1)
    ended, done = time.perf_counter(), time.process_time()
    gaps = [b - a for a, b in zip(moments, moments[1:], strict=False)]
    return {
        "call": ended - began,
        "call_cpu": done - used,
        "wait_cpu": done - loaded,
        "pause": max(gaps),
        "evaluations": len(moments),
    }


def measured(build: Path, case: tuple[str, int, int, bool]) -> dict[str, float]:
    """Runs one case in a new process of a build."""
    *arguments, warm = case
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPATH": str(build)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        if warm:
            environment |= {
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
        for _ in range(2 if warm else 1):
            before, began = _cpu(), time.perf_counter()
            command = [sys.executable, __file__, "--child", *map(str, arguments)]
            out = subprocess.run(
                command, env=environment, cwd=build, capture_output=True, check=True
            )
            wall, cpu = time.perf_counter() - began, _cpu() - before
    return json.loads(out.stdout) | {"wall": wall, "cpu": cpu}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measures all cases and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="82cf517", help="commit to compare with")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--long-turns", type=int, default=3)
    parser.add_argument("--only", default="", help="part of the names of cases")
    parser.add_argument("--child", nargs=3)
    given = parsed(parser, base="HEAD", turns=1, long_turns=1, only="nelder_mead")
    if given.child:
        method, dimension, budget = given.child
        print(json.dumps(child(method, int(dimension), int(budget))))
        return
    rows = json.loads(PLACE.read_text())["rows"] if PLACE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        found = builds(Path(folder), given.base)
        new = found["new"]
        for name, case in CASES.items():
            if given.only not in name:
                continue
            turns = given.long_turns if name in SLOW else given.turns
            sides: dict[str, list[dict[str, float]]] = {
                "old": [],
                "new": [],
                "pycma": [],
            }
            for _ in range(turns):
                sides["old"].append(measured(found["old"], case))
                sides["new"].append(measured(new, case))
                sides["pycma"].append(measured(new, ("pycma", *case[1:3], False)))
            rows[name] = {
                side: {k: statistics.median(run[k] for run in runs) for k in runs[0]}
                for side, runs in sides.items()
            }
            rows[name]["turns"] = turns
            print(name, json.dumps(rows[name]))
            PLACE.write_text(json.dumps({"base": given.base, "rows": rows}, indent=1))
    print(
        "\n| case | old | new | old / new | cpu | with import | longest pause | pycma |"
    )
    print("|" + "---|" * 8)
    for name, row in rows.items():
        old_row, new_row = row["old"], row["new"]
        print(
            f"| {name} | {old_row['call']:.2f} s | {new_row['call']:.2f} s "
            f"| {old_row['call'] / new_row['call']:.1f} "
            f"| {old_row['call_cpu'] / new_row['call_cpu']:.1f} "
            f"| {old_row['wait_cpu'] / new_row['wait_cpu']:.1f} "
            f"| {new_row['pause']:.2f} s | {row['pycma']['call']:.2f} s |"
        )


if __name__ == "__main__":
    main()
