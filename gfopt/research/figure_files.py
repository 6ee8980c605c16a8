"""The figures of a report as files for a paper, drawn with matplotlib."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from gfopt import checks
from gfopt.research.figures import NUM_COLOURS, Axis, Chart
from gfopt.research.finished_runs import Run
from gfopt.research.rank_diagram import RankDiagram
from gfopt.research.report_charts import panels
from gfopt.research.summary import Section, colours_of, sections

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
#: What keeps the day out of a file, by its format.
_UNDATED: Mapping[str, dict[str, None]] = MappingProxyType(
    {"svg": {"Date": None}, "png": {}, "pdf": {"CreationDate": None}}
)
#: Those of the page's style sheet, on a light ground.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0568f", "#b98600", "#3a9bd1", "#555555")
_INK = "#1c2024"
_DOTS = 200  # an inch


def write_figures(
    runs: Sequence[Run], directory: Path, formats: str | Iterable[str] = FORMATS
) -> list[Path]:
    """Writes every figure of the report of some runs.

    The same runs give the same files, byte by byte, with one version of matplotlib.

    Args:
        runs: one or more.
        directory: made if it is missing; each section has a folder in it.
        formats: of ``"svg"``, ``"png"`` and ``"pdf"``.

    Returns:
        The files.

    Raises:
        ImportError: without matplotlib, with the line that installs it.
        OSError: where they cannot be written.
        ValueError: for another format.
    """
    wanted = [formats] if isinstance(formats, str) else list(formats)
    for form in wanted:
        checks.one_of("formats", form, _UNDATED)
    with checks.needed_by("figures", "matplotlib", "pip install 'gfopt[bench]'"):
        import matplotlib
    colours, paths = colours_of(runs), []
    for section in sections(runs):
        folder = directory / _folder(section)
        folder.mkdir(parents=True, exist_ok=True)
        for panel in panels(section, colours):
            for chart in panel.charts:
                stem = _plain(f"{panel.name} {chart.title}")
                # text stays text, and names within a file do not change
                with matplotlib.rc_context(
                    {"svg.fonttype": "none", "svg.hashsalt": stem}
                ):
                    figure = drawn(chart)
                    for form in wanted:
                        paths.append(folder / f"{stem}.{form}")
                        undated = _UNDATED[form]
                        figure.savefig(paths[-1], dpi=_DOTS, metadata=undated)
    return paths


def drawn(chart: Chart | RankDiagram) -> Figure:
    """Returns a chart as a figure of matplotlib, with a legend."""
    from matplotlib.figure import Figure

    if isinstance(chart, RankDiagram):
        return _ranks_drawn(chart)
    size = chart.width / 75, chart.height / 75
    figure = Figure(figsize=size, layout="constrained")
    axes: Axes = figure.subplots()
    for line in chart.lines:
        colour = COLOURS[line.colour % NUM_COLOURS]
        style = "-" if line.colour < NUM_COLOURS else "--"
        axes.plot(line.x, line.y, style, color=colour, lw=1.4, label=line.name)
        if line.low is not None and line.high is not None:
            axes.fill_between(
                line.x, line.low, line.high, color=colour, alpha=0.16, lw=0
            )
    for place, axis in (("x", chart.x), ("y", chart.y)):
        _scaled(axes, place, axis)
    axes.set_title(chart.title, fontsize=9, loc="left", fontweight="bold")
    axes.grid(color="#e4e6ea", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    if chart.lines:
        axes.legend(fontsize=7, frameon=False)
    return figure


def _ranks_drawn(diagram: RankDiagram) -> Figure:
    """Returns a diagram of critical differences as a figure of matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(diagram.width / 75, diagram.height / 75))
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, diagram.width), ylim=(diagram.height, 0))
    axes.set_axis_off()
    strokes, words = diagram.drawn()
    for points, kind, colour, _ in strokes:
        x, y = zip(*points, strict=True)
        ink = _INK if colour is None else COLOURS[colour % NUM_COLOURS]
        style = "-" if colour is None or colour < NUM_COLOURS else "--"
        axes.plot(x, y, style, color=ink, lw=3 if kind == "group" else 1.2)
    for text, left, down, anchor in words:
        place = {"start": "left", "middle": "center", "end": "right"}[anchor]
        axes.text(left, down, text, fontsize=7.5, ha=place)
    axes.text(8, 14, diagram.title, fontsize=9, fontweight="bold")
    return figure


def _scaled(axes: Axes, place: str, axis: Axis) -> None:
    label = axis.label.replace("f_opt", r"$f_\mathrm{opt}$")
    words = {f"{place}scale": "log" if axis.is_log else "linear"}
    axes.set(**words, **{f"{place}lim": (axis.low, axis.high)})
    (axes.set_xlabel if place == "x" else axes.set_ylabel)(label, fontsize=8)


def _folder(section: Section) -> str:
    size = f"{section.dimension}D " if section.dimension else ""
    return _plain(f"{section.suite} {size}{section.budget} {section.evaluator}")


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")
