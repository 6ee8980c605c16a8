"""What importing and compiling cost, this build beside an older one, in turn.

    python benchmarks/compile_seconds.py --base 82cf517 --turns 3

Imports are seconds beyond ``import jax``. The benchmark is ``gfopt bench`` without
options in a new process: compile seconds as its results file says, and the processor
seconds of the whole command; ``cold`` with an empty cache folder, ``warm`` with that of
the cold run. Every build has bytecode of its own, made before the first turn.
"""

from __future__ import annotations

import argparse
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import builds, parsed, save, show


def python(build: Path, code: str, **variables: str) -> str:
    """Runs code in a new process of a build; returns what it prints."""
    kept = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    kept |= {"PYTHONPATH": str(build), "PYTHONPYCACHEPREFIX": f"{build}/.bytecode"}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | variables,
        cwd=build,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def imports(build: Path) -> dict[str, float]:
    """Returns the seconds until the name is there, and until ``minimize`` is."""
    lines = "import gfopt; t.append(clock()); gfopt.minimize; t.append(clock())"
    code = f"import jax; from time import perf_counter as clock; t = [clock()]; {lines}"
    first, second, third = eval(python(build, f"{code}; print(t)"))
    return {"import gfopt": second - first, "import and minimize": third - first}


def bench(build: Path, cache: Path) -> dict[str, float]:
    """Returns compile seconds and processor seconds of the default benchmark."""
    with tempfile.TemporaryDirectory() as out:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = f"from gfopt.cli.main import main; main(['bench', '--out', {out!r}])"
        python(build, code, XDG_CACHE_HOME=str(cache))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        with sqlite3.connect(f"{out}/results.sqlite") as store:
            query = "SELECT sum(compile_seconds), sum(seconds) FROM runs"
            compiling, running = store.execute(query).fetchone()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"compile": compiling, "run": running, "cpu": cpu}


def measured(build: Path) -> dict[str, float]:
    """Returns all figures of one turn of a build."""
    figures = imports(build)
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            rows = bench(build, Path(cache))
            figures |= {f"bench {state}: {name}": value for name, value in rows.items()}
    return figures


def main() -> None:
    """Measures both builds and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="82cf517", help="commit to compare with")
    parser.add_argument("--turns", type=int, default=3)
    given = parsed(parser, base="HEAD", turns=1)
    with tempfile.TemporaryDirectory() as folder:
        sides = builds(Path(folder), given.base)
        turns = [
            {side: measured(b) for side, b in sides.items()} for _ in range(given.turns)
        ]
    medians = {
        side: {
            name: statistics.median(turn[side][name] for turn in turns)
            for name in turns[0][side]
        }
        for side in sides
    }
    rows = [
        (name, old, medians["new"][name], medians["new"][name] / old)
        for name, old in medians["old"].items()
    ]
    show(("seconds", "old", "new", "new / old"), rows)
    save(
        "compile_seconds",
        ("jax", "jaxlib"),
        {"base": given.base, "turns": given.turns, **medians},
    )


if __name__ == "__main__":
    main()
