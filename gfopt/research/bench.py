"""``bench``: methods of ours and of others on problems of one's own, from Python."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfopt import checks
from gfopt.core.processes import Processes, all_processes
from gfopt.research.benchmark import carry_out, pending, runs_of
from gfopt.research.competitors import Methods
from gfopt.research.environment import environment
from gfopt.research.figure_files import FORMATS, write_figures
from gfopt.research.finished_runs import Run
from gfopt.research.plan import OWN_BUDGET, Batch, own_batches
from gfopt.research.report import page
from gfopt.research.results import ResultStore, row_of, run_of
from gfopt.research.shares import left_for_all
from gfopt.research.tables import Table, tables
from gfopt.research.tuning import TUNING, trials_of, with_tuned
from gfopt.types import JsonObject


@dataclass(frozen=True)
class BenchResult:
    """What ``bench`` found; prints as its tables.

    Attributes:
        runs: every run, with where its best value got better.
        sessions: when, how and where they were made.
        failures: the runs whose optimizer raised, with what it said.

    Example:
        >>> import gfopt
        >>> problem = gfopt.problems.Problem(abs, x0=[1.0], optimum=0.0)
        >>> result = gfopt.bench("random_search", problem, budget=5, runs=1)
        >>> result.runs[0].trajectory[0], result.tables[1].columns
        ((1, 1.0), ('problem', 'random_search'))
    """

    runs: list[Run]
    sessions: list[JsonObject] = field(repr=False)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def tables(self) -> list[Table]:
        """The tables: the methods, and each problem."""
        return tables(self.runs)

    def __str__(self) -> str:
        failed = [f"{name} failed: {why}" for name, why in self.failures.items()]
        return "\n\n".join([*map(str, self.tables), *failed])

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report, one HTML file, and returns where it stands."""
        place = Path(path)
        place.write_text(page(self.runs, self.sessions), encoding="utf-8")
        return place

    def figures(
        self, directory: str | os.PathLike[str], formats: str | Iterable[str] = FORMATS
    ) -> list[Path]:
        """Writes the report's figures and returns where.

        Args:
            directory: made if it is missing.
            formats: of ``"svg"``, ``"png"`` and ``"pdf"``.

        Raises:
            ImportError: without matplotlib, with the line that installs it.
        """
        return write_figures(self.runs, Path(directory), formats)


def bench(
    methods: Methods,
    problems: object,
    *,
    budget: int = OWN_BUDGET,
    runs: int = 5,
    seed: int = 0,
    workers: int = 1,
    executor: object = None,
    out: str | os.PathLike[str] | None = None,
    name: str = "own problems",
    tune_baselines: int = 0,
) -> BenchResult:
    """Compares methods on problems of one's own.

    Every evaluation counts and is recorded; all methods start at the same points. A run
    ends when its budget is used, at the optimum + 1e-8 where that is known, or when
    the method says so. Under several of JAX's processes each makes a share of the runs,
    the first writes ``out``, and all return everything.

    Args:
        methods: one, several, or a dictionary that names them: registered names and
            ``"auto"``, which run as in ``minimize``; optimizers; functions ``(fun, x0,
            budget, seed)`` that call ``fun(x)`` as often as they like, where
            ``fun.bounds`` is ``float64[D, 2]`` or None.
        problems: ``gfopt.problems.Problem(fun, x0, bounds=..., optimum=...)``, or
            callables with such attributes; one, several or a dictionary.
        budget: evaluations of a run.
        runs: of each method on each problem, with starts and seeds of their own.
        seed: of all of them.
        workers: processes that make the runs; methods and problems must then be
            defined in a module, not in a function or a notebook.
        executor: makes the runs instead: of ``concurrent.futures``, loky, Dask,
            submitit, MPI or Ray, as ``gfopt.host`` takes it.
        out: directory of the results, from which the same call goes on; without it
            nothing is written.
        name: what tables call the problems together.
        tune_baselines: trials of random settings for each baseline of another package,
            on other runs of the same problems; the best one takes part, too, as
            ``pycma_tuned``.

    Returns:
        The runs; ``print`` it for the tables, ``report(path)`` makes the page.

    Raises:
        TypeError: for what is neither method nor problem.
        ValueError: for an unknown name, or a value out of range.

    Example:
        >>> import gfopt
        >>> def halving(fun, x0, budget, seed):
        ...     while True:
        ...         fun(x0)
        ...         x0 = x0 / 2
        >>> sphere = gfopt.problems.Problem(
        ...     lambda x: (x**2).sum(), bounds=[(-5, 5)] * 2, optimum=0.0)
        >>> result = bench(["random_search", halving], sphere, budget=60, runs=3)
        >>> [row[0:5:3] for row in result.tables[0].rows]
        [('random_search', '0 of 3'), ('halving', '3 of 3')]
    """
    checks.integer("budget", budget, 1)
    checks.integer("runs", runs, 1)
    checks.integer("seed", seed, 0)
    checks.integer("workers", workers, 1)
    if executor is not None and workers > 1:
        raise ValueError(
            f"workers must be 1 where an executor has its own; got {workers}"
        )
    checks.integer("tune_baselines", tune_baselines, 0)
    instances = range(1, runs + 1)
    batches = own_batches(
        methods, problems, budget=budget, instances=instances, seed=seed, name=name
    )
    how: dict[str, Any] = {"workers": workers, "executor": executor}
    how["processes"] = all_processes()
    place = None if out is None else Path(out)
    if tune_baselines:
        folder = None if place is None else place / TUNING
        trials = _made(trials_of(batches, tune_baselines), folder, **how)
        batches = with_tuned(batches, trials.runs, tune_baselines)
    return _made(batches, place, **how)


def _made(
    batches: list[Batch], out: Path | None, *, processes: Processes, **how: Any
) -> BenchResult:
    """Makes the runs of a plan that are not in the directory yet; returns all."""
    failures: dict[str, str] = {}
    results: list[Run] = []
    store: ResultStore | None = None

    def note(batch: Batch, done: list[Run], reason: str) -> None:
        results.extend(done)
        if store is not None:
            store.add(done)
        if reason:
            key = batch.key(batch.instances[0])
            failures[f"{key.method} on {key.problem}, run {key.instance}"] = reason

    def opened(stack: ExitStack) -> tuple[ResultStore, list[Batch]]:
        store = stack.enter_context(ResultStore(out or Path(), create=True))
        left = pending(batches, store)
        if left:
            store.claim()
            store.start_session("gfopt.bench")
        return store, left

    with ExitStack() as stack:
        left = batches
        if out is not None:
            store, left = left_for_all(processes, batches, opened, stack)
        carry_out(left, out or Path(), note, processes=processes, **how)
        if out is None:
            return BenchResult(sorted(results), [environment("gfopt.bench")], failures)

        def kept() -> bytes:
            if store is None:  # which only the first process has, and only it asks
                return b""
            rows = [row_of(run) for run in runs_of(batches, store)]
            return json.dumps([rows, store.sessions()]).encode()

        rows, sessions = json.loads(processes.made_by_first(kept))
        return BenchResult([run_of(row) for row in rows], sessions, failures)
