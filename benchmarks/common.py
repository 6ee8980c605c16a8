"""What the scripts here share: the results file and the tables they print."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
