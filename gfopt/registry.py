"""The methods by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from gfopt import checks
from gfopt.methods_table import ROWS, Row
from gfopt.protocol import Optimizer, as_method, innermost

METHODS: Mapping[str, Row] = MappingProxyType({row.name: row for row in ROWS})

# methods that need a model or another method are passed as objects
_OBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "beast": "gfopt.tokens.Beast(model, prompt)",
        "steering": "gfopt.tokens.Steering(model, prompt)",
        "grid_archive": "gfopt.GridArchive(method, lower, upper)",
        "novelty": "gfopt.Novelty(method, num_descriptors)",
        "restarts": "gfopt.Restarts(method)",
    }
)


def names(*, tokens: bool) -> list[str]:
    """Returns the methods whose solutions are token sequences, or all the others."""
    return [name for name, row in METHODS.items() if row.tokens == tokens]


def known_method(name: str, *others: str, argument: str = "method") -> None:
    """Refuses a name that is neither a method nor one of ``others``."""
    if isinstance(name, str) and name in _OBJECTS:
        raise ValueError(
            f"{argument} must be an object where it has no defaults: {_OBJECTS[name]}; "
            f"got {checks.shown(name)}"
        )
    checks.one_of(argument, name, (*others, *METHODS))


def method(name: str, options: Mapping[str, object] | None = None) -> Optimizer:
    """Makes the optimizer of a registered method.

    Args:
        name: a name from ``gfopt list``, such as ``"cma_es"``.
        options: its fields.

    Raises:
        ValueError: for an unknown name or option, with the nearest known one.

    Example:
        >>> method("cma_es", {"population_size": 12})
        CMAES(population_size=12, ...)
    """
    known_method(name)
    row = METHODS[name]
    given = dict(options or {})
    fields = [field.name for field in dataclasses.fields(row.cls)]
    checks.known_options("options", given, fields)
    return row.cls(**given)


def takes_tokens(method: str | Optimizer) -> bool:
    """Tells whether a method's solutions are token sequences, by name or object.

    An object without a row says so itself: ``is_for_tokens`` is True.
    """
    if isinstance(method, str):
        row = METHODS.get(method)
    elif isinstance(method, type):  # not a method: refused elsewhere
        return False
    else:
        row = row_of(method)
        if row is None:
            return as_method(method).is_for_tokens
    return row is not None and row.tokens


def row_of(optimizer: Optimizer) -> Row | None:
    """Returns the row of an optimizer's class, or None for a user's own class.

    A wrapper, such as ``Bounded``, has the row of its method.
    """
    optimizer = innermost(optimizer)
    kind = type(optimizer)
    home = f"{kind.__module__}.{kind.__qualname__}"
    return next((row for row in METHODS.values() if row.home == home), None)
