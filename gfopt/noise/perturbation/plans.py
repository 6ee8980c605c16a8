"""What low-rank noise each leaf of a tree gets: by its path and its axes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import PyTreeDef
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.core import trees
from gfopt.lazy.lazy import is_lazy
from gfopt.types import PyTree


class Matrices(NamedTuple):
    """How many axes of a leaf are stacked, how many are rows; the rest are columns."""

    stacked: int
    rows: int

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns the number of matrices, of their rows and of their columns."""
        first, second = self.stacked, self.stacked + self.rows
        parts = shape[:first], shape[first:second], shape[second:]
        return math.prod(parts[0]), math.prod(parts[1]), math.prod(parts[2])


EXCLUDED, DENSE = "excluded", "dense"


class Plan(NamedTuple):
    """What one leaf gets: the hash of its noise's path, the choice, and its shape."""

    path: int
    choice: Any
    shape: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The number of matrices, of their rows and of their columns."""
        return self.choice.sizes(self.shape)

    @property
    def key(self) -> tuple[Matrices | str, tuple[int, ...]]:
        """What leaves have in common that are drawn together."""
        return self.choice, self.shape


def plans_of(noise: Any, tree: PyTree) -> tuple[list[Plan], list[jax.Array], PyTreeDef]:
    """Returns what noise each leaf gets, the leaves, and the tree's structure.

    Args:
        noise: its ``rank``, and the patterns ``dense``, ``exclude`` and ``axes``.
        tree: the weights.

    Raises:
        ValueError: for a pattern that matches no leaf, or axes that do not fit one.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_lazy)
    names = [trees.path_name(path) for path, _ in named]
    for pattern in (*noise.dense, *noise.exclude, *(text for text, _ in noise.axes)):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"no leaf's path matches the pattern {pattern!r}; "
                f"the paths are {checks.shown(names)}"
            )
    found = []
    for name, (_, leaf) in zip(names, named, strict=True):
        choice = _choice(noise, name, leaf)
        # the factors have a path of their own
        own = name if isinstance(choice, str) else f"{name} factors"
        found.append(Plan(zlib.crc32(own.encode()), choice, tuple(leaf.shape)))
    return found, [leaf for _, leaf in named], structure


def _choice(noise: Any, name: str, leaf: ArrayLike) -> Matrices | str:
    """Returns what noise a leaf gets: matrices, ``DENSE`` or ``EXCLUDED``."""

    def matches(patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    shape = jnp.shape(leaf)
    if matches(noise.exclude):
        return EXCLUDED
    if matches(noise.dense):
        return DENSE
    letters = next((to for text, to in noise.axes if matches([text])), None)
    if letters is None:
        axes = len(shape)
        if axes < 2:
            return DENSE
        split = Matrices(1, 1) if axes == 3 else Matrices(0, axes - 1)
    elif len(letters) != len(shape):
        raise ValueError(
            f"axes must have a letter for each axis of {name!r}, of shape {shape}; "
            f"got {letters!r}"
        )
    else:
        split = Matrices(letters.count("S"), letters.count("R"))
    _, rows, columns = split.sizes(shape)
    # thin factors that are no smaller than the matrix are of no use
    is_thin = noise.rank * (rows + columns) < rows * columns
    return split if is_thin or letters is not None else DENSE


def drawn_together(
    plans: Sequence[Plan],
    draw: Callable[[Plan, int | jax.Array], PyTree],
    keys: Sequence[Hashable],
) -> list[PyTree]:
    """Returns ``draw(plan, path)`` for each leaf, with one program for equal keys.

    The bits are the same; a model of a hundred layers compiles in the time of one.
    """
    found: list[PyTree] = [None] * len(plans)
    for key in dict.fromkeys(keys):
        where = [i for i, other in enumerate(keys) if other == key]
        plan = plans[where[0]]
        if len(where) == 1:
            found[where[0]] = draw(plan, plan.path)
            continue
        paths = jnp.array([plans[i].path for i in where], jnp.uint32)
        together = jax.vmap(partial(draw, plan))(paths)
        for number, i in enumerate(where):
            found[i] = jax.tree.map(lambda z, number=number: z[number], together)
    return found
