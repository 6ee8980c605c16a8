"""Domains: how people write a space, one number or leaf at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gfopt import checks
from gfopt.spaces.spaces import Space


@dataclass(frozen=True)
class Domain:
    """What one number, or every number of a leaf, may be.

    Made by ``real``, ``integer`` and ``categorical``.

    Attributes:
        lower: the least value.
        upper: the largest value; the number is fixed where both are equal.
        log: whether its logarithm is searched.
        integer: whether it is a whole number.
        choices: how many values without an order, coded from 0; 0 for numbers.

    Example:
        >>> integer(0, 9).middle
        4.0
    """

    lower: float = -math.inf
    upper: float = math.inf
    log: bool = False
    integer: bool = False
    choices: int = 0

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            checks.real(name, getattr(self, name))
        for name in ("log", "integer"):
            checks.instance(name, getattr(self, name), bool, "True or False")
        Space(
            self.lower, self.upper, 1.0, self.log, self.integer, (self.choices,)
        )  # which checks them

    @property
    def middle(self) -> float:
        """Where a search begins if nothing is said: the middle of finite bounds."""
        if self.choices:
            return 0.0
        low, high = (
            math.log(side) if self.log else side for side in (self.lower, self.upper)
        )
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                "x0 must be given where a bound is infinite, which leaves no middle; "
                f"got x0=None for {checks.shown(self)}"
            )
        middle = math.exp((low + high) / 2) if self.log else (low + high) / 2
        return float(round(middle)) if self.integer else middle


def real(
    lower: float = -math.inf, upper: float = math.inf, *, log: bool = False
) -> Domain:
    """Returns the domain of a real number, for ``bounds``.

    Args:
        lower: the least value; above 0 if ``log``.
        upper: the largest value.
        log: search its logarithm, for numbers of which the magnitude is in question.

    Raises:
        TypeError, ValueError: for sides that are not numbers in order.

    Example:
        >>> import gfopt
        >>> result = gfopt.minimize(lambda x: (x - 0.02) ** 2 / x, None,
        ...                         bounds=gfopt.spaces.real(1e-6, 1, log=True), seed=1)
        >>> round(float(result.x), 6)
        0.02
    """
    return Domain(lower, upper, log)


def integer(
    lower: float = -math.inf, upper: float = math.inf, *, log: bool = False
) -> Domain:
    """Returns the domain of a whole number, both bounds included, for ``bounds``.

    The objective receives it as a floating-point number: ``int(x)`` is exact.

    Args:
        lower: the least value; 1 or above if ``log``.
        upper: the largest value.
        log: search its logarithm.

    Raises:
        TypeError, ValueError: for sides that are not whole numbers in order.

    Example:
        >>> import gfopt
        >>> bounds = [gfopt.spaces.integer(0, 9), (-2, 2)]
        >>> result = gfopt.minimize(lambda x: (x[0] - 3.3) ** 2 + x[1] ** 2, [8, 1],
        ...                         bounds=bounds, seed=1)
        >>> int(result.x[0])
        3
    """
    return Domain(lower, upper, log, True)


def categorical(choices: int | Sequence[object]) -> Domain:
    """Returns the domain of a choice among ``choices``, for ``bounds``.

    The objective receives its number, from 0, as a floating-point number. A categorical
    number is a leaf of its own, or stands in a leaf of such numbers.

    Args:
        choices: how many there are; or the choices themselves, which are counted: the
            objective finds the one that is meant by ``choices[int(x)]``.

    Raises:
        TypeError, ValueError: where ``choices`` is neither an integer from 1 up nor a
            sequence of one or more.

    Example:
        >>> import gfopt
        >>> cost = [3.0, 1.0, 2.0]
        >>> result = gfopt.minimize(lambda x: cost[int(x["which"])] + x["a"] ** 2,
        ...                         {"which": 0, "a": 1.0}, seed=1, bounds={
        ...     "which": gfopt.spaces.categorical(3), "a": gfopt.spaces.real(-2, 2)})
        >>> int(result.x["which"])
        1
    """
    count: Any = choices
    if isinstance(choices, Sequence) and not isinstance(choices, str | bytes):
        count = len(choices)
    checks.integer("choices", count, 1)
    return Domain(0, count - 1, choices=count)
