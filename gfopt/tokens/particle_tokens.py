"""Particle swarm over token sequences: velocities are the odds of copying the best.

    v_k <- w v_k + (1 - w) (e(x_k, p_k) + e(x_k, g_k)),   e = -3 if equal, else 3
    x_k <- p_k with probability sigmoid(v_k), for a particle with probability w
    x_k <- g_k with probability sigmoid(v_k), for a particle with probability 1 - w
    then, with probability mutation_rate, one random token of a particle changes

``p`` is the best sequence that a particle has seen, ``g`` the best of all, and ``w``
falls linearly from ``first_weight`` to ``last_weight`` over ``num_steps`` steps.

Source: the particle swarm of Zhou et al. (2023), arXiv 2310.12774, after Zang et al.
(2020), ACL. Its code writes mutations into the stored best; here those are copies.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.noise import threefry
from gfopt.optimizers import vectors
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.tokens import alphabet
from gfopt.types import Evaluation, Key, Member, Population, Solution

PULL = 3.0  # |e|, and the bound of the first velocities


class ParticleTokensMember(NamedTuple):
    """Where a particle goes ``i32[L]``, and how ``float[L]``."""

    tokens: jax.Array
    velocity: jax.Array


class ParticleTokensState(NamedTuple):
    """The swarm.

    Attributes:
        step: ``i32[]``.
        tokens: ``i32[P, L]``.
        velocity: ``float[P, L]``.
        best: ``i32[P, L]``, the best sequence that each particle has seen.
        fitness: ``float[P]``, its value, infinite where it has none.
    """

    step: jax.Array
    tokens: jax.Array
    velocity: jax.Array
    best: jax.Array
    fitness: jax.Array


class ParticleTokensInfo(NamedTuple):
    """Diagnostics of one step; the success rate is the share that improved."""

    best_fitness: jax.Array
    success_rate: jax.Array
    weight: jax.Array


@pytree
class ParticleTokens(Method):
    """Discrete particle swarm optimization over token sequences.

    Args:
        vocabulary: the number of tokens, or the ids that are allowed, ``int32[n]``.
        population_size: particles, ``P``.
        num_steps: steps over which the weight falls.
        first_weight: ``w`` at the first step, from 0 to 1.
        last_weight: ``w`` from step ``num_steps`` on.
        mutation_rate: probability that a token of a particle changes, or a schedule.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import ParticleTokens
        >>> hidden = jnp.array([3, 1, 4, 1, 5])
        >>> method = ParticleTokens(vocabulary=10, mutation_rate=0.5)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x != hidden),
        ...                    jnp.zeros(5, int), key=jax.random.key(0), generations=60)
        >>> result.recommended
        Array([3, 1, 4, 1, 5], dtype=int32)
    """

    vocabulary: alphabet.Vocabulary = None
    population_size: int = static(default=32)
    num_steps: int = static(default=30)
    first_weight: schedules.Number = 0.8
    last_weight: schedules.Number = 0.2
    mutation_rate: schedules.Hyperparameter = 0.1

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 1)
        checks.integer("num_steps", self.num_steps, 1)
        number, field = schedules.number, schedules.field
        schedules.set_fields(
            self,
            vocabulary=alphabet.vocabulary(self.vocabulary),
            first_weight=number("first_weight", self.first_weight, checks.share),
            last_weight=number("last_weight", self.last_weight, checks.share),
            mutation_rate=field("mutation_rate", self.mutation_rate, checks.share),
        )

    def init(self, key: Key, solution: Solution) -> ParticleTokensState:
        """Starts without particles: the first step draws all of them."""
        start = alphabet.starting_tokens(solution)
        tokens = jnp.tile(start, (self.population_size, 1))
        return ParticleTokensState(
            step=jnp.int32(0),
            tokens=tokens,
            velocity=jnp.zeros(tokens.shape, jnp.float32),
            best=tokens,
            fitness=jnp.full(self.population_size, jnp.inf, jnp.float32),
        )

    def ask(self, key: Key, state: ParticleTokensState) -> Population:
        """Moves every particle."""
        size, length = state.tokens.shape
        u = threefry.standard_uniform(key, (size, 3 * length + 6))
        own, swarm, draws, few = jnp.split(u, [length, 2 * length, 3 * length], axis=1)
        x, w = state.tokens, self._weight(state)
        leader = vectors.best(state.best, state.fitness)
        # v <- w v + (1 - w) (e(x, p) + e(x, g))
        pulls = _pull(x, state.best) + _pull(x, leader)
        velocity = w * state.velocity + (1 - w) * pulls
        odds = jax.nn.sigmoid(velocity)
        x = jnp.where((few[:, :1] < w) & (own < odds), state.best, x)
        x = jnp.where((few[:, 1:2] < 1 - w) & (swarm < odds), leader, x)
        rate = schedules.at("mutation_rate", self.mutation_rate, state.step)
        place = jnp.minimum(jnp.floor(few[:, 2:3] * length), length - 1)
        hit = (few[:, 3:4] < rate) & (jnp.arange(length) == place)
        x = jnp.where(hit, alphabet.changed(self.vocabulary, x, few[:, 4:5]), x)
        # until the first valid value: random tokens, and one velocity for each
        # particle, U(-3, 3)
        is_first = ~jnp.isfinite(state.fitness)[:, None]
        x = jnp.where(is_first, alphabet.drawn(self.vocabulary, draws), x)
        start = jnp.broadcast_to(PULL * (2 * few[:, 5:] - 1), velocity.shape)
        velocity = jnp.where(is_first, start, velocity)
        return Population(ParticleTokensMember(x, velocity), jnp.ones(size, bool))

    def _weight(self, state: ParticleTokensState) -> jax.Array:
        first = schedules.at("first_weight", self.first_weight, state.step)
        last = schedules.at("last_weight", self.last_weight, state.step)
        share = jnp.minimum(state.step / self.num_steps, 1.0).astype(jnp.float32)
        return jnp.asarray(first + (last - first) * share, jnp.float32)

    def decode(self, state: ParticleTokensState, member: Member) -> Solution:
        """Returns where the particle goes."""
        return member.tokens

    def tell(
        self,
        state: ParticleTokensState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[ParticleTokensState, ParticleTokensInfo]:
        """Keeps each particle's best."""
        tokens, velocity = population.members
        fitness = evaluation.fitness.astype(jnp.float32)
        better = evaluation.valid & (fitness < state.fitness)
        # without a valid value the step is not counted
        counts = jnp.any(evaluation.valid)
        new = ParticleTokensState(
            step=state.step + 1,
            tokens=jnp.where(counts, tokens, state.tokens),
            velocity=jnp.where(counts, velocity, state.velocity),
            best=jnp.where(better[:, None], tokens, state.best),
            fitness=jnp.where(better, fitness, state.fitness),
        )
        info = ParticleTokensInfo(
            jnp.min(new.fitness), jnp.mean(better), self._weight(state)
        )
        return new, info

    def recommend(self, state: ParticleTokensState) -> Solution:
        """Returns the best sequence of the swarm."""
        return vectors.best(state.best, state.fitness)


def _pull(tokens: jax.Array, goal: jax.Array) -> jax.Array:
    return jnp.where(tokens == goal, -PULL, PULL)
