"""Consensus hopping: candidates around the consensus, the consensus of them, again.

    x_i = c + sigma z_i,   z_i ~ N(0, I)
    c <- sum_i w_i x_i,    w_i ~ exp(-alpha f(x_i))

It is CBO with ``lambda dt = 1`` and a noise of constant strength. With many candidates
the consensus makes a step of gradient descent that is implicit, a soft proximal step:
``c <- (I + alpha sigma^2 H)^{-1} c`` for ``f = x' H x / 2``. A member is a seed, and
the sum is streamed, so that it scales to networks.

Source: Riedl, Klock, Geldhauser, Fornasier, "Gradient is all you need?",
arXiv 2306.09778.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.consensus import weights as weighing
from gfopt.consensus.weights import EffectiveSampleSize
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.noise.noise import Noise
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution


class ConsensusHoppingState(NamedTuple):
    """The consensus.

    Attributes:
        step: ``i32[]``.
        consensus: a tree like the solution.
    """

    step: jax.Array
    consensus: Solution


class ConsensusHoppingInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        alpha: of this consensus.
        effective_sample_size: candidates that make it up.
    """

    alpha: jax.Array
    effective_sample_size: jax.Array


@pytree
class ConsensusHopping(Method):
    """Consensus hopping on any pytree.

    Args:
        population_size: candidates a step, ``P``.
        sigma: their standard deviation, or a schedule.
        alpha: inverse temperature of the weights: a number, a schedule, or an
            ``EffectiveSampleSize``.
        noise: a ``Noise``: ``gaussian()`` or ``rademacher()``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> method = ConsensusHopping(sigma=lambda step: 0.5 * 0.95**step)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=150)
        >>> bool(jnp.sum(result.recommended**2) < 1e-4)
        True
    """

    population_size: int = static(default=100)
    sigma: schedules.Hyperparameter = 0.3
    alpha: weighing.Alpha = EffectiveSampleSize(0.1)
    noise: Noise = static(default=Noise("gaussian"))

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2)
        checks.instance("noise", self.noise, Noise, "a gfopt.noise.Noise")
        schedules.set_schedules(self, "sigma")
        schedules.set_fields(self, alpha=weighing.alpha_field(self.alpha))

    def init(self, key: Key, solution: Solution) -> ConsensusHoppingState:
        """Starts with ``solution`` as the consensus."""
        return ConsensusHoppingState(jnp.int32(0), trees.starting_point(solution))

    def ask(self, key: Key, state: ConsensusHoppingState) -> Population:
        """Draws the seeds, ``uint32[P]``."""
        size = self.population_size
        return Population(threefry.seeds(key, size), jnp.ones(size, bool))

    def decode(self, state: ConsensusHoppingState, member: Member) -> Solution:
        """Returns ``c + sigma z``."""
        sigma = schedules.at("sigma", self.sigma, state.step)
        return self.noise.add(state.consensus, member, sigma)

    def tell(
        self,
        state: ConsensusHoppingState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[ConsensusHoppingState, ConsensusHoppingInfo]:
        """Moves the consensus to the weighted mean of the candidates."""
        dtype = trees.wide_dtype(state.consensus)
        fitness, valid = evaluation.fitness.astype(dtype), evaluation.valid
        alpha = weighing.alpha_at(self.alpha, state.step, fitness, valid)
        weights = weighing.consensus_weights(fitness, valid, alpha)
        # sum_i w_i (c + sigma z_i) = c + sum_i (w_i sigma) z_i
        sigma = schedules.at("sigma", self.sigma, state.step)
        scaled = weights * threefry.round_significant(jnp.asarray(sigma, dtype))
        consensus = self.noise.add_weighted(state.consensus, population.members, scaled)
        size = weighing.effective_sample_size(weights)
        info = ConsensusHoppingInfo(alpha, size)
        return ConsensusHoppingState(state.step + 1, consensus), info

    def recommend(self, state: ConsensusHoppingState) -> Solution:
        """Returns the consensus."""
        return state.consensus
