"""Your own problem for ``gfopt.bench``: any function, and where to start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jax.typing import ArrayLike

from gfopt import checks
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

    def __post_init__(self) -> None:
        checks.is_callable("fun", self.fun)
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
    known = {n: getattr(value, n, None) for n in ("x0", "bounds", "optimum")}
    return Problem(value, **known, name=name or getattr(value, "name", ""))
