"""Random search: the baseline that every method must beat.

``x_p = x0 + sigma * z_p`` with fresh noise; the best one so far is the answer. A
member is a seed, and so is the record of the best: nothing of size ``P x D`` exists.

Source: Rastrigin (1963); as a baseline, Such et al. (2017), arXiv 1712.06567.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.core.evaluate import best_row
from gfopt.noise import noise, threefry
from gfopt.optimizers.evolution_strategies.seeded import ScaledSeed
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution


class RandomSearchState(NamedTuple):
    """``step``, the center, and the seed, scale and fitness of the best so far."""

    step: jax.Array
    center: Solution
    best_seed: jax.Array
    best_sigma: jax.Array
    best_fitness: jax.Array


class RandomSearchInfo(NamedTuple):
    """Diagnostics of one step."""

    sigma: jax.Array
    best_fitness: jax.Array


@pytree
class RandomSearch(Method):
    """Random search around the starting point.

    Args:
        population_size: candidates a step, ``P``.
        sigma: standard deviation of the samples, or a schedule.
        noise: ``gaussian()`` or ``rademacher()``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.RandomSearch(population_size=16, sigma=0.5)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(2),
        ...                    key=jax.random.key(0), generations=20)
        >>> bool(jnp.sum(result.recommended**2) < 1)
        True
    """

    population_size: int = static(default=32)
    sigma: schedules.Hyperparameter = 1.0
    noise: noise.Noise = static(default_factory=noise.gaussian)

    late_members = "same"

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 1)
        checks.instance("noise", self.noise, noise.Noise, "a gfopt noise family")
        schedules.set_schedules(self, "sigma")

    def init(self, key: Key, solution: Solution) -> RandomSearchState:
        """Starts at ``solution``, which counts as the best until the first tell."""
        center = trees.starting_point(solution)
        wide = trees.wide_dtype(center)
        return RandomSearchState(
            step=jnp.int32(0),
            center=center,
            best_seed=jnp.uint32(0),
            best_sigma=jnp.zeros((), wide),
            best_fitness=jnp.full((), jnp.inf, wide),
        )

    def ask(self, key: Key, state: RandomSearchState) -> Population:
        """Draws ``P`` seeds."""
        sigma = jnp.asarray(schedules.at("sigma", self.sigma, state.step))
        sigma = jnp.broadcast_to(sigma, self.population_size)
        members = ScaledSeed(
            threefry.seeds(key, self.population_size),
            sigma.astype(state.best_sigma.dtype),
        )
        return Population(members, jnp.ones(self.population_size, bool))

    def decode(self, state: RandomSearchState, member: Member) -> Solution:
        """Returns ``x0 + sigma * z(seed)``."""
        return self.noise.add(state.center, member.seed, member.scale)

    def tell(
        self,
        state: RandomSearchState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[RandomSearchState, RandomSearchInfo]:
        """Keeps the seed of the best."""
        index, fitness = best_row(evaluation)
        better = fitness < state.best_fitness
        member = jax.tree.map(lambda leaf: leaf[index], population.members)
        best = jnp.minimum(fitness, state.best_fitness)
        new = RandomSearchState(
            step=state.step + 1,
            center=state.center,
            best_seed=jnp.where(better, member.seed, state.best_seed),
            best_sigma=jnp.where(better, member.scale, state.best_sigma),
            best_fitness=best.astype(state.best_fitness.dtype),
        )
        return new, RandomSearchInfo(member.scale, new.best_fitness)

    def recommend(self, state: RandomSearchState) -> Solution:
        """Returns the best sample so far."""
        return self.noise.add(state.center, state.best_seed, state.best_sigma)
