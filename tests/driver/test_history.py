"""The columns of a search's history."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gfopt.core.sense import Sense
from gfopt.driver.result import history as module
from gfopt.driver.result.history import History


def columns(*fitness: float, count: int = 4, **more: Any) -> dict[str, np.ndarray]:
    rows = len(fitness)
    named = {name: np.asarray(values) for name, values in more.items()}
    return {
        "fitness": np.array(fitness, float),
        "num_evaluations": np.full(rows, count),
        "num_valid": np.full(rows, count),
        **named,
    }


@pytest.mark.parametrize("maximize", [False, True])
def test_the_best_so_far_in_the_users_sense(maximize):
    sense = Sense(maximize)
    history = History(sense)
    history.begin(sense.fitness(2.0))
    history.add(columns(*map(sense.fitness, (3.0, 1.0))), True)
    history.add(columns(*map(sense.fitness, (np.nan, 2.5))), True)
    table = history.table()
    np.testing.assert_array_equal(table["fitness"], [3.0, 1.0, np.nan, 2.5])
    best = [3.0, 3.0, 3.0, 3.0] if maximize else [2.0, 1.0, 1.0, 1.0]
    assert table["best"].tolist() == best
    assert table["nfev"].tolist() == [5, 9, 13, 17]  # the first value is one, too
    assert (history.nfev, history.nit) == (17, 4)


def test_before_anything_was_valid_the_best_is_unknown():
    for first in (None, np.nan):
        history = History(Sense())
        if first is not None:
            history.begin(first)
        history.add(columns(np.nan, 4.0, 5.0), True)
        np.testing.assert_array_equal(history.table()["best"], [np.nan, 4.0, 4.0])


def test_an_empty_history_has_its_columns():
    table = History(Sense()).table()
    assert {name: len(table[name]) for name in ("nfev", "fitness", "best")} == {
        "nfev": 0,
        "fitness": 0,
        "best": 0,
    }


def test_an_open_generation_counts_but_is_not_kept():
    history = History(Sense())
    history.add(columns(3.0), True)
    history.add({}, False)
    assert not history.is_open
    history.add(columns(2.0, count=1), False)
    assert history.is_open and (history.nfev, history.nit) == (5, 1)
    assert history.complete()["fitness"].tolist() == [3.0]
    assert history.table()["fitness"].tolist() == [3.0, 2.0]
    assert history.table()["fitness"].tolist() == [3.0, 2.0]  # reading changes nothing


def test_what_a_part_lacks_is_nan():
    history = History(Sense())
    history.add(columns(3.0), True)
    history.add(columns(2.0, sigma=[0.5]), True)
    np.testing.assert_array_equal(history.table()["sigma"], [np.nan, 0.5])


def test_a_table_for_every_generation_joins_each_part_once():
    """A callback reads one each time: joined anew it would take the square."""
    history = History(Sense())
    for step in range(100):
        history.add(columns(float(step), sigma=[0.5]), True)
        assert len(history.table()["sigma"]) == step + 1
        assert len(history._parts) == 1
    assert len(history.complete()["fitness"]) == history.nit == 100


def test_small_parts_are_joined_in_blocks(monkeypatch):
    monkeypatch.setattr(module, "MOST_PARTS", 4)
    history = History(Sense())
    for step in range(11):
        history.add(columns(float(step)), True)
        assert len(history._parts) == (step + 1) // 4 + (step + 1) % 4
    assert history.table()["fitness"].tolist() == [float(n) for n in range(11)]
    assert len(history._parts) == 1
