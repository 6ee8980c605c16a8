"""Statistics against NumPy, SciPy, plain loops and enumeration of every resample."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gfopt.research import statistics
from gfopt.research.ranks import critical_difference
from gfopt.research.statistics import (
    TARGETS,
    bootstrap_interval,
    ecdf,
    expected_running_time,
    paired_difference_interval,
    ratio_of_medians_interval,
    running_times,
)


def _exact(found: list[float], level: float) -> tuple[float, float]:
    """The percentile interval of a distribution that is known in full."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(found, ends, method="inverted_cdf")
    return float(low), float(high)


@pytest.mark.parametrize("statistic", [np.mean, np.median])
def test_interval_is_that_of_all_resamples(statistic) -> None:
    values = [1.0, 2.0, 4.0, 11.0]
    every = [statistic(rows) for rows in itertools.product(values, repeat=4)]
    # 20,000 draws cannot mistake the .1 and .9 quantiles of these 256 values
    found = bootstrap_interval(values, statistic, level=0.8, resamples=20_000)
    assert found.estimate == statistic(values)
    np.testing.assert_allclose(found[1:], _exact(every, 0.8), rtol=1e-12)


def test_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    ours = bootstrap_interval(values, resamples=20_000)
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.03 * width
    assert abs(ours.high - theirs.high) < 0.03 * width


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, trials = np.random.default_rng(3), 400
    hits = 0
    for trial in range(trials):
        found = bootstrap_interval(rng.normal(size=50), resamples=300, seed=trial)
        hits += found.low <= 0 <= found.high
    # the percentile interval of 50 normals covers a little less than 95 %
    assert scipy.stats.binomtest(hits, trials, 0.94).pvalue > 1e-4


def test_rows_of_a_table_are_drawn_together() -> None:
    table = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])  # every row has mean 1/2
    found = bootstrap_interval(table, lambda x, axis: x.mean(axis=(axis, axis + 1)))
    assert found == (0.5, 0.5, 0.5)


def test_blocks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(7.0)
    whole = bootstrap_interval(values, resamples=50)
    monkeypatch.setattr(statistics, "_BLOCK", 70)
    assert bootstrap_interval(values, resamples=50) == whole


def test_ratio_of_medians_is_that_of_all_resamples() -> None:
    a, b = [2.0, 3.0, 9.0], [1.0, 4.0, 5.0]
    medians = [
        [np.median(rows) for rows in itertools.product(values, repeat=3)]
        for values in (a, b)
    ]
    every = [x / y for x, y in itertools.product(*medians)]
    found = ratio_of_medians_interval(a, b, level=0.7, resamples=20_000)
    assert found.estimate == 3 / 4
    np.testing.assert_allclose(found[1:], _exact(every, 0.7), rtol=1e-12)
    # paired: the same rows of both
    every = [
        np.median(np.take(a, rows)) / np.median(np.take(b, rows))
        for rows in itertools.product(range(3), repeat=3)
    ]
    found = ratio_of_medians_interval(a, b, paired=True, level=0.8, resamples=20_000)
    np.testing.assert_allclose(found[1:], _exact(every, 0.8), rtol=1e-12)


def test_failed_runs_are_infinite_and_stay_out_of_the_arithmetic() -> None:
    inf = np.inf
    assert ratio_of_medians_interval([1, inf, inf], [1, 1, 1]).estimate == inf
    assert ratio_of_medians_interval([1, 1, 1], [1, inf, inf]).estimate == 0
    both = ratio_of_medians_interval([inf, inf], [inf, inf])
    assert all(np.isnan(value) for value in both)


def test_pairs_cancel_what_both_share() -> None:
    rng = np.random.default_rng(1)
    problem = 100 * rng.normal(size=40)
    a, b = problem + rng.normal(size=40) + 2, problem + rng.normal(size=40)
    found = paired_difference_interval(a, b)
    assert 1 < found.low < found.estimate < found.high < 3
    np.testing.assert_allclose(found.estimate, np.mean(a - b))
    assert found == bootstrap_interval(a - b)


_VALUES = st.lists(st.floats(1e-9, 1e3), max_size=12)


@given(_VALUES, st.lists(st.floats(1e-8, 1e2), min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
def test_running_times_are_those_of_a_loop(values, targets) -> None:
    counts = [3 * (i + 1) for i in range(len(values))]
    expected = [
        next((n for n, v in zip(counts, values, strict=True) if v <= target), np.inf)
        for target in targets
    ]
    np.testing.assert_array_equal(running_times(counts, values, targets), expected)


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.booleans()), min_size=1, max_size=10)
)
@settings(deadline=None, max_examples=40)
def test_expected_running_time_is_what_restarts_take(runs) -> None:
    counts, success = zip(*runs, strict=True)
    wins = [n for n, won in runs if won]
    losses = [n for n, won in runs if not won]
    if not wins:
        assert expected_running_time(counts, success) == np.inf
        return
    # mean of a success, and (1 - p) / p failures before it
    expected = np.mean(wins)
    if losses:
        expected += len(losses) / len(wins) * np.mean(losses)
    np.testing.assert_allclose(expected_running_time(counts, success), expected)


def test_ecdf_agrees_with_scipy() -> None:
    times = np.random.default_rng(2).integers(1, 40, size=(6, 5)).astype(float)
    budgets = np.arange(0, 45)
    theirs = scipy.stats.ecdf(times.ravel()).cdf.evaluate(budgets)
    np.testing.assert_allclose(ecdf(times, budgets), theirs)
    times[:3] = np.inf
    assert ecdf(times, [1e9]) == [0.5]


def test_critical_differences_are_those_of_the_table_in_the_source() -> None:
    # Demsar (2006), table 5 (a): q at 0.05 for 2 to 6 methods
    for methods, q in zip(
        range(2, 7), (1.960, 2.343, 2.569, 2.728, 2.850), strict=True
    ):
        expected = q * np.sqrt(methods * (methods + 1) / (6 * 30))
        found = critical_difference(methods, 30)
        np.testing.assert_allclose(found, expected, rtol=4e-4)


def test_targets_are_those_of_coco() -> None:
    assert len(TARGETS) == 51 and TARGETS[0] == 100
    np.testing.assert_allclose(np.log10(TARGETS[:-1] / TARGETS[1:]), 0.2)
    np.testing.assert_allclose(TARGETS[-1], 1e-8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval([]), "values .* at least one value"),
        (lambda: bootstrap_interval([1.0], level=1.0), "level .* between 0 and 1"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples .* got 0"),
        (lambda: paired_difference_interval([1.0], [1.0, 2.0]), "1 and 2"),
        (lambda: expected_running_time([1, 2], [True]), "success .* 2 and 1"),
        (lambda: running_times([1, 2], [1.0]), "evaluations and values .* 2 and 1"),
        (lambda: ratio_of_medians_interval([1.0], [1.0, 2.0], paired=True), "1 and 2"),
    ],
)
def test_refusals(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call()
