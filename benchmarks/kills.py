"""SIGKILLs at random moments, in saves too: each run ends as if nothing had been.

    python benchmarks/kills.py [--kills 200] [--methods open_es cma_es ...]
    python benchmarks/kills.py --asynchronous [--kills 200]

A program minimises with a checkpoint, a snapshot before every generation; it is killed
at a random moment after its search began, started again with the same command, killed
again, and let go in the end. Its result must be that of a run without kills, bit for
bit, with the whole history; on the host path no more calls may have been made than the
straight run makes and one for each kill, the call that it hit. Wanted: 200 of 200 with
four methods on both paths. Seeds are fixed; the moments are what the machine makes.

With ``--asynchronous`` four threads evaluate, and a search is what the order makes of
it in which values came. So the file is copied at each kill: the history that a call
makes of the copy, before it evaluates anything, must be the beginning of what the run
has become in the end, bit for bit. A kill may cost four calls.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
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


ANY_ORDER = ("cma_es", "differential_evolution", "random_search", "auto")
ANY_ORDER_CHILD = """
import json, random, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import gfopt
from gfopt.driver.loop import checkpoint
checkpoint.SAVE_SECONDS, checkpoint.SAVE_SHARE = 0.1, float("inf")
method, log, *paths = sys.argv[1:]
is_copy = log == "copy"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
def fun(x):
    if is_copy:  # all that is known has been taken in
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
    value = float(np.max(np.abs(x)))
    with open(log, "a") as file:
        file.write("x")
    time.sleep(random.expovariate(100))
    return value
print("began", flush=True)
for path in paths:
    with ThreadPoolExecutor(4) as threads:
        four, one = gfopt.host(threads, workers=4), gfopt.host(workers=1)
        found = gfopt.minimize(fun, [1.5, -0.5, 0.7], method=method, seed=3,
            evaluator=one if is_copy else four, asynchronous=True,
            budget=400, checkpoint=path)
    closed = -1 if is_copy else None  # the last one is open
    history = {k: v[:closed].tolist() for k, v in found.history.items()}
    print(json.dumps(history), flush=True)
"""


def started(*arguments: str, script: str = CHILD) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
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


def any_order_chain(method: str, kills: int, moments: random.Random) -> dict[str, Any]:
    """Returns what became of one asynchronous run."""
    with tempfile.TemporaryDirectory() as place:
        path, log, copies = Path(place, "run"), Path(place, "calls"), list[str]()
        log.touch()

        def num_calls() -> int:
            return log.stat().st_size

        while True:
            process = started(method, str(log), str(path), script=ANY_ORDER_CHILD)
            assert process.stdout is not None
            process.stdout.readline()
            if len(copies) < kills:
                most = num_calls() + moments.randrange(80)
                while process.poll() is None and num_calls() < most:
                    time.sleep(0.001)
                time.sleep(moments.uniform(0.0, 0.05))
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    process.wait()
                    copies.append(f"{place}/{len(copies)}")
                    if path.exists():
                        shutil.copy(path, copies[-1])
                        before = path.with_name("run.prev")
                        if before.exists():
                            shutil.copy(before, f"{copies[-1]}.prev")
            said = process.communicate()[0].splitlines()
            if process.returncode == 0:
                break
        final = json.loads(said[-1])
        replay = started(method, "copy", *copies, script=ANY_ORDER_CHILD)
        replayed = [
            json.loads(line) for line in replay.communicate()[0].splitlines()[1:]
        ]
        calls = num_calls()
    same = [
        repr(columns) == repr({k: final[k][: len(v)] for k, v in columns.items()})
        for columns in replayed
    ]
    lengths = [len(columns.get("nfev", [])) for columns in replayed]
    return {
        "kills": len(copies),
        "same": len(same) == len(copies) and all(same),
        "repeated": calls - final["nfev"][-1],
        "generations": lengths,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--methods", nargs="*")
    options.add_argument("--asynchronous", action="store_true")
    given = parsed(options, kills=1, methods=["cma_es"])
    moments, rows, total = random.Random(21), list[list[Any]](), 0
    paths = ("asynchronous",) if given.asynchronous else ("host", "compiled")
    methods = given.methods or (ANY_ORDER if given.asynchronous else METHODS)
    cells = [(method, path) for method in methods for path in paths]
    while total < given.kills:
        method, path = cells[len(rows) % len(cells)]
        count = min(EACH, given.kills - total)
        if given.asynchronous:
            found = any_order_chain(method, count, moments)
        else:
            found = chain(method, path, count, moments)
        if not found["kills"]:
            break
        total += found["kills"]
        rows.append([method, path, *found.values()])
        print(*rows[-1], flush=True)
        name = "kills_asynchronous" if given.asynchronous else "kills"
        save(name, ["gfopt", "jax", "numpy"], {"kills": total, "runs": rows})
    header = ["method", "path", "kills", "same result", "calls made again"]
    show(header, [row[:5] for row in rows])


if __name__ == "__main__":
    main()
