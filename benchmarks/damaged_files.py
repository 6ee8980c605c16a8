"""A flip at each of 1,000 random offsets of each kind of file, and cuts at 200.

    python benchmarks/damaged_files.py [KIND ...] [--flips 1000] [--cuts 200]

Each damaged copy is used as a user would: the run is called again, the log replayed,
the genome loaded. An outcome is ``detected`` (an error or a warning; a run ends in the
straight run's result all the same, a log in a beginning of the true one), ``harmless``
(not a word, and bit for bit the result) or ``wrong``. Wanted: 0 wrong. The flips are of
one random bit, of a random byte, or of up to 64 bytes in a row; seeds are fixed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import parsed, save, show

import gfopt
from gfopt.driver.loop import checkpoint
from gfopt.driver.storage.storage import previous

X0 = [1.5, -0.5]
WORDS: dict[str, Any] = {
    "method": "open_es",
    "options": {"population_size": 4, "sigma": 0.1, "learning_rate": 0.1},
}


class Kind(NamedTuple):
    """A file, what its user makes of it, and the files that belong to it."""

    path: Path
    use: Callable[[], Any]
    is_right: Callable[[Any], bool]
    beside: tuple[Path, ...] = ()


class Killed(BaseException):
    """Leaves on the disk what a kill leaves."""


def plateau(x: Any) -> float:
    if plateau_calls and len(plateau_calls) == plateau_calls[0]:
        raise Killed
    plateau_calls.append(0)
    return float(np.max(np.abs(x)))


plateau_calls: list[int] = []


def smooth(x: Any) -> Any:
    return jax.numpy.sum(x**2)


def run(fun: Any, path: Path, budget: int = 29, calls: int = 0) -> Any:
    """Returns the result of a run, or what it left when it was killed at a call."""
    plateau_calls[:] = [calls]
    try:
        return gfopt.minimize(fun, X0, budget=budget, checkpoint=path, **WORDS)
    except Killed:
        return None


def equal(a: Any, b: Any) -> bool:
    left, right = ((r.x, r.fun, r.nfev, r.state, dict(r.history)) for r in (a, b))
    same = jax.tree.map(lambda u, v: np.array_equal(u, v, equal_nan=True), left, right)
    return bool(jax.tree.all(same))


def checkpoints(folder: Path) -> dict[str, Kind]:
    kinds = {}
    for name, fun, calls, budget in [
        ("checkpoint, host, killed", plateau, 23, 29),
        ("checkpoint, host, finished", plateau, 0, 29),
        ("checkpoint, compiled, larger budget", smooth, 0, 17),
    ]:
        straight = run(fun, folder / f"{name} straight")
        path = folder / name
        run(fun, path, budget, calls)
        kinds[name] = Kind(
            path,
            lambda fun=fun, path=path: run(fun, path),
            lambda found, straight=straight: equal(found, straight),
        )
    return kinds


def logs(folder: Path) -> dict[str, Kind]:
    path = folder / "written as it went"
    options: dict[str, Any] = {"method": gfopt.MeZO(0.01), "budget": 81}
    batches = {"batches": lambda step, key: np.zeros(1)}  # a record for each step
    fun = gfopt.Objective(lambda x, batch: smooth(x))
    result = gfopt.minimize(fun, X0, log=path, **options, **batches)
    true = gfopt.ReplayLog.of(result)
    other = folder / "saved"
    true.save(other)

    def is_right(found: Any) -> bool:
        log, warned = found
        columns = ("seed", "projected_gradient", "learning_rate")
        same = (
            np.array_equal(getattr(log, c), getattr(true, c)[: len(log)])
            for c in columns
        )
        return all(same) and (warned or len(log) == len(true))

    def read(path: Path) -> Any:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            log = gfopt.ReplayLog.read(path)
        for one in said:
            warnings.warn(one.message, stacklevel=1)
        return log, bool(said)

    def again(path: Path) -> Any:
        gfopt.minimize(fun, X0, log=path, **options, **batches)
        return read(path)

    third = folder / "gone on with"
    shutil.copy(path, third)
    return {
        "log, written as it went": Kind(path, lambda: read(path), is_right),
        "log, saved": Kind(other, lambda: read(other), is_right),
        "log, run called again": Kind(third, lambda: again(third), is_right),
    }


def genomes(folder: Path) -> dict[str, Kind]:
    path, x0 = folder / "genome", {"w": np.zeros((3, 2), np.float32)}
    method = gfopt.DeepGA(population_size=8, num_parents=2)
    result = gfopt.run(
        method, lambda x: smooth(x["w"] - 1), x0, key=jax.random.key(0), generations=30
    )
    gfopt.genome.save(path, result.optimizer, result.state)
    true = np.asarray(gfopt.genome.load(path, x0)["w"])
    return {
        "genome": Kind(
            path,
            lambda: np.asarray(gfopt.genome.load(path, x0)["w"]),
            lambda found: np.array_equal(found, true),
        )
    }


def studies(folder: Path) -> dict[str, Kind]:
    """Returns a study that was closed, and the write-ahead log of a killed one."""
    # a trial that is left waits for the program, which lives
    words = {"x0": X0, "budget": 29, "patience": 0.01, **WORDS}

    def opened(path: Path) -> gfopt.Study:
        return gfopt.Study(path, **words)

    def value(x: Any) -> float:
        return float(np.max(np.abs(x)))

    straight = opened(folder / "straight.db").work(value)
    closed, killed = folder / "closed.db", folder / "killed.db"
    opened(closed).work(value, trials=20)
    study = opened(killed)
    with study._file.connected():  # so that nothing ends the log
        study.work(value, trials=20)
        left = {p: p.read_bytes() for p in (killed, wal(killed))}
    for path, text in left.items():
        path.write_bytes(text)
    kinds = {
        "study, closed": (closed, closed),
        "study, write-ahead log of a killed one": (wal(killed), killed),
    }
    return {
        name: Kind(
            path,
            lambda main=main: opened(main).work(value),
            lambda found: equal(found, straight),
            (main, wal(main), main.with_name(f"{main.name}-shm")),
        )
        for name, (path, main) in kinds.items()
    }


def wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def damages(whole: bytes, flips: int, cuts: int, seed: int) -> list[bytes]:
    """Returns damaged copies: flips first, then cuts."""
    rng, copies = np.random.default_rng(seed), []
    for number in range(flips):
        copy = np.frombuffer(bytearray(whole), np.uint8)
        at = int(rng.integers(copy.size))
        if number % 4 == 3:  # a run of bytes
            part = copy[at : at + int(rng.integers(2, 65))]
            part ^= rng.integers(1, 256, part.size, np.uint8)
        elif number % 4 == 2:
            copy[at] ^= rng.integers(1, 256, dtype=np.uint8)
        else:
            copy[at] ^= np.uint8(1 << rng.integers(8))
        copies.append(copy.tobytes())
    ends = rng.choice(len(whole), min(cuts, len(whole)), replace=False)
    return copies + [whole[:end] for end in ends]


def outcome(kind: Kind) -> str:
    """Uses the file as it lies there."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = kind.use()
        except (ValueError, OSError):
            return "detected"
    if not kind.is_right(found):
        return "wrong"
    return "detected" if said else "harmless"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("kinds", nargs="*", metavar="KIND")
    options.add_argument("--flips", type=int, default=1000)
    options.add_argument("--cuts", type=int, default=200)
    given = parsed(options, flips=5, cuts=2)
    checkpoint.SAVE_SECONDS = 0.0
    checkpoint.SAVE_SHARE = float("inf")
    results, rows = {}, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        kinds = checkpoints(folder) | logs(folder) | genomes(folder) | studies(folder)
        for name, kind in kinds.items():
            if not any(map(name.startswith, given.kinds or [""])):
                continue
            files = {kind.path, previous(kind.path), *kind.beside}
            saved = {p: p.read_bytes() for p in files if p.exists()}
            whole, began = saved[kind.path], time.monotonic()
            counts = {"flips": Counter[str](), "cuts": Counter[str]()}
            copies = damages(whole, given.flips, given.cuts, seed=21)
            for number, copy in enumerate(copies):
                for path in files:
                    path.unlink(missing_ok=True)
                for path, text in saved.items():
                    path.write_bytes(text)
                kind.path.write_bytes(copy)
                counts["flips" if number < given.flips else "cuts"][outcome(kind)] += 1
            results[name] = {"bytes": len(whole)} | {
                k: dict(c) for k, c in counts.items()
            }
            for how, count in counts.items():
                row = [count[o] for o in ("wrong", "harmless", "detected")]
                rows.append([name, len(whole), how, *row])
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    show(["file", "bytes", "damage", "wrong", "harmless", "detected"], rows)
    save("damaged_files", ["gfopt", "jax", "numpy"], {"kinds": results})


if __name__ == "__main__":
    main()
