"""Failed evaluations, counted by reason; the first of a kind is shown in full."""

from __future__ import annotations

import logging
from collections import Counter

from gfopt.core.host.values import EXAMPLE

MOST_MESSAGES = 10  # of one exception that are counted separately
OTHER = "(other messages)"
_LOG = logging.getLogger(__name__)


class Failures(Counter[str]):
    """How often evaluations failed, by reason.

    A message may hold the numbers of its call. The number of reasons stays small all
    the same: values of the wrong kind are one reason, which shows the first of them,
    and of one exception the first ``MOST_MESSAGES`` messages are counted separately.
    Of each type of exception the first traceback is logged, as a warning of the logger
    ``gfopt``, which Python prints where nobody has set up logging.

    Example:
        >>> failures = Failures()
        >>> for value in ("None", "1j"):
        ...     failures.add(f"returned no real number, such as {value}")
        >>> dict(failures)
        {'returned no real number, such as None': 2}
    """

    def add(self, reason: str, traceback: str = "", count: int = 1) -> None:
        """Counts a failure, or ``count`` of them, and shows the first of its kind."""
        kind, has_message, _ = reason.partition(": ")
        alike = sum(known == kind or known.startswith(f"{kind}: ") for known in self)
        if traceback and not alike:
            _LOG.warning(
                "an evaluation failed; further ones (%s) are only counted\n%s",
                kind,
                traceback.rstrip(),
            )
        if reason not in self:
            head, has_example, _ = reason.partition(EXAMPLE)
            if has_example:
                head += EXAMPLE
                reason = next(
                    (known for known in self if known.startswith(head)), reason
                )
            elif has_message and alike >= MOST_MESSAGES:
                reason = f"{kind}: {OTHER}"
        self[reason] += count
