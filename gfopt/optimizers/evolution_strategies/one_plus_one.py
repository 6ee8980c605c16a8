"""The (1+1)-ES with the 1/5 success rule: one parent, one candidate a step.

    u = x + sigma z,   z ~ N(0, I)
    x <- u if f(u) <= f(x)
    sigma <- sigma exp((1[f(u) <= f(x)] - 1/5) / damping)

Four failures undo a success, so that sigma is stable when one candidate in five
succeeds. The first candidate replaces ``x0``, whose value is unknown. A candidate is a
seed: only the parent is stored, whatever its size.

Sources: Rechenberg (1973), Evolutionsstrategie; in this exponential form Kern, Mueller,
Hansen, Bueche, Ocenasek, Koumoutsakos (2004), Natural Computing 3, 77-112, and, with
``damping = sqrt(D + 1)``, Hansen, Arnold, Auger (2015), Evolution strategies, in
Springer Handbook of Computational Intelligence. Auger (2009) on BBOB has the factor
1.5, a damping of 1.97.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import noise, threefry
from gfopt.optimizers.evolution_strategies.seeded import ScaledSeed
from gfopt.protocol import Method
from gfopt.pytree import pytree
from gfopt.types import Evaluation, Key, Member, Population, Solution

TARGET = 1 / 5  # of the success rate
LEAST, MOST = 1e-30, 1e20  # of sigma: on a plateau every candidate succeeds


class OnePlusOneState(NamedTuple):
    """``step``, the parent, its fitness (infinite at first), and ``sigma``."""

    step: jax.Array
    parent: Solution
    fitness: jax.Array
    sigma: jax.Array


class OnePlusOneInfo(NamedTuple):
    """Diagnostics of one step."""

    sigma: jax.Array
    fitness: jax.Array
    success: jax.Array


@pytree
class OnePlusOneES(Method):
    """The (1+1) evolution strategy on any pytree.

    Args:
        sigma: first standard deviation.
        damping: larger changes sigma more slowly; None for ``sqrt(D + 1)``.
        tol_x: stop where sigma is below this.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(OnePlusOneES(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(3), key=jax.random.key(0), generations=300)
        >>> bool(jnp.sum(result.recommended**2) < 1e-6)
        True
    """

    sigma: schedules.Number = 0.3
    damping: schedules.Number | None = None
    tol_x: schedules.Number = 1e-11

    def __post_init__(self) -> None:
        checks.within("sigma", self.sigma, LEAST, MOST)
        schedules.set_numbers(self, "sigma", "damping")
        schedules.set_numbers(self, "tol_x", check=checks.non_negative)

    def init(self, key: Key, solution: Solution) -> OnePlusOneState:
        """Starts with the parent at ``solution``."""
        parent = trees.starting_point(solution)
        wide = trees.wide_dtype(parent)
        return OnePlusOneState(
            step=jnp.int32(0),
            parent=parent,
            fitness=jnp.full((), jnp.inf, wide),
            sigma=jnp.asarray(schedules.at("sigma", self.sigma, 0), wide),
        )

    def ask(self, key: Key, state: OnePlusOneState) -> Population:
        """Draws one seed."""
        sigma = threefry.round_significant(state.sigma)
        member = ScaledSeed(threefry.seeds(key, 1), sigma[None])
        return Population(member, jnp.ones(1, bool))

    def decode(self, state: OnePlusOneState, member: Member) -> Solution:
        """Returns ``x + sigma z(seed)``."""
        return noise.gaussian().add(state.parent, member.seed, member.scale)

    def tell(
        self, state: OnePlusOneState, population: Population, evaluation: Evaluation
    ) -> tuple[OnePlusOneState, OnePlusOneInfo]:
        """Keeps the better of the two and adapts sigma."""
        (fitness,), (valid,) = evaluation.fitness, evaluation.valid
        fitness = fitness.astype(state.fitness.dtype)
        success = valid & (fitness <= state.fitness)
        member = jax.tree.map(lambda leaf: leaf[0], population.members)
        candidate = self.decode(state, member)
        parent = trees.select(success, candidate, state.parent)
        damping = self.damping
        if damping is None:
            damping = math.sqrt(trees.num_parameters(state.parent) + 1)
        # sigma <- sigma exp((1[success] - 1/5) / damping)
        change = jnp.exp((success - TARGET) / schedules.at("damping", damping, 0))
        sigma = jnp.clip(state.sigma * change, LEAST, MOST)
        # the first value says nothing about sigma, and neither does a failure
        counts = valid & jnp.isfinite(state.fitness)
        new = OnePlusOneState(
            step=state.step + 1,
            parent=parent,
            fitness=jnp.where(success, fitness, state.fitness),
            sigma=jnp.where(counts, sigma, state.sigma).astype(state.sigma.dtype),
        )
        return new, OnePlusOneInfo(new.sigma, new.fitness, success)

    def recommend(self, state: OnePlusOneState) -> Solution:
        """Returns the parent."""
        return state.parent

    def stop(self, state: OnePlusOneState) -> dict[str, jax.Array]:
        """Returns ``tol_x``: sigma is tiny; ``diverged``: it is too large."""
        return {"tol_x": state.sigma < self.tol_x, "diverged": state.sigma >= MOST}
