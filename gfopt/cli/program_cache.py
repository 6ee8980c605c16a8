"""Compiled programs that are kept from one command to the next.

They are in JAX's own cache of compiled programs, with a folder of gfopt's for each
version of JAX. A lock makes it safe under two processes, and the programs that were
not used for the longest time go when it grows too large. Only the process of a command
uses it: a library call changes no setting of the user's JAX.
"""

from __future__ import annotations

import os
import shutil
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

MOST_BYTES = 128 * 2**20  # a default benchmark needs about 5 MiB
_NAMES = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
FORGOTTEN = 30 * 86_400.0  # seconds, after which another version's programs go


def folder() -> Path:
    """Returns where the programs are: ``gfopt/programs`` in the user's cache folder."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # a path that is not absolute counts as not given, says the XDG specification
    base = given if given.is_absolute() else Path.home() / ".cache"
    return base / "gfopt" / "programs"


def turn_on() -> Path | None:
    """Makes this process read and write the kept programs.

    Returns:
        Their folder; None, with nothing changed, where the user's JAX has a cache
        already or none is wanted, or where the folder cannot be written.
    """
    settings: Any = jax.config
    chosen = settings.jax_compilation_cache_dir is not None
    unwanted = not settings.jax_enable_compilation_cache
    if chosen or unwanted or find_spec("filelock") is None:
        return None
    try:
        place = folder() / f"jax-{version('jax')}"
        place.mkdir(parents=True, exist_ok=True)
        os.utime(place)
        _tidy(place)
    except (OSError, RuntimeError):  # no home, no room, no permission
        return None
    for name, value in zip(_NAMES, (str(place), MOST_BYTES, 0.0, -1), strict=True):
        settings.update(name, value)
    return place


def hand_on() -> None:
    """Lets processes that are started from now on use the kept programs, too."""
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        for name in _NAMES:
            os.environ[name.upper()] = str(getattr(settings, name))


def _tidy(place: Path) -> None:
    """Removes what a killed process left half written, and forgotten versions.

    JAX writes a program and then, in a second file, the time of its last use. Where
    the second file is missing the first may be damaged, and JAX 0.10 then stores
    nothing any more.
    """
    from filelock import FileLock

    with FileLock(place / ".lockfile", timeout=10):  # the lock that JAX takes
        programs, times = (
            {path.name.removesuffix(end): path for path in place.glob(f"*{end}")}
            for end in ("-cache", "-atime")
        )
        for name in programs.keys() ^ times.keys():
            (programs.get(name) or times[name]).unlink()
    for other in place.parent.iterdir():
        if time.time() - other.stat().st_mtime > FORGOTTEN:
            shutil.rmtree(other, ignore_errors=True)
