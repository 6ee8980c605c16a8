"""The tables of a benchmark, as text: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gfopt.problems.atari import GAMES
from gfopt.research.finished_runs import Run
from gfopt.research.statistics import Interval
from gfopt.research.summary import (
    Section,
    accuracy,
    name_of,
    score,
    sections,
    share_of_targets,
    time_to_solve,
    times_to_targets,
)


class Table(NamedTuple):
    """A title, column heads, rows of text and a note on how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str


def tables(runs: Iterable[Run]) -> list[Table]:
    """Returns the tables of all sections of some runs."""
    return [table for section in sections(runs) for table in tables_of(section)]


def tables_of(section: Section) -> list[Table]:
    """Returns a section's tables: the methods, and on BBOB each function."""
    if section.suite == "digits":
        return [_digits(section)]
    if section.suite == "atari":
        return [_atari(section)]
    return [_bbob(section), _functions(section)]


def title_of(section: Section) -> str:
    """Says what the runs of a section have in common."""
    if section.suite == "digits":
        return f"Digits: a network of {section.dimension:,} weights, {_budget(section)}"
    if section.suite == "atari":
        name = section.evaluator.removeprefix("ale-")
        network = f"the {name} network of {section.dimension:,} weights"
        return f"Atari: {network}, {section.budget:,} frames"
    where = "" if section.evaluator == "jax" else f", {section.evaluator}"
    return f"BBOB in {section.dimension}-D, {_budget(section)}{where}"


def _budget(section: Section) -> str:
    if section.suite == "digits":
        return f"{section.budget:,} evaluations"
    return f"{section.budget // section.dimension:,} evaluations per dimension"


def _bbob(section: Section) -> Table:
    rows = []
    for method in section.methods:
        runs = section.of(method)
        share = share_of_targets(runs)
        solved = time_to_solve(runs)[1]
        rows.append(
            (
                method,
                f"{share.estimate:.3f}",
                _ends(share, len({run.key.instance for run in runs})),
                f"{solved} of {len(runs)}",
                *_costs(runs),
            )
        )
    note = (
        "targets: share of the 51 precisions f - f_opt from 1e2 to 1e-8 that were "
        "reached; interval: 95 %, bootstrap over instances; solved: runs that reached "
        "1e-8; run s, compile s: seconds for all runs together."
    )
    if not section.is_balanced:
        note += " The methods did not run on the same problems."
    columns = ("method", "targets", "interval", "solved", "evaluations")
    return Table(title_of(section), (*columns, "run s", "compile s"), rows, note)


def _functions(section: Section) -> Table:
    rows = []
    for function in section.functions:
        runs = [section.of(method, [function]) for method in section.methods]
        rows.append((name_of(function), *map(_cell, runs)))
    return Table(
        "Each function",
        ("function", *section.methods),
        rows,
        "last, the share of the targets; before it, if a run reached 1e-8, the "
        "evaluations per dimension that this takes on average with restarts (ERT).",
    )


def _cell(runs: Sequence[Run]) -> str:
    if not runs:
        return "-"
    share = np.isfinite(times_to_targets(runs)).mean()
    time, hits = time_to_solve(runs)
    # figure spaces: HTML keeps them
    return (f"{time:,.0f}\u2007\u2007" if hits else "") + f"{share:.2f}"


def _digits(section: Section) -> Table:
    rows = []
    for method in section.methods:
        runs = section.of(method)
        mean = accuracy(runs)
        ends = _ends(mean, len(runs))
        rows.append(
            (method, f"{mean.estimate:.3f}", ends, str(len(runs)), *_costs(runs))
        )
    columns = ("method", "held-out accuracy", "interval", "runs", "evaluations")
    note = (
        "accuracy of the method's recommendation on images that it never saw, mean of "
        "the runs; interval: 95 %, bootstrap over runs, each with a split of its own."
    )
    return Table(title_of(section), (*columns, "run s", "compile s"), rows, note)


def _atari(section: Section) -> Table:
    rows = []
    for function in section.functions:
        for method in section.methods:
            runs = section.of(method, [function])
            if not runs:
                continue
            mean = score(runs)
            name = f"{GAMES[function - 1]}, {method}"
            ends = _ends(mean, len(runs), digits=1)
            cells = (name, f"{mean.estimate:.1f}", ends, str(len(runs)), *_costs(runs))
            rows.append(cells[:-1])
    columns = ("game, method", "score", "interval", "runs", "evaluations", "run s")
    note = (
        "score of the method's recommendation, mean of the runs; interval: 95 %, "
        "bootstrap over runs, each with its own first network; the tiny network plays "
        "200 steps that always begin the same, the others up to 5,000 from beginnings "
        "that no method has seen."
    )
    return Table(title_of(section), columns, rows, note)


def _costs(runs: Sequence[Run]) -> tuple[str, str, str]:
    return (
        f"{sum(run.evaluations for run in runs):,}",
        f"{sum(run.seconds for run in runs):.1f}",
        f"{sum(run.compile_seconds for run in runs):.1f}",
    )


def _ends(interval: Interval, count: int, digits: int = 3) -> str:
    """Writes the ends, or a dash where one sample has no interval."""
    if count < 2:
        return "-"
    return f"{interval.low:.{digits}f} .. {interval.high:.{digits}f}"
