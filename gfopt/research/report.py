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

from gfopt.research.figures import colour_class
from gfopt.research.finished_runs import Run
from gfopt.research.report_charts import Panel, panels
from gfopt.research.results import ResultStore
from gfopt.research.summary import Section, colours_of, sections
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
    colours = colours_of(runs)
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
    legend = _legend(section, colours)
    return "\n".join(
        [
            f"<section>\n<h2>{escape(title_of(section))}</h2>",
            table_of(first, colours),
            *(_panel(panel, legend) for panel in panels(section, colours)),
            *(f"<h3>Each problem</h3>\n{table_of(other, {})}" for other in others),
            "</section>",
        ]
    )


def _panel(panel: Panel, legend: str) -> str:
    first, *others = panel.charts
    is_large = first.width > 300
    layout = ("grid with-big" if others else "single") if is_large else "grid"
    figures = "\n".join(f"<figure>{chart.svg}</figure>" for chart in panel.charts)
    heading = f"<h3>{escape(panel.heading)}</h3>\n" if panel.heading else ""
    return (
        f'{heading}<p class="note">{escape(panel.note)}</p>\n{legend}\n'
        f'<div class="{layout}">\n{figures}\n</div>'
    )


def _legend(section: Section, colours: Mapping[str, int]) -> str:
    keys = "\n".join(
        f'<button type="button" data-m="{colours[method]}" aria-pressed="true">'
        f'<svg class="key" viewBox="0 0 24 8"><path class="line '
        f'{colour_class(colours[method])}" d="M1 4H23"/></svg> {escape(method)}'
        "</button>"
        for method in section.methods
    )
    return f'<p class="legend">{keys}</p>'


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
