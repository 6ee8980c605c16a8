"""The entry point of the command ``gfopt``: errors in one line, and exit codes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0, 2 for bad input, 130 after Ctrl-C.

    Args:
        arguments: what follows ``gfopt``; those of the process if None.
    """
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        _refuse("gfopt", f"the command line needs {needed}: pip install 'gfopt[bench]'")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_called(given))
    except KeyboardInterrupt:
        sys.exit(130)


def _called(given: list[str]) -> int:
    from gfopt.cli.application import USAGE_ERROR, command

    try:
        code = command().main(
            given,
            prog_name="gfopt",
            standalone_mode=False,
            obj=shlex.join(["gfopt", *given]),
        )
    except USAGE_ERROR as error:
        context = getattr(error, "ctx", None)
        _refuse(context.command_path if context else "gfopt", error.format_message())
    return code or 0


def _refuse(command: str, message: str) -> NoReturn:
    print(f"{command}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
