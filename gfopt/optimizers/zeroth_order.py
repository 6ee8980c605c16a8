"""Zeroth-order SGD with forward passes alone: MeZO.

    l+- = f(theta +- eps z),   p = (l+ - l-) / (2 eps),   theta <- theta - lr p z

The two perturbed models are never made: ``decode`` returns ``Perturbed`` leaves,
whose noise is drawn inside the layer that uses them, and ``tell`` adds ``-lr p z``
to the weights in place, block by block. A step takes the memory of inference, and
nothing is added and subtracted again, so nothing drifts.

Source: Malladi, Gao, Nichani, Damian, Lee, Chen, Arora (2023), arXiv 2305.17333,
algorithm 1. Its code perturbs the weights in place and back; we do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import noise, schedules, trees
from gfopt.core.perturbed import Perturbed
from gfopt.optimizers.seeded import SignedSeed
from gfopt.types import Evaluation, Key, Member, Population, Solution


class MeZOState(NamedTuple):
    """``step`` and the weights ``theta``: a run needs nothing else."""

    step: jax.Array
    mean: Solution


class MeZOInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        projected_gradient: ``p``, 0 where the step was skipped.
        loss: mean of the two losses, NaN where the step was skipped.
        skipped: whether a loss was invalid, so that nothing moved.
    """

    projected_gradient: jax.Array
    loss: jax.Array
    skipped: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["learning_rate", "eps"],
    meta_fields=["noise"],
)
@dataclass(frozen=True)
class MeZO:
    """Memory-efficient zeroth-order SGD: one antithetic pair a step.

    Args:
        learning_rate: step size, or a schedule.
        eps: finite-difference radius, or a schedule.
        noise: ``gaussian()`` (the paper's) or ``rademacher()`` (the cheapest).

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.MeZO(learning_rate=0.02),
        ...                    lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=200)
        >>> bool(jnp.sum(result.x**2) < 0.1)
        True
    """

    learning_rate: schedules.Hyperparameter = 1e-3
    eps: schedules.Hyperparameter = 1e-3
    noise: noise.Noise = field(default_factory=noise.gaussian)
    follows_slopes: ClassVar[bool] = True  # no use where values step, or are ranked

    def __post_init__(self) -> None:
        checks.instance("noise", self.noise, noise.Noise, "a gfopt noise family")
        rate = schedules.field("learning_rate", self.learning_rate, checks.non_negative)
        schedules.set_fields(
            self, learning_rate=rate, eps=schedules.field("eps", self.eps)
        )

    @property
    def population_size(self) -> int:
        """Two: the pair."""
        return 2

    def init(self, key: Key, solution: Solution) -> MeZOState:
        """Starts with ``theta`` at ``solution``."""
        return MeZOState(jnp.int32(0), trees.starting_point(solution))

    def ask(self, key: Key, state: MeZOState) -> Population:
        """Draws one seed with both signs."""
        eps = schedules.at("eps", self.eps, state.step)
        eps = noise.round_significant(jnp.asarray(eps, trees.wide_dtype(state.mean)))
        seed = noise.seeds(key, 1)
        members = SignedSeed(
            # a broadcast seed would send XLA's simplifier round in circles for 1 s
            jnp.concatenate([seed, seed]),
            jnp.array([1.0, -1.0], jnp.float32),
            jnp.broadcast_to(eps, 2),
        )
        return Population(members, jnp.ones(2, bool))

    def decode(self, state: MeZOState, member: Member) -> Solution:
        """Returns ``theta + sign * eps * z`` as lazy leaves."""
        scale = member.sign * member.sigma
        return trees.map_with_hash(
            lambda path, leaf: Perturbed(
                leaf, member.seed, scale, path_hash=path, kind=self.noise.kind
            ),
            state.mean,
        )

    def tell(
        self, state: MeZOState, population: Population, evaluation: Evaluation
    ) -> tuple[MeZOState, MeZOInfo]:
        """Adds ``-lr p z`` in place; an invalid loss skips the step."""
        members = population.members
        loss = evaluation.fitness
        # p = (l+ - l-) / (2 eps)
        projected = (loss[0] - loss[1]) / (2 * members.sigma[0])
        # the difference of two finite losses can still be too large a number
        usable = jnp.all(evaluation.valid) & jnp.isfinite(projected)
        projected = jnp.where(usable, projected, 0)
        rate = schedules.at("learning_rate", self.learning_rate, state.step)
        mean = self.noise.add_weighted(
            state.mean, members.seed[:1], jnp.reshape(-rate * projected, 1)
        )
        info = MeZOInfo(projected, jnp.where(usable, loss.mean(), jnp.nan), ~usable)
        return MeZOState(state.step + 1, mean), info

    def recommend(self, state: MeZOState) -> Solution:
        """Returns ``theta``."""
        return state.mean
