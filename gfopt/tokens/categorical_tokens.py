"""A categorical distribution over token sequences, which learns from their ranks.

Each position ``l`` has its own probabilities ``theta_lk``, and candidates are drawn
from them. With one-hot ``c_i`` and utilities ``u_i``, 1/mu for the best quarter and
-1/mu for the worst, the natural gradient and its length in the Fisher metric are

    G = sum_i u_i (c_i - theta),   |G|^2 = sum_lk G_lk^2 / theta_lk

PBIL takes steps ``theta <- theta + learning_rate G``. ASNG takes steps of a length that
it adapts: from a path of normalised gradients ``s`` it learns how much of them is
noise,

    theta <- theta + delta G / |G|
    s     <- (1 - beta) s + sqrt(beta (2 - beta)) theta^{-1/2} G / |G|
    gamma <- (1 - beta)^2 gamma + beta (2 - beta)
    delta <- delta exp(beta (|s|^2 / alpha - gamma)),   beta = delta / sqrt(N)

with ``N`` the number of free probabilities. None falls below ``min_probability``, so
that every token can come back.

Sources: Baluja (1994), "Population-based incremental learning", CMU-CS-94-163;
Akimoto, Shirakawa, Yoshinari, Uchida, Saito, Nishida (2019), "Adaptive stochastic
natural gradient method for one-shot neural architecture search", arXiv 1905.08537,
algorithm 1, as in Hamano, Saito, Nomura, Uchida, Shirakawa (2024), "CatCMA", arXiv
2405.09962. Deviation: PBIL also moves away from the worst quarter; ``s`` has a
coordinate for each probability, in which its length is the same.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.tokens import alphabet
from gfopt.types import Evaluation, Key, Member, Population, Solution

ALPHA = 1.5  # of ASNG: how long a path is a signal
LARGEST_STEP = 1e3  # keeps delta finite


class CategoricalTokensState(NamedTuple):
    """The distribution.

    Attributes:
        step: ``i32[]``.
        start: ``i32[L]``, the answer while nothing is known.
        probabilities: ``float[L, n]``, by position and number in the vocabulary.
        path: ``s``, ``float[L, n]``.
        gamma: ``float[]``, the squared length of a path of noise.
        delta: ``float[]``, the length of a step.
    """

    step: jax.Array
    start: jax.Array
    probabilities: jax.Array
    path: jax.Array
    gamma: jax.Array
    delta: jax.Array


class CategoricalTokensInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: of this step.
        certainty: the mean probability of the likeliest token of a position.
        delta: the length of a step, where it is adapted.
    """

    best_fitness: jax.Array
    certainty: jax.Array
    delta: jax.Array


@pytree
class CategoricalTokens(Method):
    """Searches with a categorical distribution for each position.

    The recommended sequence has the likeliest token in each position.

    Args:
        vocabulary: the number of tokens, or the ids that are allowed, ``int32[n]``.
        population_size: candidates of a step, ``P``.
        learning_rate: of PBIL, in [0, 1], or a schedule; None adapts steps as ASNG.
        min_probability: of every token; None for ``1 / (L (n - 1))``: in a candidate
            of a distribution that has converged one token differs, on average.
        choices: how many of the vocabulary are allowed at each position, the first
            ones; None for all. For choices of different kinds.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import CategoricalTokens
        >>> hidden = jnp.array([3, 1, 4, 1, 5, 9, 2, 6])
        >>> method = CategoricalTokens(vocabulary=10)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x != hidden),
        ...                    jnp.zeros(8, int), key=jax.random.key(0), generations=60)
        >>> result.recommended
        Array([3, 1, 4, 1, 5, 9, 2, 6], dtype=int32)
    """

    vocabulary: alphabet.Vocabulary = None
    population_size: int = static(default=32)
    learning_rate: schedules.Hyperparameter | None = None
    min_probability: schedules.Number | None = None
    choices: tuple[int, ...] | None = static(default=None)

    late_members = "same"

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2)
        choices, vocabulary = alphabet.choices(self.choices, self.vocabulary)
        schedules.set_fields(self, choices=choices, vocabulary=vocabulary)
        schedules.set_schedules(self, "learning_rate", check=checks.share)
        schedules.set_numbers(self, "min_probability", check=checks.share)

    def init(self, key: Key, solution: Solution) -> CategoricalTokensState:
        """Starts with equal probabilities; the solution says how long a sequence is."""
        start = alphabet.starting_tokens(solution)
        uniform = jnp.asarray(self._uniform(start.size))
        return CategoricalTokensState(
            step=jnp.int32(0),
            start=start,
            probabilities=uniform,
            path=jnp.zeros_like(uniform),
            gamma=jnp.float32(0),
            delta=jnp.float32(1),
        )

    def ask(self, key: Key, state: CategoricalTokensState) -> Population:
        """Draws ``P`` sequences, ``i32[P, L]``."""
        length, _ = state.probabilities.shape
        u = threefry.standard_uniform(key, (self.population_size, length))
        sums = jnp.cumsum(state.probabilities, axis=1)
        # the first token whose sum is above u; sums do not end at 1 exactly
        above = u * sums[:, -1]
        index = jnp.sum(sums <= above[:, :, None], axis=2, dtype=jnp.int32)
        index = jnp.minimum(index, self._num_allowed(length) - 1)
        tokens = alphabet.token_at(self.vocabulary, index)
        return Population(tokens, jnp.ones(self.population_size, bool))

    def decode(self, state: CategoricalTokensState, member: Member) -> Solution:
        """Returns the sequence."""
        return member

    def tell(
        self,
        state: CategoricalTokensState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[CategoricalTokensState, CategoricalTokensInfo]:
        """Moves the probabilities along the natural gradient."""
        theta = state.probabilities
        length, size = theta.shape
        fitness = evaluation.fitness.astype(jnp.float32)
        utility = shaping.by_rank(fitness, evaluation.valid, _quarters)
        index = alphabet.index_of(self.vocabulary, population.members)
        is_token = index[:, :, None] == jnp.arange(size)
        # sum_i u_i (c_i - theta); the utilities sum to 0
        gradient = jnp.sum(utility[:, None, None] * is_token, axis=0)
        whitened = gradient / jnp.sqrt(jnp.maximum(theta, 1e-30))
        norm = jnp.sqrt(jnp.sum(whitened**2))
        scale = 1 / jnp.where(norm > 0, norm, 1)
        if self.learning_rate is None:
            free = np.sum(self._num_allowed(length) - 1)
            beta = jnp.minimum(state.delta / np.sqrt(max(free, 1)), 1)
            step: schedules.Number = state.delta * scale
            path = (1 - beta) * state.path
            path += jnp.sqrt(beta * (2 - beta)) * scale * whitened
            gamma = (1 - beta) ** 2 * state.gamma + beta * (2 - beta)
            signal = jnp.sum(path**2) / ALPHA - gamma
            delta = jnp.minimum(state.delta * jnp.exp(beta * signal), LARGEST_STEP)
        else:
            step = schedules.at("learning_rate", self.learning_rate, state.step)
            path, gamma, delta = state.path, state.gamma, state.delta
        moved = self._restricted(theta + step * gradient)
        new = CategoricalTokensState(state.step, state.start, moved, path, gamma, delta)
        # there is nothing to learn where no row is valid or all are equal
        new = trees.select(norm > 0, new, state)._replace(step=state.step + 1)
        best = jnp.min(jnp.where(evaluation.valid, fitness, jnp.inf))
        certainty = jnp.mean(jnp.max(new.probabilities, axis=1))
        return new, CategoricalTokensInfo(best, certainty, new.delta)

    def recommend(self, state: CategoricalTokensState) -> Solution:
        """Returns the likeliest tokens; those of the start while all are alike."""
        theta = state.probabilities
        is_known = jnp.any(theta != self._uniform(theta.shape[0]), axis=1)
        index = jnp.argmax(theta, axis=1).astype(jnp.int32)
        likeliest = alphabet.token_at(self.vocabulary, index)
        return jnp.where(is_known, likeliest, state.start)

    def _num_allowed(self, length: int) -> np.ndarray:
        return alphabet.allowed(self.vocabulary, self.choices, length)

    def _allowed(self, length: int) -> np.ndarray:
        """Which tokens each position may have, ``bool[L, n]``."""
        size = alphabet.size_of(self.vocabulary)
        return np.arange(size) < self._num_allowed(length)[:, None]

    def _uniform(self, length: int) -> np.ndarray:
        """The probabilities at the start, ``float32[L, n]``."""
        allowed = self._allowed(length).astype(np.float32)
        return allowed / allowed.sum(axis=1, keepdims=True)

    def _restricted(self, theta: jax.Array) -> jax.Array:
        """Lifts probabilities to the least one, at the cost of all that are above."""
        length, _ = theta.shape
        count = self._num_allowed(length)[:, None].astype(np.float32)
        num_free = max(np.sum(count > 1), 1)
        least = jnp.asarray(1 / (num_free * np.maximum(count - 1, 1)))
        if self.min_probability is not None:
            fixed = schedules.at("min_probability", self.min_probability, 0)
            least = jnp.asarray(fixed)
        least = jnp.minimum(least, 1 / count) * self._allowed(length)
        above = jnp.maximum(theta - least, 0) * self._allowed(length)
        total = jnp.sum(above, axis=1, keepdims=True)
        room = 1 - jnp.sum(least, axis=1, keepdims=True)
        return least + above * room / jnp.maximum(total, 1e-30)


def _quarters(rank: jax.Array, count: jax.Array) -> jax.Array:
    """Returns 1/mu for the best quarter, -1/mu for the worst."""
    mu = jnp.ceil(count / 4)
    share = 1 / jnp.maximum(mu, 1)
    return share * ((rank < mu).astype(jnp.float32) - (rank >= count - mu))
