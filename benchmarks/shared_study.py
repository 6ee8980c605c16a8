"""Eight programs on one study, each killed at random: no trial is lost or made twice.

    python benchmarks/shared_study.py [--programs 8] [--kills 20]

Each program works on the study, is killed with SIGKILL at a random moment of a call or
of a write, and started again, until it has been killed so often; then all are let go.
Wanted: every trial has been handed out once and has one value, that of its solution, or
counts as failed because its programs died so often; the search is the one that a single
program makes of these values. Seeds are fixed; the moments are what the machine makes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from contextlib import closing
from typing import Any

import numpy as np
from common import parsed, save, show

import gfopt
from gfopt.driver.study import Study  # what the fork server loads

START = [1.5, -0.5, 0.7, 2.0]
OPTIONS = {"population_size": 16}
BUDGET = 100_000  # never used up


def objective(x: np.ndarray) -> float:
    """Returns the largest number, after a while that depends on the solution."""
    time.sleep(0.05 + abs(x[0]) % 0.2)
    return float(np.max(np.abs(x)))


def hand(path: str) -> None:
    """What a program does."""
    Study(path).work(objective)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programs", type=int, default=8)
    parser.add_argument("--kills", type=int, default=20, help="of each program")
    parser.add_argument("--seed", type=int, default=0)
    given = parsed(parser, programs=2, kills=1)
    moments = random.Random(given.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "gfopt.driver.study"])
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/study.db"
        study = gfopt.Study(path, "cma_es", START, options=OPTIONS, budget=BUDGET)
        kills: Counter[int] = Counter()
        running: dict[int, Any] = {}
        while sum(kills.values()) < given.programs * given.kills:
            for slot in range(given.programs):
                if slot not in running:
                    running[slot] = context.Process(target=hand, args=(path,))
                    running[slot].start()
            time.sleep(moments.uniform(0.0, 0.6))
            left = [slot for slot in running if kills[slot] < given.kills]
            slot = moments.choice(left)
            process = running.pop(slot)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills[slot] += 1
        for process in running.values():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        calls = len(_log(path)) // 2
        study.work(objective, trials=32)  # what they left, and two generations more
        log, result = _log(path), study.result
    asked = [trial for trial, kind, _, _ in log if kind == "ask"]
    told = {trial: value for trial, kind, value, _ in log if kind == "tell"}
    notes = Counter(note for _, kind, value, note in log if kind == "tell" and note)
    search = gfopt.AskTell("cma_es", START, options=OPTIONS)
    wrong = 0
    while trials := [trial for trial in search.ask() if trial.id in told]:
        for trial in trials:
            value = told[trial.id]
            is_its = value is None or value == np.max(np.abs(trial.solution))
            wrong += not is_its
            search.tell(trial, value)
    rows = [
        ["kills", sum(kills.values())],
        ["trials before the last program", calls],
        ["trials", len(asked)],
        ["handed out twice", len(asked) - len(set(asked))],
        ["with two values", len([e for e in log if e[1] == "tell"]) - len(told)],
        ["waiting", len(set(asked) - set(told))],
        ["failed: their programs died", notes["its programs died"]],
        ["with another value than their solution's", wrong],
        ["the search of one program", bool(search.result.fun == result.fun)],
    ]
    show(["what", "count"], rows)
    save("shared_study", ["gfopt", "jax"], {"options": vars(given), "rows": rows})


def _log(path: str) -> list[tuple[int, str, float | None, str]]:
    with closing(sqlite3.connect(path)) as file:
        query = "SELECT trial, kind, value, note FROM log ORDER BY seq"
        return file.execute(query).fetchall()


if __name__ == "__main__":
    main()
