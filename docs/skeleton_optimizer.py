"""Copy me: a simple evolution strategy, complete, to start a new method from.

    x_p = m + sigma z_p,   z_p ~ N(0, I)
    m <- mean of the best half

State the method, its equations and their source here; shapes use the letters of
``gfopt.protocol``.

Source: Rechenberg (1973), the (mu/mu, lambda) scheme.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import noise, threefry
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution


class SimpleESState(NamedTuple):
    """The minimum for the next step; the first field counts the tells."""

    step: jax.Array
    mean: Solution


class SimpleESInfo(NamedTuple):
    """Diagnostics of one step, scalars only; never carried."""

    sigma: jax.Array
    num_valid: jax.Array


class SimpleESMember(NamedTuple):
    """All that it takes to make one candidate: here a seed and its scale."""

    seed: jax.Array
    scale: jax.Array


@pytree
class SimpleES(Method):
    """A simple evolution strategy on any pytree.

    Args:
        population_size: candidates a step, ``P``.
        sigma: standard deviation of the mutations, or a schedule.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> method = SimpleES(sigma=lambda step: 0.9**step)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=60)
        >>> bool(jnp.sum(result.recommended**2) < 1e-3)
        True
    """

    population_size: int = static(default=32)  # configuration: part of the program
    sigma: schedules.Hyperparameter = 0.1  # a leaf: may be a tracer or a schedule

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2)
        schedules.set_schedules(self, "sigma")

    def init(self, key: Key, solution: Solution) -> SimpleESState:
        """Starts at ``solution``; leaves are strongly typed."""
        return SimpleESState(jnp.int32(0), trees.starting_point(solution))

    def ask(self, key: Key, state: SimpleESState) -> Population:
        """Draws ``P`` seeds; all randomness is here."""
        sigma = jnp.asarray(
            schedules.at("sigma", self.sigma, state.step), trees.wide_dtype(state.mean)
        )
        members = SimpleESMember(
            threefry.seeds(key, self.population_size),
            jnp.broadcast_to(threefry.round_significant(sigma), self.population_size),
        )
        return Population(members, jnp.ones(self.population_size, bool))

    def decode(self, state: SimpleESState, member: Member) -> Solution:
        """Returns ``m + sigma z(seed)``: un-batched, no randomness."""
        return noise.gaussian().add(state.mean, member.seed, member.scale)

    def tell(
        self, state: SimpleESState, population: Population, evaluation: Evaluation
    ) -> tuple[SimpleESState, SimpleESInfo]:
        """Moves the mean; failures weigh nothing."""
        members = population.members
        weights = shaping.truncation(0.5)(evaluation.fitness, evaluation.valid)
        # m <- m + sum_p w_p sigma_p z_p, streamed: the population is never held
        mean = noise.gaussian().add_weighted(
            state.mean, members.seed, weights * members.scale
        )
        info = SimpleESInfo(members.scale[0], jnp.sum(evaluation.valid))
        return SimpleESState(state.step + 1, mean), info

    def recommend(self, state: SimpleESState) -> Solution:
        """Returns the mean."""
        return state.mean
