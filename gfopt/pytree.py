"""A frozen dataclass that is a pytree: what every method, space and evaluator is.

Its fields are leaves, which may be tracers and differ from call to call of one compiled
program. A field that says ``static`` is configuration: part of the program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform, overload

import jax

__all__ = ["pytree", "static"]

C = TypeVar("C", bound=type)


def static(**options: Any) -> Any:
    """Marks a field of a ``pytree`` as configuration.

    Args:
        **options: those of ``dataclasses.field``, such as ``default``.

    Example:
        >>> @pytree
        ... class Walk:
        ...     length: float  # may be traced
        ...     num_steps: int = static(default=10)  # the length of a loop
        >>> jax.tree.leaves(Walk(0.5))
        [0.5]
    """
    return dataclasses.field(metadata={"static": True}, **options)


@overload
def pytree(cls: C) -> C: ...


@overload
def pytree(*, eq: bool = True, repr: bool = True) -> Callable[[C], C]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: Any = None, *, eq: bool = True, repr: bool = True) -> Any:
    """Makes a class a frozen dataclass and registers it with JAX.

    Args:
        cls: the class.
        eq: compare by the fields; False for those that hold arrays.
        repr: as for a dataclass.

    Example:
        >>> @pytree
        ... class Line:
        ...     slope: float
        ...     name: str = static(default="a line")
        >>> jax.tree.leaves(Line(2.0)), Line(2.0).name
        ([2.0], 'a line')
    """

    def made(cls: Any) -> Any:
        frozen: Any = dataclasses.dataclass(frozen=True, eq=eq, repr=repr)(cls)
        return jax.tree_util.register_dataclass(frozen)

    return made if cls is None else made(cls)
