"""Compiled programs kept from one command to the next."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import gfopt
from gfopt.cli import program_cache

COMPILE = """
import jax, sys
from gfopt.cli import program_cache
assert program_cache.turn_on() is not None
for number in range(int(sys.argv[1])):
    jax.jit(lambda x: x + number)(1.0)
"""


def started(home: Path, code: str, *arguments: str, **extra: str) -> subprocess.Popen:
    """Starts a process whose JAX has no cache, with a cache folder of its own."""
    kept = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**kept, "XDG_CACHE_HOME": str(home), **extra},
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*processes: subprocess.Popen) -> None:
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors


def entries(home: Path) -> set[str]:
    """Returns the names of the kept programs."""
    place = home / "gfopt" / "programs" / f"jax-{jax.__version__}"
    return {path.name for path in place.glob("*-cache")}


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    ended(started(tmp_path, COMPILE, "2"))
    kept = entries(tmp_path)
    assert len(kept) >= 2
    ended(started(tmp_path, COMPILE, "2"))
    assert entries(tmp_path) == kept


def test_two_processes_share_it(tmp_path: Path) -> None:
    ended(*(started(tmp_path, COMPILE, "10") for _ in range(2)))
    assert len(entries(tmp_path)) >= 10


def test_what_a_killed_process_left_is_compiled_again(tmp_path: Path) -> None:
    ended(started(tmp_path, COMPILE, "2"))
    kept = entries(tmp_path)
    place = tmp_path / "gfopt" / "programs" / f"jax-{jax.__version__}"
    for path in place.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:20])
    for path in place.glob("*-atime"):
        path.unlink()
    ended(started(tmp_path, COMPILE, "3"))  # a damaged one would be a warning
    assert entries(tmp_path) > kept
    assert all(path.stat().st_size > 20 for path in place.glob("*-cache"))


def test_forgotten_versions_go(tmp_path: Path, monkeypatch) -> None:
    now = time.time()
    ages = {"jax-0.9.0": 2 * program_cache.FORGOTTEN, "jax-0.9.1": 60, "jax-1": 0}
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a-cache").write_bytes(b"")
        os.utime(tmp_path / name, (now - age, now - age))
    program_cache._tidy(tmp_path / "jax-1")
    assert {path.name for path in tmp_path.iterdir()} == {"jax-0.9.1", "jax-1"}


def test_the_folder_is_the_one_of_xdg(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert program_cache.folder() == tmp_path / ".cache" / "gfopt" / "programs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert program_cache.folder() == tmp_path / "x" / "gfopt" / "programs"


@pytest.mark.parametrize("arguments", [["list"], ["--no-cache", "list"]])
def test_a_command_uses_it_unless_told_not_to(tmp_path, arguments) -> None:
    code = f"from gfopt.cli.main import main; main({arguments!r})"
    ended(started(tmp_path, code))
    assert (tmp_path / "gfopt").exists() == (arguments[0] == "list")


def test_a_cache_of_the_users_is_left_alone(tmp_path: Path) -> None:
    code = """
from gfopt.cli import program_cache
import jax
before = dict(jax.config.values)
assert program_cache.turn_on() is None and dict(jax.config.values) == before
"""
    own = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}
    off = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    (tmp_path / "file").write_text("")
    ended(*(started(tmp_path, code, **extra) for extra in (own, off)))
    ended(started(tmp_path / "file", code))  # a folder that cannot be made


def test_a_library_call_changes_no_setting() -> None:
    before = dict(jax.config.values)
    gfopt.minimize(
        lambda x: float(np.sum(x**2)), [1.0], method="random_search", budget=20
    )
    assert dict(jax.config.values) == before
