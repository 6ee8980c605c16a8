"""``gfopt list`` and ``gfopt suites``: what there is to run, and what it costs."""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec

from gfopt import registry
from gfopt.cli import terminal
from gfopt.methods_table import FLAGS
from gfopt.research import plan
from gfopt.research.baselines import BASELINES
from gfopt.research.suites.catalogue import SUITES

#: Of the processor, as in ``Suite.seconds``.
BBOB_SECONDS, DIGITS_SECONDS = 17, 34


def list_methods() -> None:
    """List the methods, what they are for and what they can do."""
    rows = [
        (row.name, row.cls.__name__, row.domain, ", ".join(sorted(row.flags)))
        for row in registry.METHODS.values()
    ]
    terminal.show("", ("name", "class", "for", "flags"), rows, numbers=False)
    terminal.show("", ("flag", "meaning"), list(FLAGS.items()), numbers=False)


def list_suites() -> None:
    """List the suites with their cost, and which baselines are installed."""
    bbob, digits = plan.bbob_batches(), plan.digits_batches()
    games = len(plan.ATARI_METHODS) * len(plan.ATARI_INSTANCES)
    rows: list[tuple[str, ...]] = [
        (
            "bbob",
            "24 functions, any dimension",
            *_size(bbob),
            terminal.duration(BBOB_SECONDS),
            "jax",
        ),
        (
            "digits",
            "a network learns to read",
            *_size(digits),
            terminal.duration(DIGITS_SECONDS),
            _installed("sklearn"),
        ),
        (
            "atari",
            "a network learns a game",
            f"{games}",
            f"{games * plan.ATARI_FRAMES:,} frames",
            "15 min",
            _installed("ale_py"),
        ),
    ]
    for name, suite in SUITES.items():
        counts = [f"{number:,}" for number in suite.size]
        needs = ", ".join(_said(need.name, need.is_there()) for need in suite.needs)
        time = terminal.duration(suite.seconds)
        rows.append((name, suite.what, *counts, time, needs or "jax"))
    for point in entry_points(group="gfopt.problems"):
        words = f"--problems {point.name}", f"of {point.value}"
        rows.append((*words, "", "", "", _installed(point.value.partition(":")[0])))
    columns: tuple[str, ...] = ("suite", "what", "runs", "evaluations")
    columns += ("processor time", "needs")
    terminal.show("As they are without options", columns, rows, numbers=False)
    others = [
        (name, one.package, _installed(one.module)) for name, one in BASELINES.items()
    ]
    columns = ("baseline", "package", "needs")
    terminal.show("--baselines", columns, others, numbers=False)


def _size(batches: list[plan.Batch]) -> tuple[str, str]:
    """Returns the runs of a plan and their evaluations, at most."""
    runs = sum(len(batch.instances) for batch in batches)
    total = sum(len(batch.instances) * batch.budget for batch in batches)
    return f"{runs:,}", f"{total:,}"


def _installed(module: str) -> str:
    """Returns what is needed, and whether it is there."""
    top = module.partition(".")[0]
    return _said(top, find_spec(top) is not None)


def _said(name: str, is_there: bool) -> str:
    return name if is_there else f"{name}, which is missing"
