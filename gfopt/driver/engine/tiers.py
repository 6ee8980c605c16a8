"""Moves a method to another number of rows."""

from __future__ import annotations

import jax

from gfopt.core.numpy_programs.program import HostFunction
from gfopt.protocol import Method, Optimizer, as_method
from gfopt.types import State


def at_tier(optimizer: Optimizer, state: State, tier: int) -> tuple[Method, State]:
    """Returns a method at a tier, and its state.

    Leaves whose shape depends on the number of rows are those of a new state: a method
    asks for another tier where a run has just begun.
    """
    moved = as_method(optimizer).at_tier(tier)
    return moved, _fitted(moved, state)


@HostFunction
def _fitted(optimizer: Optimizer, state: State) -> State:
    fresh = optimizer.init(jax.random.key(0), optimizer.recommend(state))
    return jax.tree.map(
        lambda old, new: old if old.shape == new.shape else new, state, fresh
    )
