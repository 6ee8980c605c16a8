"""Zeroth-order SGD: the directions, pairs and steps that its methods share.

    p_i = (f(theta + eps z_i) - f(theta - eps z_i)) / (2 eps)
    g = 1/q sum_i p_i z_i,   theta <- theta - lr g

Any optax transform may process ``g``. Without one, the perturbed models never exist:
``decode`` returns lazy leaves, whose noise is drawn inside the layer that uses them,
and ``tell`` adds ``-lr g`` to the weights in place, block by block. A step takes the
memory of inference. Nothing is added and subtracted again, so nothing drifts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import noise, rounding, threefry
from gfopt.noise.perturbation.low_rank_noise import LowRankNoise
from gfopt.noise.perturbation.perturbed import perturbed
from gfopt.optimizers import descent
from gfopt.optimizers.evolution_strategies.seeded import SignedSeed, chain_of_seed
from gfopt.protocol import Method
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

if TYPE_CHECKING:
    import optax

_DESCENT = descent.Default(descent.sgd, 1e-3)


class ZerothOrderState(NamedTuple):
    """``step``, the weights ``theta``, and the transform's state, if there is one."""

    step: jax.Array
    mean: Solution
    transform: PyTree


class TwoSidedInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        seed: of the first direction.
        projected_gradient: its ``p``, 0 where the step was skipped.
        learning_rate: of this step.
        median_slope: median of ``|p|`` over the directions.
        largest_slope: largest of them.
        loss: mean of the losses, NaN where the step was skipped.
        skipped: whether no direction had two valid losses, so that nothing moved.
    """

    seed: jax.Array
    projected_gradient: jax.Array
    learning_rate: jax.Array
    median_slope: jax.Array
    largest_slope: jax.Array
    loss: jax.Array
    skipped: jax.Array


class Directions(Method):
    """The base of these methods: a member is a seed, a sign and a radius."""

    follows_slopes = True

    population_size: int
    learning_rate: schedules.Hyperparameter | None
    eps: schedules.Hyperparameter
    noise: noise.Noise | LowRankNoise
    transform: optax.GradientTransformation | None = None
    rounding: str

    def _check(self) -> None:
        """Checks the fields that all methods have."""
        families = (noise.Noise, LowRankNoise)
        checks.instance("noise", self.noise, families, "a gfopt noise family")
        checks.instance("rounding", self.rounding, str, "text")
        checks.one_of("rounding", self.rounding, rounding.ROUNDINGS)
        descent.set_fields(self)
        if self.rounding == "stochastic" and (self.transform or self.noise.is_lazy):
            raise ValueError(
                "rounding must be 'nearest' with a transform and with low-rank noise; "
                f"got {checks.shown(self.rounding)}"
            )

    def init(self, key: Key, solution: Solution) -> State:
        """Starts with ``theta`` at ``solution``."""
        mean = trees.starting_point(solution)
        own = self.transform is not None
        transform = descent.start(self, _DESCENT, mean) if own else ()
        return ZerothOrderState(jnp.int32(0), mean, transform)

    def rate(self, state: State) -> schedules.Number:
        """Returns the learning rate of this step."""
        return descent.learning_rate(self, _DESCENT, state)

    def _eps(self, state: State) -> schedules.Number:
        """Returns the radius of this step."""
        return schedules.at("eps", self.eps, state.step)

    def _population(
        self, state: State, seeds: jax.Array, signs: jax.Array
    ) -> Population:
        """Returns the members of these seeds and signs, all of this step's radius."""
        wide = trees.wide_dtype(state.mean)
        eps = threefry.round_significant(jnp.asarray(self._eps(state), wide))
        members = SignedSeed(seeds, signs, jnp.broadcast_to(eps, signs.shape))
        return Population(members, jnp.ones(signs.shape, bool))

    def decode(self, state: State, member: Member) -> Solution:
        """Returns ``theta + sign * eps * z`` as lazy leaves."""
        scale = member.sign * member.scale
        if self.noise.is_lazy:
            return self.noise.add(state.mean, member.seed, scale)
        return perturbed(state.mean, member.seed, scale, self.noise.kind)

    def estimate(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[Estimate, Info]:
        """Returns what this step descends along, and its diagnostics."""
        raise TypeError(f"{type(self).__name__} has no estimate of its own")

    def noise_on_base(self) -> NoiseOnBase | None:
        """Returns how candidates are noise on the weights.

        Raises:
            ValueError: for a transform that is not gradient descent.
        """
        factor = descent.plain_factor(self, _DESCENT)
        return NoiseOnBase(
            self.noise,
            chain_of_seed,
            self.estimate,
            lambda state: factor * self.rate(state),
            rounding=self.rounding,
        )

    def tell(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[State, Info]:
        """Adds ``-lr g`` in place; what an invalid loss belongs to weighs nothing."""
        found, info = self.estimate(state, population, evaluation)
        return self._moved(state, found.seeds, found.slopes, found.counts), info

    def _moved(
        self,
        state: State,
        seeds: jax.Array,
        slopes: jax.Array,
        counts: jax.Array,
    ) -> State:
        """Descends along ``g = sum_i slopes[i] z_i``, if this step ``counts``."""
        mean, transform = state.mean, state.transform
        if self.transform is None:
            rate = self.rate(state)
            by = self.noise, self.rounding, mean, seeds, slopes, rate
            mean = stepped(*by, random=self._random(state, seeds))
        else:
            gradient = self.noise.weighted_sum(mean, seeds, slopes)
            mean, transform, _ = descent.step(self, _DESCENT, state, gradient, counts)
        return state._replace(step=state.step + 1, mean=mean, transform=transform)

    def _random(self, state: State, seeds: jax.Array) -> jax.Array:
        """Returns the seed of this step's stochastic rounding."""
        return seeds[0]

    def recommend(self, state: State) -> Solution:
        """Returns ``theta``."""
        return state.mean


class Pairs(NamedTuple):
    """The slopes along directions, from the losses of antithetic pairs.

    Attributes:
        seeds: ``uint32[q]``, of the directions.
        slopes: ``float[q]``, ``p``, 0 where a pair is not usable.
        usable: ``bool[q]``, whether both losses are valid and their difference finite.
        share: the number of pairs, by which a sum over them is divided.
        loss: mean of the losses, NaN if no pair is usable.
    """

    seeds: jax.Array
    slopes: jax.Array
    usable: jax.Array
    share: jax.Array
    loss: jax.Array


class TwoSided(Directions):
    """``ask`` and ``estimate`` of antithetic pairs."""

    def log_header(self) -> dict[str, str]:
        """Returns what a log of (seed, p, learning rate) must also hold.

        Raises:
            ValueError: if these three numbers do not determine a step.
        """
        if self.population_size != 2 or self.transform or self.noise.is_lazy:
            raise ValueError(
                "method must have one direction a step, dense noise and no transform "
                f"to be logged; got {checks.shown(self)}"
            )
        return {"noise": self.noise.kind, "rounding": self.rounding}

    def ask(self, key: Key, state: State) -> Population:
        """Draws ``P / 2`` seeds with both signs."""
        seeds = threefry.seeds(key, self.population_size // 2)
        # a broadcast seed would send XLA's simplifier round in circles for 1 s
        both = jnp.stack([seeds, seeds], axis=1).reshape(-1)
        signs = jnp.tile(jnp.array([1.0, -1.0], jnp.float32), seeds.shape[0])
        return self._population(state, both, signs)

    def estimate(
        self, state: State, population: Population, evaluation: Evaluation
    ) -> tuple[Estimate, TwoSidedInfo]:
        """Returns the mean over pairs; one with an invalid loss weighs nothing."""
        pairs = self._pairs(population, evaluation)
        counts = jnp.any(pairs.usable)
        median, largest = slope_sizes(pairs.slopes, pairs.usable)
        info = TwoSidedInfo(
            pairs.seeds[0],
            pairs.slopes[0],
            jnp.asarray(self.rate(state), pairs.slopes.dtype),
            median,
            largest,
            pairs.loss,
            ~counts,
        )
        return Estimate(pairs.seeds, pairs.slopes / pairs.share, counts), info

    def _pairs(self, population: Population, evaluation: Evaluation) -> Pairs:
        """Returns the slopes along this step's directions."""
        members = population.members
        seeds, eps = members.seed[::2], members.scale[::2]
        loss = evaluation.fitness.reshape(-1, 2)
        # p = (l+ - l-) / (2 eps)
        slopes = (loss[:, 0] - loss[:, 1]) / (2 * eps)
        # the difference of two finite losses can still overflow
        usable = evaluation.valid.reshape(-1, 2).all(axis=1) & jnp.isfinite(slopes)
        slopes = jnp.where(usable, slopes, 0)
        share = jnp.maximum(jnp.sum(usable), 1).astype(slopes.dtype)
        mean_loss = jnp.sum(jnp.where(usable[:, None], loss / 2, 0)) / share
        mean_loss = jnp.where(jnp.any(usable), mean_loss, jnp.nan)
        return Pairs(seeds, slopes, usable, share, mean_loss)


def stepped(
    family: Any,
    how: str,
    mean: Solution,
    seeds: jax.Array,
    slopes: jax.Array,
    rate: schedules.Number,
    added: Any = None,
    random: jax.Array | None = None,
) -> Solution:
    """Returns ``mean - rate * sum_i slopes[i] z_i``, in place: what a log replays.

    Args:
        family: of the noise.
        how: the rounding, ``"nearest"`` or ``"stochastic"``.
        mean: the weights.
        seeds: ``uint32[q]``.
        slopes: ``float[q]``.
        rate: the learning rate.
        added: ``(old, change, words) -> new``, in place of addition; for dense noise
            only.
        random: seed of stochastic rounding; None for the first of ``seeds``.
    """
    weights = -jnp.asarray(rate, slopes.dtype) * slopes
    more = {} if added is None else {"added": added}
    if how == "stochastic":
        random = seeds[0] if random is None else random
        return family.add_weighted(mean, seeds, weights, random, **more)
    return family.add_weighted(mean, seeds, weights, **more)


def slope_sizes(slopes: jax.Array, usable: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the median and the largest of ``|slopes|``, 0 where none is usable."""
    size = jnp.where(usable, jnp.abs(slopes), 0)
    if size.shape[0] == 1:
        return size[0], size[0]
    # unusable ones are the first 0s
    ordered, count = jnp.sort(size), jnp.sum(usable)
    first = size.shape[0] - jnp.maximum(count, 1)
    low, high = first + (count - 1) // 2, first + count // 2
    return (ordered[low] + ordered[high]) / 2, ordered[-1]
