"""The diagram of critical differences: mean ranks on a line, bars where none is told.

As in figure 1 of J. Demsar, "Statistical Comparisons of Classifiers over Multiple Data
Sets", JMLR 7 (2006). It is strokes and words, which an SVG and matplotlib draw alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from gfopt.research.figures import colour_class
from gfopt.research.ranks import groups

_SIDE, _TOP, _ROW, _BAR = 170, 62, 18, 7  # pixels


class Stroke(NamedTuple):
    """A path of straight lines.

    Attributes:
        points: its corners, in pixels.
        kind: ``"axis"``, ``"line"`` of a method, or ``"group"``.
        colour: number of a method's colour, or None.
        name: of the method.
    """

    points: tuple[tuple[float, float], ...]
    kind: str
    colour: int | None = None
    name: str = ""


class Word(NamedTuple):
    """A text at a place; ``anchor`` is ``"start"``, ``"middle"`` or ``"end"``."""

    text: str
    x: float
    y: float
    anchor: str


class RankDiagram(NamedTuple):
    """Mean ranks of methods, the best on the left.

    Attributes:
        title: above it.
        methods: two or more.
        ranks: the mean rank of each.
        colours: the number of each one's colour.
        apart: by how much ranks must differ to be told apart.
        width: in pixels.
    """

    title: str
    methods: Sequence[str]
    ranks: Sequence[float]
    colours: Sequence[int]
    apart: float
    width: int = 620

    @property
    def height(self) -> int:
        """In pixels: half of the methods stand on each side, below the groups."""
        return round(self._first_row + _ROW * ((len(self.methods) + 1) // 2))

    @property
    def _order(self) -> list[int]:
        return sorted(range(len(self.methods)), key=lambda place: self.ranks[place])

    @property
    def _groups(self) -> list[tuple[int, int]]:
        return groups([self.ranks[place] for place in self._order], self.apart)

    @property
    def _first_row(self) -> float:
        return _TOP + _BAR * len(self._groups) + 16

    def _across(self, rank: float) -> float:
        share = (rank - 1) / (len(self.methods) - 1)
        return _SIDE + share * (self.width - 2 * _SIDE)

    def drawn(self) -> tuple[list[Stroke], list[Word]]:
        """Returns what is drawn."""
        left, right = self._across(1), self._across(len(self.methods))
        strokes = [Stroke(((left, _TOP), (right, _TOP)), "axis")]
        words = []
        for rank in range(1, len(self.methods) + 1):
            x = self._across(rank)
            strokes.append(Stroke(((x, _TOP - 4), (x, _TOP)), "axis"))
            words.append(Word(str(rank), x, _TOP - 8, "middle"))
        width = self.apart / (len(self.methods) - 1) * (right - left)
        end = min(left + width, self.width - 10)  # of few problems it leaves the axis
        y = _TOP - 26
        strokes += [Stroke(((left, y), (end, y)), "axis")]
        strokes += [Stroke(((x, y - 3), (x, y + 3)), "axis") for x in (left, end)]
        words.append(Word(f"CD {self.apart:.2f}", left - 6, y + 3.5, "end"))
        ordered = [self.ranks[place] for place in self._order]
        for number, (first, last) in enumerate(self._groups):
            ends = self._across(ordered[first]) - 3, self._across(ordered[last]) + 3
            level = _TOP + _BAR * (number + 1)
            strokes.append(Stroke(tuple((x, level) for x in ends), "group"))
        half = (len(self.methods) + 1) // 2
        for number, place in enumerate(self._order):
            is_left = number < half
            # on either side what stands nearest to the axis is the outermost
            row = number if is_left else len(self.methods) - 1 - number
            x, down = self._across(self.ranks[place]), self._first_row + _ROW * row
            edge = _SIDE - 12 if is_left else self.width - _SIDE + 12
            corners = ((x, _TOP), (x, down), (edge, down))
            name = self.methods[place]
            strokes.append(Stroke(corners, "line", self.colours[place], name))
            text = f"{name} {self.ranks[place]:.2f}"
            beside = (edge - 5, "end") if is_left else (edge + 5, "start")
            words.append(Word(text, beside[0], down + 3.5, beside[1]))
        return strokes, words

    @property
    def svg(self) -> str:
        """The diagram as an SVG element."""
        strokes, words = self.drawn()
        parts = [f'<text class="title" x="8" y="14">{escape(self.title)}</text>']
        for points, kind, colour, name in strokes:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            more, inside = "", ""
            if colour is not None:
                kind += f" {colour_class(colour)}"
                more = f' data-m="{colour}"'
                inside = f"<title>{escape(name)}</title>"
            parts.append(f'<path class="{kind}"{more} d="M{path}">{inside}</path>')
        for text, x, y, anchor in words:
            place = f'class="{anchor}" x="{x:.1f}" y="{y:.1f}"'
            parts.append(f"<text {place}>{escape(text)}</text>")
        inside = "\n".join(parts)
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}">\n{inside}\n</svg>'
        )
