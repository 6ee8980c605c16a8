"""Nonlinear constraints ``g(x) <= 0``: their forms and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.types import Array, Evaluation, PyTree, Solution

Constraint = Callable[[Solution], PyTree]


class ConstraintValues(NamedTuple):
    """The ``Evaluation.aux`` of an objective with constraints.

    Attributes:
        values: ``float[P, M]``; a row is feasible where all are 0 or below.
        aux: what the objective itself returned with the fitness, or ``()``.

    Example:
        >>> ConstraintValues(np.array([[-1.0, 0.0]])).values.shape
        (1, 2)
    """

    values: Array
    aux: PyTree = ()


def is_feasible(evaluation: Evaluation) -> jax.Array:
    """Returns which valid rows satisfy all constraints, ``bool[P]``.

    Example:
        >>> values = ConstraintValues(jnp.array([[-1.0, 0.0], [-2.0, 0.1]]))
        >>> is_feasible(Evaluation(jnp.zeros(2), jnp.ones(2, bool), values))
        Array([ True, False], dtype=bool)
    """
    if not isinstance(evaluation.aux, ConstraintValues):
        return evaluation.valid
    return evaluation.valid & jnp.all(evaluation.aux.values <= 0, axis=1)


def keeps(aux: PyTree) -> bool:
    """Tells whether one evaluation on the host satisfied all constraints, if any."""
    return not isinstance(aux, ConstraintValues) or bool(np.all(aux.values <= 0))


def values(
    constraints: tuple[Constraint, ...], solution: Solution, batched: bool = False
) -> Array:
    """Returns the values of all constraints, ``[M]``, or ``[b, M]`` if batched."""
    size = jax.tree.leaves(solution)[0].shape[0] if batched else 1
    leaves = [leaf for g in constraints for leaf in jax.tree.leaves(g(solution))]
    library: Any = jnp if any(isinstance(x, jax.Array) for x in leaves) else np
    columns = [library.reshape(library.asarray(x), (size, -1)) for x in leaves]
    result = library.concatenate(columns, axis=1)
    return result if batched else result[0]


def called(
    fun: Callable[..., object],
    constraints: tuple[Constraint, ...],
    position: int,
    has_aux: bool,
    batched: bool,
    *args: PyTree,
    **words: PyTree,
) -> tuple[object, ConstraintValues]:
    """Calls an objective and its constraints, possibly in a worker process.

    Args:
        fun: the objective.
        constraints: functions of the solution, ``args[position]``.
        position: of the solution.
        has_aux: whether ``fun`` returns ``(number, aux)``.
        batched: whether solutions are stacked.
        *args: of the objective.
        **words: of the objective.

    Returns:
        ``(number, values)``.
    """
    solution = args[position]
    constraint_values = values(constraints, jax.tree.map(_copy, solution), batched)
    result = fun(*args, **words)
    if not has_aux:
        return result, ConstraintValues(constraint_values)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            "fun must return (number, aux) because has_aux=True; "
            f"got {checks.shown(result)}"
        )
    return result[0], ConstraintValues(constraint_values, result[1])


def _copy(leaf: PyTree) -> PyTree:
    return np.array(leaf) if isinstance(leaf, np.ndarray) else leaf


@dataclass(frozen=True, eq=False)
class Between:
    """The constraint ``lower <= fun(x) <= upper``, as values that are 0 or below."""

    fun: Callable[[Solution], ArrayLike]
    lower: np.ndarray
    upper: np.ndarray

    def __call__(self, x: Solution) -> list[Array]:
        """Returns ``lower - fun(x)`` and ``fun(x) - upper`` where they are finite."""
        result = self.fun(x)
        result = result if isinstance(result, jax.Array) else np.asarray(result)
        result = result.reshape(1) if result.ndim == 0 else result
        shape = np.shape(result)
        lower, upper = (np.broadcast_to(s, shape) for s in (self.lower, self.upper))
        below = (lower - result)[np.isfinite(lower)]
        return [below, (result - upper)[np.isfinite(upper)]]


@dataclass(frozen=True, eq=False)
class _Linear:
    matrix: np.ndarray

    def __call__(self, x: Solution) -> Array:
        return self.matrix @ x


def as_constraints(constraints: Any) -> tuple[Constraint, ...]:
    """Reads constraints in any of their forms.

    Args:
        constraints: a function ``g`` with ``g(x) <= 0`` where x is feasible, which
            returns a number or several; SciPy's ``NonlinearConstraint`` or
            ``LinearConstraint``; or several of them.

    Returns:
        Functions ``g``.

    Raises:
        TypeError: for anything else.
        ValueError: for an equality, which random candidates cannot satisfy.

    Example:
        >>> import scipy.optimize
        >>> ball = scipy.optimize.NonlinearConstraint(lambda x: x @ x, -np.inf, 4)
        >>> values(as_constraints(ball), np.array([1.0, 2.0]))
        array([1.])
    """
    if callable(constraints):
        return (constraints,)
    if hasattr(constraints, "lb") and hasattr(constraints, "ub"):
        lower, upper = np.asarray(constraints.lb), np.asarray(constraints.ub)
        if np.any(lower >= upper):
            raise ValueError(
                "constraints must leave room between lb and ub: write an equality as "
                f"two inequalities with a tolerance; got lb {checks.shown(lower)}, "
                f"ub {checks.shown(upper)}"
            )
        fun = getattr(constraints, "fun", None)
        if fun is None:
            matrix = constraints.A
            dense = matrix.toarray() if hasattr(matrix, "toarray") else matrix
            fun = _Linear(np.atleast_2d(np.asarray(dense, np.float64)))
        return (Between(fun, lower, upper),)
    if isinstance(constraints, Iterable) and not isinstance(constraints, str | dict):
        return tuple(g for part in constraints for g in as_constraints(part))
    raise TypeError(
        "constraints must be a function g with g(x) <= 0, a scipy.optimize."
        "NonlinearConstraint or LinearConstraint, or several of them; "
        f"got {checks.shown(constraints)}"
    )


def values_at(
    constraints: tuple[Constraint, ...], x0: Solution, batched: bool = False
) -> np.ndarray:
    """Returns the values at a starting solution, ``float64[M]``, by real calls.

    Raises:
        TypeError: where a constraint does not return real numbers.
        ValueError: where there is none.
    """
    one = jax.tree.map(lambda x: jnp.asarray(x)[None] if batched else np.array(x), x0)
    leaves = [np.ravel(leaf) for g in constraints for leaf in jax.tree.leaves(g(one))]
    if not sum(leaf.size for leaf in leaves):
        raise ValueError("constraints must return at least one number; got none")
    result = np.concatenate(leaves)
    if result.dtype.kind not in "iuf":
        raise TypeError(
            "constraints must return real numbers, 0 or below where x is feasible; "
            f"got {checks.shown(result)}"
        )
    return result.astype(np.float64)
