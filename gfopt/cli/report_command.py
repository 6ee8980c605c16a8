"""``gfopt report``: table and page from a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfopt.cli import terminal
from gfopt.cli.arguments import refusals
from gfopt.research.figure_files import write_figures
from gfopt.research.report import write_report
from gfopt.research.results import ResultStore
from gfopt.research.tables import tables


def report(
    context: typer.Context,
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="What --out was for gfopt bench.")
    ],
    figures: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Write every figure there, too, as SVG and PNG.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make the table and the HTML report again, from the results file alone."""
    with (
        refusals(ValueError, OSError, ImportError, context=context),
        ResultStore(directory) as store,
    ):
        path, runs = write_report(store), store.runs()
        terminal.show_all(tables(runs))
        drawn = [] if figures is None else write_figures(runs, Path(figures))
    terminal.note(f"report: {path}")
    if drawn:
        terminal.note(f"figures: {figures}, {len(drawn)} files")
