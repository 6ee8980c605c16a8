"""The charts of a report, suite by suite: what is drawn, and what stands above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gfopt.research.figures import Axis, Chart, Line
from gfopt.research.profiles import TOLERANCES, data_profile, performance_profile
from gfopt.research.rank_diagram import RankDiagram
from gfopt.research.ranks import critical_difference, friedman, rank_table
from gfopt.research.summary import (
    BBOB_GROUPS,
    Section,
    convergence,
    ecdf_curve,
    name_of,
    targets_of,
    unit_of,
)

_LEVEL = 0.05


class Panel(NamedTuple):
    """Charts side by side.

    Attributes:
        name: what it shows, in a word.
        heading: above them, or nothing.
        note: below the heading, how to read them.
        charts: one or more; the first may be larger.
    """

    name: str
    heading: str
    note: str
    charts: Sequence[Chart | RankDiagram]


def panels(section: Section, colours: Mapping[str, int]) -> list[Panel]:
    """Returns what is drawn of a section.

    Args:
        section: runs that may be compared.
        colours: the number of each method's colour.
    """
    if section.suite == "digits":
        return [_accuracy(section, colours)]
    if section.suite == "atari":
        return [_all_scores(section, colours)]
    return [
        _shares(section, colours),
        *_ranks(section, colours),
        _profiles(section, colours),
        _best_values(section, colours),
    ]


def _shares(section: Section, colours: Mapping[str, int]) -> Panel:
    whole = _ecdf(section, colours, "all problems", section.problems)
    groups = [
        _ecdf(section, colours, name, problems)
        for name, problems in BBOB_GROUPS.items()
        if section.suite == "bbob" and set(problems) & set(section.problems)
    ]
    return Panel(
        "ecdf",
        f"Share of targets reached over {_unit(section)}",
        "The ECDF of running times to the targets of every problem: higher and further "
        "left is better.",
        [whole._replace(width=520, height=400), *groups],
    )


def _ecdf(
    section: Section, colours: Mapping[str, int], title: str, problems: Sequence[str]
) -> Chart:
    lines = []
    for method in section.methods:
        runs = section.of(method, problems)
        if runs:
            lines.append(Line(method, colours[method], *ecdf_curve(runs)))
    x = Axis(_unit(section), 1, _top_budget(section), is_log=True)
    return Chart(title, lines, x, Axis("share of targets", 0, 1))


def _ranks(section: Section, colours: Mapping[str, int]) -> list[Panel]:
    """The diagram of critical differences, where there are problems to rank over."""
    methods, count = section.methods, len(section.problems)
    if len(methods) < 2 or count < 2 or not section.is_balanced:
        return []
    ranks = rank_table(section)
    apart, test = critical_difference(len(methods), count), friedman(ranks)
    differs = "differ" if test.p < _LEVEL else "are not seen to differ"
    numbers = [colours[method] for method in methods]
    mean = ranks.mean(axis=0).tolist()
    title = f"mean ranks over {count} problems"
    note = (
        "Critical differences (Demsar 2006): the mean over problems of each method's "
        "rank by its median value; 1 is best. A bar joins methods that Nemenyi's test "
        "does not tell apart at 5 %, whose ranks are nearer than CD. By Friedman's "
        f"test the methods {differs} (chi-square {test.chi_square:.2f}, "
        f"F {test.f:.2f}, p {test.p:.2g})."
    )
    diagram = RankDiagram(title, methods, mean, numbers, apart)
    return [Panel("ranks", "Mean ranks", note, [diagram])]


def _profiles(section: Section, colours: Mapping[str, int]) -> Panel:
    charts = []
    if len(section.methods) > 1:
        label = "times the fastest method's evaluations"
        curves = performance_profile(section)
        title = "performance, all targets"
        charts.append(_profile(section, colours, title, label, *curves))
    for tolerance in TOLERANCES:
        curves = data_profile(section, tolerance)
        title, label = f"data, tolerance {tolerance:g}", "evaluations / (D + 1)"
        charts.append(_profile(section, colours, title, label, *curves))
    return Panel(
        "profile",
        "Profiles",
        "Performance profile (Dolan and More 2002): the share of targets that a method "
        "reaches within a factor of the fastest one's evaluations. Data profiles (More "
        "and Wild 2009): the share of runs that came from the first value to the best "
        "one known, but for the tolerance.",
        charts,
    )


def _profile(
    section: Section,
    colours: Mapping[str, int],
    title: str,
    label: str,
    across: np.ndarray,
    shares: np.ndarray,
) -> Chart:
    pairs = zip(section.methods, shares, strict=True)
    lines = [Line(method, colours[method], across, share) for method, share in pairs]
    x = Axis(label, float(across[0]), float(across[-1]), is_log=True)
    return Chart(title, lines, x, Axis("share", 0, 1))


def _best_values(section: Section, colours: Mapping[str, int]) -> Panel:
    return Panel(
        "convergence",
        f"Best value over {_unit(section)}",
        "Median over instances, in its 95 % interval, bootstrap over instances.",
        [_convergence(section, colours, problem) for problem in section.problems],
    )


def _convergence(section: Section, colours: Mapping[str, int], problem: str) -> Chart:
    (first, *_) = section.of(problems=[problem])
    floor, lines = float(targets_of(first)[-1]), []
    for method in section.methods:
        runs = section.of(method, [problem])
        curve = convergence(runs) if runs else None
        if curve is not None:
            count, *values = curve
            # what is at the target or beyond lies on the axis
            low, median, high = (np.maximum(v, floor) for v in values)
            x = count / unit_of(first)
            lines.append(Line(method, colours[method], x, median, low, high))
    top = max(
        (float(line.high.max()) for line in lines if line.high is not None), default=1
    )
    decade = 10.0 ** np.ceil(np.log10(max(top, 1.0)))
    label = "left of the way" if first.optimum is None else "best f - f_opt"
    x_axis = Axis(_unit(section), 1, _top_budget(section), is_log=True)
    y_axis = Axis(label, floor, float(decade), is_log=True)
    return Chart(name_of(first.key), lines, x_axis, y_axis)


def _unit(section: Section) -> str:
    return "evaluations per dimension" if section.suite == "bbob" else "evaluations"


def _accuracy(section: Section, colours: Mapping[str, int]) -> Panel:
    lines = []
    for method in section.methods:
        curve = convergence(section.of(method), is_best=False)
        if curve is not None:
            count, low, median, high = curve
            lines.append(
                Line(method, colours[method], count, 1 - median, 1 - high, 1 - low)
            )
    x = Axis("evaluations", 0, section.budget)
    y = Axis("held-out accuracy", 0, 1)
    drawn = Chart("accuracy as it learns", lines, x, y, width=560, height=320)
    note = "Median over runs, in its 95 % interval, bootstrap over runs."
    return Panel("accuracy", "", note, [drawn])


def _all_scores(section: Section, colours: Mapping[str, int]) -> Panel:
    return Panel(
        "score",
        "",
        "Score of the recommended network: median over runs, in its 95 % interval, "
        "bootstrap over runs.",
        [_scores(section, colours, game) for game in section.problems],
    )


def _scores(section: Section, colours: Mapping[str, int], game: str) -> Chart:
    lines = []
    for method in section.methods:
        runs = section.of(method, [game])
        curve = convergence(runs, is_best=False) if runs else None
        if curve is not None:
            count, low, median, high = curve
            lines.append(Line(method, colours[method], count, -median, -high, -low))
    values = np.concatenate([[0.0], *((n.low, n.high) for n in lines)], axis=None)
    x = Axis("frames", 0, max([section.budget, *(n.x.max() for n in lines)]))
    y = Axis("score", float(values.min()), float(max(values.max(), values.min() + 1)))
    return Chart(game, lines, x, y)


def _top_budget(section: Section) -> float:
    return max(section.budget / unit_of(section.runs[0]), 10)
