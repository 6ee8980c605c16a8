"""The picture of a run: one panel for each thing that its history knows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gfopt import checks
from gfopt.core.sense import Sense
from gfopt.types import HeatMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# title of a panel and the columns of the history that it draws
PANELS = (
    ("sigma", ("sigma",)),
    ("standard deviations", ("max_std", "min_std")),
    ("axis ratio", ("axis_ratio",)),
    ("evaluations of a step, in populations", ("effort",)),
    ("coverage: share of cells with an elite", ("coverage",)),
    ("QD score", ("qd_score",)),
)
_LABELS = {"max_std": "largest", "min_std": "smallest"}
_COLOURS = ("#1f5fa8", "#d9822b")
_PALE = "#9db8d6"


def figure_of(
    history: dict[str, np.ndarray],
    title: str,
    heat_map: HeatMap | None = None,
    sense: Sense = Sense(),  # noqa: B008 (a tuple)
) -> Figure:
    """Draws a history against evaluations, on logarithmic axes.

    Args:
        history: columns as in ``Result.history``.
        title: above all panels.
        heat_map: of the method's state, or None.
        sense: of the values.

    Returns:
        A matplotlib figure with a panel for the values, one for each of ``PANELS`` of
        which the history has a column, and one for the heat map.

    Raises:
        ImportError: with the line that installs matplotlib.
    """
    with checks.needed_by("Result.plot", "matplotlib", "pip install 'gfopt[bench]'"):
        from matplotlib.figure import Figure
    panels = [
        (name, present)
        for name, columns in PANELS
        if (present := [column for column in columns if column in history])
    ]
    others = len(panels) + (heat_map is not None)
    width = 1 if not others else 2
    height = math.ceil((1 + others) / width)
    figure = Figure(figsize=(4.5 * width + 1, 2.7 * height + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.add_gridspec(height, width)
    # an odd panel out: the values are worth two places
    is_wide = width == 2 and others % 2 == 0
    values = figure.add_subplot(grid[0, :] if is_wide else grid[0, 0])
    _draw_values(values, history)
    for i, (name, columns) in enumerate(panels, start=2 if is_wide else 1):
        axes = figure.add_subplot(grid[divmod(i, width)], sharex=values)
        for colour, column in zip(_COLOURS, columns, strict=False):
            label = _LABELS.get(column, column)
            axes.plot(history["nfev"], history[column], color=colour, label=label)
        _finish(axes, name, [history[column] for column in columns])
        if len(columns) > 1:
            axes.legend(frameon=False, fontsize=8)
    if heat_map is not None:
        last = figure.add_subplot(grid[height - 1, width - 1])
        image = _draw_heat_map(last, heat_map, sense)
        figure.colorbar(image, ax=last)
    return figure


def _draw_heat_map(axes: Axes, heat_map: HeatMap, sense: Sense) -> AxesImage:
    """Draws values by the first descriptor, to the right, and the second, upwards."""
    fitness = np.asarray(heat_map.fitness)
    values = sense.value(np.where(np.isfinite(fitness), fitness, np.nan))
    (left, bottom), (right, top) = heat_map.lower, heat_map.upper
    image = axes.imshow(
        values.T,
        origin="lower",
        extent=(left, right, bottom, top),
        aspect="auto",
        interpolation="nearest",
        cmap="viridis" if sense.maximize else "viridis_r",
    )
    axes.set_title("values of the elites by their descriptors", fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    return image


def _draw_values(axes: Axes, history: dict[str, np.ndarray]) -> None:
    """Draws how far values are from the best of the run, whatever their sign."""
    best, fitness = history["best"], history["fitness"]
    finite = best[np.isfinite(best)]
    reference = finite[-1] if finite.size else 0.0
    gaps = [_positive(np.abs(values - reference)) for values in (fitness, best)]
    axes.plot(
        history["nfev"],
        gaps[0],
        color=_PALE,
        label="best of a generation",
        marker=".",
        markersize=2.5,
        linestyle="none",
    )
    axes.plot(
        history["nfev"],
        gaps[1],
        color=_COLOURS[0],
        label="best so far",
        drawstyle="steps-post",
    )
    _finish(axes, f"value: distance from the best, {reference:.6g}", gaps)
    axes.legend(frameon=False, fontsize=8, markerscale=3)


def _positive(values: np.ndarray) -> np.ndarray:
    """Returns values with what a logarithmic axis cannot show as NaN."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _finish(axes: Axes, title: str, drawn: list[np.ndarray]) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("evaluations", fontsize=8)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(np.any(np.isfinite(_positive(values))) for values in drawn):
        axes.set_yscale("log")
