"""Counts the lazy matrices that some operation made dense after all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from gfopt.lazy.lazy import is_lazy


class Materialisation(NamedTuple):
    """One lazy matrix made dense: for which primitive, and its logical shape."""

    primitive: str
    shape: tuple[int, ...]


@dataclass
class Materialisations:
    """What was made dense while ``count_materialisations`` was open."""

    list: list[Materialisation] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of materialisations."""
        return len(self.list)


_OPEN: ContextVar[tuple[Materialisations, ...]] = ContextVar("open", default=())


@contextmanager
def count_materialisations() -> Iterator[Materialisations]:
    """Counts the lazy matrices that are made dense, while programs are traced.

    A leaf counts if at least two of its axes are longer than 1: noise that is added to
    a bias vector is no matrix. A jitted program counts when it is traced, not when it
    is run again, and the body of a loop counts once.

    Yields:
        An object with ``count`` and ``list``, of ``(primitive, shape)``.

    Example:
        >>> import jax.numpy as jnp
        >>> from gfopt.lazy import LowRank
        >>> from gfopt.lazy.interpreter import interpret
        >>> leaf = LowRank(jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones((2, 1)))
        >>> with count_materialisations() as made:
        ...     y = interpret(lambda w: jnp.sin(w))(leaf)
        >>> made.list
        [Materialisation(primitive='sin', shape=(3, 2))]
    """
    made = Materialisations()
    token = _OPEN.set((*_OPEN.get(), made))
    try:
        yield made
    finally:
        _OPEN.reset(token)


def dense(value: Any, primitive: str) -> jax.Array:
    """Returns ``value`` as an array; counts it if it was a lazy matrix."""
    if not is_lazy(value):
        return value
    if sum(size > 1 for size in value.shape) > 1:
        for made in _OPEN.get():
            made.list.append(Materialisation(primitive, value.shape))
    return value.materialise()
