"""Runs every script that has a ``--quick``, one after the other, and says what failed.

    python benchmarks/smoke.py               # all of them
    python benchmarks/smoke.py kills sweep   # those

What needs a package that is not here is left out. Nothing is kept: with ``--quick`` a
script writes to a temporary folder.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 600  # after which a script counts as failed
MISSING = re.compile(r"ModuleNotFoundError: No module named '(\w+)|(\w+ needs .*)")


def scripts() -> list[str]:
    """Returns the names of the scripts that read their options with ``parsed``."""
    return sorted(
        path.stem
        for path in HERE.glob("*.py")
        if re.search(r"\bparsed\((?!parser:)", path.read_text())
        and path.name not in ("common.py", Path(__file__).name)
    )


def outcome(name: str) -> str:
    """Runs a script; returns what is to be said of it, empty if all is well."""
    command = [sys.executable, "-W", "ignore", HERE / f"{name}.py", "--quick"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"FAILED: took more than {SECONDS} s"
    if not done.returncode:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    if missing := MISSING.search(lines[-1]):
        return f"left out: needs {missing[1] or missing[2]}"
    return "FAILED\n" + "\n".join(lines[-12:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of scripts; all of them by default")
    failed = 0
    for name in parser.parse_args().names or scripts():
        began = time.monotonic()
        said = outcome(name)
        failed += said.startswith("FAILED")
        print(f"{name}: {time.monotonic() - began:.0f} s {said}", flush=True)
    sys.exit(f"{failed} failed" if failed else 0)


if __name__ == "__main__":
    main()
