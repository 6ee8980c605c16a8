"""gfopt's methods inside ``scipy.optimize``: ``minimize`` and all that calls it."""

from __future__ import annotations

import dataclasses
import inspect
import numbers
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gfopt import checks, registry
from gfopt.driver.minimize import minimize
from gfopt.driver.result.endings import Status
from gfopt.driver.result.result import Result
from gfopt.driver.setup.method import auto_method

if TYPE_CHECKING:  # a quarter of a second that only a caller of SciPy should pay
    from scipy.optimize import OptimizeResult

#: SciPy's words for tolerances, and the fields that they stand for.
_TOLERANCES = {
    "tol": ("tol_x", "tol_fun"),
    "xtol": ("tol_x",),
    "xatol": ("tol_x",),
    "ftol": ("tol_fun",),
    "fatol": ("tol_fun",),
}
_OTHERS = ("disp", "maxfev", "maxfun", "maxiter", "rng", "seed", "sigma0")


class ScipyMethod:
    """What ``scipy_method`` returns: SciPy calls it as its custom method."""

    def __init__(self, name: str, options: dict[str, object]):
        self._name, self._options = name, options

    def lower(self) -> str:
        """Returns SciPy's name for a custom method, for which ``shgo`` asks."""
        return "_custom"

    def __call__(
        self,
        fun: Callable[..., Any],
        x0: ArrayLike | None,
        args: Any = (),
        *,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., object] | None = None,
        jac: object = None,
        hess: object = None,
        hessp: object = None,
        **options: object,
    ) -> OptimizeResult:
        """Minimises ``fun`` as ``scipy.optimize.minimize`` asks for it."""
        del jac, hess, hessp
        start = np.asarray(x0)
        if start.dtype.hasobject and all(one is None for one in start.ravel()):
            x0 = None  # SciPy makes an array of it
        if bounds is not None and not hasattr(bounds, "lb"):
            bounds = [_pair(row) for row in bounds]
        asked = {
            name: v for name, v in (self._options | options).items() if v is not None
        }
        words, fields, disp = self._read(asked, 1 if x0 is None else start.size)
        most = words.pop("maxiter", None)
        callbacks = [] if callback is None else [_adapted(callback)]
        if most is not None:
            callbacks.append(lambda result: result.nit >= most)
        result = minimize(
            fun,
            x0,
            method=self._name,
            bounds=bounds,
            constraints=constraints if np.size(constraints) else (),
            args=args if isinstance(args, tuple) else (args,),
            options=fields,
            callbacks=callbacks,
            **words,
        )
        if result.status == Status.CALLBACK and result.nit == most:
            result.status = Status.BUDGET
            result.message = f"maxiter of {most} reached"
        if disp:
            sys.stdout.write(_report(result))
        return _converted(result)

    def _read(
        self, options: dict[str, Any], size: int
    ) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """Returns arguments of ``minimize``, fields of the method, and ``disp``."""
        name = auto_method(size) if self._name == "auto" else self._name
        known = [f.name for f in dataclasses.fields(registry.METHODS[name].cls)]
        checks.known_options("options", options, {*known, *_TOLERANCES, *_OTHERS})
        words: dict[str, Any] = {}
        for asked, argument in (("maxfev", "budget"), ("maxfun", "budget")):
            if asked in options:
                words[argument] = _count(asked, options[asked])
        if "maxiter" in options:
            words["maxiter"] = _count("maxiter", options["maxiter"])
        if "sigma0" in options:
            words["sigma0"] = options["sigma0"]
        for asked in ("seed", "rng"):
            if asked in options:
                words["seed"] = _seed(asked, options[asked])
        fields: dict[str, Any] = {}
        for word, targets in _TOLERANCES.items():
            if word in options:
                chosen = set(targets) & set(known)
                fields |= dict.fromkeys(sorted(chosen), options[word])
        fields |= {key: options[key] for key in options if key in known}
        return words, fields, bool(options.get("disp", False))


def scipy_method(name: str = "auto", **options: object) -> ScipyMethod:
    """Returns a method for ``scipy.optimize.minimize(..., method=...)``.

    It works wherever SciPy takes a method: in ``basinhopping``, ``dual_annealing`` and
    ``shgo`` as ``minimizer_kwargs={"method": ...}``, and as what
    ``differential_evolution`` polishes with.

    ``options`` of SciPy and of this function may hold ``maxfev``, ``maxiter``
    (generations), ``disp``, ``seed`` (or ``rng``), ``sigma0`` and the method's fields;
    ``tol`` stands for those that are tolerances of x and f, ``xatol`` and ``fatol`` for
    one of them. Bounds, constraints as for ``gfopt.minimize``, and callbacks of either
    of SciPy's forms are passed on. Gradients are not used.

    Args:
        name: ``"auto"`` or a name from ``gfopt list``.
        options: those of all calls, where SciPy has no place for them (``shgo``).

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
    return ScipyMethod(name, options)


def _pair(row: Any) -> Any:
    """Returns a row of SciPy's bounds, which are always pairs, as a tuple."""
    return tuple(row) if isinstance(row, list | np.ndarray) else row


def _count(name: str, value: object) -> int:
    """Returns a number of calls; SciPy takes ``1e4`` as well."""
    whole: Any = value
    if isinstance(value, numbers.Real) and float(value).is_integer():
        whole = int(float(value))
    checks.integer(name, whole, 1)
    return whole


def _seed(name: str, value: Any) -> int:
    """Returns the seed of what SciPy takes for one."""
    if isinstance(value, np.random.Generator):
        return int(value.integers(2**63))
    if isinstance(value, np.random.RandomState):
        return int(value.randint(2**31))
    checks.integer(name, value, 0)
    return int(value)


def _adapted(callback: Callable[..., object]) -> Callable[[Result], None]:
    """Returns a callback of either of SciPy's forms, distinguished as SciPy does.

    What it returns means nothing; StopIteration ends the search.
    """
    try:
        names = set(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # of a function in C
        names = set()

    def call(result: Result) -> None:
        if names == {"intermediate_result"}:
            callback(intermediate_result=_converted(result))
        else:
            callback(np.array(result.x))

    return call


def _report(result: Result) -> str:
    """Returns what SciPy's methods print with ``disp``."""
    return (
        f"{result.message}\n"
        f"         Current function value: {result.fun:f}\n"
        f"         Iterations: {result.nit}\n"
        f"         Function evaluations: {result.nfev}\n"
    )


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
