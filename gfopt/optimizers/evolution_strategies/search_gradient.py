"""A step of the mean along a search gradient that is a sum over signed seeds.

g = decay theta + sum_p weights[p] s_p z_p
theta <- theta + learning_rate * transform(g)

The sum is streamed, so the population is never held.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from gfopt.core import schedules, trees
from gfopt.optimizers import descent
from gfopt.optimizers.evolution_strategies.seeded import Seeded, chain_of_seed
from gfopt.types import (
    Estimate,
    Evaluation,
    Info,
    Key,
    Member,
    NoiseOnBase,
    Population,
    PyTree,
    Solution,
    State,
)


class SearchGradientState(NamedTuple):
    """``step``, the mean ``theta``, and the transform's own state."""

    step: jax.Array
    mean: Solution
    transform: PyTree


class SearchGradient(Seeded):
    """The base of methods whose step is a transform of one weighted sum.

    The method defines ``_weights``, and has the fields ``learning_rate``,
    ``weight_decay`` and ``transform``; ``_default`` stands where these are None.
    """

    _default: ClassVar[descent.Default]
    learning_rate: schedules.Hyperparameter | None
    weight_decay: schedules.Hyperparameter
    transform: Any

    @abstractmethod
    def _weights(
        self, members: Member, evaluation: Evaluation
    ) -> tuple[jax.Array, jax.Array, Info]:
        """Returns ``weights[P]``, whether the step counts, and its diagnostics.

        Their ``gradient_norm`` is NaN: it is known once the gradient is made.
        """

    def init(self, key: Key, solution: Solution) -> SearchGradientState:
        """Starts with ``theta`` at ``solution``."""
        mean = trees.starting_point(solution)
        transform = descent.start(self, self._default, mean)
        return SearchGradientState(jnp.int32(0), mean, transform)

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[SearchGradientState, Info]:
        """Steps along the search gradient."""
        weights, counts, info = self._weights(population.members, evaluation)
        gradient = descent.penalty(self, state, weights)
        gradient = self._add_noise(gradient, population.members, weights)
        mean, transform, norm = descent.step(
            self, self._default, state, gradient, counts
        )
        new = SearchGradientState(state.step + 1, mean, transform)
        return new, info._replace(gradient_norm=norm)

    def noise_on_base(self) -> NoiseOnBase:
        """Returns how candidates are noise on the mean.

        Raises:
            ValueError: for a transform that is not gradient descent.
        """
        factor = descent.plain_factor(self, self._default)

        def rate(state: State) -> schedules.Number:
            return factor * descent.learning_rate(self, self._default, state)

        return NoiseOnBase(self.noise, chain_of_seed, self._estimate, rate)

    def _estimate(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[Estimate, Info]:
        """Returns the search gradient as a sum, and the diagnostics."""
        members = population.members
        weights, counts, info = self._weights(members, evaluation)
        slopes = self._per_draw(weights * members.sign)
        decay = schedules.at("weight_decay", self.weight_decay, state.step)
        decay = jnp.where(counts, decay, 0)
        return Estimate(members.seed[:: self.pair_size], slopes, counts, decay), info

    def recommend(self, state: State) -> Solution:
        """Returns ``theta``."""
        return state.mean
