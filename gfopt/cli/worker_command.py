"""``gfopt worker``: one more program that works on a study."""

from __future__ import annotations

from typing import Annotated

import typer

from gfopt.cli import terminal
from gfopt.cli.arguments import refusals
from gfopt.cli.named import loaded
from gfopt.driver.study import Study


def worker(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The study's file.")],
    function: Annotated[
        str, typer.Argument(metavar="MODULE:FUNCTION", help="The objective.")
    ],
    trials: Annotated[
        int | None,
        typer.Option(metavar="N", help="Evaluations at most.", show_default="no limit"),
    ] = None,
) -> None:
    """Evaluate trials of a study that other programs work on, until it is over."""
    with refusals(ValueError, TypeError, OSError, context=context):
        fun = loaded("MODULE:FUNCTION", function, "gfopt.problems")
        result = Study(path).work(fun, trials=trials)
    terminal.note(str(result))
