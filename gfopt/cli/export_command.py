"""``gfopt export``: the results as tables for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gfopt import checks
from gfopt.cli import terminal
from gfopt.cli.arguments import refusals
from gfopt.research import exports
from gfopt.research.results import ResultStore


def export(
    context: typer.Context,
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="What --out was for gfopt bench.")
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="|".join(exports.FORMATS), help="What to write."
        ),
    ] = "csv",
) -> None:
    """Write the runs, and where each got better, into DIR: tables, or COCO's files."""
    with refusals(ValueError, OSError, ImportError, context=context):
        checks.one_of("--format", form, exports.FORMATS)
        with ResultStore(directory) as store:
            paths = exports.export(store.runs(), Path(directory), form)
    terminal.note("\n".join(map(str, paths)) or "no run is of this kind")
