"""Bounds for unbounded methods: a wrapper that is itself an optimizer."""

from __future__ import annotations

import jax

from gfopt import checks
from gfopt.core import trees
from gfopt.lazy import lazy
from gfopt.protocol import (
    Optimizer,
    StatelessWrapper,
    as_method,
    diagnostics,
    innermost,
)
from gfopt.pytree import pytree
from gfopt.spaces.spaces import Space
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State

STEP_SIZES = ("sigma", "max_std", "min_std", "spread")  # diagnostics that are lengths


@pytree
class Bounded(StatelessWrapper):
    """Runs ``inner`` on ``y`` and shows the objective ``x = fold(scale * y)``.

    Every candidate and the recommended point lie within the bounds. Lazy leaves are
    materialised, because the fold needs the numbers.

    Args:
        inner: any optimizer.
        space: bounds and scales.

    Raises:
        TypeError: for an argument of the wrong type, and for a method of finite
            differences in a space with integers or choices.

    Example:
        >>> import gfopt, jax.numpy as jnp
        >>> space = gfopt.spaces.Space(jnp.zeros(2), jnp.ones(2), jnp.ones(2))
        >>> bounded = gfopt.Bounded(gfopt.CMAES(sigma=0.2), space)
        >>> result = gfopt.run(bounded, lambda x: jnp.sum((x - 2) ** 2),
        ...                    jnp.full(2, 0.5), key=jax.random.key(0), generations=60)
        >>> bool(jnp.allclose(result.recommended, 1, atol=1e-3))
        True
    """

    inner: Optimizer
    space: Space

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.instance("space", self.space, Space, "a gfopt.spaces.Space")
        if self.space.is_discrete:
            refuse_slopes(self.inner, "a space with integers or choices")

    @property
    def search_space(self) -> Space:
        """Where ``y`` is mapped to."""
        return self.space

    def init(self, key: Key, solution: Solution) -> State:
        """Starts the inner method at ``x0 / scale``.

        Raises:
            ValueError: for a solution that does not fit the space or lies outside.
        """
        solution = trees.starting_point(solution)
        self.space.check(solution)
        return self.inner.init(key, self.space.search(solution))

    def decode(self, state: State, member: Member) -> Solution:
        """Decodes and folds."""
        search = lazy.materialise(super().decode(state, member))
        return self.space.solution(search)

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Tells the inner method, whose step sizes are reported in units of x.

        Where coordinates have different scales, that is their geometric mean.
        """
        state, info = super().tell(state, population, evaluation)
        fields = diagnostics(info)
        sizes = {name: fields[name] for name in STEP_SIZES if name in fields}
        if not sizes:
            return state, info
        unit = self.space.unit
        in_x = {name: size * unit.astype(size.dtype) for name, size in sizes.items()}
        return state, info._replace(**in_x)

    def recommend(self, state: State) -> Solution:
        """Returns the inner method's answer, folded."""
        return self.space.solution(super().recommend(state))

    def decode_group(self, state: State, members: Member) -> Solution:
        """Decodes and folds a group of members ``[g, ...]``."""
        return jax.vmap(self.space.solution)(super().decode_group(state, members))

    def encode(self, state: State, solution: Solution) -> Member:
        """Encodes the solution's place in the search space."""
        return super().encode(state, self.space.search(solution))


def refuse_slopes(optimizer: Optimizer, what: str, argument: str = "inner") -> None:
    """Refuses a method of finite differences where these have no meaning."""
    if as_method(optimizer).follows_slopes:
        raise TypeError(
            f"{argument} must be a method that ranks candidates for {what}, not one of "
            f"finite differences; got {checks.shown(innermost(optimizer))}"
        )
