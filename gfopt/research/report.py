"""The report of a benchmark: one HTML file that needs nothing but a browser.

Tables are sorted by a click, methods switched off by another, and a pointer reads the
values of a chart; light and dark follow the system or a button.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from gfopt.research.figures import Axis, Line, chart, colour_class
from gfopt.research.finished_runs import Run
from gfopt.research.results import ResultStore
from gfopt.research.summary import (
    BBOB_GROUPS,
    Section,
    convergence,
    ecdf_curve,
    name_of,
    sections,
    targets_of,
    unit_of,
)
from gfopt.research.tables import Table, tables_of, title_of
from gfopt.types import JsonObject

FILE_NAME = "report.html"


def write_report(store: ResultStore) -> Path:
    """Writes the report of all runs of a store, beside its file.

    Args:
        store: with one run or more.

    Returns:
        Where it stands.

    Raises:
        ValueError: for a store without runs.
        OSError: where it cannot be written.
    """
    runs = store.runs()
    if not runs:
        raise ValueError(f"{store.path} holds no runs yet")
    path = store.path.with_name(FILE_NAME)
    # a page that is open in a browser is never half a page
    partial = path.with_suffix(".partial")
    partial.write_text(page(runs, store.sessions()), encoding="utf-8")
    os.replace(partial, path)
    return path


def page(runs: Sequence[Run], sessions_: Sequence[JsonObject]) -> str:
    """Returns the page.

    Args:
        runs: one or more.
        sessions_: when, how and where they were made, as a store holds them.
    """
    everything = Section("", 0, 0, "", tuple(runs))
    colours = {method: number for number, method in enumerate(everything.methods)}
    body = "\n".join(_section(section, colours) for section in sections(runs))
    tail = f"{_settings(runs)}\n{_sessions(sessions_)}"
    lead = _lead(runs, sessions_)
    return document("gfopt benchmark", lead, f"{body}\n{tail}")


def document(title: str, lead: str, body: str) -> str:
    """Returns a whole page, with its style and its script.

    Args:
        title: in plain text.
        lead: what stands below it, in plain text.
        body: HTML.
    """
    style, script = (
        resources.files("gfopt.research").joinpath(f"report.{kind}").read_text("utf-8")
        for kind in ("css", "js")
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<button type="button" id="theme">light or dark</button>
<h1>{title}</h1>
<p class="lead">{escape(lead)}</p>
{body}
</main>
<div id="tip" hidden></div>
<script>
{script}</script>
</body>
</html>
"""


def _lead(runs: Sequence[Run], sessions_: Sequence[JsonObject]) -> str:
    methods = {run.key.method for run in runs}
    evaluations = sum(run.evaluations for run in runs)
    text = f"{len(runs):,} runs of {len(methods)} methods, {evaluations:,} evaluations"
    when = f", last added to {sessions_[-1]['started']} UTC" if sessions_ else ""
    return f"{text}{when}."


def _section(section: Section, colours: Mapping[str, int]) -> str:
    first, *others = tables_of(section)
    charts = {"digits": _digits_charts, "atari": _atari_charts}
    draw = charts.get(section.suite, _bbob_charts)
    return "\n".join(
        [
            f"<section>\n<h2>{escape(title_of(section))}</h2>",
            table_of(first, colours),
            draw(section, colours),
            *(f"<h3>Each problem</h3>\n{table_of(other, {})}" for other in others),
            "</section>",
        ]
    )


def _bbob_charts(section: Section, colours: Mapping[str, int]) -> str:
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


def _digits_charts(section: Section, colours: Mapping[str, int]) -> str:
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


def _atari_charts(section: Section, colours: Mapping[str, int]) -> str:
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


def table_of(table: Table, colours: Mapping[str, int]) -> str:
    """Returns a table as HTML, with the colours of the methods that begin its rows."""
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = []
    for first, *cells in table.rows:
        mark = row = ""
        if first in colours:
            row = f' data-m="{colours[first]}"'
            mark = f'<i class="{colour_class(colours[first])}"></i> '
        filled = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr{row}><th scope="row">{mark}{escape(first)}</th>{filled}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + f'\n</tbody></table></div>\n<p class="note">{escape(table.note)}</p>'
    )


def _settings(runs: Sequence[Run]) -> str:
    settings = {
        (
            run.key.suite,
            str(run.key.dimension),
            run.key.method,
            "" if run.population_size is None else str(run.population_size),
            ", ".join(f"{name} = {value}" for name, value in run.options.items()),
            run.tuning,
        )
        for run in runs
    }
    rows = sorted(settings, key=lambda row: (row[0], int(row[1]), *row[2:]))
    columns = ("suite", "D", "method", "population", "settings", "tuning behind them")
    note = (
        "Chosen once for a suite, never for a problem; the rest are defaults. "
        "Population: rows of the first step, of methods of ours."
    )
    return f"<h2>Settings</h2>\n{_text_table(columns, rows)}\n" + (
        f'<p class="note">{note}</p>'
    )


def _sessions(sessions_: Sequence[JsonObject]) -> str:
    rows = [
        (
            session["started"],
            session["command"],
            _pairs(session["versions"]),
            _pairs(session["machine"]),
        )
        for session in sessions_
    ]
    columns = ("started, UTC", "command", "versions", "machine")
    return f"<h2>How it was made</h2>\n{_text_table(columns, rows)}"


def _pairs(values: JsonObject) -> str:
    return ", ".join(
        f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()
    )


def _text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table class="text"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
