"""FZOO: batched one-sided differences over their standard deviation.

    g = 1/(N s) sum_i (f(theta + eps u_i) - f(theta)) u_i,   theta <- theta - lr g

with ``s`` the standard deviation of the N losses. A step takes the memory of
``zeroth_order``.

Source: arXiv 2506.09034; its learning rate is ours times eps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.noise import noise, threefry
from gfopt.noise.perturbation.low_rank_noise import LowRankNoise
from gfopt.optimizers.zeroth_order.zeroth_order import (
    Directions,
    ZerothOrderState,
    slope_sizes,
)
from gfopt.pytree import pytree, static
from gfopt.types import Estimate, Evaluation, Key, Population

if TYPE_CHECKING:
    import optax


class FZOOInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        loss: at the weights themselves, NaN where the step was skipped.
        loss_std: standard deviation of the others, 0 where the step was skipped.
        median_slope: median of ``|f(theta + eps u) - f(theta)| / eps``.
        largest_slope: largest of them.
        num_valid: rows with a valid value.
        skipped: whether nothing moved: no valid loss at the weights, fewer than two
            valid others, or all of them equal.
    """

    loss: jax.Array
    loss_std: jax.Array
    median_slope: jax.Array
    largest_slope: jax.Array
    num_valid: jax.Array
    skipped: jax.Array


@pytree
class FZOO(Directions):
    """Fast zeroth-order optimizer: batched one-sided differences over their spread.

    The step is invariant under scaling the objective by a positive number or shifting
    it: steep and flat regions get steps of the same size.

    Args:
        learning_rate: step size, or a schedule (the paper's divided by ``eps``); None
            for 1e-3, or for 1 with a transform, which has its own.
        eps: finite-difference radius, or a schedule.
        population_size: forward passes a step, ``P``: one at the weights themselves and
            one for each of the ``N = P - 1`` directions.
        noise: ``rademacher()`` (the paper's), ``gaussian()`` or ``low_rank()``.
        transform: any complete optax optimizer.
        rounding: ``"nearest"``, or ``"stochastic"`` for bfloat16 and float16.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.FZOO(learning_rate=0.02),
        ...                    lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=200)
        >>> bool(jnp.sum(result.recommended**2) < 0.1)
        True

    Source: arXiv 2506.09034.
    """

    learning_rate: schedules.Hyperparameter | None = None
    eps: schedules.Hyperparameter = 1e-3
    population_size: int = static(default=9)
    noise: noise.Noise | LowRankNoise = static(default_factory=noise.rademacher)
    transform: optax.GradientTransformation | None = static(default=None)
    rounding: str = static(default="nearest")

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 3)
        self._check()
        schedules.set_schedules(self, "eps")

    def ask(self, key: Key, state: ZerothOrderState) -> Population:
        """Proposes the weights themselves, then ``P - 1`` directions."""
        seeds = threefry.seeds(key, self.population_size - 1)
        signs = (jnp.arange(self.population_size) > 0).astype(jnp.float32)
        return self._population(state, jnp.concatenate([seeds[:1], seeds]), signs)

    def estimate(
        self, state: ZerothOrderState, population: Population, evaluation: Evaluation
    ) -> tuple[Estimate, FZOOInfo]:
        """Returns the differences over their standard deviation."""
        fitness, valid = evaluation.fitness, evaluation.valid
        members = population.members
        usable = valid[1:] & valid[0]
        differences = jnp.where(usable, fitness[1:] - fitness[0], 0)
        # scale by the largest difference, so that squaring cannot overflow
        scale = jnp.max(jnp.abs(differences))
        counts = jnp.isfinite(scale) & (scale > 0) & (jnp.sum(usable) > 1)
        shares = jnp.where(counts, differences / jnp.where(counts, scale, 1), 0)
        # s^2 = 1 / (N - 1) sum_i (l_i - mean)^2
        count = jnp.maximum(jnp.sum(usable), 2).astype(fitness.dtype)
        centered = jnp.where(usable, shares - jnp.sum(shares) / count, 0)
        std = jnp.sqrt(jnp.sum(centered**2) / (count - 1))
        counts &= std > 0
        # g = 1 / (N s) sum_i (l_i - l_0) u_i
        slopes = jnp.where(counts, shares / (count * jnp.where(counts, std, 1)), 0)
        median, largest = slope_sizes(differences / members.scale[0], usable)
        info = FZOOInfo(
            jnp.where(counts, fitness[0], jnp.nan),
            jnp.where(counts, std * scale, 0),
            median,
            largest,
            jnp.sum(valid),
            ~counts,
        )
        return Estimate(members.seed[1:], slopes, counts), info
