"""What a sweep found: ranks, paired comparisons, a table, a page.

Letters: `N` problems, `C` settings, `S` seeds.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gfopt.research.statistics import Interval, bootstrap_interval
from gfopt.research.tables import Table

_NOTE = (
    "rank: mean over problems and seeds, 1 is best; won: share of the paired runs that "
    "ended lower than the best setting's, ties count half; p: sign test, two-sided, "
    "corrected by Holm; then the median of the best values. The best setting was "
    "chosen by these runs: to confirm it, sweep again with another seed."
)


@dataclass(frozen=True)
class Comparison:
    """A setting beside the reference, problem by problem and seed by seed.

    Attributes:
        won: share of the pairs in which it ended lower; ties count half. The effect
            size: .5 is no difference.
        p: of the sign test, two-sided.
        p_corrected: the same, by Holm, for all comparisons of the sweep.
    """

    won: float
    p: float
    p_corrected: float


@dataclass(frozen=True, eq=False)
class SweepResult:
    """What ``sweep`` found; prints as a table, best setting first.

    Attributes:
        problems: their names, ``[N]``.
        settings: what was varied, ``[C]`` dictionaries.
        values: ``float64[N, C, S]``, the best value of each run.
        evaluations: ``int[C]``, of each run.
        compilations: programs that were compiled: one for each static configuration
            and problem.

    Example:
        >>> result = SweepResult(["p"], [{"sigma": 0.5}, {"sigma": 1.0}],
        ...     np.array([[[3.0, 4.0, 1.0], [2.0, 1.0, 1.0]]]), np.array([9, 9]), 1)
        >>> result.best, result.ranks, result.compared()[0].won
        (1, array([1.83333333, 1.16666667]), 0.166...)
    """

    problems: list[str]
    settings: list[dict[str, object]]
    values: np.ndarray = field(repr=False)
    evaluations: np.ndarray = field(repr=False)
    compilations: int

    @property
    def _ordered(self) -> np.ndarray:
        """The values, with a run without one behind all others."""
        return np.where(np.isnan(self.values), np.inf, self.values)

    @property
    def _ranks(self) -> np.ndarray:
        """The rank of each setting on a problem with a seed: ``[N, C, S]``."""
        from scipy.stats import rankdata  # a second to import

        return rankdata(self._ordered, axis=1)

    @property
    def ranks(self) -> np.ndarray:
        """The mean rank of each setting over problems and seeds, ``[C]``."""
        return self._ranks.mean(axis=(0, 2))

    @property
    def best(self) -> int:
        """The place of the setting with the lowest mean rank."""
        return int(np.argmin(self.ranks))

    def rank_interval(self, place: int) -> Interval:
        """Returns a setting's mean rank with its 95 % interval over seeds."""
        return bootstrap_interval(self._ranks[:, place].mean(axis=0))

    def compared(self, to: int | None = None) -> list[Comparison]:
        """Compares every setting with one of them, pair by pair.

        Args:
            to: place of the reference; the best by mean rank if None, which the same
                runs have chosen: to confirm it, sweep again with another seed.

        Returns:
            One comparison for each setting; that of the reference with itself is 0.5
            with p = 1.
        """
        from scipy.stats import binomtest

        chosen = self.best if to is None else to
        values = self._ordered
        reference = values[:, chosen]
        outcomes = []
        for place in range(len(self.settings)):
            lower = int(np.sum(values[:, place] < reference))
            higher = int(np.sum(values[:, place] > reference))
            ties = reference.size - lower - higher
            p = 1.0
            if lower + higher:
                p = binomtest(lower, lower + higher).pvalue
            outcomes.append(((lower + ties / 2) / reference.size, float(p)))
        others = [p for place, (_, p) in enumerate(outcomes) if place != chosen]
        corrected = holm(others)
        corrected.insert(chosen, 1.0)
        return [
            Comparison(won, p, c)
            for (won, p), c in zip(outcomes, corrected, strict=True)
        ]

    @property
    def table(self) -> Table:
        """The settings, best first, with paired comparisons and medians."""
        compared, ranks = self.compared(), self.ranks
        medians = np.median(self._ordered, axis=2)
        rows = [
            (
                named(self.settings[place]),
                f"{ranks[place]:.2f}",
                f"{compared[place].won:.2f}",
                f"{compared[place].p_corrected:.2g}",
                f"{self.evaluations[place]:,}",
                *(f"{value:.3g}" for value in medians[:, place]),
            )
            for place in np.argsort(ranks, kind="stable")
        ]
        columns = ("setting", "rank", "won", "p", "evaluations", *self.problems)
        runs = f"{self.values.size:,} runs, {self.compilations} compilations"
        return Table(f"Sweep of {runs}", columns, rows, _NOTE)

    def __str__(self) -> str:
        return str(self.table)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a CSV file with a row for each run, and returns where it stands."""
        place, fields = (
            Path(path),
            list(dict.fromkeys(k for s in self.settings for k in s)),
        )
        with place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("problem", "seed", *fields, "value"))
            for (n, c, s), value in np.ndenumerate(self.values):
                cells = (self.settings[c].get(name, "") for name in fields)
                writer.writerow((self.problems[n], s, *cells, float(value)))
        return place

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page, one HTML file, and returns where it stands."""
        from gfopt.research.sweep_page import sweep_page

        place = Path(path)
        place.write_text(sweep_page(self), encoding="utf-8")
        return place


def named(setting: Mapping[str, object]) -> str:
    """Returns a setting in words.

    Example:
        >>> named({"method": "cma_es", "sigma": 0.123456})
        'method = cma_es, sigma = 0.1235'
    """
    return ", ".join(f"{name} = {brief(value)}" for name, value in setting.items())


def brief(value: object) -> str:
    """Returns a value, a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def holm(p: Sequence[float]) -> list[float]:
    """Returns p-values that are corrected for their number, by Holm (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = worst
    return adjusted
