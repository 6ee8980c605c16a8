"""``gfopt bench``: methods on problems, results as they come, a table, a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from gfopt.cli import program_cache, terminal
from gfopt.cli.arguments import USAGE_ERROR, number, refusals
from gfopt.cli.bench_options import planned
from gfopt.cli.leaving import leaving_at_once
from gfopt.core.processes import Processes, all_processes
from gfopt.problems.environments.atari import NETWORKS
from gfopt.research import plan
from gfopt.research.baselines import BASELINES
from gfopt.research.benchmark import carry_out, pending, runs_of
from gfopt.research.coco_runs import discard_unfinished, log_folder
from gfopt.research.finished_runs import Run
from gfopt.research.plan import Batch
from gfopt.research.report import write_report
from gfopt.research.results import ResultStore
from gfopt.research.shares import left_for_all
from gfopt.research.tables import tables
from gfopt.research.tuning import TUNING, trials_of, with_tuned


def bench(
    context: typer.Context,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What to run, see gfopt suites; without it bbob and digits, or bbob "
            "or atari alone where one of its options is given.",
            show_default=False,
        ),
    ] = None,
    problems: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Problems of your own instead, as in mymodule:problems.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Methods, as in cma_es,mymodule:MyMethod; see gfopt list.",
            show_default="three for each suite",
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Other packages beside them: {', '.join(BASELINES)}.",
            show_default=False,
        ),
    ] = None,
    tune_baselines: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Trials of random settings for each baseline, on other runs of the "
            "same problems; the best takes part, too.",
            show_default=False,
        ),
    ] = None,
    functions: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="BBOB functions, as in 1,8,10-14.",
            show_default="two of each group",
        ),
    ] = None,
    dimensions: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Dimensions on BBOB, as in 2,5,10.", show_default="5"
        ),
    ] = None,
    instances: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Instances of each function, splits of the digits, or runs.",
            show_default="1-15, digits and others 1-5",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Evaluations: per dimension on BBOB, else of a run.",
            show_default="1000, digits 19200",
        ),
    ] = None,
    game: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="An Atari game, as in frostbite.",
            show_default=plan.ATARI_GAME,
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Frames of a run on Atari, 4 for each step.",
            show_default=f"{plan.ATARI_FRAMES}",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(NETWORKS),
            help="Network on Atari; the large one is the papers'.",
            show_default=plan.ATARI_NETWORK,
        ),
    ] = None,
    workers: Annotated[str, typer.Option(metavar="NUMBER", help="Processes.")] = "1",
    seed: Annotated[
        str, typer.Option(metavar="NUMBER", help="Of starts and methods.")
    ] = "0",
    evaluator: Annotated[
        str,
        typer.Option(
            metavar="jax|coco",
            help="Who evaluates BBOB: one compiled program, or COCO's C code with its "
            "log files for cocopp.",
        ),
    ] = "jax",
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Where results and report go.")
    ] = "gfopt-bench",
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Share the runs with the same command in JAX's other processes, under "
            "Slurm, Open MPI or on a TPU pod.",
        ),
    ] = False,
) -> None:
    """Compare methods on suites of problems, or on problems of your own.

    Without options: a minute or two. Results are kept as they come; after Ctrl-C
    the same command goes on, and a larger one adds what is missing.
    """
    with refusals(ValueError, TypeError, ImportError, context=context):
        num_workers = number("--workers", workers, 1, 10_000)
        batches = planned(
            suite=suite,
            problems=problems,
            methods=methods,
            baselines=baselines,
            functions=functions,
            dimensions=dimensions,
            instances=instances,
            budget=budget,
            game=game,
            frames=frames,
            network=network,
            seed=seed,
            evaluator=evaluator,
        )
        if not out.strip():
            raise ValueError("--out must be a directory; got ''")
        trials = 0
        if tune_baselines is not None:
            trials = number("--tune-baselines", tune_baselines, 1, 10_000)
            trials_of(batches, trials)  # refuses a plan without baselines
        if distributed:
            if trials:
                raise ValueError("--tune-baselines does not go with --distributed")
            _join_the_others()
    _require(context, batches)
    processes = all_processes()
    made = partial(_made, context, workers=num_workers, processes=processes)
    if trials:
        tried: list[Run] = []
        terminal.note(f"{trials} trials of each baseline first", stderr=True)
        folder = str(Path(out) / TUNING)
        made(trials_of(batches, trials), folder, lambda _, runs: tried.extend(runs))
        batches = with_tuned(batches, tried, trials)

    def show(store: ResultStore, runs: list[Run]) -> None:
        terminal.show_all(tables(runs))
        path = write_report(store)
        terminal.note(f"results: {store.path}\nreport:  {path}")

    num_failed = made(batches, out, show)
    if num_failed:
        if processes.is_first:
            terminal.note(
                f"{num_failed} runs failed; to try again: {context.obj}", stderr=True
            )
        raise typer.Exit(1)


def _made(
    context: typer.Context,
    batches: Sequence[Batch],
    out: str,
    then: Callable[[ResultStore, list[Run]], object],
    *,
    workers: int,
    processes: Processes,
) -> int:
    """Makes the runs of a plan that are not in a directory yet.

    Args:
        context: of the command.
        batches: the plan.
        out: the directory.
        then: called with its store and the runs of the plan, in the first process.
        workers: processes of this one.
        processes: JAX's.

    Returns:
        The number of runs that failed.
    """

    def opened(stack: ExitStack) -> tuple[ResultStore, list[Batch]]:
        store = stack.enter_context(ResultStore(out, create=True))
        left = pending(batches, store)
        if left:
            others = store.other_versions()
            if others:
                terminal.note(
                    f"{store.path} holds runs of {', '.join(others)}: they stay as "
                    "they are; choose another --out to compare versions",
                    stderr=True,
                )
            store.claim()
            store.start_session(context.obj)
        return store, left

    with ExitStack() as stack:
        with refusals(ValueError, OSError, RuntimeError, context=context):
            store, left = left_for_all(processes, batches, opened, stack)
        num_failed = 0
        with refusals(OSError, context=context):
            if store is None:
                num_failed = _run_unseen(left, workers, processes)
            elif left:
                command = context.obj
                num_failed = _run(command, batches, left, store, workers, processes)
            else:
                terminal.note("all runs are there already", stderr=True)
        if store is not None:
            with refusals(ValueError, OSError, context=context):
                then(store, runs_of(batches, store))
    return num_failed


def _join_the_others() -> None:
    try:
        jax.distributed.initialize()
    except ValueError as error:
        raise ValueError(
            "--distributed needs Slurm, Open MPI or a TPU pod, which say where the "
            f"other processes are; JAX found none: {error}"
        ) from None


def _run(
    command: str,
    batches: Sequence[Batch],
    left: Sequence[Batch],
    store: ResultStore,
    workers: int,
    processes: Processes,
) -> int:
    """Runs what is left; the number of runs that failed."""
    display, stack = terminal.ProgressDisplay(batches, left), ExitStack()
    folder = None if processes.together else store.path.parent
    logs = stack.enter_context(log_folder(folder))

    def farewell() -> None:
        display.stop()
        discard_unfinished(logs)
        stack.close()
        # through a connection of its own, which sees what is committed
        with ResultStore(store.path.parent) as kept:
            finished = kept.finished()
        done = sum(key in finished for batch in batches for key in batch.keys)
        terminal.note(
            f"stopped: {done} of {display.total} runs are kept in "
            f"{store.path}; to go on: {command}",
            stderr=True,
        )

    num_failed = 0

    def note(batch: Batch, runs: list[Run], reason: str) -> None:
        nonlocal num_failed
        store.add(runs)
        if reason:  # one method's fault is not another's
            num_failed += len(batch.instances)
            display.failed(batch, reason)
        else:
            display.finished(batch, runs)

    if workers > 1:
        program_cache.hand_on()
    how: dict[str, Any] = {"workers": workers, "processes": processes}
    with stack, display, leaving_at_once(farewell):
        carry_out(left, logs, note, begin=display.begin, **how)
    return num_failed


def _run_unseen(left: Sequence[Batch], workers: int, processes: Processes) -> int:
    """Runs a share in a process that isn't the first; the number that failed in all."""
    num_failed = 0

    def note(batch: Batch, runs: list[Run], reason: str) -> None:
        nonlocal num_failed
        num_failed += len(batch.instances) if reason else 0

    if workers > 1:
        program_cache.hand_on()
    with ExitStack() as stack:
        logs = stack.enter_context(log_folder(None))
        with leaving_at_once(stack.close):
            carry_out(left, logs, note, workers=workers, processes=processes)
    return num_failed


def _require(context: typer.Context, batches: Sequence[Batch]) -> None:
    needed = {"coco": "cocoex", "digits": "sklearn"}
    for name in {batch.evaluator for batch in batches} | {b.suite for b in batches}:
        if name in needed and find_spec(needed[name]) is None:
            raise USAGE_ERROR(
                f"{name} needs {needed[name]}: pip install 'gfopt[bench]'", ctx=context
            )
