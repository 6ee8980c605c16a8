"""Hyperparameters that change with the step: numbers, arrays or schedules."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.pytree import pytree, static


@pytree
class Schedule:
    """A function of the step, held so that an optimizer stays a pytree of numbers.

    Args:
        fun: ``step (i32[]) -> number``, traceable; any optax schedule will do.
    """

    fun: Callable[[Any], jax.Array | float] = static()


Number: TypeAlias = jax.Array | float  # the value of a hyperparameter at one step
# as a user passes it: a plain function is held as a Schedule
Hyperparameter: TypeAlias = Number | Schedule | Callable[[Any], Number]


def field(
    name: str,
    value: Hyperparameter,
    check: Callable[[str, object], None] = checks.positive,
) -> Hyperparameter:
    """Returns a hyperparameter as a dataclass stores it: checked, callables wrapped."""
    if isinstance(value, Schedule):
        return value
    return Schedule(value) if callable(value) else number(name, value, check)


def number(
    name: str, value: Number, check: Callable[[str, object], None] = checks.positive
) -> Number:
    """Returns a hyperparameter that takes no schedule, checked.

    A number of any Python or NumPy type becomes a float, so that all of them share
    one compiled program.
    """
    check(name, value)
    return float(value) if isinstance(value, numbers.Real) else value


def at(name: str, value: Hyperparameter, step: jax.Array | int) -> Number:
    """Returns the hyperparameter's value at ``step``.

    Raises:
        ValueError: if it is not one number there; arrays of numbers are for vmap.

    Example:
        >>> at("eps", 0.5, 3), at("eps", field("eps", lambda step: 1 / step), 4)
        (0.5, 0.25)
    """
    fun = value.fun if isinstance(value, Schedule) else value
    number: Number = fun(step) if callable(fun) else fun
    if jnp.ndim(number) != 0:
        raise ValueError(
            f"{name} must be one number at each step; got shape {jnp.shape(number)} "
            "(use jax.vmap for several)"
        )
    return number


def set_schedules(
    instance: object,
    *names: str,
    check: Callable[[str, object], None] = checks.positive,
) -> None:
    """Checks and stores fields of a dataclass that may be schedules.

    None passes where it is the field's default.

    Args:
        instance: the dataclass, within its ``__post_init__``.
        *names: the fields.
        check: refuses a number that is out of range.
    """
    _set_checked(instance, names, partial(field, check=check))


def set_numbers(
    instance: object,
    *names: str,
    check: Callable[[str, object], None] = checks.positive,
) -> None:
    """Checks and stores fields of a dataclass that take no schedules.

    None passes where it is the field's default.
    """
    _set_checked(instance, names, partial(number, check=check))


def _set_checked(
    instance: object,
    names: tuple[str, ...],
    checked: Callable[[str, Number], Hyperparameter],
) -> None:
    for name in names:
        value = getattr(instance, name)
        if value is not None or getattr(type(instance), name, ...) is not None:
            set_fields(instance, **{name: checked(name, value)})


def set_fields(instance: object, **values: object) -> None:
    """Sets fields of a frozen dataclass from within its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)
