"""SIGKILLs at random moments, in saves too: each run ends as if nothing had been.

    python benchmarks/kills.py [--kills 200] [--methods open_es cma_es ...]

A program minimises with a checkpoint, a snapshot before every generation; it is killed
at a random moment after its search began, started again with the same command, killed
again, and let go in the end. Its result must be that of a run without kills, bit for
bit, with the whole history; on the host path no more calls may have been made than the
straight run makes and one for each kill, the call that it hit. Wanted: 200 of 200 with
four methods on both paths. Seeds are fixed; the moments are what the machine makes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import parsed, save, show

METHODS = ("open_es", "cma_es", "differential_evolution", "snes")
EACH = 10  # kills of one run
CHILD = """
import sys, time, zlib
import jax, numpy as np
import gfopt
from gfopt.driver.loop import checkpoint
checkpoint.SAVE_SECONDS, checkpoint.SAVE_SHARE = 0.0, float("inf")
method, path, log, folder = sys.argv[1:]
def host(x):
    value = float(np.max(np.abs(x)))
    with open(log, "a") as file:
        file.write("x")
    time.sleep(0.004)
    return value
def compiled(x):
    return jax.numpy.max(jax.numpy.abs(x))
print("began", flush=True)
slow = None if path == "host" else (lambda result: time.sleep(0.02))
found = gfopt.minimize(host if path == "host" else compiled, [1.5, -0.5, 0.7], seed=3,
    method=method, budget=600, callbacks=slow or (), checkpoint=folder or None)
tree = jax.tree.leaves((found.x, found.recommended, found.state, dict(found.history)))
crc = 0
for leaf in tree:
    crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
print("ended", crc, found.nfev, found.fun, flush=True)
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", CHILD, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def chain(method: str, path: str, kills: int, moments: random.Random) -> dict[str, Any]:
    """Returns what became of one run."""
    with tempfile.TemporaryDirectory() as place:
        straight = started(method, path, f"{place}/straight", "")
        expected = straight.communicate()[0].splitlines()[-1]
        arguments = (method, path, f"{place}/calls", f"{place}/run")
        count = 0
        while True:
            process = started(*arguments)
            assert process.stdout is not None
            process.stdout.readline()
            if count < kills:
                time.sleep(moments.uniform(0.0, 1.2))
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    count += 1
            said = process.communicate()[0].splitlines()
            if process.returncode == 0:
                break
        calls = [
            Path(place, name).stat().st_size if Path(place, name).exists() else 0
            for name in ("straight", "calls")
        ]
    same = said[-1] == expected
    return {"kills": count, "same": same, "repeated": calls[1] - calls[0]}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--methods", nargs="*", default=list(METHODS))
    given = parsed(options, kills=1, methods=["cma_es"])
    moments, rows, total = random.Random(21), [], 0
    cells = [(m, p) for m in given.methods for p in ("host", "compiled")]
    while total < given.kills:
        method, path = cells[len(rows) % len(cells)]
        found = chain(method, path, min(EACH, given.kills - total), moments)
        if not found["kills"]:
            break
        total += found["kills"]
        rows.append([method, path, *found.values()])
        print(*rows[-1], flush=True)
    show(["method", "path", "kills", "same result", "calls made again"], rows)
    save("kills", ["gfopt", "jax", "numpy"], {"kills": total, "runs": rows})


if __name__ == "__main__":
    main()
