"""A frozen dataclass that is a pytree: what every method, space and evaluator is.

Its fields are leaves, which may be tracers and differ from call to call of one compiled
program. A field that says ``static`` is configuration: part of the program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
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
        return _register(dataclasses.dataclass(frozen=True, eq=eq, repr=repr)(cls))

    return made if cls is None else made(cls)


# ``jax.tree_util.register_dataclass`` is not used: structures of two classes with like
# fields compare equal, and jit of JAX 0.10 takes one for the other now and then
# (findings/jax_dataclass_structures_equal.sh).
def _register(cls: Any) -> Any:
    """Registers a dataclass whose structure is equal to that of no other class."""
    # fields that are not given follow from the others
    given = [f for f in dataclasses.fields(cls) if f.init]
    leaves = [f.name for f in given if not f.metadata.get("static")]
    configuration = [f.name for f in given if f.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]
    children, auxiliary = _values(leaves), _values(configuration)

    def with_keys(node: Any) -> tuple[Any, Any]:
        return tuple(zip(keys, children(node), strict=True)), auxiliary(node)

    def unflatten(auxiliary: Any, children: Any) -> Any:
        return cls(
            **dict(zip(leaves, children, strict=True)),
            **dict(zip(configuration, auxiliary, strict=True)),
        )

    jax.tree_util.register_pytree_with_keys(
        cls, with_keys, unflatten, lambda node: (children(node), auxiliary(node))
    )
    return cls


def _values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Returns what reads these fields: a tuple, of one and of none, too."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda node: tuple(getattr(node, name) for name in names)
