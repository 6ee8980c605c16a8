"""Greedy token search: position by position, every token is tried.

    x_k <- argmin_v f(x_1 .. x_{k-1}, v, x_{k+1} .. x_L)

The positions after ``k`` hold the start's tokens: where these are padding that the
objective skips, a prompt grows by appending. After the last position it begins again at
the first, until ``num_sweeps`` are done.

Source: the greedy search of Zhou et al. (2023), arXiv 2310.12774. Its code takes the
best token even where the prompt was better without it; ``keeps_better`` leaves the
position as it is then.
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


class GreedyTokensState(NamedTuple):
    """The current sequence, and the best so far.

    Attributes:
        step: ``i32[]``.
        position: ``i32[]``, of how many tokens were settled so far, all sweeps counted.
        current: ``i32[L]``.
        current_fitness: ``float[]``, infinite before the first.
        best: ``i32[L]``, the best that was evaluated.
        best_fitness: ``float[]``.
    """

    step: jax.Array
    position: jax.Array
    current: jax.Array
    current_fitness: jax.Array
    best: jax.Array
    best_fitness: jax.Array


class GreedyTokensInfo(NamedTuple):
    """Diagnostics of one step."""

    current_fitness: jax.Array
    best_fitness: jax.Array


@pytree
class GreedyTokens(Method):
    """Greedy search over token sequences, position by position.

    Args:
        vocabulary: the number of tokens, or the ids that are allowed, ``int32[n]``.
        population_size: tokens tried at a position; None for all of them, and drawn
            without repetition where it is less.
        keeps_better: leave a position as it is where no token makes it better.
        num_sweeps: passes over all positions after which it stops.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import GreedyTokens
        >>> hidden = jnp.array([3, 1, 4])
        >>> method = GreedyTokens(vocabulary=6)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x != hidden),
        ...                    jnp.zeros(3, int), key=jax.random.key(0), generations=3)
        >>> result.recommended, int(result.history["nfev"][-1])
        (Array([3, 1, 4], dtype=int32), 18)
    """

    vocabulary: alphabet.Vocabulary = None
    population_size: int | None = static(default=None)
    keeps_better: bool = static(default=True)
    num_sweeps: int = static(default=1)

    def __post_init__(self) -> None:
        if self.population_size is not None:
            checks.integer("population_size", self.population_size, 1)
        checks.instance("keeps_better", self.keeps_better, bool, "True or False")
        checks.integer("num_sweeps", self.num_sweeps, 1)
        schedules.set_fields(self, vocabulary=alphabet.vocabulary(self.vocabulary))

    def init(self, key: Key, solution: Solution) -> GreedyTokensState:
        """Starts with the first position of ``solution``."""
        start = alphabet.starting_tokens(solution)
        worst = jnp.float32(jnp.inf)
        return GreedyTokensState(jnp.int32(0), jnp.int32(0), start, worst, start, worst)

    def ask(self, key: Key, state: GreedyTokensState) -> Population:
        """Puts tokens into one position, ``i32[P, L]``."""
        count = alphabet.size_of(self.vocabulary)
        size = count if self.population_size is None else self.population_size
        index = jnp.arange(count)
        if size < count:  # the first of a permutation: none is tried twice
            order = jnp.argsort(threefry.standard_uniform(key, (1, count))[0])
            index = order[:size]
        index = jnp.pad(index, (0, size - index.size)).astype(jnp.int32)
        tokens = jnp.tile(state.current, (size, 1))
        place = state.position % state.current.size
        tried = alphabet.token_at(self.vocabulary, index)
        return Population(tokens.at[:, place].set(tried), jnp.arange(size) < count)

    def decode(self, state: GreedyTokensState, member: Member) -> Solution:
        """Returns the sequence."""
        return member

    def tell(
        self,
        state: GreedyTokensState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[GreedyTokensState, GreedyTokensInfo]:
        """Settles the position, and moves on to the next."""
        index, found = best_row(evaluation)
        fitness = found.astype(jnp.float32)
        tokens, is_known = population.members[index], jnp.isfinite(fitness)
        bound = state.current_fitness if self.keeps_better else jnp.float32(jnp.inf)
        moves, improves = fitness < bound, fitness < state.best_fitness
        new = GreedyTokensState(
            step=state.step + 1,
            position=state.position + is_known,
            current=jnp.where(moves, tokens, state.current),
            current_fitness=jnp.where(moves, fitness, state.current_fitness),
            best=jnp.where(improves, tokens, state.best),
            best_fitness=jnp.where(improves, fitness, state.best_fitness),
        )
        return new, GreedyTokensInfo(new.current_fitness, new.best_fitness)

    def recommend(self, state: GreedyTokensState) -> Solution:
        """Returns the best sequence so far."""
        return state.best

    def stop(self, state: GreedyTokensState) -> dict[str, jax.Array]:
        """Returns ``num_sweeps``: all positions were settled that many times."""
        return {"num_sweeps": state.position >= self.num_sweeps * state.current.size}
