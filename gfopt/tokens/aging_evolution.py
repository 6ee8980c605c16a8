"""Aging evolution: the best of a few breeds, and the oldest dies.

The population is a queue of ``N`` sequences. A child is the mutated winner of a
tournament among ``S`` of them, drawn without replacement, and takes the place of the
oldest, however good that is:

    parent = argmin_{i in sample of S} f_i,   child = mutate(parent)
    queue <- queue without its oldest, with the child as its youngest

A sequence that was lucky once is thus gone after ``N`` births; only what keeps scoring
well when it is evaluated anew, as a child of a child, stays. The best one that was ever
seen is remembered beside the queue, and is the answer.

Source: Real, Aggarwal, Huang, Le, "Regularized evolution for image classifier
architecture search" (AAAI 2019), arXiv 1802.01548, algorithm 1; the start from copies
of one solution is that of Chen et al. (2023), arXiv 2302.06675. Deviation: ``P``
children of one queue are evaluated together; one at a time is the algorithm itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.core import schedules
from gfopt.core.evaluate import best_row
from gfopt.noise import threefry
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.tokens import alphabet
from gfopt.types import Evaluation, Key, Member, Population, Solution

Mutation = Callable[[Key, jax.Array], jax.Array]


class AgingEvolutionState(NamedTuple):
    """The queue, and the best so far.

    Attributes:
        step: ``i32[]``.
        start: ``i32[L]``.
        living: ``i32[N, L]``; the next to die stands in row ``num_born % N``.
        fitness: ``float32[N]``, infinite for an empty row.
        num_born: ``i32[]``.
        best: ``i32[L]``, of all that were evaluated.
        best_fitness: ``float32[]``.
    """

    step: jax.Array
    start: jax.Array
    living: jax.Array
    fitness: jax.Array
    num_born: jax.Array
    best: jax.Array
    best_fitness: jax.Array


class AgingEvolutionInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: of all steps.
        mean_fitness: of the living.
        num_born: so far.
    """

    best_fitness: jax.Array
    mean_fitness: jax.Array
    num_born: jax.Array


@pytree
class AgingEvolution(Method):
    """Evolution of token sequences, choices and programs in which the oldest die.

    Args:
        vocabulary: the number of tokens, or the ids that are allowed, ``int32[n]``.
        population_size: children of a step, ``P``; 1 for the algorithm as published.
        num_living: sequences in the queue, ``N``; the first ``N`` that are born are no
            children of others.
        tournament_size: how many of them compete to be a parent, ``S``; None for a
            quarter.
        mutation_rate: share of the positions that change in a child, beside the one
            that always does, or a schedule.
        choices: how many of the vocabulary are allowed at each position, the first
            ones; None for all. For choices of different kinds.
        mutate: a JAX function ``(key, tokens) -> tokens`` in place of changes by
            position, such as one that inserts and deletes.
        is_near: the first ``N`` are mutants of ``x0``, not drawn from the vocabulary.
        aging: False lets the worst die in place of the oldest.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or more competitors than living.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import AgingEvolution
        >>> hidden = jnp.array([3, 1, 4, 1, 5, 9, 2, 6])
        >>> method = AgingEvolution(vocabulary=10)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x != hidden),
        ...                    jnp.zeros(8, int), key=jax.random.key(0), generations=90)
        >>> result.recommended
        Array([3, 1, 4, 1, 5, 9, 2, 6], dtype=int32)
    """

    vocabulary: alphabet.Vocabulary = None
    population_size: int = static(default=32)
    num_living: int = static(default=100)
    tournament_size: int | None = static(default=None)
    mutation_rate: schedules.Hyperparameter = 0.0
    choices: tuple[int, ...] | None = static(default=None)
    mutate: Mutation | None = static(default=None)
    is_near: bool = static(default=False)
    aging: bool = static(default=True)

    late_members = "same"

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 1)
        checks.integer("num_living", self.num_living, 1)
        if self.tournament_size is not None:
            checks.integer("tournament_size", self.tournament_size, 1)
            if self.tournament_size > self.num_living:
                raise ValueError(
                    f"tournament_size must be at most num_living = {self.num_living}; "
                    f"got {self.tournament_size}"
                )
        for name in ("is_near", "aging"):
            checks.instance(name, getattr(self, name), bool, "True or False")
        if self.mutate is not None:
            checks.is_callable("mutate", self.mutate)
        choices, vocabulary = alphabet.choices(self.choices, self.vocabulary)
        rate = schedules.field("mutation_rate", self.mutation_rate, checks.share)
        schedules.set_fields(
            self, choices=choices, vocabulary=vocabulary, mutation_rate=rate
        )

    def init(self, key: Key, solution: Solution) -> AgingEvolutionState:
        """Starts with an empty queue; the solution says how long a sequence is."""
        start = alphabet.starting_tokens(solution)
        self._num_allowed(start.size)
        return AgingEvolutionState(
            step=jnp.int32(0),
            start=start,
            living=jnp.tile(start, (self.num_living, 1)),
            fitness=jnp.full(self.num_living, jnp.inf, jnp.float32),
            num_born=jnp.int32(0),
            best=start + 0,
            best_fitness=jnp.float32(jnp.inf),
        )

    def ask(self, key: Key, state: AgingEvolutionState) -> Population:
        """Breeds ``P`` children, ``i32[P, L]``."""
        size, length = self.population_size, state.start.size
        allowed = self._num_allowed(length)
        u = threefry.standard_uniform(key, (size, self.num_living + 1 + 3 * length))
        ends = np.cumsum([self.num_living, 1, length, length])
        lots, place, hits, draws, fresh = jnp.split(u, ends, axis=1)
        # the S living ones with the highest lots compete
        lots = jnp.where(jnp.isfinite(state.fitness), lots, -1)
        count = self.tournament_size or max(self.num_living // 4, 1)
        _, competitors = jax.lax.top_k(lots, count)
        winner = jnp.argmin(state.fitness[competitors], axis=1)
        parents = state.living[competitors[jnp.arange(size), winner]]
        is_first = state.num_born + jnp.arange(size)[:, None] < self.num_living
        if self.is_near:
            parents = jnp.where(is_first, state.start, parents)
        if self.mutate is None:
            rate = schedules.at("mutation_rate", self.mutation_rate, state.step)
            free = np.flatnonzero(allowed > 1)
            free = free if free.size else np.zeros(1, np.int64)
            index = jnp.floor(place * np.float32(free.size)).astype(jnp.int32)
            position = jnp.asarray(free)[jnp.minimum(index, free.size - 1)]
            hit = (hits < rate) | (jnp.arange(length) == position)
            others = alphabet.changed(self.vocabulary, parents, draws, allowed)
            tokens = jnp.where(hit, others, parents)
        else:
            tokens = jax.vmap(self.mutate)(jax.random.split(key, size), parents)
        if not self.is_near:
            drawn = alphabet.drawn(self.vocabulary, fresh, allowed)
            tokens = jnp.where(is_first, drawn, tokens)
        return Population(tokens.astype(jnp.int32), jnp.ones(size, bool))

    def _num_allowed(self, length: int) -> np.ndarray:
        return alphabet.allowed(self.vocabulary, self.choices, length)

    def decode(self, state: AgingEvolutionState, member: Member) -> Solution:
        """Returns the sequence."""
        return member

    def tell(
        self,
        state: AgingEvolutionState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[AgingEvolutionState, AgingEvolutionInfo]:
        """Puts children in the places of the oldest; what failed is not born."""
        valid, size = evaluation.valid, self.num_living
        order = jnp.cumsum(valid) - 1  # of birth
        born = state.num_born + jnp.sum(valid, dtype=jnp.int32)
        if self.aging:
            place = (state.num_born + order) % size
        else:
            place = jnp.argsort(-state.fitness)[jnp.minimum(order, size - 1)]
        # of more children than living, the last ones
        lives = valid & (order >= jnp.sum(valid) - size)
        place = jnp.where(lives, place, size)
        fitness = evaluation.fitness.astype(jnp.float32)
        index, found = best_row(evaluation)
        is_better = found < state.best_fitness
        new = AgingEvolutionState(
            step=state.step + 1,
            start=state.start,
            living=jnp.asarray(state.living)
            .at[place]
            .set(population.members, mode="drop"),
            fitness=jnp.asarray(state.fitness).at[place].set(fitness, mode="drop"),
            num_born=born,
            best=jnp.where(is_better, population.members[index], state.best),
            best_fitness=jnp.minimum(found, state.best_fitness).astype(jnp.float32),
        )
        known = jnp.isfinite(new.fitness)
        mean = jnp.sum(jnp.where(known, new.fitness, 0)) / jnp.maximum(known.sum(), 1)
        return new, AgingEvolutionInfo(new.best_fitness, mean, born)

    def recommend(self, state: AgingEvolutionState) -> Solution:
        """Returns the best sequence so far."""
        return state.best
