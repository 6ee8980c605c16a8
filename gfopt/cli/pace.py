"""How long the rest of a benchmark will take, by what its runs took so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from gfopt.research.plan import Batch


class Pace:
    """An estimate that learns as runs finish.

    A method's next run on a suite takes as long as its runs there have taken; one that
    has not run there yet, as long as those of the others on the suite, or on all.

    Args:
        left: what is to be done.

    Example:
        >>> Pace([]).seconds() is None
        True
    """

    def __init__(self, left: Sequence[Batch]):
        self._left: Counter[tuple[str, str]] = Counter()
        for batch in left:
            self._left[_kind(batch)] += len(batch.instances)
        self._spent: dict[tuple[str, str], float] = {}
        self._made: Counter[tuple[str, str]] = Counter()
        self._last = time.monotonic()

    def finished(self, batch: Batch) -> None:
        """Takes note of a batch that is done, or failed."""
        kind, now = _kind(batch), time.monotonic()
        # of what runs side by side each takes the time since another ended
        self._spent[kind] = self._spent.get(kind, 0.0) + now - self._last
        self._made[kind] += len(batch.instances)
        self._left[kind] -= len(batch.instances)
        self._last = now

    def seconds(self) -> float | None:
        """Returns the seconds that are left; None before anything is finished."""
        if not self._made:
            return None
        return sum(count * self._each(kind) for kind, count in self._left.items())

    def _each(self, kind: tuple[str, str]) -> float:
        """Returns the seconds for a run, by those most like it."""
        alike = [k for k in self._made if k == kind]
        alike = alike or [k for k in self._made if k[0] == kind[0]] or [*self._made]
        spent = sum(self._spent[k] for k in alike)
        return spent / sum(self._made[k] for k in alike)


def _kind(batch: Batch) -> tuple[str, str]:
    return batch.suite, batch.competitor.name
