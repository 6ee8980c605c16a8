"""What the scripts here share: results files, tables, and ``--quick``."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

QUICK = "--quick" in sys.argv  # a smoke test: small sizes, nothing kept
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
IMAGES = ROOT / "docs" / "images"
if QUICK:
    RESULTS = IMAGES = Path(tempfile.mkdtemp())


def parsed(parser: argparse.ArgumentParser, **smallest: Any) -> argparse.Namespace:
    """Reads the command line, to which it adds ``--quick``.

    Args:
        parser: with the options of the script.
        smallest: the values that options take with ``--quick``, unless they are given.
    """
    parser.add_argument("--quick", action="store_true", help="a smoke test of seconds")
    if QUICK:
        parser.set_defaults(**smallest)
    return parser.parse_args()


def sized(full: T, quick: T) -> T:
    """Returns the second value with ``--quick``, else the first."""
    return quick if QUICK else full


def student_interval(values: Sequence[float]) -> list[float]:
    """Returns the mean and Student's 95 % interval of it, thrice the mean for one."""
    from scipy import stats  # a second to import

    mean, half = np.mean(values), 0.0
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return [float(mean + side * half) for side in (0, -1, 1)]


def save(name: str, packages: Sequence[str], results: dict[str, Any]) -> None:
    """Writes ``results/<name>.json``: date, versions, machine and the results."""
    versions = {package: importlib.metadata.version(package) for package in packages}
    header = {
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), **versions},
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(header | results, indent=1) + "\n")
    print(f"\nwrote {path}")


def show(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table; numbers with three decimals, columns as wide as they need."""
    text = [[f"{c:.3f}" if isinstance(c, float) else str(c) for c in r] for r in rows]
    widths = [max(map(len, column)) for column in zip(header, *text, strict=True)]
    for row in [header, *text]:
        print("  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)))


def crossed_interval(values: Any, resamples: int = 2000) -> tuple[float, float, float]:
    """Returns the mean of ``[S, X]`` and its 95 % interval.

    Both the seeds ``S`` and the texts ``X``, which all seeds share, are drawn with
    replacement.
    """
    values, draw = np.asarray(values, float), np.random.default_rng(0)
    means = []
    for _ in range(resamples):
        seeds, texts = (draw.integers(size, size=size) for size in values.shape)
        means.append(values[seeds][:, texts].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def peak(program: Any) -> int:
    """Returns the bytes that the compiler plans for."""
    memory = program.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def builds(folder: Path, base: str) -> dict[str, Path]:
    """Unpacks a commit as ``old`` and ``HEAD`` as ``new``, each with its bytecode."""
    found = {"old": folder / "old", "new": folder / "new"}
    for build, commit in zip(found.values(), (base, "HEAD"), strict=True):
        build.mkdir()
        archive = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "x"], cwd=build, input=archive.stdout, check=True)
        made = [sys.executable, "-m", "compileall", "-q", "gfopt"]
        subprocess.run(made, cwd=build, check=True)
    return found
