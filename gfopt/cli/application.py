"""The sub-commands put together."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.main import get_command

from gfopt import __version__
from gfopt.cli import program_cache
from gfopt.cli.arguments import USAGE_ERROR
from gfopt.cli.bench_command import bench
from gfopt.cli.export_command import export
from gfopt.cli.list_command import list_methods, list_suites
from gfopt.cli.memory_command import memory
from gfopt.cli.prompt_command import prompt
from gfopt.cli.report_command import report
from gfopt.cli.sweep_command import sweep_study
from gfopt.cli.worker_command import worker

__all__ = ["USAGE_ERROR", "command"]


def command() -> Any:
    """Makes the command ``gfopt``."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_start)
    app.command("list")(list_methods)
    app.command("suites")(list_suites)
    app.command("bench")(bench)
    app.command("report")(report)
    app.command("export")(export)
    app.command("sweep")(sweep_study)
    app.command("worker")(worker)
    app.command("prompt")(prompt)
    app.command("memory")(memory)
    return get_command(app)


def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(help="Keep compiled programs from one command to the next."),
    ] = True,
) -> None:
    """Gradient-free optimization in JAX: list and compare methods, search prompts."""
    if version:
        typer.echo(f"gfopt {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif cache:
        program_cache.turn_on()
