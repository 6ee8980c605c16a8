"""``gfopt sweep``: an ablation from a TOML file."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from gfopt import checks
from gfopt.cli import terminal
from gfopt.cli.arguments import refusals
from gfopt.cli.leaving import leaving_at_once
from gfopt.cli.named import loaded
from gfopt.research.sweep import sweep
from gfopt.research.sweep_result import SweepResult
from gfopt.types import JsonObject

_SECONDS = 5.0  # between two lines of progress
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
    """Run every setting of a design with paired seeds, and compare them.

    Runs are kept as they come, in the folder study beside it: after Ctrl-C the same
    command goes on, and a larger design adds what is missing.
    """
    place = Path(study)
    page = Path(out) if out else place.with_suffix(".html")
    folder = page.with_suffix("")

    def farewell() -> None:
        terminal.note(f"stopped; to go on: {context.obj}", stderr=True)

    with refusals(ValueError, TypeError, OSError, context=context):
        if page == folder:
            raise ValueError(f"--out must end in .html; got {out!r}")
        with place.open("rb") as file:
            design = tomllib.load(file)
        with leaving_at_once(farewell):
            result = swept(design, out=folder, on_progress=_Progress())
        if not result.compilations:
            terminal.note(f"all runs are in {folder} already", stderr=True)
        result.report(page)
        runs = result.save(page.with_suffix(".csv"))
    terminal.show_all([result.table])
    terminal.note(f"page: {page}\nruns: {runs}")


class _Progress:
    """A line every few seconds: how many runs, and the time that is left."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done and now > self._said + _SECONDS:
            self._said = now
            left = (now - self._began) / done * (total - done)
            words = f"{done:,} of {total:,} runs, {terminal.duration(left)} left"
            terminal.note(words, stderr=True)


def swept(study: JsonObject, **more: Any) -> SweepResult:
    """Runs a study as a TOML file holds it.

    Args:
        study: ``methods`` and ``problems``, each a name or several; ``grid`` with the
            values of each field; for a random design ``random``, how many settings,
            and ``ranges`` of fields that are drawn, ``{low, high, log}``; ``budget``,
            ``seeds`` and ``seed``.
        **more: arguments of ``sweep``.

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
    return sweep(_listed(study["methods"]), problems, grid, **limits, **more)


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
