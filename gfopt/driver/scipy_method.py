"""gfopt's methods inside ``scipy.optimize.minimize``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gfopt import checks, registry
from gfopt.driver.minimize import minimize
from gfopt.driver.result import Result
from gfopt.driver.setup import auto_method

if TYPE_CHECKING:  # a quarter of a second that only a caller of SciPy should pay
    from scipy.optimize import OptimizeResult

#: Options of ``scipy.optimize.minimize`` and the arguments that they stand for.
_ARGUMENTS = {"maxfev": "budget", "seed": "seed", "sigma0": "sigma0"}


def scipy_method(name: str = "auto") -> Callable[..., OptimizeResult]:
    """Returns a method for ``scipy.optimize.minimize(..., method=...)``.

    Bounds and callbacks (of either of SciPy's forms) are passed on. ``options`` may
    hold ``maxfev``, ``seed`` and ``sigma0``; all else are fields of the method, and
    ``tol`` stands for those that are tolerances of x and f. Gradients are not used;
    constraints are refused.

    Args:
        name: ``"auto"`` or a name from ``gfopt list``.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> import scipy.optimize
        >>> found = scipy.optimize.minimize(
        ...     lambda x: float((x - 1) @ (x - 1)), [0.0, 0.0], bounds=[(0, 3)] * 2,
        ...     method=scipy_method("cma_es"), options={"maxfev": 2000, "seed": 1})
        >>> found.x.round(4), found.success
        (array([1., 1.]), True)
    """
    registry.known_method(name, "auto", argument="name")

    def method(
        fun: Callable[..., Any],
        x0: np.ndarray,
        args: tuple[Any, ...] = (),
        *,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        **options: Any,
    ) -> OptimizeResult:
        del jac, hess, hessp
        if constraints is not None and np.size(constraints):
            raise ValueError(
                f"constraints must be empty for gfopt's {name}, which knows bounds "
                f"only; got {checks.shown(constraints)}"
            )
        words = {_ARGUMENTS[k]: options.pop(k) for k in _ARGUMENTS if k in options}
        tolerance = options.pop("tol", None)
        if tolerance is not None:
            chosen = auto_method(np.size(x0)) if name == "auto" else name
            fields = {f.name for f in dataclasses.fields(registry.METHODS[chosen].cls)}
            options = dict.fromkeys(fields & {"tol_x", "tol_fun"}, tolerance) | options
        found = minimize(
            fun,
            x0,
            method=name,
            bounds=bounds,
            args=args,
            options=options,
            callbacks=() if callback is None else (_adapted(callback),),
            **words,
        )
        return _converted(found)

    return method


def _adapted(callback: Callable[..., Any]) -> Callable[[Result], Any]:
    """Returns a callback of either of SciPy's forms, told apart as SciPy does."""
    if set(inspect.signature(callback).parameters) == {"intermediate_result"}:
        return lambda result: callback(intermediate_result=_converted(result))
    return lambda result: callback(np.array(result.x))


def _converted(result: Result) -> OptimizeResult:
    from scipy.optimize import OptimizeResult

    return OptimizeResult(
        x=result.x,
        fun=result.fun,
        success=result.success,
        status=int(result.status),
        message=result.message,
        nfev=result.nfev,
        nit=result.nit,
        recommended=result.recommended,
    )
