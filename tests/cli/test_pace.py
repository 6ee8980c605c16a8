"""The estimate of the time that is left, against a clock that the test sets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gfopt.cli import pace
from gfopt.cli.pace import Pace
from gfopt.research.plan import bbob_batches, digits_batches


def test_what_is_left_is_judged_by_what_is_most_like_it(monkeypatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: clock.now))
    words = {"methods": ["cma_es", "random_search"], "instances": [1, 2]}
    quick = bbob_batches(functions=[1, 8], **words)
    slow = digits_batches(methods=["mezo", "open_es"], instances=[1, 2])
    estimate = Pace([*quick, *slow])
    assert estimate.seconds() is None
    clock.now += 6  # the first two runs of cma_es
    estimate.finished(quick[0])
    # all other runs are thought to take as long, 3 s
    assert estimate.seconds() == pytest.approx(3 * 10)
    clock.now += 2  # random_search is quicker here; of all runs 2 s are the mean
    estimate.finished(quick[1])
    assert estimate.seconds() == pytest.approx(2 * 3 + 2 * 1 + 4 * 2)
    for batch, seconds in ((quick[2], 6), (quick[3], 2), (slow[0], 80)):
        clock.now += seconds
        estimate.finished(batch)
    assert estimate.seconds() == pytest.approx(2 * 40)  # of open_es, by mezo's
    estimate.finished(slow[1])
    assert estimate.seconds() == 0
