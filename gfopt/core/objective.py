"""The objective: a callable, and what cannot be inferred from it."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.core import constraints as constrained
from gfopt.core import trees
from gfopt.core.sense import Sense
from gfopt.lazy import interpreter
from gfopt.types import Array, Evaluation, Key, PyTree, Solution


class Inputs(NamedTuple):
    """What an evaluation needs besides the solution.

    Attributes:
        frozen: the leaves that are not searched (see ``partition``), or None.
        args: further fixed arguments of the objective.
        batch: this step's mini-batch, the same for all members, or None.
        context: what evaluations carry from step to step, or None.
        row: this evaluation's row of the population, for an objective that takes it.
    """

    frozen: PyTree = None
    args: tuple[PyTree, ...] = ()
    batch: PyTree = None
    context: PyTree = None
    row: Array | int | None = None


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Objective:
    """A function to minimise, and what cannot be inferred from it.

    It is called as ``fun([key,] x[, batch], *args[, context=context][, row=row])`` and
    returns one number, or ``(number, aux)``.

    Args:
        fun: a JAX function or any Python callable.
        takes_key: pass each evaluation its own key, as the first argument.
        has_aux: ``fun`` returns ``(number, aux)``; aux comes back in the evaluation.
        batched: ``fun`` takes solutions with a leading axis ``[b, ...]`` (and keys
            ``[b]``) and returns ``[b]`` numbers.
        traceable: True for a JAX function, False for any other, ``"auto"`` to find
            out by tracing it and by one real, counted call.
        context: initial value of what evaluations carry from step to step.
        update: ``(context, evaluation) -> context``, called once a step.
        maximize: flip the sign; results are reported in the user's sense.
        constraints: functions ``g(x)`` that return one number or several; feasible
            where all are 0 or below. The aux of the evaluation is then a
            ``ConstraintValues``, for methods that handle constraints.
        takes_row: pass the number of the row, as an index into a context with leaves
            ``[P, ...]``. JAX functions only.

    Raises:
        TypeError: where ``fun``, ``update`` or a constraint cannot be called.
        ValueError: for an unknown ``traceable``, or ``update`` without ``context``.

    Example:
        >>> Objective(lambda x: jnp.sum(x**2)).value(jnp.ones(2), None, Inputs())
        (Array(2., dtype=float32), ())
    """

    fun: Callable[..., object]
    takes_key: bool = False
    has_aux: bool = False
    batched: bool = False
    traceable: bool | str = "auto"
    context: PyTree = None
    update: Callable[[PyTree, Evaluation], PyTree] | None = None
    maximize: bool = False
    constraints: tuple[constrained.Constraint, ...] = ()
    takes_row: bool = False

    def __post_init__(self) -> None:
        checks.is_callable("fun", self.fun)
        if self.update is not None:
            checks.is_callable("update", self.update)
            if self.context is None:
                raise ValueError(
                    "update needs a context to start from; got context=None"
                )
        checks.one_of("traceable", self.traceable, (True, False, "auto"))
        for name in ("takes_key", "has_aux", "batched", "maximize", "takes_row"):
            checks.instance(name, getattr(self, name), bool, "True or False")
        checks.instance("constraints", self.constraints, tuple, "a tuple of functions")
        for constraint in self.constraints:
            checks.is_callable("constraints", constraint)

    def __eq__(self, other: object) -> bool:
        """Compares settings and numbers; dataclasses cannot compare arrays."""
        if not isinstance(other, Objective):
            return NotImplemented
        structure: PyTreeDef = jax.tree.structure(self)
        if structure != jax.tree.structure(other):
            return False
        return all(map(_equal, jax.tree.leaves(self), jax.tree.leaves(other)))

    def tree_flatten(self) -> tuple[tuple[PyTree, PyTree], tuple[object, ...]]:
        """Flattens: the context is data, and so is ``fun`` where it is a pytree.

        A problem that carries its numbers (a registered dataclass with ``__call__``)
        is then an argument of the compiled program, one program for all instances.
        """
        is_data = not jax.tree_util.all_leaves([self.fun])
        rest = tuple(getattr(self, f.name) for f in fields(self)[1:])
        static = tuple(
            None if f.name == "context" else value
            for f, value in zip(fields(self)[1:], rest, strict=True)
        )
        data = (self.fun if is_data else None, self.context)
        return data, (trees.node_types(self.fun) if is_data else self.fun, *static)

    @classmethod
    def tree_unflatten(
        cls, static: tuple[object, ...], data: tuple[PyTree, PyTree]
    ) -> Objective:
        """Rebuilds the objective, whose parts were checked when it was made."""
        objective = object.__new__(cls)
        for field, value in zip(fields(cls), static, strict=True):
            object.__setattr__(objective, field.name, value)
        object.__setattr__(objective, "fun", static[0] if data[0] is None else data[0])
        object.__setattr__(objective, "context", data[1])
        return objective

    def call(
        self, solution: Solution, key: Key | None, inputs: Inputs
    ) -> tuple[PyTree, PyTree]:
        """Calls ``fun`` as it is, and returns ``(number or numbers, aux)``."""
        head = (key,) if self.takes_key else ()
        batch = () if inputs.batch is None else (inputs.batch,)
        words: dict[str, PyTree] = {}
        if inputs.context is not None:
            words["context"] = inputs.context
        if self.takes_row:
            words["row"] = inputs.row
        result = self.full_fun(*head, solution, *batch, *inputs.args, **words)
        if not self.returns_pairs:
            return result, ()
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                "fun must return (number, aux) because has_aux=True; "
                f"got {checks.shown(result)}"
            )
        return result

    @property
    def sense(self) -> Sense:
        """Which of two values is better."""
        return Sense(self.maximize)

    @property
    def returns_pairs(self) -> bool:
        """Whether ``full_fun`` returns ``(number, aux)``."""
        return self.has_aux or bool(self.constraints)

    @property
    def full_fun(self) -> Callable[..., object]:
        """``fun``, with the constraints' values if there are any."""
        if not self.constraints:
            return self.fun
        position = int(self.takes_key)
        said = self.fun, self.constraints, position, self.has_aux, self.batched
        return functools.partial(constrained.called, *said)

    def value(
        self, solution: Solution, key: Key | None, inputs: Inputs
    ) -> tuple[jax.Array, PyTree]:
        """Evaluates one solution (``[b, ...]`` of them if batched), lower is better.

        Args:
            solution: the trainable half; lazy leaves are interpreted here.
            key: this evaluation's key, or ``[b]`` keys.
            inputs: frozen leaves, arguments, batch and context.

        Returns:
            ``(fitness, aux)``, the fitness in float32 or float64.

        Raises:
            ValueError: where ``fun`` does not return one number for one solution.
        """
        if inputs.frozen is not None:
            solution = trees.merge(solution, inputs.frozen)
        result, aux = interpreter.interpret(self.call)(solution, key, inputs)
        expected = jax.tree.leaves(solution)[0].shape[:1] if self.batched else ()
        check_number(result, expected)
        fitness = jnp.asarray(result).reshape(expected)
        fitness = fitness.astype(jnp.promote_types(fitness.dtype, jnp.float32))
        return self.sense.fitness(fitness), aux


def _equal(first: ArrayLike, second: ArrayLike) -> bool:
    if first is second or np.shape(first) != np.shape(second):
        return first is second
    return bool(np.all(first == second))


def check_number(result: PyTree, expected: tuple[int, ...]) -> None:
    """Refuses a return value that is not real or has the wrong shape.

    Additional axes of length 1 are accepted: an array with one element is a number.

    Raises:
        ValueError: says what came, and where its shape shows what was meant.
    """
    dtype = getattr(result, "dtype", None)
    if dtype is None:
        try:
            dtype = np.asarray(result).dtype
        except (TypeError, ValueError):
            dtype = np.dtype(object)
    is_real = dtype.kind in "biuf" or jax.numpy.issubdtype(dtype, np.floating)
    if is_real:
        shape = np.shape(result)
        if shape[: len(expected)] == expected and math.prod(shape) == math.prod(
            expected
        ):
            return
    came = described(result)
    if is_real and not isinstance(result, np.ndarray):
        came = f"shape {np.shape(result)}, dtype {dtype}"
    raise ValueError(
        f"fun must return {'one real number' if expected == () else 'real numbers'} "
        f"of shape {expected} for {'one solution' if expected == () else 'a batch'}; "
        f"got {came}"
    )


def as_number(value: Any) -> float | None:
    """Returns one real number, or an array with one element, as a float; else None.

    Example:
        >>> as_number(np.ones((1, 1))), as_number(3), as_number((1.0,))
        (1.0, 3.0, None)
    """
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()  # including arrays of libraries that NumPy cannot read
    if not isinstance(value, numbers.Real | Decimal):
        return None
    number: Any = value
    try:
        return float(number)
    except OverflowError:  # a large integer
        return math.inf if number > 0 else -math.inf


def described(value: object) -> str:
    """Describes a return value, in full unless it is very long, and its type.

    Example:
        >>> described(np.ones(2))
        'array([1., 1.]) (ndarray of shape (2,))'
    """
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    if shape is not None:
        kind += f" of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 1000 else text[:1000] + '...'} ({kind})"


def as_objective(fun: Objective | Callable[..., object]) -> Objective:
    """Returns ``fun`` itself if it is an ``Objective``, else wraps it as one."""
    return fun if isinstance(fun, Objective) else Objective(fun)
