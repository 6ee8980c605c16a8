"""Random calls of ``AskTell`` against a few lines of plain Python."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import hypothesis
import pytest
from driver.shared import SMALL, X0, same
from hypothesis import stateful
from hypothesis import strategies as st

import gfopt


class Model(stateful.RuleBasedStateMachine):
    """What a session should be after any calls: counts, ids, and the best."""

    def __init__(self) -> None:
        super().__init__()
        self.search = gfopt.AskTell(SMALL["method"], X0, options=SMALL["options"])
        self.first, self.asked, self.closed = 0, 0, 0
        self.told: dict[int, float | None] = {}
        self.late: set[int] = set()
        self.handed: dict[int, Any] = {}
        self.nfev = 0
        self.size = 5  # of the open generation: the start, and four candidates

    def end(self) -> None:
        self.first, self.asked, self.told = self.first + self.size, 0, {}
        self.closed += 1
        self.size = 4

    @stateful.rule(n=st.none() | st.integers(1, 6))
    def ask(self, n: int | None) -> None:
        trials = self.search.ask(n)
        count = min(self.size - self.asked, self.size if n is None else n)
        start = self.first + self.asked
        assert [trial.id for trial in trials] == list(range(start, start + count))
        self.asked += count
        self.handed |= {trial.id: trial.solution.copy() for trial in trials}

    @stateful.rule(
        data=st.data(), value=st.none() | st.floats(-5, 5) | st.just(math.nan)
    )
    def tell(self, data: Any, value: float | None) -> None:
        open_ids = [i for i in range(self.first, self.first + self.asked)]
        known = sorted({*open_ids, *self.late, 0, self.first + 3})
        chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        right = len(set(chosen)) == len(chosen) and all(
            i in self.late or (i in open_ids and i not in self.told) for i in chosen
        )
        values = [value] * len(chosen)
        if not right:
            with pytest.raises(ValueError, match="trials must"):
                self.search.tell(chosen, values)
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.search.tell(chosen, values)
        late = self.late & set(chosen)
        assert len(caught) == bool(late)
        self.late -= late
        self.told |= {i: value for i in chosen if i not in late}
        self.nfev += len(chosen)
        self.best(value, chosen)
        if len(self.told) == self.size:
            self.end()

    best_value = math.inf
    best_id = -1

    def best(self, value: float | None, chosen: list[int]) -> None:
        if value is not None and math.isfinite(value) and value < self.best_value:
            late = [i for i in chosen if i < self.first]
            self.best_value, self.best_id = (
                value,
                (late or sorted(chosen, key=chosen.index))[0],
            )

    @stateful.rule()
    def close(self) -> None:
        asked = range(self.first, self.first + self.asked)
        self.late |= {i for i in asked if i not in self.told}
        self.search.close()
        self.end()

    @stateful.rule()
    def pickle(self) -> None:
        self.search = pickle.loads(pickle.dumps(self.search))

    @stateful.invariant()
    def agrees(self) -> None:
        found = self.search.result
        assert (found.nfev, found.nit) == (self.nfev, self.closed)
        if self.best_id < 0:
            assert math.isnan(found.fun) and found.x.tolist() == X0
        else:
            assert found.fun == self.best_value
            same(found.x, self.handed[self.best_id])


Model.TestCase.settings = hypothesis.settings(
    max_examples=25, stateful_step_count=25, deadline=None
)
TestModel = Model.TestCase
