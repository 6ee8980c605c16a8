"""Statistics of benchmark runs: bootstrap intervals, running times, their ECDF.

Everything is plain NumPy and vectorised. A run that never reached a target has the
running time infinity, which medians, ratios and curves here understand. Letters: `R`
runs, `T` targets, `B` budgets.

Reference: N. Hansen, A. Auger, R. Ros, O. Mersmann, T. Tusar and D. Brockhoff, "COCO: a
platform for comparing continuous optimizers in a black-box setting", 2021.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gfopt import checks

#: The 51 target precisions of BBOB, f - f_opt from 1e2 to 1e-8, five in a decade.
TARGETS: np.ndarray = 10.0 ** np.linspace(2, -8, 51)
TARGETS.setflags(write=False)

_BLOCK = 1 << 22  # resampled numbers that are held at a time: 32 MB


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., ArrayLike] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Returns a statistic with its percentile bootstrap interval.

    Args:
        values: ``[R]`` or ``[R, ...]``; what is drawn with replacement is rows.
        statistic: called as ``statistic(sample, axis=axis)`` with the rows along
            ``axis``: ``np.mean``, ``np.median`` or one of your own.
        level: of confidence, between 0 and 1.
        resamples: how often to draw.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        ``(estimate, low, high)``; the ends are NaN where a resampled statistic is.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for no values, or an argument out of range.

    Example:
        >>> bootstrap_interval([1.0, 2.0, 3.0, 4.0], seed=1)
        Interval(estimate=2.5, low=1.5, high=3.5)
        >>> bootstrap_interval([5.0, np.inf, 4.0, 9.0, 7.0], np.median)
        Interval(estimate=7.0, low=4.0, high=inf)
    """
    sample = _sample("values", values)
    draws = _resampled([sample], level, resamples, seed, paired=True)
    replicates = [np.asarray(statistic(rows, axis=1)) for (rows,) in draws]
    return _interval(np.asarray(statistic(sample, axis=0)), replicates, level)


@functools.lru_cache
def median_interval_places(count: int, level: float = 0.95) -> tuple[int, int]:
    """Returns which of so many sorted values bound the bootstrap interval of a median.

    The lower median of a resample is at most the k-th smallest of n values if at least
    m = ceil(n / 2) of its n draws are, each with probability k / n: the percentile
    interval of infinitely many resamples ends at two of the values, and which ones does
    not depend on them (B. Efron, SIAM Review 21, 1979, section 3).

    Returns:
        Two places, from 0.

    Example:
        >>> median_interval_places(15), median_interval_places(1)
        ((3, 11), (0, 0))
    """
    from scipy.stats import binom  # a second to import

    k, m = np.arange(1, count + 1), (count + 1) // 2
    at_most = binom.sf(m - 1, count, k / count)  # P(the median is one of the k first)
    ends = ((1 - level) / 2, (1 + level) / 2)
    low, high = (int(np.argmax(at_most >= end)) for end in ends)
    return low, high


def paired_difference_interval(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Callable[..., ArrayLike] = np.mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Returns the statistic of ``a - b``, run by run, with its interval.

    Args:
        a: ``[R]``, one method.
        b: ``[R]``, the other on the same problems, instances and seeds.
        statistic: as for ``bootstrap_interval``.
        level: of confidence.
        resamples: how often to draw.
        seed: of the draws.

    Returns:
        ``(estimate, low, high)``; an interval without 0 says that they differ.

    Raises:
        ValueError: where the two are not equally long.

    Example:
        >>> paired_difference_interval([3.0, 5.0, 9.0], [2.0, 4.0, 8.0])
        Interval(estimate=1.0, low=1.0, high=1.0)
    """
    first, second = _sample("a", a), _sample("b", b)
    _equally_long(first, second)
    return bootstrap_interval(
        first - second, statistic, level=level, resamples=resamples, seed=seed
    )


def ratio_of_medians_interval(
    a: ArrayLike,
    b: ArrayLike,
    *,
    paired: bool = False,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Returns ``median(a) / median(b)`` with its bootstrap interval.

    Args:
        a: ``[R]``, running times (or any numbers above 0) of one method.
        b: ``[R']``, those of the other.
        paired: draw the rows of both together: same problems, instances, seeds.
        level: of confidence.
        resamples: how often to draw.
        seed: of the draws.

    Returns:
        ``(estimate, low, high)``; NaN where both medians are infinite.

    Raises:
        ValueError: where they are paired and not equally long.

    Example:
        >>> ratio_of_medians_interval([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], paired=True)
        Interval(estimate=2.0, low=2.0, high=2.0)
    """
    first, second = _sample("a", a), _sample("b", b)
    if paired:
        _equally_long(first, second)
    replicates = [
        _ratio(np.median(x, axis=1), np.median(y, axis=1))
        for x, y in _resampled([first, second], level, resamples, seed, paired)
    ]
    return _interval(_ratio(np.median(first), np.median(second)), replicates, level)


def running_times(
    evaluations: ArrayLike, values: ArrayLike, targets: ArrayLike = TARGETS
) -> np.ndarray:
    """Returns after how many evaluations a run first reached each target.

    Args:
        evaluations: ``[n]``, ascending.
        values: ``[n]``, what had been reached by then, lower is better.
        targets: ``[T]``.

    Returns:
        ``float64[T]``, infinity where a target was not reached.

    Raises:
        ValueError: where the first two are not equally long.

    Example:
        >>> running_times([10, 20, 30], [5.0, 0.5, 0.7], targets=[1.0, 0.1])
        array([20., inf])
    """
    counts = np.append(np.asarray(evaluations, np.float64), np.inf)
    best = np.minimum.accumulate(np.asarray(values, np.float64))
    _equally_long(counts[:-1], best, "evaluations", "values")
    # the first place whose best is the target or below: best only falls
    return counts[np.searchsorted(-best, -np.asarray(targets, np.float64))]


def expected_running_time(evaluations: ArrayLike, success: ArrayLike) -> float:
    """Returns evaluations in all runs by the number of successful ones.

    The ERT of COCO (also aRT): what a method needs for one success if it is started
    again after each failure.

    Args:
        evaluations: ``[R]``, until success, or all that a failed run made.
        success: ``bool[R]``.

    Returns:
        The ERT; infinity without a success.

    Raises:
        ValueError: where the two are not equally long.

    Example:
        >>> expected_running_time([100, 300, 1000], [True, True, False])
        700.0
    """
    counts, hits = _sample("evaluations", evaluations), np.asarray(success, bool)
    _equally_long(counts, hits, "evaluations", "success")
    return float(counts.sum() / hits.sum()) if hits.any() else float("inf")


def ecdf(times: ArrayLike, budgets: ArrayLike) -> np.ndarray:
    """Returns the share of running times within each budget.

    Args:
        times: running times of any shape, ``[R, T]`` for runs and targets; infinity
            where a target was not reached.
        budgets: ``[B]``, in the unit of the times.

    Returns:
        ``float64[B]``, from 0 to 1.

    Example:
        >>> ecdf([[10, 40], [20, np.inf]], budgets=[5, 20, 100])
        array([0.  , 0.5 , 0.75])
    """
    flat = np.sort(_sample("times", np.ravel(times)))
    return np.searchsorted(flat, np.asarray(budgets), side="right") / flat.size


def _sample(name: str, values: ArrayLike) -> np.ndarray:
    sample = np.asarray(values, np.float64)
    if sample.ndim == 0 or len(sample) == 0:
        raise ValueError(
            f"{name} must hold at least one value; got {checks.shown(values)}"
        )
    return sample


def _equally_long(
    a: np.ndarray, b: np.ndarray, name_a: str = "a", name_b: str = "b"
) -> None:
    if len(a) != len(b):
        raise ValueError(
            f"{name_a} and {name_b} must be equally long; got {len(a)} and {len(b)}"
        )


def _resampled(
    samples: Sequence[np.ndarray], level: float, resamples: int, seed: int, paired: bool
) -> list[list[np.ndarray]]:
    """Draws rows with replacement: blocks of ``[resamples in it, R, ...]``."""
    checks.real("level", level)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level!r}")
    checks.integer("resamples", resamples, 1)
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(sample.size for sample in samples))
    blocks = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        rows = [rng.integers(len(s), size=(count, len(s))) for s in samples]
        if paired:
            rows = [rows[0]] * len(samples)
        blocks.append([s[r] for s, r in zip(samples, rows, strict=True)])
    return blocks


def _ratio(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.divide(a, b))


def _interval(
    estimate: np.ndarray, replicates: list[np.ndarray], level: float
) -> Interval:
    # inverted_cdf: an order statistic, so that infinity stays out of the arithmetic
    ends = np.quantile(
        np.concatenate(replicates),
        [(1 - level) / 2, (1 + level) / 2],
        method="inverted_cdf",
    )
    return Interval(float(estimate), float(ends[0]), float(ends[1]))
