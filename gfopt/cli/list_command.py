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
        ("bbob", "24 functions, any dimension", *_size(bbob), "1 to 2 min", "jax"),
        ("digits", "a network learns to read", *_size(digits), "1 min", "sklearn"),
        (
            "atari",
            "a network learns a game",
            f"{games}",
            f"{games * plan.ATARI_FRAMES:,} frames",
            "15 min a core",
            "ale_py",
        ),
    ]
    for name, suite in SUITES.items():
        counts = [f"{number:,}" for number in suite.size]
        time, needs = f"{suite.minutes} min", ", ".join(suite.needs) or "jax"
        rows.append((name, suite.what, *counts, time, needs))
    for point in entry_points(group="gfopt.problems"):
        words = f"--problems {point.name}", f"of {point.value}"
        rows.append((*words, "", "", "", point.value.partition(":")[0]))
    columns: tuple[str, ...] = ("suite", "what", "runs", "evaluations")
    columns += ("on two cores", "needs")
    shown = [
        (*row[:-1], ", ".join(map(_installed, row[-1].split(", ")))) for row in rows
    ]
    terminal.show("As they are without options", columns, shown, numbers=False)
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
    return top if find_spec(top) is not None else f"{top}, which is missing"
