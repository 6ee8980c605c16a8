"""Failed evaluations, counted by reason."""

from __future__ import annotations

from collections import Counter

from gfopt.core.host.values import EXAMPLE

MOST_MESSAGES = 10  # of one exception that are counted separately
OTHER = "(other messages)"


class Failures(Counter[str]):
    """How often evaluations failed, by reason.

    A message may hold the numbers of its call. The number of reasons stays small all
    the same: values of the wrong kind are one reason, which shows the first of them,
    and of one exception the first ``MOST_MESSAGES`` messages are counted separately.

    Example:
        >>> failures = Failures()
        >>> for value in ("None", "1j"):
        ...     failures.add(f"returned no real number, such as {value}")
        >>> dict(failures)
        {'returned no real number, such as None': 2}
    """

    def add(self, reason: str) -> None:
        """Counts a failure."""
        self[self._known(reason)] += 1

    def _known(self, reason: str) -> str:
        if reason in self:
            return reason
        head, has_example, _ = reason.partition(EXAMPLE)
        if has_example:
            head += EXAMPLE
            return next((known for known in self if known.startswith(head)), reason)
        kind, has_message, _ = reason.partition(": ")
        alike = sum(known.startswith(f"{kind}: ") for known in self)
        if has_message and alike >= MOST_MESSAGES:
            return f"{kind}: {OTHER}"
        return reason
