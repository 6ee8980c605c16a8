"""Mean ranks of methods over problems, and which of them can be told apart.

Friedman's test asks whether any method differs from any other, Nemenyi's which. `N`
problems, `K` methods.

Source: J. Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets",
JMLR 7 (2006), section 3.2.2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gfopt import checks
from gfopt.research.summary import Section, targets_of


class Friedman(NamedTuple):
    """What Friedman's test finds.

    Attributes:
        chi_square: Friedman's statistic.
        f: that of Iman and Davenport, which is less conservative.
        p: the probability of such an f where methods do not differ.
    """

    chi_square: float
    f: float
    p: float


def rank_table(section: Section) -> np.ndarray:
    """Returns the rank of each method on each problem, ``float64[N, K]``.

    Methods are ranked by their median value. Equal medians share their rank; a method
    without a run on a problem is the last there, as is one whose runs found no value.
    """
    from scipy.stats import rankdata

    medians = [
        [
            np.median([run.value for run in section.of(method, [problem])] or [np.inf])
            for method in section.methods
        ]
        for problem in section.problems
    ]
    # what is at the last target is as good as can be
    floors = [targets_of(section.of(problems=[p])[0])[-1] for p in section.problems]
    best = np.maximum(medians, np.reshape(floors, (-1, 1)))
    return np.asarray(rankdata(best, axis=1), np.float64)


def friedman(ranks: ArrayLike) -> Friedman:
    """Tests whether methods differ in their mean ranks.

    As in the source, ties are not corrected for, which makes p larger.

    Args:
        ranks: ``[N, K]``, with two problems and two methods or more.

    Example:
        >>> friedman([[1, 2, 3], [1, 2, 3], [1, 3, 2], [2, 1, 3]]).chi_square
        4.5
    """
    from scipy.stats import f as f_distribution

    table = np.asarray(ranks, np.float64)
    n, k = table.shape
    checks.within("problems", n, 2, np.inf)
    checks.within("methods", k, 2, np.inf)
    mean = table.mean(axis=0)
    # chi^2 = 12 N / (k (k + 1)) [sum_j R_j^2 - k (k + 1)^2 / 4]
    spread = float(np.sum(mean**2)) - k * (k + 1) ** 2 / 4
    chi_square = max(0.0, 12 * n / (k * (k + 1)) * spread)
    # F = (N - 1) chi^2 / (N (k - 1) - chi^2), infinite where all problems agree
    rest = n * (k - 1) - chi_square
    f = (n - 1) * chi_square / rest if rest > 1e-9 else np.inf
    p = float(f_distribution.sf(f, k - 1, (k - 1) * (n - 1)))
    return Friedman(round(chi_square, 12), float(f), p)


def critical_difference(methods: int, problems: int, level: float = 0.95) -> float:
    """Returns by how much mean ranks must differ to be told apart, by Nemenyi's test.

    q sqrt(k (k + 1) / (6 n)) for k methods on n problems, q the quantile of the range
    of k normals by the square root of 2.

    Example:
        >>> round(critical_difference(4, 14), 2)  # that of the source, 2.569 sqrt(...)
        1.25
    """
    from scipy.stats import studentized_range  # a second to import

    checks.integer("methods", methods, 2)
    checks.integer("problems", problems, 1)
    q = float(studentized_range.ppf(level, methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * problems)))


def groups(mean_ranks: ArrayLike, apart: float) -> list[tuple[int, int]]:
    """Returns the largest groups of methods that are not told apart.

    Args:
        mean_ranks: ``[K]``, ascending.
        apart: what ranks in one group differ by at most.

    Returns:
        First and last place of each group of two methods or more.

    Example:
        >>> groups([1.0, 1.5, 2.4, 4.0], apart=1.0)
        [(0, 1), (1, 2)]
    """
    ranks = np.asarray(mean_ranks, np.float64)
    ends = np.searchsorted(ranks, ranks + apart + 1e-12, side="right") - 1
    found = [(i, int(end)) for i, end in enumerate(ends) if end > i]
    return [pair for place, pair in enumerate(found) if _is_new(found[:place], pair)]


def _is_new(before: list[tuple[int, int]], pair: tuple[int, int]) -> bool:
    return not before or pair[1] > before[-1][1]
