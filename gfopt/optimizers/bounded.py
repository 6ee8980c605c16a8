"""Bounds for methods that have none: a wrapper that is itself an optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from gfopt import checks
from gfopt.core import lazy, trees
from gfopt.core.spaces import Space
from gfopt.types import (
    Evaluation,
    Info,
    Key,
    Member,
    Optimizer,
    Population,
    PyTree,
    Solution,
    State,
)


@partial(
    jax.tree_util.register_dataclass, data_fields=["inner", "space"], meta_fields=[]
)
@dataclass(frozen=True)
class Bounded:
    """Runs ``inner`` on ``y`` and shows the objective ``x = fold(scale * y)``.

    Every candidate and the recommended point lie inside the bounds. Lazy leaves are
    made dense, because the fold needs the numbers.

    Args:
        inner: any optimizer.
        space: bounds and scales.

    Raises:
        TypeError: for an argument of the wrong type, and for a method of finite
            differences in a space with integers or choices.

    Example:
        >>> import gfopt, jax.numpy as jnp
        >>> space = gfopt.Space(jnp.zeros(2), jnp.ones(2), jnp.ones(2))
        >>> bounded = gfopt.Bounded(gfopt.CMAES(sigma=0.2), space)
        >>> result = gfopt.run(bounded, lambda x: jnp.sum((x - 2) ** 2),
        ...                    jnp.full(2, 0.5), key=jax.random.key(0), generations=60)
        >>> bool(jnp.allclose(result.x, 1, atol=1e-3))
        True
    """

    inner: Optimizer
    space: Space

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.instance("space", self.space, Space, "a gfopt.Space")
        if self.space.is_discrete:
            refuse_slopes(self.inner, "a space with integers or choices")

    @property
    def population_size(self) -> int | None:
        """The inner method's."""
        return getattr(self.inner, "population_size", None)

    def init(self, key: Key, solution: Solution) -> State:
        """Starts the inner method at ``x0 / scale``.

        Raises:
            ValueError: for a solution that does not fit the space or lies outside.
        """
        solution = trees.starting_point(solution)
        self.space.check(solution)
        return self.inner.init(key, self.space.search(solution))

    def ask(self, key: Key, state: State) -> Population:
        """Asks the inner method."""
        return self.inner.ask(key, state)

    def decode(self, state: State, member: Member) -> Solution:
        """Decodes and folds."""
        search = lazy.materialise(self.inner.decode(state, member))
        return self.space.solution(search)

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Tells the inner method."""
        return self.inner.tell(state, population, evaluation)

    def recommend(self, state: State) -> Solution:
        """Returns the inner method's answer, folded."""
        return self.space.solution(self.inner.recommend(state))

    def stop(self, state: State) -> dict[str, jax.Array]:
        """Returns the inner method's reasons to stop."""
        return stop_reasons(self.inner, state)

    @property
    def tier(self) -> int:
        """The inner method's tier, see ``Restarts``."""
        return tier_of(self.inner)

    def wanted_tier(self, state: State) -> jax.Array | None:
        """Returns the tier that the inner method asks for."""
        return wanted_tier(self.inner, state)

    def at_tier(self, tier: int) -> Bounded:
        """Returns this wrapper around the inner method at a tier."""
        inner: Any = self.inner
        return replace(self, inner=inner.at_tier(tier))

    @property
    def group_size(self) -> int:
        """The inner method's: a group is decoded together where it can be."""
        return getattr(self.inner, "group_size", 1)

    def decode_group(self, state: State, members: PyTree) -> PyTree:
        """Decodes and folds a group of members ``[g, ...]``."""
        decode_group: Any = self.inner.decode_group  # type: ignore[attr-defined]
        return jax.vmap(self.space.solution)(decode_group(state, members))


def stop_reasons(optimizer: Optimizer, state: State) -> dict[str, jax.Array]:
    """Returns a method's own reasons to stop, by name; ``{}`` where it has none."""
    stop = getattr(optimizer, "stop", None)
    return {} if stop is None else stop(state)


def tier_of(optimizer: Optimizer) -> int:
    """Returns the tier of a method's rows; 0 where it has none."""
    return getattr(optimizer, "tier", 0)


def wanted_tier(optimizer: Optimizer, state: State) -> jax.Array | None:
    """Returns the tier of rows that a method asks for; None where it has none."""
    wanted = getattr(optimizer, "wanted_tier", None)
    return None if wanted is None else wanted(state)


def at_tier(optimizer: Any, state: State, tier: int) -> tuple[Any, State]:
    """Returns a method at a tier, and its state.

    Leaves whose shape depends on the number of rows are those of a new state: a method
    asks for another tier where a run has just begun.
    """
    moved = optimizer.at_tier(tier)
    return moved, _fitted(moved, state)


@jax.jit
def _fitted(optimizer: Optimizer, state: State) -> State:
    fresh = optimizer.init(jax.random.key(0), optimizer.recommend(state))
    return jax.tree.map(
        lambda old, new: old if old.shape == new.shape else new, state, fresh
    )


def innermost(optimizer: Optimizer) -> Optimizer:
    """Returns the method inside of all wrappers, which hold it as ``inner``."""
    return layers(optimizer)[-1]


def layers(optimizer: Optimizer) -> list[Optimizer]:
    """Returns the wrappers from the outermost one on, and the method inside."""
    found = [optimizer]
    while hasattr(found[-1], "inner"):
        found.append(found[-1].inner)
    return found


def refuse_slopes(optimizer: Optimizer, what: str) -> None:
    """Refuses a method of finite differences where they have no meaning."""
    method = innermost(optimizer)
    if getattr(method, "follows_slopes", False):
        raise TypeError(
            f"inner must be a method that ranks candidates for {what}, not one of "
            f"finite differences; got {checks.shown(method)}"
        )
