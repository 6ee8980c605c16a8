"""Friedman's and Nemenyi's tests against the source's example, and their diagram."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.stats

from gfopt.research.figure_files import write_figures
from gfopt.research.finished_runs import Run, RunKey
from gfopt.research.rank_diagram import RankDiagram
from gfopt.research.ranks import critical_difference, friedman, groups, rank_table
from gfopt.research.report import page
from gfopt.research.summary import sections

#: Demsar (2006), table 6: ranks of four variants of C4.5 on 14 data sets.
SOURCE = np.array(
    [
        [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1],
        [1, 2.5, 4, 2.5], [3, 2, 4, 1], [2.5, 2.5, 4, 1], [4, 3, 2, 1],
        [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3],
        [3, 1, 4, 2],
    ]
)  # fmt: skip


def test_friedmans_test_is_that_of_the_example_in_the_source() -> None:
    mean = SOURCE.mean(axis=0)
    np.testing.assert_allclose(mean, [3.143, 2.0, 2.893, 1.964], atol=5e-4)
    found = friedman(SOURCE)
    # page 13: chi^2 = 12 * 14 / (4 * 5) * (sum R^2 - 4 * 25 / 4) = 9.28, F = 3.69,
    # above 2.85, the critical value of F(3, 39) at 0.05
    np.testing.assert_allclose(found.chi_square, 9.28, atol=5e-3)
    np.testing.assert_allclose(found.f, 3.69, atol=5e-3)
    assert found.p < 0.05 and abs(scipy.stats.f.sf(2.85, 3, 39) - 0.05) < 5e-4
    # page 14: 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25, which 3.143 - 1.964 does not reach
    apart = critical_difference(4, 14)
    np.testing.assert_allclose(apart, 1.25, atol=5e-3)
    assert groups(np.sort(mean), apart) == [(0, 3)]
    # at 0.10 it is 1.12: C4.5 is told from the two that tune m
    apart = critical_difference(4, 14, level=0.9)
    np.testing.assert_allclose(apart, 1.12, atol=5e-3)
    assert groups(np.sort(mean), apart) == [(0, 2), (2, 3)]


def test_friedmans_statistic_is_scipys_without_ties() -> None:
    values = np.random.default_rng(0).normal(size=(9, 5)) + np.arange(5) / 2
    theirs = scipy.stats.friedmanchisquare(*values.T)
    ranks = scipy.stats.rankdata(values, axis=1)
    np.testing.assert_allclose(friedman(ranks).chi_square, theirs.statistic)
    # all problems agree, or no method differs
    assert friedman([[1, 2]] * 3)[1:] == (np.inf, 0)
    assert friedman([[1.5, 1.5]] * 3) == (0, 0, 1)
    with pytest.raises(ValueError, match="problems must be a number from 2"):
        friedman([[1, 2]])


def _runs(values: dict[str, list[float]]) -> list[Run]:
    runs = []
    for method, row in values.items():
        for number, value in enumerate(row, 1):
            key = RunKey("mine", f"p{number}", 5, 1, method, 100, 0, "python")
            run = Run(key, {}, 100, "budget", 0.5, 0.0, ((1, 99.0), (50, value)))
            runs.append(run._replace(optimum=0.0))
    return runs


RUNS = _runs(
    {
        "a <&>": [1e-9, 1e-9, 3.0, 1.0, 1.0, 1.0],
        "b": [1e-10, 1.0, 4.0, 2.0, 2.0, 2.0],
        "c": [5.0, 2.0, 5.0, 3.0, 3.0, 3.0],
        "d": [6.0, 3.0, 6.0, 4.0, 4.0, 4.0],
    }
)


def test_ranks_are_shared_at_the_last_target() -> None:
    (section,) = sections(RUNS)
    ranks = rank_table(section)
    np.testing.assert_array_equal(ranks[0], [1.5, 1.5, 3, 4])
    np.testing.assert_array_equal(ranks[1:], [[1, 2, 3, 4]] * 5)


def test_the_diagram_joins_what_is_not_told_apart(tmp_path) -> None:
    diagram = RankDiagram("t", list("abcd"), [1.0, 2.0, 3.0, 4.0], range(4), 1.5)
    strokes, words = diagram.drawn()
    spots = {w.text: w.x for w in words}
    left, right = spots["1"], spots["4"]
    bars = [s.points for s in strokes if s.kind == "group"]
    starts = [left, left + (right - left) / 3, left + 2 * (right - left) / 3]
    np.testing.assert_allclose([bar[0][0] + 3 for bar in bars], starts)
    lengths = [bar[1][0] - bar[0][0] - 6 for bar in bars]
    np.testing.assert_allclose(lengths, (right - left) / 3)
    assert len({bar[0][1] for bar in bars}) == 3  # none hides another
    names = [s.name for s in strokes if s.kind == "line"]
    assert sorted(names) == list("abcd") and "a 1.00" in spots
    assert max(y for s in strokes for _, y in s.points) < diagram.height
    text = page(RUNS, [])
    assert "a &lt;&amp;&gt; 1.08" in text and "p 0.00" not in text
    found = re.search(r"the methods differ \(chi-square ([\d.]+), F", text)
    assert found and abs(float(found[1]) - friedman(rank_table(*sections(RUNS)))[0]) < 1
    assert text.count('class="group"') == 3
    paths = write_figures(RUNS, tmp_path, "svg")
    (drawn,) = [p for p in paths if p.name.startswith("ranks")]
    assert "CD 1.91" in drawn.read_text()
    # one problem has no ranks to compare
    assert "Critical differences" not in page([r for r in RUNS if "p1" in r.key], [])
