"""Objects by name: ``module:name``, or an entry point of an installed package."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from gfopt import checks


def loaded(option: str, text: str, group: str, known: Iterable[str] = ()) -> Any:
    """Returns what a name stands for.

    Args:
        option: what refusals name.
        text: ``module:name``, with modules of the current directory, or the name of
            an entry point.
        group: of the entry points, such as ``"gfopt.methods"``.
        known: further names, which stand for themselves.

    Raises:
        ValueError: for a name that nobody has, with what would be taken.

    Example:
        >>> loaded("--problems", "math:tau", "gfopt.problems")
        6.283185307179586
    """
    ours = [*known]
    if text in ours:
        return text
    points = {point.name: point for point in entry_points(group=group)}
    if ":" in text:
        points[text] = EntryPoint(text, text, group)
    if text not in points:
        names = [*ours, *points]
        listed = f"{', '.join(map(repr, names))} or " if names else ""
        raise ValueError(
            f"{option} must be {listed}module:name; got {checks.shown(text)}"
            f"{checks.nearest(text, names)}"
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # as python -m does; a script has its own folder
    try:
        return points[text].load()
    except (ImportError, AttributeError) as error:
        meant = text.replace(".py:", ":")
        hint = "" if meant == text else f"; did you mean {meant!r}?"
        raise ValueError(
            f"{option} must name what can be imported; got {text!r}: {error}{hint}"
        ) from None
