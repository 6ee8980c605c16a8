"""An objective that counts its calls, keeps every value, and ends the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike

from gfopt.core.host.evaluator import host
from gfopt.core.host.failures import Failures
from gfopt.core.objective import Inputs, Objective

_FAILURES = Failures()  # of all runs in this process


class Ended(BaseException):
    """The run is over; no exception of a program, which optimizers may well catch."""


class Counted:
    """A function whose calls are the evaluations of a run.

    A call that raises or returns no finite number is an evaluation without a value;
    the optimizer is told infinity. Of each type of exception the first traceback in
    this process is logged.

    Args:
        fun: called with ``x: float64[D]``.
        bounds: ``float64[D, 2]``, for optimizers that want to know, or None.
        budget: calls at most.
        optimum: what is subtracted from the values that are kept.
        target: the run ends with a kept value of this or below.
        truth: what is kept in place of the value that the optimizer is told.

    Attributes:
        bounds: as given.
        values: what is kept, one for each call, NaN for a failure.
        status: ``"target"`` or ``"budget"`` when the run is over, else empty.

    Example:
        >>> fun = Counted(abs, None, budget=9, optimum=1.0, target=0.5)
        >>> fun(4.0), fun(1.25), fun.values, fun.status
        (4.0, 1.25, [3.0, 0.25], 'target')
        >>> try:
        ...     fun(0.0)
        ... except Ended:
        ...     print("over")
        over
    """

    def __init__(
        self,
        fun: Callable[[np.ndarray], ArrayLike],
        bounds: np.ndarray | None,
        budget: int,
        optimum: float = 0.0,
        target: float = -math.inf,
        truth: Callable[[np.ndarray], ArrayLike] | None = None,
    ):
        self.bounds = bounds
        self.values: list[float] = []
        self.status = ""
        self._objective, self._evaluator = Objective(fun), host()
        self._budget, self._optimum, self._target = budget, optimum, target
        self._truth = truth

    @property
    def target(self) -> float | None:
        """The value of ``fun`` that ends the run, if there is one."""
        if self._truth is not None:
            return None
        return self._optimum + self._target if math.isfinite(self._target) else None

    def __call__(self, x: ArrayLike) -> float:
        """Returns the value at ``x: [D]``.

        Raises:
            Ended: after the last evaluation of the run.
        """
        if self.status:
            raise Ended
        # a copy: neither side sees what the other writes into it
        point = [np.array(x, np.float64)]
        (value,) = self._evaluator.values(self._objective, point, None, Inputs())
        if value.reason:
            _FAILURES.add(value.reason, value.traceback)
        kept = math.nan if value.reason else value.fitness
        if self._truth is not None and not value.reason:
            kept = float(np.asarray(self._truth(point[0])))
        self.values.append(kept - self._optimum)
        if self.values[-1] <= self._target:
            self.status = "target"
        elif len(self.values) >= self._budget:
            self.status = "budget"
        return value.fitness
