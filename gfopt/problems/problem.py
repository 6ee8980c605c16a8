"""Your own problem for ``gfopt.bench``: any function, and where to start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.spaces.domains import integer as integer_domain
from gfopt.types import PyTree, Solution


@dataclass(frozen=True, eq=False)
class Problem:
    """A function of `D` numbers, where its runs start, and what is known of it.

    Args:
        fun: called with ``x: float64[D]``, returns a number, lower is better. A JAX
            function is faster as ``jax.jit(fun)``.
        x0: ``[D]``, where all runs start, or a function of a NumPy generator that
            draws it; None for uniform within the bounds.
        bounds: ``(low, high)`` for each number, or one such pair for all where ``x0``
            has the numbers. Methods are told of them, and may not heed them.
        optimum: the smallest value, where it is known.
        name: what tables call it; by default the name of ``fun``.
        integer: which numbers are whole, ``bool[D]`` or one for all; ``fun`` receives
            them rounded.
        constraints: ``g(x) -> float[M]``, feasible where all are 0 or below. What
            counts is max(f, optimum) plus the sum of the positive ones, as in COCO.
        truth: the function without its noise, which is what counts.

    Raises:
        TypeError: for what cannot be called, or a start or bounds without numbers.
        ValueError: for neither ``x0`` nor bounds, or bounds that do not fit.

    Example:
        >>> sphere = Problem(lambda x: (x**2).sum(), bounds=[(-5, 5)] * 3, optimum=0.0)
        >>> sphere.dimension, sphere.start(np.random.default_rng(0)).round(1)
        (3, array([ 1.4, -2.3, -4.6]))
    """

    fun: Callable[[np.ndarray], ArrayLike]
    x0: Solution = None
    bounds: PyTree = None
    optimum: float | None = None
    name: str = ""
    integer: ArrayLike = False
    constraints: Callable[[np.ndarray], ArrayLike] | None = None
    truth: Callable[[np.ndarray], ArrayLike] | None = None

    def __post_init__(self) -> None:
        checks.is_callable("fun", self.fun)
        for name in ("constraints", "truth"):
            if getattr(self, name) is not None:
                checks.is_callable(name, getattr(self, name))
        checks.instance("name", self.name, str, "a name")
        if self.optimum is not None:
            checks.real("optimum", self.optimum)
            checks.finite("optimum", self.optimum)
        if self.x0 is None and self.bounds is None:
            raise ValueError("x0 must be given where bounds are not; got neither")
        low, high = self._ends
        checks.below("bounds, low", low, "high", high)
        if self.x0 is None:
            checks.finite("bounds, where there is no x0,", self.bounds)
        start = self.start(np.random.default_rng(0))
        if start.ndim != 1 or not start.size:
            raise ValueError(f"x0 must hold D numbers; got shape {start.shape}")
        checks.finite("x0", start)
        if low.shape not in ((), start.shape):
            raise ValueError(
                f"bounds must be (low, high) for each of the {start.size} numbers of "
                f"x0, or one pair for all; got {checks.shown(self.bounds)}"
            )
        if np.shape(self.integer) not in ((), start.shape):
            raise ValueError(
                f"integer must be True or False, or so for each of the {start.size} "
                f"numbers of x0; got shape {np.shape(self.integer)}"
            )
        if not self.name:
            # of an object its class's
            named = getattr(self.fun, "__name__", type(self.fun).__name__)
            object.__setattr__(self, "name", named)

    @property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The bounds, each end ``[D]`` or ``[]``."""
        pairs = (-np.inf, np.inf) if self.bounds is None else self.bounds
        ends = np.asarray(pairs, np.float64)
        if ends.shape[-1:] != (2,) or ends.ndim > 2:
            raise ValueError(
                f"bounds must be pairs (low, high); got {checks.shown(self.bounds)}"
            )
        return ends[..., 0], ends[..., 1]

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Returns where a run starts: ``float64[D]``."""
        if self.x0 is None:
            return np.asarray(rng.uniform(*self._ends))
        return np.array(self.x0(rng) if callable(self.x0) else self.x0, np.float64)

    @property
    def dimension(self) -> int:
        """`D`."""
        return self.start(np.random.default_rng(0)).size

    @property
    def box(self) -> np.ndarray | None:
        """The bounds as ``float64[D, 2]``, or None."""
        if self.bounds is None:
            return None
        return np.stack([np.broadcast_to(e, self.dimension) for e in self._ends], 1)

    @property
    def domains(self) -> np.ndarray | list[object] | None:
        """The bounds as ``minimize`` takes them, with whole numbers as such."""
        if not np.any(self.integer):
            return self.box
        ends = [(-np.inf, np.inf)] * self.dimension if self.box is None else self.box
        whole = np.broadcast_to(self.integer, self.dimension)
        return [
            integer_domain(*map(float, pair)) if is_whole else tuple(pair)
            for pair, is_whole in zip(ends, whole, strict=True)
        ]

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """Returns a point with its whole numbers rounded."""
        return np.where(self.integer, np.round(x), x)

    def penalised(self, x: np.ndarray) -> float:
        """Returns max(f, optimum) plus what constraints are exceeded by."""
        value = float(self.fun(x))  # type: ignore[arg-type]
        if self.constraints is None:
            return value
        excess = np.maximum(np.asarray(self.constraints(x), np.float64), 0).sum()
        least = -np.inf if self.optimum is None else self.optimum
        return max(value, least) + float(excess)

    def at(self, instance: int) -> Problem:
        """Returns what a run of this number minimises: here always the same."""
        del instance
        return self


def as_problems(given: object, argument: str = "problems") -> tuple[Problem, ...]:
    """Returns problems of one, several, or a dictionary that names them.

    Whatever can be called and has an ``x0`` or ``bounds``, and perhaps an ``optimum``
    and a ``name``, is a problem.

    Raises:
        TypeError: for anything else.
        ValueError: for two of one name, or for none.

    Example:
        >>> def sphere(x):
        ...     return (x**2).sum()
        >>> sphere.bounds = [(-1, 1)] * 2
        >>> [(p.name, p.dimension) for p in as_problems({"a": sphere, "b": sphere})]
        [('a', 2), ('b', 2)]
    """
    if isinstance(given, Mapping):
        found = [_as_problem(value, argument, str(key)) for key, value in given.items()]
    elif isinstance(given, Iterable) and not callable(given):
        found = [_as_problem(value, argument) for value in given]
    else:
        found = [_as_problem(given, argument)]
    checks.distinct(argument, [problem.name for problem in found], "problem")
    return tuple(found)


def _as_problem(value: object, argument: str, name: str = "") -> Problem:
    if isinstance(value, Problem):
        return replace(value, name=name or value.name)
    if not callable(value) or not (hasattr(value, "x0") or hasattr(value, "bounds")):
        raise TypeError(
            f"{argument} must be gfopt.problems.Problem(fun, x0, bounds=...), or "
            f"callables with x0 or bounds; got {checks.shown(value)}"
        )
    known: dict[str, Any] = {
        name: getattr(value, name)
        for name in ("x0", "bounds", "optimum", "integer", "constraints", "truth")
        if hasattr(value, name)
    }
    return Problem(value, **known, name=name or getattr(value, "name", ""))
