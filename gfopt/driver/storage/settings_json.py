"""Arguments of a search as JSON, and back: what a study's file says of itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from gfopt import checks
from gfopt.spaces.domains import Domain


def as_json(name: str, value: object) -> Any:
    """Returns a value as JSON: containers by name, numbers and texts as they are.

    Args:
        name: what refusals name.
        value: numbers, texts, None, arrays and domains, in lists, tuples and dicts.

    Raises:
        TypeError: for anything else.

    Example:
        >>> as_json("x0", {"a": (1, 2.5)})
        ['dict', [['a', ['tuple', [1, 2.5]]]]]
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Domain):
        return ["domain", dataclasses.asdict(value)]
    if isinstance(value, dict):
        return ["dict", [[key, as_json(name, part)] for key, part in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [as_json(name, part) for part in value]]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return ["array", array.tolist(), array.dtype.name]
    raise TypeError(
        f"{name} must be made of numbers, texts, arrays, lists, tuples, dicts and "
        f"domains, since the study's file holds it; got {checks.shown(value)}"
    )


def from_json(plain: Any) -> Any:
    """Returns the value that ``as_json`` was given.

    Example:
        >>> from_json(["dict", [["a", ["tuple", [1, 2.5]]]]])
        {'a': (1, 2.5)}
    """
    if not isinstance(plain, list):
        return plain
    kind, parts = plain[0], plain[1]
    if kind == "domain":
        return Domain(**parts)
    if kind == "array":
        return np.asarray(parts, plain[2])
    if kind == "dict":
        return {key: from_json(part) for key, part in parts}
    values = [from_json(part) for part in parts]
    return values if kind == "list" else tuple(values)
