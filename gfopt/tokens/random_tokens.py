"""Random token sequences: the baseline of the discrete searches.

Each position of a candidate is, with probability ``change_rate``, a token drawn
uniformly from the vocabulary, else that of the starting sequence; 1, the default,
forgets the start. As a subset, a candidate is ``L`` distinct tokens in ascending order.

Source: the random baseline of Zhou et al. (2023), arXiv 2310.12774.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.core.evaluate import best_row
from gfopt.noise import threefry
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.tokens import alphabet
from gfopt.types import Evaluation, Key, Member, Population, Solution


class RandomTokensState(NamedTuple):
    """``step``, the start ``i32[L]``, the best sequence so far and its fitness."""

    step: jax.Array
    start: jax.Array
    best: jax.Array
    best_fitness: jax.Array


class RandomTokensInfo(NamedTuple):
    """Diagnostics of one step."""

    best_fitness: jax.Array
    num_valid: jax.Array


@pytree
class RandomTokens(Method):
    """Random search over token sequences.

    Args:
        vocabulary: the number of tokens, or the ids that are allowed, ``int32[n]``.
        population_size: candidates a step, ``P``.
        change_rate: share of the positions that are drawn anew, or a schedule.
        is_subset: candidates are sets: distinct tokens, in ascending order.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import RandomTokens
        >>> hidden = jnp.array([3, 1, 4])
        >>> method = RandomTokens(vocabulary=6, population_size=64)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x != hidden),
        ...                    jnp.zeros(3, int), key=jax.random.key(0), generations=30)
        >>> result.recommended
        Array([3, 1, 4], dtype=int32)
    """

    vocabulary: alphabet.Vocabulary = None
    population_size: int = static(default=32)
    change_rate: schedules.Hyperparameter = 1.0
    is_subset: bool = static(default=False)

    late_members = "same"

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 1)
        checks.instance("is_subset", self.is_subset, bool, "True or False")
        schedules.set_fields(
            self,
            vocabulary=alphabet.vocabulary(self.vocabulary),
            change_rate=schedules.field("change_rate", self.change_rate, checks.share),
        )

    def init(self, key: Key, solution: Solution) -> RandomTokensState:
        """Starts at ``solution``, the best until the first value."""
        start = alphabet.starting_tokens(solution)
        if self.is_subset:
            alphabet.check_subset(self.vocabulary, start.size)
        return RandomTokensState(jnp.int32(0), start, start, jnp.float32(jnp.inf))

    def ask(self, key: Key, state: RandomTokensState) -> Population:
        """Draws ``P`` sequences, ``i32[P, L]``."""
        size, length = self.population_size, state.start.size
        rate = schedules.at("change_rate", self.change_rate, state.step)
        if self.is_subset:
            count = alphabet.size_of(self.vocabulary)
            u = threefry.standard_uniform(key, (size, 2 * count))
            # first the tokens of the start that stay, then any others
            held = alphabet.members(self.vocabulary, state.start)
            stays = held & (u[:, :count] >= rate)
            worth = u[:, count:] + stays
            tokens = alphabet.as_subset(self.vocabulary, worth, length)
        else:
            u = threefry.standard_uniform(key, (size, 2 * length))
            fresh = alphabet.drawn(self.vocabulary, u[:, length:])
            tokens = jnp.where(u[:, :length] < rate, fresh, state.start)
        return Population(tokens, jnp.ones(size, bool))

    def decode(self, state: RandomTokensState, member: Member) -> Solution:
        """Returns the sequence."""
        return member

    def tell(
        self,
        state: RandomTokensState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[RandomTokensState, RandomTokensInfo]:
        """Keeps the best."""
        index, fitness = best_row(evaluation)
        better = fitness < state.best_fitness
        best = jnp.minimum(fitness, state.best_fitness)
        new = RandomTokensState(
            step=state.step + 1,
            start=state.start,
            best=jnp.where(better, population.members[index], state.best),
            best_fitness=best.astype(jnp.float32),
        )
        return new, RandomTokensInfo(new.best_fitness, jnp.sum(evaluation.valid))

    def recommend(self, state: RandomTokensState) -> Solution:
        """Returns the best sequence so far."""
        return state.best
