"""SVRG: zeroth-order SGD without the mini-batch noise of its slopes.

    p_i = d_B(theta; z_i) - d_B(anchor; z_i) + d(anchor; z_i)
    theta <- theta - lr mean_i p_i z_i

with ``d_B(x; z) = (f_B(x + eps z) - f_B(x - eps z)) / (2 eps)`` on the mini-batch ``B``
and ``d`` its mean over all data. A period begins at the anchor: for
``anchor_batches`` steps the weights stay, while the slopes of a pool of directions are
averaged. The following steps move along directions of that pool. Near the anchor the
first two terms cancel, including their noise, so that a constant learning rate
converges, while MeZO stops at the noise of its batches.

Source: Gautam, Park, Zhou, Raman, Ha (2024), arXiv 2404.08080, algorithm 2. It draws
another direction at each step and adds the anchor's estimate along older ones, whose
noise then enters every step: it needs smaller learning rates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.fusion import zero_after
from gfopt.noise import noise, threefry
from gfopt.noise.perturbation.low_rank_noise import LowRankNoise
from gfopt.optimizers.zeroth_order.zeroth_order import (
    TwoSided,
    TwoSidedInfo,
    slope_sizes,
)
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, PyTree, Solution

if TYPE_CHECKING:
    import optax


class SVRGState(NamedTuple):
    """State of SVRG.

    Attributes:
        step: number of tells so far.
        mean: the weights ``theta``.
        transform: state of the transform, if there is one.
        measured: the step at which the anchor was taken, -1 if there is none.
        anchor: the weights there.
        pool: ``uint32[2 * num_directions]``, seeds of the period's directions.
        sums: ``float[2 * num_directions]``, of their slopes at the anchor.
        counts: ``float[2 * num_directions]``, the number of terms in each.
    """

    step: jax.Array
    mean: Solution
    transform: PyTree
    measured: jax.Array
    anchor: Solution
    pool: jax.Array
    sums: jax.Array
    counts: jax.Array


class AnchoredSeed(NamedTuple):
    """How to make one candidate.

    Attributes:
        seed: of the noise, ``uint32[]``.
        sign: 1 or -1.
        scale: of the noise: the radius eps.
        place: ``i32[]``, of the direction in the pool.
        at_anchor: whether it is around the anchor, not around the weights.
    """

    seed: jax.Array
    sign: jax.Array
    scale: jax.Array
    place: jax.Array
    at_anchor: jax.Array


@pytree
class SVRG(TwoSided):
    """Stochastic variance-reduced gradient with forward passes alone.

    Let ``batches(step, key)`` return the parts of the data in turn where
    ``step % period < anchor_batches``, so that the anchor has seen all of it.

    Args:
        learning_rate: step size, or a schedule; None for 1e-3, or for 1 with a
            transform, which has its own.
        eps: finite-difference radius, or a schedule.
        num_directions: directions a step, with four forward passes each. The pool has
            twice as many: its halves alternate.
        period: steps from anchor to anchor.
        anchor_batches: how many of them measure the anchor, each on its mini-batch.
        noise: ``gaussian()``, ``rademacher()`` or ``low_rank()``.
        transform: any complete optax optimizer.
        rounding: ``"nearest"``, or ``"stochastic"`` for bfloat16 and float16 weights.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> rows = jax.random.normal(jax.random.key(0), (64, 3))
        >>> def loss(x, chosen):  # the mean of the rows is best
        ...     return jnp.mean((x - rows[chosen]) ** 2)
        >>> def batches(step, key):
        ...     part = 4 * (step % 16) + jnp.arange(4)
        ...     return jnp.where(step % 64 < 16, part, jax.random.choice(key, 64, (4,)))
        >>> method = gfopt.SVRG(0.1, period=64, anchor_batches=16)
        >>> result = gfopt.run(method, loss, jnp.ones(3), key=jax.random.key(1),
        ...                    generations=2000, batches=batches)
        >>> bool(jnp.abs(result.recommended - rows.mean(0)).max() < 1e-3)
        True

    Source: Gautam et al. (2024), arXiv 2404.08080, algorithm 2.
    """

    learning_rate: schedules.Hyperparameter | None = None
    eps: schedules.Hyperparameter = 1e-3
    num_directions: int = static(default=2)
    period: int = static(default=64)
    anchor_batches: int = static(default=8)
    noise: noise.Noise | LowRankNoise = static(default_factory=noise.rademacher)
    transform: optax.GradientTransformation | None = static(default=None)
    rounding: str = static(default="nearest")

    def __post_init__(self) -> None:
        checks.integer("num_directions", self.num_directions, 1)
        checks.integer("anchor_batches", self.anchor_batches, 1)
        checks.integer("period", self.period, 2)
        checks.below("anchor_batches", self.anchor_batches, "period", self.period)
        self._check()
        schedules.set_schedules(self, "eps")

    @property
    def population_size(self) -> int:  # type: ignore[override]
        """Forward passes a step, ``P``."""
        return 4 * self.num_directions

    def noise_on_base(self) -> None:
        """Returns None: the weights at the anchor are a second base."""

    def init(self, key: Key, solution: Solution) -> SVRGState:
        """Starts with ``theta`` and the anchor at ``solution``."""
        step, mean, transform = super().init(key, solution)
        size = 2 * self.num_directions
        pool = jnp.zeros(size, jnp.uint32)
        sums, counts = jnp.zeros((2, size), trees.wide_dtype(mean))
        anchor = jax.tree.map(jnp.copy, mean)  # two donated buffers must not be one
        none = jnp.int32(-1)
        return SVRGState(step, mean, transform, none, anchor, pool, sums, counts)

    def _phase(self, state: SVRGState) -> tuple[jax.Array, jax.Array]:
        """Tells whether this step takes a new anchor, and whether it measures one.

        Both follow from the step, as the user's batches do: a failed step is lost, and
        if it was to take the anchor, the next one does.
        """
        step = state.step
        first = state.measured // self.period != step // self.period
        return first, first | (step % self.period < self.anchor_batches)

    def _random(self, state: SVRGState, seeds: jax.Array) -> jax.Array:
        """Returns another seed in each step: directions recur, errors must not."""
        return seeds[0] + state.step.astype(jnp.uint32)

    def ask(self, key: Key, state: SVRGState) -> Population:
        """Proposes the pool around the anchor, or half of it around both points."""
        size, (first, measures) = 2 * self.num_directions, self._phase(state)
        pool = jnp.where(first, threefry.seeds(key, size), state.pool)
        pair = jnp.arange(2 * size) // 2
        # the halves of the pool alternate, whatever failed
        half = pair % self.num_directions + state.step % 2 * self.num_directions
        place = jnp.where(measures, pair, half)
        at_anchor = ~measures & (pair >= self.num_directions)
        signs = jnp.tile(jnp.array([1.0, -1.0], jnp.float32), size)
        population = self._population(state, pool[place], signs)
        seed, sign, scale, _ = population.members
        members = AnchoredSeed(seed, sign, scale, place, at_anchor)
        return population._replace(members=members)

    def decode(self, state: SVRGState, member: Member) -> Solution:
        """Returns ``theta`` or the anchor, plus ``sign * eps * z``, as lazy leaves."""
        mean = trees.select(member.at_anchor, state.anchor, state.mean)
        return super().decode(state._replace(mean=mean), member)

    def tell(
        self, state: SVRGState, population: Population, evaluation: Evaluation
    ) -> tuple[SVRGState, TwoSidedInfo]:
        """Adds to the anchor's slopes, or steps along corrected ones."""
        pairs = self._pairs(population, evaluation)
        first, measures = self._phase(state)
        first &= jnp.any(pairs.usable)
        pool = jnp.where(first, pairs.seeds, state.pool)
        sums = jnp.where(first, 0, state.sums)
        counts = jnp.where(first, 0, state.counts)
        # p_i = d_B(theta; z_i) - d_B(anchor; z_i) + d(anchor; z_i)
        half = self.num_directions
        places = population.members.place[::2][:half]
        measured = sums[places] / jnp.maximum(counts[places], 1)
        slopes = pairs.slopes[:half] - pairs.slopes[half:] + measured
        usable = pairs.usable[:half] & pairs.usable[half:] & (counts[places] > 0)
        usable &= jnp.isfinite(slopes) & ~measures
        slopes = jnp.where(usable, slopes, 0)
        share = jnp.maximum(jnp.sum(usable), 1).astype(slopes.dtype)
        moves = jnp.any(usable)
        counted = jnp.where(measures, jnp.any(pairs.usable), moves)
        # the weights move after the anchor has them: otherwise they would be copied
        anchor = trees.select(first, state.mean, state.anchor)
        share = share + zero_after(*jax.tree.leaves(anchor))
        new = self._moved(state, pool[places], slopes / share, moves)
        new = new._replace(
            measured=jnp.where(first, state.step, state.measured),
            anchor=anchor,
            pool=pool,
            sums=sums + jnp.where(measures, pairs.slopes, 0).astype(sums.dtype),
            counts=counts + (measures & pairs.usable),
        )
        median, largest = slope_sizes(pairs.slopes, pairs.usable)
        info = TwoSidedInfo(
            pairs.seeds[0],
            slopes[0],
            jnp.where(measures, 0, self.rate(state)).astype(slopes.dtype),
            median,
            largest,
            pairs.loss,
            ~counted,
        )
        return new, info
