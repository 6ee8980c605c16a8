"""``gfopt sweep``: an ablation from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from gfopt import checks
from gfopt.cli import terminal
from gfopt.cli.arguments import refusals
from gfopt.cli.named import loaded
from gfopt.research.sweep import sweep
from gfopt.research.sweep_result import SweepResult
from gfopt.types import JsonObject

_KEYS = ("methods", "problems", "budget", "seeds", "seed", "random", "grid", "ranges")


def sweep_study(
    context: typer.Context,
    study: Annotated[str, typer.Argument(metavar="STUDY.toml", help="The design.")],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The page.", show_default="study.html beside it"
        ),
    ] = None,
) -> None:
    """Run every setting of a design with paired seeds, and compare them."""
    place = Path(study)
    with refusals(ValueError, TypeError, OSError, context=context):
        with place.open("rb") as file:
            result = swept(tomllib.load(file))
        page = result.report(out or place.with_suffix(".html"))
        runs = result.save(page.with_suffix(".csv"))
    terminal.show_all([result.table])
    terminal.note(f"page: {page}\nruns: {runs}")


def swept(study: JsonObject) -> SweepResult:
    """Runs a study as a TOML file holds it.

    Args:
        study: ``methods`` and ``problems``, each a name or several; ``grid`` with the
            values of each field; for a random design ``random``, how many settings,
            and ``ranges`` of fields that are drawn, ``{low, high, log}``; ``budget``,
            ``seeds`` and ``seed``.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for an unknown key or name, or one that is missing.
    """
    checks.known_options("study", study, _KEYS)
    for name in ("methods", "problems"):
        if name not in study:
            raise ValueError(f"study must have {name!r}; got {', '.join(study)}")
    problems: list[object] = []
    for name in _listed(study["problems"]):
        value = loaded("problems", name, "gfopt.problems")
        problems += value if isinstance(value, list | tuple) else [value]
    grid = dict(study.get("grid", {}))
    for name, ends in study.get("ranges", {}).items():
        grid[name] = _drawn(name, ends)
    limits = {k: study[k] for k in ("budget", "seeds", "seed", "random") if k in study}
    return sweep(_listed(study["methods"]), problems, grid, **limits)


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _drawn(name: str, ends: JsonObject) -> Callable[[np.random.Generator], float]:
    checks.instance(f"ranges.{name}", ends, dict, "{low = ..., high = ..., log = ...}")
    checks.known_options(f"ranges.{name}", ends, ("low", "high", "log"))
    for end in ("low", "high"):
        checks.real(f"ranges.{name}.{end}", ends.get(end))
    low, high = float(ends["low"]), float(ends["high"])
    if not ends.get("log", False):
        return lambda rng: float(rng.uniform(low, high))
    checks.positive(f"ranges.{name}.low", low)
    return lambda rng: float(np.exp(rng.uniform(np.log(low), np.log(high))))
