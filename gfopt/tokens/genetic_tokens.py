"""Genetic search over token sequences, with crossover token by token.

The parents are the best ``T`` sequences of all generations, each of them once. A
generation has three kinds of children:

    crossed:     x_k = a_k or b_k, each with probability 1/2, for two parents
    mutated:     x_k = another token with probability mutation_rate, else a_k
    immigrants:  drawn from the vocabulary

A child that is one of the parents has one position changed. As subsets, a crossed child
holds all tokens that its parents share and a random half of the others.

Sources: the genetic search of Zhou et al. (2023), arXiv 2310.12774, with the crossover
that it describes (its code copies one parent); parents over all generations, subsets
and immigrants as in Li et al. (2023), arXiv 2309.10438.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.noise import threefry
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.tokens import alphabet
from gfopt.types import Evaluation, Key, Member, Population, Solution


class GeneticTokensState(NamedTuple):
    """``step``, the parents ``i32[T, L]`` and their fitness, infinite where empty."""

    step: jax.Array
    parents: jax.Array
    fitness: jax.Array


class GeneticTokensInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: of all parents.
        mean_fitness: of the parents there are.
        num_new: children that became parents.
    """

    best_fitness: jax.Array
    mean_fitness: jax.Array
    num_new: jax.Array


@pytree
class GeneticTokens(Method):
    """A genetic algorithm over token sequences.

    Args:
        vocabulary: the number of tokens, or the ids that are allowed, ``int32[n]``.
        population_size: children of a generation, ``P``.
        num_parents: the best of all generations, which breed, ``T``.
        mutation_rate: share of the positions that a mutation changes, or a schedule.
        crossover_share: share of the children that are crossed, or a schedule.
        immigrant_share: share of them that are drawn anew, or a schedule.
        is_subset: candidates are sets: distinct tokens, in ascending order.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import GeneticTokens
        >>> hidden = jnp.array([3, 1, 4, 1, 5, 9, 2, 6])
        >>> method = GeneticTokens(vocabulary=10)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x != hidden),
        ...                    jnp.zeros(8, int), key=jax.random.key(0), generations=60)
        >>> result.recommended
        Array([3, 1, 4, 1, 5, 9, 2, 6], dtype=int32)
    """

    vocabulary: alphabet.Vocabulary = None
    population_size: int = static(default=32)
    num_parents: int = static(default=8)
    mutation_rate: schedules.Hyperparameter = 0.1
    crossover_share: schedules.Hyperparameter = 0.5
    immigrant_share: schedules.Hyperparameter = 0.0
    is_subset: bool = static(default=False)

    late_members = "same"

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 1)
        checks.integer("num_parents", self.num_parents, 1)
        checks.instance("is_subset", self.is_subset, bool, "True or False")
        shares = {
            name: schedules.field(name, getattr(self, name), checks.share)
            for name in ("mutation_rate", "crossover_share", "immigrant_share")
        }
        schedules.set_fields(
            self, vocabulary=alphabet.vocabulary(self.vocabulary), **shares
        )

    def init(self, key: Key, solution: Solution) -> GeneticTokensState:
        """Starts without parents: the first generation is random."""
        start = alphabet.starting_tokens(solution)
        if self.is_subset:
            alphabet.check_subset(self.vocabulary, start.size)
        return GeneticTokensState(
            step=jnp.int32(0),
            parents=jnp.tile(start, (self.num_parents, 1)),
            fitness=jnp.full(self.num_parents, jnp.inf, jnp.float32),
        )

    def ask(self, key: Key, state: GeneticTokensState) -> Population:
        """Breeds ``P`` children, ``i32[P, L]``."""
        size, length = self.population_size, state.parents.shape[1]
        count = alphabet.size_of(self.vocabulary)
        width = count if self.is_subset else length
        u = threefry.standard_uniform(key, (size, 5 + 3 * width))
        few, coins, hits, draws = jnp.split(u, [5, 5 + width, 5 + 2 * width], axis=1)
        num_known = jnp.sum(jnp.isfinite(state.fitness))
        # uniform among the slots that hold a parent, which stand first
        pair = jnp.floor(few[:, :2] * num_known).astype(jnp.int32)
        pair = jnp.minimum(pair, jnp.maximum(num_known - 1, 0))
        first, second = state.parents[pair[:, 0]], state.parents[pair[:, 1]]
        kind, rate = few[:, 2:3], self._at("mutation_rate", state)
        new = self._at("immigrant_share", state)
        is_crossed = kind < self._at("crossover_share", state)
        is_new = (kind >= 1 - new) | (num_known == 0)
        if self.is_subset:
            tokens = self._bred_sets(
                first, second, coins, hits < rate, draws, is_crossed, is_new
            )
        else:
            # crossed: x_k = a_k or b_k; mutated: another token at some positions
            crossed = jnp.where(coins < 0.5, first, second)
            mutated = jnp.where(
                hits < rate, alphabet.changed(self.vocabulary, first, draws), first
            )
            tokens = jnp.where(is_crossed, crossed, mutated)
            tokens = self._moved(state, tokens, few[:, 3:])
            tokens = jnp.where(is_new, alphabet.drawn(self.vocabulary, draws), tokens)
        return Population(tokens, jnp.ones(size, bool))

    def _at(self, name: str, state: GeneticTokensState) -> schedules.Number:
        return schedules.at(name, getattr(self, name), state.step)

    def _moved(
        self, state: GeneticTokensState, tokens: jax.Array, draws: jax.Array
    ) -> jax.Array:
        """Changes one position of the children that are one of the parents."""
        length = tokens.shape[1]
        is_known = jnp.isfinite(state.fitness)
        is_parent = (_same(tokens, state.parents) & is_known).any(axis=1)
        place = jnp.minimum(jnp.floor(draws[:, :1] * length), length - 1)
        other = alphabet.changed(self.vocabulary, tokens, draws[:, 1:])
        hit = is_parent[:, None] & (jnp.arange(length) == place)
        return jnp.where(hit, other, tokens)

    def _bred_sets(
        self,
        first: jax.Array,
        second: jax.Array,
        coins: jax.Array,
        hits: jax.Array,
        draws: jax.Array,
        is_crossed: jax.Array,
        is_new: jax.Array,
    ) -> jax.Array:
        """Breeds subsets; the arguments have a column for each token there is."""
        a = alphabet.members(self.vocabulary, first)
        b = alphabet.members(self.vocabulary, second)
        # crossover: the tokens of both, then a random half of those of only one
        crossed = jnp.where(a & b, 2.0, jnp.where(a | b, 1.0, 0.0)) + coins
        # mutated: what was not hit, and one position is, then what a did not hold
        hits |= jnp.argmin(jnp.where(a, coins, 2.0), axis=1, keepdims=True) == (
            jnp.arange(a.shape[1])
        )
        mutated = jnp.where(a, jnp.where(hits, -1.0, 1.0), 0.0) + draws
        same = (a == b).all(axis=1, keepdims=True)
        worth = jnp.where(is_crossed & ~same, crossed, mutated)
        worth = jnp.where(is_new, draws, worth)
        return alphabet.as_subset(self.vocabulary, worth, first.shape[1])

    def decode(self, state: GeneticTokensState, member: Member) -> Solution:
        """Returns the sequence."""
        return member

    def tell(
        self,
        state: GeneticTokensState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[GeneticTokensState, GeneticTokensInfo]:
        """Keeps the best sequences as parents, each once."""
        children = population.members
        fitness = jnp.where(evaluation.valid, evaluation.fitness, jnp.inf)
        fitness = fitness.astype(jnp.float32)
        is_known = jnp.isfinite(state.fitness)
        is_again = (_same(children, state.parents) & is_known).any(axis=1)
        # the best of equal children counts, the first of equally good ones
        rank = jnp.argsort(jnp.argsort(fitness))
        earlier = rank[:, None] > rank
        is_again |= (_same(children, children) & earlier).any(axis=1)
        pool = jnp.concatenate([state.parents, children])
        scores = jnp.where(is_again, jnp.inf, fitness)
        scores = jnp.concatenate([state.fitness, scores])
        chosen = jnp.argsort(scores)[: self.num_parents]
        new = GeneticTokensState(state.step + 1, pool[chosen], scores[chosen])
        finite = jnp.isfinite(new.fitness)
        mean = jnp.sum(jnp.where(finite, new.fitness, 0)) / jnp.maximum(finite.sum(), 1)
        is_child = (chosen >= self.num_parents) & finite
        return new, GeneticTokensInfo(new.fitness[0], mean, jnp.sum(is_child))

    def recommend(self, state: GeneticTokensState) -> Solution:
        """Returns the best sequence so far."""
        return state.parents[0]


def _same(first: jax.Array, second: jax.Array) -> jax.Array:
    """Compares the rows of two tables of sequences, ``bool[N, M]``."""
    return (first[:, None] == second).all(axis=-1)
