"""What the command line shows: tables on standard output, progress on the other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from gfopt.cli.pace import Pace
from gfopt.driver.progress.compiling import CompileWatch
from gfopt.research.finished_runs import Run
from gfopt.research.plan import Batch
from gfopt.research.tables import Table

_WIDTH_OF_A_FILE = 160


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_FILE
    return console


def note(text: str, *, stderr: bool = False) -> None:
    """Writes a line, however long."""
    _console(stderr=stderr).print(Text(text), soft_wrap=True)


def show(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: bool = True,
) -> None:
    """Writes a table, with numbers in all columns but the first, or in none."""
    table = RichTable(
        title=Text(title, style="bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for place, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if numbers and place else "left"
        # names are whole on any terminal: they are what one types
        table.add_column(name, justify=justify, no_wrap=not place)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


def show_all(tables: Iterable[Table]) -> None:
    """Writes the tables of a benchmark, a wide one in parts below each other."""
    for table in tables:
        title = table.title
        for part in _fitting(table, _console().width):
            rows = [[row[place] for place in part] for row in table.rows]
            show(title, [table.columns[place] for place in part], rows)
            title = ""
        _console().print(Text(f"{table.note}\n", style="dim"))


def _fitting(table: Table, width: int) -> list[list[int]]:
    """Deals the columns out to tables of a width, the first one to each of them."""
    first, *widths = (
        max(map(len, column)) + 3
        for column in zip(table.columns, *table.rows, strict=True)
    )
    parts: list[list[int]] = []
    used = width
    for place, needed in enumerate(widths, 1):
        if used + needed > width:
            parts.append([0])
            used = first
        parts[-1].append(place)
        used += needed
    return parts


class ProgressDisplay:
    """A bar for each suite, or a line for each batch where there is no terminal.

    Args:
        batches: the whole plan.
        left: what of it is not done yet.

    Attributes:
        total: runs in the plan.
        done: how many of them are finished.
    """

    def __init__(self, batches: Sequence[Batch], left: Sequence[Batch]):
        self._console = _console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[suite]:6}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TimeElapsedColumn(),
            _LeftColumn(self),
            TextColumn("{task.description}", style="dim"),
            _CompilingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        for suite in dict.fromkeys(batch.suite for batch in batches):
            total = _count(batches, suite)
            self._tasks[suite] = self._progress.add_task(
                "",
                start=False,
                total=total,
                completed=total - _count(left, suite),
                suite=suite,
            )
        self.total = sum(len(batch.instances) for batch in batches)
        self.done = self.total - sum(len(batch.instances) for batch in left)
        self._pace = Pace(left)

    def begin(self, batch: Batch) -> None:
        """Says what runs now."""
        self._progress.start_task(self._tasks[batch.suite])
        self._progress.update(self._tasks[batch.suite], description=_name(batch))

    def finished(self, batch: Batch, runs: Sequence[Run]) -> None:
        """Counts the runs of a batch."""
        suite = batch.suite
        task = self._tasks[suite]
        self._progress.advance(task, len(runs))
        self.done += len(runs)
        self._pace.finished(batch)
        if self._progress.tasks[list(self._tasks).index(suite)].finished:
            self._progress.update(task, description="")
        if self._progress.disable:
            seconds = sum(run.seconds + run.compile_seconds for run in runs)
            compiling = sum(run.compile_seconds for run in runs)
            note(
                f"{_name(batch)}: {len(runs)} done in {seconds:.1f} s, of which "
                f"{compiling:.1f} s compiling, {self.done} of {self.total} runs, "
                f"{self.left()}",
                stderr=True,
            )

    def left(self) -> str:
        """Estimates the time that is left, from the pace of this session."""
        seconds = self._pace.seconds()
        return "" if seconds is None else f"{duration(seconds)} left"

    def failed(self, batch: Batch, reason: str) -> None:
        """Says in a line what became of a batch."""
        self._pace.finished(batch)
        self._console.print(
            f"{_name(batch)} failed: {' '.join(reason.split())}", markup=False
        )

    def stop(self) -> None:
        """Leaves the bars as they are."""
        self._progress.stop()

    def __enter__(self) -> ProgressDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def duration(seconds: float) -> str:
    """Returns a time in words, as roughly as it is known.

    Example:
        >>> duration(42.3), duration(250.0), duration(9000.0)
        ('42 s', '4 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _LeftColumn(ProgressColumn):
    """Says how much time is left, behind the suite that runs now."""

    def __init__(self, display: ProgressDisplay) -> None:
        super().__init__()
        self._display = display

    def render(self, task: Task) -> Text:
        """Returns the text behind a suite."""
        return Text(self._display.left() if task.started and not task.finished else "")


class _CompilingColumn(ProgressColumn):
    """Says that the thread that made it compiles, and for how long it has."""

    def __init__(self) -> None:
        super().__init__()
        self._watch = CompileWatch()

    def render(self, task: Task) -> Text:
        """Returns the text behind the task that runs now."""
        seconds = self._watch.seconds() if task.description else None
        if seconds is None:
            return Text()
        return Text(f"compiling for {seconds:.0f} s", style="dim")


def _count(batches: Iterable[Batch], suite: str) -> int:
    return sum(len(batch.instances) for batch in batches if batch.suite == suite)


def _name(batch: Batch) -> str:
    where = f" {batch.dimension}-D" if batch.suite == "bbob" else ""
    return f"{batch.problem}{where} {batch.competitor.name}"
