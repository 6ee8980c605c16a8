"""The charts of a report, suite by suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from gfopt.research.figures import Axis, Line, chart, colour_class
from gfopt.research.summary import (
    BBOB_GROUPS,
    Section,
    convergence,
    ecdf_curve,
    name_of,
    targets_of,
    unit_of,
)


def bbob_charts(section: Section, colours: Mapping[str, int]) -> str:
    """Returns the share of targets by evaluations, and each function's course."""
    whole = _ecdf(section, colours, "all problems", section.problems, 520, 400)
    groups = [
        _ecdf(section, colours, name, problems)
        for name, problems in BBOB_GROUPS.items()
        if section.suite == "bbob" and set(problems) & set(section.problems)
    ]
    legend = _legend(section, colours)
    curves = [_convergence(section, colours, p) for p in section.problems]
    unit = _unit(section)
    return "\n".join(
        [
            f"<h3>Share of targets reached over {unit}</h3>",
            '<p class="note">The ECDF of running times to the 51 targets of every '
            "problem: higher and further left is better.</p>",
            legend,
            _grid([whole, *groups], "grid with-big"),
            f"<h3>Best value over {unit}</h3>",
            '<p class="note">Median over instances, in a band from quartile to '
            "quartile.</p>",
            legend,
            _grid(curves),
        ]
    )


def _ecdf(
    section: Section,
    colours: Mapping[str, int],
    title: str,
    problems: Sequence[str],
    width: int = 300,
    height: int = 220,
) -> str:
    lines = []
    for method in section.methods:
        runs = section.of(method, problems)
        if runs:
            lines.append(Line(method, colours[method], *ecdf_curve(runs)))
    x = Axis(_unit(section), 1, _top_budget(section), is_log=True)
    y = Axis("share of targets", 0, 1)
    return chart(title, lines, x, y, width=width, height=height)


def _convergence(section: Section, colours: Mapping[str, int], problem: str) -> str:
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
    return chart(name_of(first.key), lines, x_axis, y_axis)


def _unit(section: Section) -> str:
    return "evaluations per dimension" if section.suite == "bbob" else "evaluations"


def digits_charts(section: Section, colours: Mapping[str, int]) -> str:
    """Returns the accuracy by evaluations."""
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
    drawn = chart("accuracy as it learns", lines, x, y, width=560, height=320)
    note = "Median over runs, in a band from quartile to quartile."
    return (
        f'<p class="note">{note}</p>\n{_legend(section, colours)}\n'
        f'<figure class="single">{drawn}</figure>'
    )


def atari_charts(section: Section, colours: Mapping[str, int]) -> str:
    """Returns the score by frames, game by game."""
    note = (
        "Score of the recommended network: median over runs, in a band from quartile "
        "to quartile."
    )
    curves = [_scores(section, colours, game) for game in section.problems]
    return f'<p class="note">{note}</p>\n{_legend(section, colours)}\n{_grid(curves)}'


def _scores(section: Section, colours: Mapping[str, int], game: str) -> str:
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
    return chart(game, lines, x, y)


def _legend(section: Section, colours: Mapping[str, int]) -> str:
    keys = "\n".join(
        f'<button type="button" data-m="{colours[method]}" aria-pressed="true">'
        f'<svg class="key" viewBox="0 0 24 8"><path class="line '
        f'{colour_class(colours[method])}" d="M1 4H23"/></svg> {escape(method)}'
        "</button>"
        for method in section.methods
    )
    return f'<p class="legend">{keys}</p>'


def _top_budget(section: Section) -> float:
    return max(section.budget / unit_of(section.runs[0]), 10)


def _grid(charts: Sequence[str], name: str = "grid") -> str:
    figures = "\n".join(f"<figure>{drawn}</figure>" for drawn in charts)
    return f'<div class="{name}">\n{figures}\n</div>'
