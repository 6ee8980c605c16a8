"""Hyperparameters that change with the step: numbers, arrays or schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax

from gfopt import checks


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["fun"])
@dataclass(frozen=True)
class Schedule:
    """A function of the step, held so that an optimizer stays a pytree of numbers.

    Args:
        fun: ``step (i32[]) -> number``, traceable; any optax schedule will do.
    """

    fun: Callable[[jax.Array], Any]


Hyperparameter: TypeAlias = Any  # a number, an array, a tracer or a Schedule


def field(
    name: str, value: Any, check: Callable[[str, Any], None] = checks.positive
) -> Hyperparameter:
    """Returns a hyperparameter as a dataclass stores it: checked, callables wrapped."""
    if isinstance(value, Schedule) or not callable(value):
        check(name, value)
        return value
    return Schedule(value)


def at(value: Hyperparameter, step: jax.Array) -> Any:
    """Returns the hyperparameter's value at ``step``.

    Example:
        >>> at(0.5, 3), at(field("sigma", lambda step: 1 / step), 4)
        (0.5, 0.25)
    """
    return value.fun(step) if isinstance(value, Schedule) else value


def set_fields(instance: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass from within its ``__post_init__``."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)
