"""The page of a sweep: its table, ranks, a heat map, and parallel axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from gfopt.research.report import document, table_of
from gfopt.research.sweep_result import SweepResult, brief, named

_MOST = 40  # rows of the plot of intervals
_LEVELS = 12  # of a setting in a heat map
_ROW, _LEFT, _WIDTH = 22, 260, 640


def sweep_page(result: SweepResult, command: str = "gfopt.sweep") -> str:
    """Returns the page of a sweep, one HTML file that needs nothing else."""
    count = result.values.size
    lead = f"{count:,} runs, {result.compilations} compiled programs: {command}"
    body = [
        table_of(result.table, {}),
        "<h3>Mean rank, with its 95 % interval over seeds</h3>",
        f'<figure class="single">{_intervals(result)}</figure>',
    ]
    varied = _varied(result)
    few = {name: values for name, values in varied.items() if len(values) <= _LEVELS}
    maps = [_heat(result, *pair) for pair in itertools.combinations(few.items(), 2)]
    if maps:
        body += ["<h3>Mean rank by two settings: darker is better</h3>", *maps]
    if len(varied) > 1:
        note = "A line for each setting; the better its mean rank, the stronger."
        body += [
            f'<h3>All settings</h3>\n<p class="note">{note}</p>',
            f'<figure class="single">{_parallel(result)}</figure>',
        ]
    return document("gfopt sweep", lead, "\n".join(body))


def _varied(result: SweepResult) -> dict[str, list[Any]]:
    """Returns the fields with more than one value, each with its values in order."""
    fields: dict[str, list[Any]] = {}
    for setting in result.settings:
        for name, value in setting.items():
            levels = fields.setdefault(name, [])
            if value not in levels:
                levels.append(value)
    for values in fields.values():
        if all(isinstance(value, int | float) for value in values):
            values.sort()
    return {name: values for name, values in fields.items() if len(values) > 1}


def _intervals(result: SweepResult) -> str:
    places = np.argsort(result.ranks, kind="stable")[:_MOST]
    top, last = float(len(result.settings)), len(places) * _ROW

    def across(rank: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 20) * (rank - 1) / max(top - 1, 1)

    parts = []
    for row, place in enumerate(places):
        mean, low, high = result.rank_interval(int(place))
        y = row * _ROW + 14
        parts.append(
            f'<text class="end" x="{_LEFT - 12}" y="{y + 4}">'
            f"{escape(named(result.settings[place]))}</text>"
            f'<path class="line c0" d="M{across(low):.1f} {y}H{across(high):.1f}"/>'
            f'<circle class="c0 dot" cx="{across(mean):.1f}" cy="{y}" r="4">'
            f"<title>{mean:.2f}, from {low:.2f} to {high:.2f}</title></circle>"
        )
    return _svg("Mean ranks", parts, last + 10)


def _heat(
    result: SweepResult, down: tuple[str, list[Any]], across: tuple[str, list[Any]]
) -> str:
    """Returns the table of two settings, the mean over what else varies."""
    (first, rows), (second, columns) = down, across
    ranks = result.ranks
    span = max(float(np.ptp(ranks)), 1e-12)
    body = []
    for row in rows:
        cells = [f'<th scope="row">{escape(brief(row))}</th>']
        for column in columns:
            cell = [
                rank
                for rank, setting in zip(ranks, result.settings, strict=True)
                if setting.get(first) == row and setting.get(second) == column
            ]
            if not cell:
                cells.append("<td></td>")
                continue
            mean = float(np.mean(cell))
            share = 100 * (ranks.max() - mean) / span
            cells.append(f'<td style="--share: {share:.0f}%">{mean:.2f}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(brief(column))}</th>" for column in columns)
    corner = f"{escape(first)} by {escape(second)}"
    return (
        f'<div class="scroll"><table class="heat"><thead><tr><th>{corner}</th>{head}'
        f"</tr></thead>\n<tbody>{''.join(body)}</tbody></table></div>"
    )


def _parallel(result: SweepResult) -> str:
    varied, height = _varied(result), 260
    step = (_WIDTH - 160) / max(len(varied), 1)
    ranks = result.ranks
    axes: list[tuple[float, str, Sequence[object]]] = [
        (80 + step * number, name, values)
        for number, (name, values) in enumerate(varied.items())
    ]

    def down(share: float) -> float:
        return height - 30 - (height - 70) * share

    parts = []
    for x, name, values in axes:
        parts.append(f'<path class="axis" d="M{x:.0f} {down(0)}V{down(1)}"/>')
        parts.append(f'<text class="middle" x="{x:.0f}" y="20">{escape(name)}</text>')
        for end, y in ((values[0], down(0) + 16), (values[-1], down(1) - 6)):
            label = escape(brief(end))
            parts.append(f'<text class="middle" x="{x:.0f}" y="{y}">{label}</text>')
    best, worst = float(ranks.min()), float(ranks.max())
    for rank, setting in zip(ranks, result.settings, strict=True):
        points = [
            f"{x:.1f} {down(values.index(setting[name]) / (len(values) - 1)):.1f}"
            for x, name, values in axes
            if name in setting
        ]
        points.append(
            f"{80 + step * len(axes):.1f} "
            f"{down((worst - rank) / max(worst - best, 1e-12)):.1f}"
        )
        strength = 0.08 + 0.92 * ((worst - rank) / max(worst - best, 1e-12)) ** 2
        parts.append(
            f'<path class="line c0" opacity="{strength:.2f}" d="M{"L".join(points)}">'
            f"<title>{escape(named(setting))}: {rank:.2f}</title></path>"
        )
    parts.append(
        f'<text class="middle" x="{80 + step * len(axes):.0f}" y="20">'
        "better rank up</text>"
    )
    return _svg("All settings", parts, height)


def _svg(title: str, parts: Sequence[str], height: int) -> str:
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{title}">',
            *parts,
            "</svg>",
        ]
    )
