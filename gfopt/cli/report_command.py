"""``gfopt report``: table and page from a results file."""

from __future__ import annotations

from typing import Annotated

import typer

from gfopt.cli import terminal
from gfopt.cli.arguments import refusals
from gfopt.research.report import write_report
from gfopt.research.results import ResultStore
from gfopt.research.tables import tables


def report(
    context: typer.Context,
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="What --out was for gfopt bench.")
    ],
) -> None:
    """Make the table and the HTML report again, from the results file alone."""
    with (
        refusals(ValueError, OSError, context=context),
        ResultStore(directory) as store,
    ):
        path = write_report(store)
        terminal.show_all(tables(store.runs()))
    terminal.note(f"report: {path}")
