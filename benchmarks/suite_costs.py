"""What ``gfopt bench --suite`` costs without further options, for each suite.

Each is run by itself, with nothing compiled before (``--no-cache``). Its cost is what
the system counts for the process: processor seconds, which other work on the machine
hardly changes, and the peak of its memory. Suites that lack something are left out;
what was measured before, in another environment, say, stays in the results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from common import QUICK, RESULTS, parsed, save, show, sized

from gfopt.research.suites.catalogue import SUITES

NAME = "suite_costs"


def cost(suite: str) -> dict[str, float]:
    """Runs a suite; returns what it took."""
    with tempfile.TemporaryDirectory() as folder:
        words = f"-m gfopt --no-cache bench --suite {suite} --out {folder}/out"
        words += sized("", " --instances 1 --budget 2")
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words.split()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{suite} failed: python {words}")
    return {
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "peak_megabytes": round(usage.ru_maxrss / 1024),
        "load": round(os.getloadavg()[1], 1),  # of the five minutes before its end
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = ["bbob", "digits", *SUITES]
    parser.add_argument("suites", nargs="*", default=known)
    options = parsed(parser, suites=["cbo"])
    path = RESULTS / f"{NAME}.json"
    found = json.loads(path.read_text())["suites"] if path.is_file() else {}
    for suite in options.suites:
        needs = SUITES[suite].needs if suite in SUITES else ()
        missing = [need.name for need in needs if not need.is_there()]
        if missing:
            print(f"{suite}: left out, needs {', '.join(missing)}")
            continue
        found[suite] = cost(suite)
        print(suite, found[suite], flush=True)
        ordered = {name: found[name] for name in known if name in found}
        save(NAME, ["gfopt", "jax", "numpy"], {"suites": ordered})
    if not QUICK:
        names = next(iter(found.values())).keys()
        show(("suite", *names), [(s, *map(str, c.values())) for s, c in found.items()])


if __name__ == "__main__":
    main()
