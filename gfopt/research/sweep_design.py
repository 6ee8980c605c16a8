"""The design of a sweep: every combination of settings, or a random sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from gfopt import checks

Grid: TypeAlias = Mapping[
    str, Sequence[object] | Callable[[np.random.Generator], object]
]


def design(grid: Grid, random: int | None, seed: int) -> list[dict[str, object]]:
    """Returns the settings of a sweep.

    Args:
        grid: for each field its values, or a function of a NumPy generator.
        random: so many settings, each field drawn by itself; None for all combinations.
        seed: of what is drawn.

    Raises:
        TypeError: for values that are no list.
        ValueError: for an empty list.

    Example:
        >>> design({"sigma": [0.1, 1.0]}, None, 0)
        [{'sigma': 0.1}, {'sigma': 1.0}]
    """
    checks.instance("grid", grid, Mapping, "a dictionary of fields and their values")
    lists: dict[str, Sequence[object]] = {}
    for name, values in grid.items():
        if callable(values) and random is not None:
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(
                f"grid[{name!r}] must be a list of values, or with random a function "
                f"of a NumPy generator; got {checks.shown(values)}"
            )
        if not len(values):
            raise ValueError(f"grid[{name!r}] must have one value or more; got none")
        lists[name] = values
    if random is None:
        rows = itertools.product(*lists.values())
        return [dict(zip(lists, row, strict=True)) for row in rows]
    checks.integer("random", random, 1)
    rng = np.random.default_rng(seed)
    return [
        {
            name: values(rng)
            if callable(values)
            else values[int(rng.integers(len(values)))]
            for name, values in grid.items()
        }
        for _ in range(random)
    ]
