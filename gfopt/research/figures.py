"""Line charts as SVG text, with the colours left to the page's style sheet.

Written by hand, since a report holds dozens of them and must open anywhere: a chart is
2 to 10 kB, needs nothing and follows a dark theme. `B` points of a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

NUM_COLOURS = 7  # in the style sheet; further lines repeat them, dashed
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 18, 24, 38


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: what a pointer on it shows.
        colour: number of its colour, and of what it stands for.
        x: ``[B]``.
        y: ``[B]``.
        low: ``[B]``, lower edge of a band around it, or None.
        high: ``[B]``, its upper edge, or None.
    """

    name: str
    colour: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class Axis(NamedTuple):
    """An axis: its label, its ends, and whether it is logarithmic."""

    label: str
    low: float
    high: float
    is_log: bool = False

    def share(self, values: np.ndarray | float) -> np.ndarray:
        """Returns where values lie between the ends, from 0 to 1; beyond is cut."""
        ends = np.asarray([self.low, self.high])
        clipped = np.clip(values, *ends)
        if self.is_log:
            ends, clipped = np.log10(ends), np.log10(clipped)
        return (clipped - ends[0]) / (ends[1] - ends[0])

    def pixels(self, first: int, last: int) -> str:
        """Returns what a script reads values off by: pixels, ends, scale."""
        return f"{first} {last} {self.low:g} {self.high:g} {self.is_log:d}"

    def ticks(self, most: int) -> list[float]:
        """Returns round values between the ends, at most about ``most``.

        Example:
            >>> Axis("", 1, 1000, is_log=True).ticks(5)
            [1.0, 10.0, 100.0, 1000.0]
            >>> Axis("", 0, 1).ticks(6), Axis("", 0.2, 0.8, is_log=True).ticks(4)
            ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.2, 0.4, 0.6, 0.8])
        """
        if self.is_log:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            if first <= last:  # else there is no power of ten on it
                step = math.ceil((last - first + 1) / most)
                return [10.0**power for power in range(last, first - 1, -step)][::-1]
        span = (self.high - self.low) / (most - 1)
        unit = 10.0 ** math.floor(math.log10(span))
        jump = next(unit * m for m in (1, 2, 5, 10) if unit * m >= span * (1 - 1e-9))
        first = math.ceil(self.low / jump - 1e-9)
        last = math.floor(self.high / jump + 1e-9)
        return [round(i * jump, 12) for i in range(first, last + 1)]

    def labelled(self, most: int) -> list[tuple[float, str]]:
        """Returns the ticks with their labels, powers where numbers would be long."""
        ticks = self.ticks(most)
        are_powers = self.is_log and all(
            tick == 10.0 ** round(math.log10(tick)) for tick in ticks
        )
        if are_powers and any(not 0.01 <= tick <= 1000 for tick in ticks):
            return [(tick, f"10^{round(math.log10(tick))}") for tick in ticks]
        return [(tick, f"{tick:,g}") for tick in ticks]


class Chart(NamedTuple):
    """Lines, each with its band, over a grid.

    Attributes:
        title: above the chart.
        lines: what is drawn, the last one on top.
        x: the horizontal axis.
        y: the vertical axis.
        width: in pixels.
        height: in pixels.
    """

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    width: int = 300
    height: int = 220

    @property
    def svg(self) -> str:
        """The chart as an ``<svg>`` element for a page with a style sheet.

        Its classes are ``rule``, ``axis``, ``line``, ``band``, ``dashed`` and ``c0`` to
        ``c6`` for the colours, ``title``, ``middle``, ``end`` and ``power`` for text;
        ``data-m`` is the number of a line.
        """
        bottom, right = self.height - _BOTTOM, self.width - _RIGHT
        inner_width, inner_height = right - _LEFT, bottom - _TOP
        x, y = self.x, self.y

        def across(values: np.ndarray | float) -> np.ndarray:
            return _LEFT + inner_width * x.share(values)

        def down(values: np.ndarray | float) -> np.ndarray:
            return bottom - inner_height * y.share(values)

        parts = [_text("title", self.title, _LEFT, 14)]
        for tick, label in x.labelled(inner_width // 45):
            place = across(tick)
            parts.append(f'<path class="rule" d="M{place:.1f} {_TOP}V{bottom}"/>')
            parts.append(_text("middle", label, place, bottom + 14))
        for tick, label in y.labelled(inner_height // 24):
            place = down(tick)
            parts.append(f'<path class="rule" d="M{_LEFT} {place:.1f}H{right}"/>')
            parts.append(_text("end", label, _LEFT - 6, place + 3.5))
        parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        middle = _LEFT + inner_width / 2
        parts.append(_text("middle", x.label, middle, self.height - 6))
        turned = f' transform="translate(11 {_TOP + inner_height / 2:.0f}) rotate(-90)"'
        parts.append(_text("middle", y.label, 0, 0, turned))
        for line in self.lines:
            if line.low is not None and line.high is not None:
                edge = _path(across(line.x), down(line.high))
                back = _path(across(line.x)[::-1], down(line.low)[::-1])
                parts.append(
                    f'<path class="band {colour_class(line.colour)}" '
                    f'data-m="{line.colour}" d="M{edge}L{back}Z"/>'
                )
        for line in self.lines:
            path = _path(across(line.x), down(line.y))
            parts.append(
                f'<path class="line {colour_class(line.colour)}" '
                f'data-m="{line.colour}" d="M{path}">'
                f"<title>{escape(line.name)}</title></path>"
            )
        return "\n".join(
            [
                f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
                f'aria-label="{escape(self.title)}" '
                f'data-x="{x.pixels(_LEFT, right)}" '
                f'data-y="{y.pixels(bottom, _TOP)}">',
                *parts,
                "</svg>",
            ]
        )


def colour_class(number: int) -> str:
    """Returns the classes of a colour; the eighth is the first one, dashed."""
    dashed = " dashed" if number >= NUM_COLOURS else ""
    return f"c{number % NUM_COLOURS}{dashed}"


def _path(x: np.ndarray, y: np.ndarray) -> str:
    # a level stretch needs its ends only
    keep = np.ones(len(y), bool)
    keep[1:-1] = (np.diff(y)[:-1] != 0) | (np.diff(y)[1:] != 0)
    pairs = zip(x[keep], y[keep], strict=True)
    return "L".join(f"{a:.1f} {b:.1f}" for a, b in pairs)


def _text(
    name: str, text: str, x: float | np.ndarray, y: float | np.ndarray, more: str = ""
) -> str:
    # "10^-8" in text becomes a ten with a raised exponent
    base, power, exponent = escape(text).partition("^")
    raised = f'<tspan class="power" dy="-4">{exponent}</tspan>' if power else ""
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}"{more}>{base}{raised}</text>'
