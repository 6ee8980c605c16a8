"""The tables of a benchmark, as text: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from gfopt.research.finished_runs import Run
from gfopt.research.ranks import critical_difference, rank_table
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

_MEMORY = (
    "memory: the largest of the runs; planned: by the compiler, the share of one run; "
    "resident: the peak of the process, with what Python, JAX and earlier runs left in "
    "it."
)


class Table(NamedTuple):
    """A title, column heads, rows of text and a note on how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str

    def __str__(self) -> str:
        widths = [max(map(len, c)) for c in zip(self.columns, *self.rows, strict=True)]
        first, *others = (
            "  ".join(
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (self.columns, *self.rows)
        )
        return "\n".join([self.title, first, *others, self.note])


def tables(runs: Iterable[Run]) -> list[Table]:
    """Returns the tables of all sections of some runs."""
    return [table for section in sections(runs) for table in tables_of(section)]


def tables_of(section: Section) -> list[Table]:
    """Returns a section's tables: the methods, and of functions each problem."""
    if section.suite == "digits":
        return [_digits(section)]
    if section.suite == "atari":
        return [_atari(section)]
    return [_methods(section), _problems(section)]


def title_of(section: Section) -> str:
    """Says what the runs of a section have in common."""
    if section.suite == "digits":
        return f"Digits: a network of {section.dimension:,} weights, {_budget(section)}"
    if section.suite == "atari":
        name = section.evaluator.removeprefix("ale-")
        network = f"the {name} network of {section.dimension:,} weights"
        return f"Atari: {network}, {section.budget:,} frames"
    if section.suite != "bbob":
        count = len(section.problems)
        what = f"{count} problems" if count > 1 else section.problems[0]
        return f"{section.suite}: {what}, {_budget(section)}"
    where = "" if section.evaluator == "jax" else f", {section.evaluator}"
    return f"BBOB in {section.dimension}-D, {_budget(section)}{where}"


def _budget(section: Section) -> str:
    if section.suite != "bbob":
        return f"{section.budget:,} evaluations"
    return f"{section.budget // section.dimension:,} evaluations per dimension"


def _methods(section: Section) -> Table:
    rows, ranks = [], rank_table(section).mean(axis=0)
    for method, rank in zip(section.methods, ranks, strict=True):
        runs = section.of(method)
        share = share_of_targets(runs)
        solved = time_to_solve(runs)[1]
        rows.append(
            (
                method,
                f"{share.estimate:.3f}",
                _ends(share, len({run.key.instance for run in runs})),
                f"{solved} of {len(runs)}",
                f"{rank:.2f}",
                f"{sum(run.failures for run in runs):,}",
                *_costs(runs),
            )
        )
    note = (
        f"targets: {_targets(section)}; interval: 95 %, bootstrap over instances; "
        "solved: runs that reached the last of them; rank: mean over problems by the "
        f"median value{_apart(section)}; failures: evaluations without a value; run s, "
        f"compile s: seconds for all runs together; {_MEMORY}"
    )
    if not section.is_balanced:
        note += " The methods did not run on the same problems."
    columns = ("method", "targets", "interval", "solved", "rank", "failures")
    costs = ("evaluations", "run s", "compile s", "memory MB")
    return Table(title_of(section), (*columns, *costs), rows, note)


def _apart(section: Section) -> str:
    """Says by how much mean ranks must differ, where there are several of both."""
    count, number = len(section.methods), len(section.problems)
    if count < 2 or number < 2:
        return ""
    apart = critical_difference(count, number)
    return f", told apart by {apart:.2f} (Nemenyi, 5 %, {number} problems)"


def _targets(section: Section) -> str:
    if section.suite == "bbob-constrained":
        return (
            "share of the 41 precisions from 1e2 to 1e-6 that were reached by max(f, "
            "f_opt) - f_opt plus what constraints are exceeded by; COCO counts an "
            "evaluation twice, once for f and once for the constraints"
        )
    known = "share of the 51 precisions f - f_opt from 1e2 to 1e-8 that were reached"
    if section.knows_optima:
        return known
    found = (
        "where the optimum is not known, of 51 shares from 1 to 1e-5 that are left of "
        "the way from the median first value to the best of all runs"
    )
    return f"{known}; {found}"


def _problems(section: Section) -> Table:
    rows = []
    for problem in section.problems:
        runs = [section.of(method, [problem]) for method in section.methods]
        name = name_of(section.of(problems=[problem])[0].key)
        rows.append((name, *map(_cell, runs)))
    unit = "evaluations per dimension" if section.suite == "bbob" else "evaluations"
    return Table(
        "Each problem",
        ("problem", *section.methods),
        rows,
        "last, the share of the targets; before it, if a run reached the last one, the "
        f"{unit} that this takes on average with restarts (ERT).",
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
        "the runs; interval: 95 %, bootstrap over runs, each with a split of its own. "
        f"{_MEMORY}"
    )
    return Table(
        title_of(section), (*columns, "run s", "compile s", "memory MB"), rows, note
    )


def _atari(section: Section) -> Table:
    rows = []
    for game in section.problems:
        for method in section.methods:
            runs = section.of(method, [game])
            if not runs:
                continue
            mean = score(runs)
            name = f"{game}, {method}"
            ends = _ends(mean, len(runs), digits=1)
            evaluations, seconds, _, memory = _costs(runs)
            cells = name, f"{mean.estimate:.1f}", ends, str(len(runs))
            rows.append((*cells, evaluations, seconds, memory))
    columns: tuple[str, ...] = (
        "game, method",
        "score",
        "interval",
        "runs",
        "evaluations",
    )
    columns += ("run s", "memory MB")
    note = (
        "score of the method's recommendation, mean of the runs; interval: 95 %, "
        "bootstrap over runs, each with its own first network; the tiny network plays "
        "200 steps that always begin the same, the others up to 5,000 from beginnings "
        f"that no method has seen. {_MEMORY}"
    )
    return Table(title_of(section), columns, rows, note)


def _costs(runs: Sequence[Run]) -> tuple[str, str, str, str]:
    return (
        f"{sum(run.evaluations for run in runs):,}",
        f"{sum(run.seconds for run in runs):.1f}",
        f"{sum(run.compile_seconds for run in runs):.1f}",
        _memory(runs),
    )


def _memory(runs: Sequence[Run]) -> str:
    """Writes the largest, and what it is: of both kinds if there are both."""
    largest: dict[str, int] = {}
    for run in runs:
        if run.memory is not None:
            kind = run.memory_kind
            largest[kind] = max(run.memory, largest.get(kind, 0))
    cells = [f"{size / 1e6:.3g} {kind}" for kind, size in sorted(largest.items())]
    return ", ".join(cells) or "-"


def _ends(interval: Interval, count: int, digits: int = 3) -> str:
    """Writes the ends, or a dash where one sample has no interval."""
    if count < 2:
        return "-"
    return f"{interval.low:.{digits}f} .. {interval.high:.{digits}f}"
