"""What a method makes of what callers tell: failures, parts, twice, late, in any order.

An exception, a call that ran out of time and a value of the wrong shape are told as
failures by every driver (``core/host/values.py``); here is what comes after that.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from conformance import cases
from conformance.cases import Case

import gfopt


class Session:
    """A search, and what it should have counted.

    Attributes:
        search: the search.
        nfev: values told.
        failed: those that were none.
        best: the lowest value.
    """

    def __init__(self, case: Case):
        self.search = gfopt.AskTell(case.make(), np.asarray(case.x0), seed=1)
        self.nfev = self.failed = 0
        self.best = math.inf

    def tell(self, trials: list[gfopt.Trial], wrong: dict[int, Any]) -> None:
        """Tells all, with something wrong in the places that are named."""
        values: list[Any] = [float(cases.sphere(t.solution)) for t in trials]
        for place, value in wrong.items():
            if place < len(values):
                values[place] = value
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*after their generation was closed")
            self.search.tell(trials, values)
        good = [v for v in values if v is not None and math.isfinite(v)]
        self.nfev += len(values)
        self.failed += len(values) - len(good)
        self.best = min([self.best, *good])

    def agrees(self) -> None:
        """Asserts that nothing is lost, doubled or NaN."""
        result = self.search.result
        assert (result.nfev, result.fun) == (self.nfev, self.best)
        assert result.failures.get("told as failed", 0) == self.failed
        cases.no_nan((result.x, result.recommended, result.state))


def refuses(session: Session, trials: Any, values: Any) -> None:
    """Asserts that nothing of it is taken."""
    with pytest.raises((TypeError, ValueError), match=r"^(trials|values) must"):
        session.search.tell(trials, values)


@cases.each_method
def test_whatever_is_told(case: Case) -> None:
    session = Session(case)
    ask = session.search.ask
    for wrong in (
        {1: math.nan, 6: None, 11: math.nan},  # a fifth fails
        dict.fromkeys(range(1000), math.nan),  # all of it
        {0: math.inf, 3: -math.inf, 4: -math.inf},
        {},
    ):
        trials = ask()
        session.tell(trials[::-1], wrong)  # in another order than they were asked for
        session.agrees()
    parts = ask()
    while len(parts) < 4 and (more := ask()):  # methods of one candidate a step
        parts += more
    first, rest = parts[:1], parts[1:]
    session.tell(first, {})
    if rest:
        refuses(session, first, [1.0])  # a duplicate
        refuses(session, rest, [1.0] * (len(rest) + 1))
        refuses(session, rest[0], np.ones(2))
        session.agrees()
        session.search.close()  # without the others
        session.tell(rest, {0: math.nan})  # which come late
        refuses(session, rest, [1.0] * len(rest))
    session.agrees()
    session.tell(ask(), {})
    session.agrees()
