"""What a session of runs ran on: versions, commit, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import jax

from gfopt.types import JsonObject


def versions() -> dict[str, str]:
    """Returns the versions of gfopt and of what it stands on, and its commit."""
    names = ("gfopt", "jax", "jaxlib", "numpy", "scipy")
    packages = {name: importlib.metadata.version(name) for name in names}
    return packages | {"python": platform.python_version(), "commit": _commit()}


def _commit() -> str:
    """Returns what git says of gfopt's own folder; "" where it is not a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return ""
    return done.stdout.strip()


def _processor() -> str:
    """Returns the processor's name, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return named[0].strip() if named else platform.processor()


def environment(command: str) -> JsonObject:
    """Returns when, how and where runs are made, from now on."""
    device = jax.devices()[0]
    machine = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": f"{device.platform} {device.device_kind}",
        "flags": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_", "OMP_")) and "CACHE" not in name
        },
    }
    return {
        "started": now(),
        "command": command,
        "versions": versions(),
        "machine": machine,
    }


def now() -> str:
    """Returns the time in UTC, to the second."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
