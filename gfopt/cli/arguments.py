"""Reading what was typed; every refusal names the option and what was expected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from gfopt import checks

#: What the command line refuses with; typer gives its base class no public name.
USAGE_ERROR: Any = typer.BadParameter.__base__

_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?")


@contextmanager
def refusals(*kinds: type[Exception], context: typer.Context) -> Iterator[None]:
    """Turns errors of some kinds into one line and exit code 2."""
    try:
        yield
    except kinds as error:
        message = str(error)
        if isinstance(error, OSError) and error.strerror:
            message = f"{error.filename}: {error.strerror}"
        raise USAGE_ERROR(message, ctx=context) from None


def integers(
    option: str,
    text: str,
    low: int,
    high: int,
    names: Mapping[int, str] | None = None,
) -> tuple[int, ...]:
    """Reads numbers and ranges.

    Args:
        option: what refusals name.
        text: as typed.
        low: the smallest number allowed.
        high: the largest.
        names: of the numbers, to suggest one where a name was typed.

    Returns:
        The numbers as they come, each once.

    Raises:
        ValueError: for anything else.

    Example:
        >>> integers("--functions", "8,1-3,2", 1, 24)
        (8, 1, 2, 3)
    """
    expected = f"{option} must be numbers from {low} to {high}, such as {low},{low + 1}"
    expected = f"{expected}-{min(low + 3, high)}; got {checks.shown(text)}"
    values: dict[int, None] = {}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(expected + _nearest(part, names or {}))
        # a number of a thousand digits is out of range before it is read
        first, last = (
            int(end) if len(end) < 20 else high + 1
            for end in (match[1], match[2] or match[1])
        )
        if first > last:
            raise ValueError(f"{expected}: did you mean {last}-{first}?")
        if first < low or last > high:
            raise ValueError(expected)
        values.update(dict.fromkeys(range(first, last + 1)))
    return tuple(values)


def number(option: str, text: str, low: int, high: int) -> int:
    """Reads one number.

    Raises:
        ValueError: for anything else.

    Example:
        >>> number("--seed", "7", 0, 10)
        7
    """
    if not re.fullmatch("[0-9]{1,19}", text.strip()) or not low <= int(text) <= high:
        raise ValueError(
            f"{option} must be a number from {low} to {high}; got {checks.shown(text)}"
        )
    return int(text)


def _nearest(part: str, names: Mapping[int, str]) -> str:
    near = difflib.get_close_matches(part.strip().lower(), names.values(), n=1)
    for number, name in names.items():
        if name in near:
            return f": did you mean {number}, the {name}?"
    return ""
