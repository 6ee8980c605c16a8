"""What takes part in a benchmark: methods of ours, optimizers, and any function.

A function is called as ``(fun, x0, budget, seed)`` and calls ``fun`` as often as it
likes: it is ended when the budget is used or the optimum is reached. ``fun.bounds`` is
``float64[D, 2]`` or None. So SciPy, pycma or a company's own code takes part by a few
lines, and an optimizer by the protocol of ``gfopt.protocol.Optimizer``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from gfopt import checks, registry
from gfopt.core.objective import Objective
from gfopt.driver.minimize import minimize
from gfopt.problems.problem import Problem
from gfopt.protocol import Optimizer
from gfopt.research import settings
from gfopt.research.baselines import BASELINES, Baseline
from gfopt.research.counted import Counted
from gfopt.types import JsonObject

#: One or several; see ``competitors``.
Methods: TypeAlias = (
    str | Optimizer | Callable[..., object] | Iterable[object] | Mapping[str, object]
)
_ARGUMENTS = ("fun", "x0", "budget", "seed")


@dataclass(frozen=True)
class TokenSearch:
    """A method for tokens, on whole numbers from 0 to a vocabulary's size.

    Attributes:
        name: a registered one.
    """

    name: str
    tuning = "none: defaults"

    @property
    def options(self) -> JsonObject:
        """What is not a default: nothing."""
        return {}

    def require(self, problem: Problem) -> None:
        """Looks whether a problem has tokens.

        Raises:
            ValueError: if not.
        """
        box = problem.box
        if box is None or not np.all(problem.integer) or np.any(box != [0, box[0, 1]]):
            raise ValueError(
                f"methods must search numbers where these are not tokens (whole, from "
                f"0 to one upper bound), as in {problem.name!r}; got {self.name!r}, "
                f"which is for tokens"
            )

    def __call__(self, fun: Counted, x0: np.ndarray, budget: int, seed: int) -> None:
        """Runs it at its defaults."""
        vocabulary = int(np.asarray(fun.bounds)[0, 1]) + 1
        minimize(
            Objective(fun, traceable=False),
            np.round(x0).astype(np.int32),
            method=self.name,
            options={"vocabulary": vocabulary},
            budget=budget,
            seed=seed,
        )


class Competitor(NamedTuple):
    """One row of a table.

    Attributes:
        name: what tables call it.
        how: a registered name, an optimizer, or a function as above, of which a
            ``Baseline`` is one.
    """

    name: str
    how: str | Optimizer | Callable[..., object]

    def optimizer(self, suite: str, dimension: int, budget: int) -> Optimizer | None:
        """Returns the optimizer as it runs in a suite; None for a function."""
        if isinstance(self.how, str):
            return settings.optimizer_for(suite, self.how, dimension, budget)
        return self.how if isinstance(self.how, Optimizer) else None

    def options(self, suite: str, dimension: int, budget: int) -> JsonObject:
        """Returns its settings as JSON holds them."""
        if isinstance(self.how, str):
            chosen = settings.settings(suite, self.how, dimension, budget)
            return settings.described(chosen)
        if isinstance(self.how, Optimizer):
            return {"optimizer": repr(self.how)}
        if isinstance(self.how, Baseline | TokenSearch):
            return self.how.options
        named = getattr(self.how, "__qualname__", repr(type(self.how)))
        return {"function": f"{getattr(self.how, '__module__', '')}.{named}"}

    def tuning(self, suite: str) -> str:
        """Says how much tuning stands behind its settings."""
        if isinstance(self.how, str):
            return settings.tuning(suite, self.how)
        return getattr(self.how, "tuning", "as given")


def competitors(given: Methods, argument: str = "methods") -> tuple[Competitor, ...]:
    """Returns who takes part.

    Args:
        given: a registered name or that of a baseline, an optimizer or a class of
            one, a function, several of them, or a dictionary that names them.
        argument: what refusals name.

    Raises:
        ImportError: for a baseline whose package is missing; it says what to install.
        TypeError: for anything else.
        ValueError: for an unknown name, with the nearest known one; for two of one
            name, or for none.

    Example:
        >>> import gfopt
        >>> def guess(fun, x0, budget, seed):
        ...     fun(x0)
        >>> [c.name for c in competitors(["cma_es", gfopt.SNES(), guess])]
        ['cma_es', 'SNES', 'guess']
    """
    if isinstance(given, Mapping):
        entries = [_competitor(v, argument)._replace(name=k) for k, v in given.items()]
    elif isinstance(given, str) or callable(given) or isinstance(given, Optimizer):
        entries = [_competitor(given, argument)]
    else:
        checks.instance(argument, given, Iterable, "names, optimizers or functions")
        entries = [_competitor(value, argument) for value in given]
    checks.distinct(argument, [one.name for one in entries], "method")
    return tuple(entries)


def _competitor(value: object, argument: str) -> Competitor:
    if isinstance(value, Competitor):
        return value
    if isinstance(value, str):
        if value in BASELINES:
            BASELINES[value].require(value)
            return Competitor(value, BASELINES[value])
        registry.known_method(value, "auto", *BASELINES, argument=argument)
        is_for_tokens = registry.takes_tokens(value)
        return Competitor(value, TokenSearch(value) if is_for_tokens else value)
    if isinstance(value, type):  # which has the methods of its objects, too
        value = _made(value)
    is_class = isinstance(value, type)
    if isinstance(value, Optimizer) and not is_class:
        return Competitor(type(value).__name__, value)
    if not callable(value) or is_class:
        raise TypeError(
            f"{argument} must be names, optimizers (with init, ask, decode, tell and "
            f"recommend) or functions (fun, x0, budget, seed); got "
            f"{checks.shown(value)}"
        )
    try:
        inspect.signature(value).bind(*_ARGUMENTS)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{argument} must be functions of (fun, x0, budget, seed); got "
            f"{checks.shown(value)}: {error}"
        ) from None
    return Competitor(getattr(value, "__name__", type(value).__name__), value)


def _made(kind: type) -> object:
    try:
        return kind()
    except TypeError:  # it has arguments without defaults
        return kind
