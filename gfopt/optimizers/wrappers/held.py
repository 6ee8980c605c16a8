"""Fixed numbers: a wrapper that inserts them into every solution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import trees
from gfopt.protocol import Optimizer, StatelessWrapper
from gfopt.pytree import pytree, static
from gfopt.spaces.spaces import Space
from gfopt.types import Key, Member, PyTree, Solution, State

#: For each leaf the flat indices of its free numbers; None where all of them are.
Free = tuple[tuple[int, ...] | None, ...]


def free_numbers(space: Space) -> Free | None:
    """Returns which numbers of a space can vary; None where all of them can."""

    def leaf(low: Any, high: Any) -> tuple[int, ...] | None:
        is_free = np.ravel(np.asarray(low) < np.asarray(high))
        return None if is_free.all() else tuple(np.flatnonzero(is_free).tolist())

    pairs = zip(jax.tree.leaves(space.lower), jax.tree.leaves(space.upper), strict=True)
    free = tuple(leaf(*pair) for pair in pairs)
    return None if all(part is None for part in free) else free


def reduced(tree: PyTree, free: Free) -> PyTree:
    """Returns the free numbers of a tree, as a vector where part of a leaf is fixed.

    Example:
        >>> reduced({"a": np.arange(3), "b": np.ones(2)}, ((0, 2), ()))
        {'a': array([0, 2]), 'b': None}
    """
    leaves, structure = jax.tree.flatten(tree)
    parts = [
        leaf if part is None else leaf.reshape(-1)[np.array(part)] if part else None
        for leaf, part in zip(leaves, free, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def filled(tree: PyTree, free: Free, values: PyTree) -> PyTree:
    """Returns ``values`` with the free numbers of ``tree``: the inverse of ``reduced``.

    Example:
        >>> values = {"a": jnp.zeros(2), "b": 5.0}
        >>> filled({"a": jnp.ones(1), "b": None}, ((1,), ()), values)
        {'a': Array([0., 1.], dtype=float32), 'b': Array(5., dtype=float32, ...)}
    """
    parts: Iterator[Any] = iter(jax.tree.leaves(tree))
    leaves, structure = jax.tree.flatten(values)

    def leaf(value: Any, part: tuple[int, ...] | None) -> Any:
        if part is None:
            return next(parts)
        if not part:
            return jnp.asarray(value)
        result = next(parts)
        whole = jnp.ravel(jnp.asarray(value, result.dtype))
        return whole.at[np.array(part)].set(result).reshape(np.shape(value))

    result = [leaf(*pair) for pair in zip(leaves, free, strict=True)]
    return jax.tree.unflatten(structure, result)


def reduced_space(space: Space, free: Free) -> Space:
    """Returns the space of the free numbers."""
    kept = [part is None or bool(part) for part in free]
    fields: dict[str, Any] = {
        name: None if tree is None else jax.tree.map(np.asarray, reduced(tree, free))
        for name, tree in vars(space).items()
        if name != "choices"
    }
    pairs = zip(space.choices, kept if space.choices else (), strict=True)
    return Space(**fields, choices=tuple(k for k, is_kept in pairs if is_kept))


@pytree
class Held(StatelessWrapper):
    """Runs ``inner`` on the free numbers and keeps the others fixed.

    Where no number is free, ``inner`` searches a dummy number and stops at once.

    Args:
        inner: a method for the free numbers.
        values: a solution with the fixed numbers.
        space: of the whole solution.
        free: which numbers are free.
    """

    inner: Optimizer
    values: Solution
    space: Space
    free: Free = static()

    @property
    def search_space(self) -> Space:
        """That of the whole solution."""
        return self.space

    def init(self, key: Key, solution: Solution) -> State:
        """Starts the inner method at the free numbers."""
        return self.inner.init(key, self._reduced(trees.starting_point(solution)))

    def decode(self, state: State, member: Member) -> Solution:
        """Decodes, and inserts the fixed numbers."""
        return self._filled(super().decode(state, member))

    def recommend(self, state: State) -> Solution:
        """Returns the inner method's answer with the fixed numbers."""
        return self._filled(super().recommend(state))

    def stop(self, state: State) -> dict[str, jax.Array]:
        """Returns the inner method's reasons; ``all_fixed`` where no number is free."""
        if self._is_empty:
            return {"all_fixed": jnp.array(True)}
        return super().stop(state)

    def decode_group(self, state: State, members: Member) -> Solution:
        """Decodes a group of members ``[g, ...]``, and inserts the fixed numbers."""
        return jax.vmap(self._filled)(super().decode_group(state, members))

    def standard_deviations(self, state: State) -> Solution | None:
        """Returns those of the inner method, 0 for fixed numbers."""
        result = super().standard_deviations(state)
        nothing = jax.tree.map(jnp.zeros_like, self.values)
        return None if result is None else filled(result, self.free, nothing)

    def encode(self, state: State, solution: Solution) -> Member:
        """Encodes the free numbers."""
        return super().encode(state, self._reduced(solution))

    @property
    def _is_empty(self) -> bool:
        return all(part == () for part in self.free)

    def _reduced(self, solution: Solution) -> PyTree:
        return jnp.zeros(1) if self._is_empty else reduced(solution, self.free)

    def _filled(self, search: PyTree) -> Solution:
        return filled(search, self.free, self.values)
