"""OpenAI evolution strategy: a search gradient from seeds and signs.

    z_p ~ N(0, I) or random signs,   x_p = theta + sigma * s_p * z_p
    g = -1 / (P * sigma) * sum_p u_p * s_p * z_p
    theta <- theta + learning_rate * transform(g)

with ``u`` the shaped fitness (centered ranks) and antithetic pairs ``s = +1, -1`` on
one ``z``. A member is a seed and a sign; the sum is streamed, so the population is
never held.

Source: Salimans, Ho, Chen, Sidor, Sutskever (2017), arXiv 1703.03864, algorithm 2.
Its reference code does not divide by sigma and adds the L2 term to the gradient, as
here; it breaks ties by index, where we let them share their rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gfopt import checks
from gfopt.core import noise, schedules, shaping, trees
from gfopt.core.late import zero_after
from gfopt.types import Evaluation, Key, Member, Population, PyTree, Solution

# one object, so that two default optimizers are equal and share a program
_DESCENT = optax.chain(optax.scale_by_adam(), optax.scale(-1.0))


class OpenESState(NamedTuple):
    """``step``, the mean ``theta``, and the transform's own state."""

    step: jax.Array
    mean: Solution
    transform: PyTree


class OpenESInfo(NamedTuple):
    """Diagnostics of one step."""

    sigma: jax.Array
    gradient_norm: jax.Array
    num_valid: jax.Array


class SignedSeed(NamedTuple):
    """A seed of noise, its sign, and the scale at which it was drawn."""

    seed: jax.Array
    sign: jax.Array
    sigma: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["sigma", "learning_rate", "weight_decay"],
    meta_fields=["population_size", "noise", "antithetic", "shaping", "transform"],
)
@dataclass(frozen=True)
class OpenES:
    """The evolution strategy of Salimans et al. on any pytree.

    Args:
        population_size: candidates a step, ``P``; even if antithetic.
        sigma: standard deviation of the noise, or a schedule.
        learning_rate: factor on the transform's updates, or a schedule; None for
            0.01 with the default transform and 1 with one of your own.
        weight_decay: L2 coefficient, added to the gradient as the paper's code does.
        noise: ``gaussian()`` or ``rademacher()``.
        antithetic: evaluate ``theta +- sigma z`` in pairs.
        shaping: ``(fitness[P], valid[P]) -> weights[P]``.
        transform: any complete optax optimizer (its updates are added to ``theta``);
            Adam by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd antithetic population.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.OpenES(population_size=32, sigma=0.1, learning_rate=0.1)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=60)
        >>> bool(jnp.sum(result.x**2) < 0.1)
        True
    """

    population_size: int = 64
    sigma: schedules.Hyperparameter = 0.05
    learning_rate: schedules.Hyperparameter | None = None
    weight_decay: schedules.Hyperparameter = 0.0
    noise: noise.Noise = field(default_factory=noise.gaussian)
    antithetic: bool = True
    shaping: shaping.Shaping = shaping.centered_rank
    transform: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        checks.instance("antithetic", self.antithetic, bool, "True or False")
        checks.integer("population_size", self.population_size, 2, even=self.antithetic)
        checks.instance("noise", self.noise, noise.Noise, "a gfopt noise family")
        checks.is_callable("shaping", self.shaping)
        if self.transform is not None:
            kind = optax.GradientTransformation
            checks.instance("transform", self.transform, kind, "an optax optimizer")
        rate, decay = self.learning_rate, self.weight_decay
        if rate is not None:
            rate = schedules.field("learning_rate", rate, checks.non_negative)
        schedules.set_fields(
            self,
            sigma=schedules.field("sigma", self.sigma),
            learning_rate=rate,
            weight_decay=schedules.field("weight_decay", decay, checks.non_negative),
        )

    @property
    def group_size(self) -> int:
        """Rows that share one draw: an antithetic pair."""
        return 2 if self.antithetic else 1

    def init(self, key: Key, solution: Solution) -> OpenESState:
        """Starts with ``theta`` at ``solution``."""
        mean = trees.starting_point(solution)
        transform = (self.transform or _DESCENT).init(mean)
        return OpenESState(jnp.int32(0), mean, trees.strongly_typed(transform))

    def ask(self, key: Key, state: OpenESState) -> Population:
        """Draws ``P / 2`` seeds with both signs, or ``P`` seeds."""
        pairs = self.population_size // self.group_size
        seeds = jnp.repeat(noise.seeds(key, pairs), self.group_size)
        signs = jnp.array([1.0, -1.0][: self.group_size], jnp.float32)
        sigma = jnp.asarray(
            schedules.at("sigma", self.sigma, state.step), trees.wide_dtype(state.mean)
        )
        members = SignedSeed(
            seeds,
            jnp.tile(signs, pairs),
            jnp.broadcast_to(noise.round_significant(sigma), self.population_size),
        )
        return Population(members, jnp.ones(self.population_size, bool))

    def decode(self, state: OpenESState, member: Member) -> Solution:
        """Returns ``theta + sign * sigma * z(seed)``."""
        return self.noise.add(state.mean, member.seed, member.sign * member.sigma)

    def decode_group(self, state: OpenESState, members: Member) -> PyTree:
        """Decodes a pair ``[2, ...]`` with one draw of its noise."""
        scales = members.sign * members.sigma
        return self.noise.add_each(state.mean, members.seed[0], scales)

    def tell(
        self, state: OpenESState, population: Population, evaluation: Evaluation
    ) -> tuple[OpenESState, OpenESInfo]:
        """Steps along the search gradient."""
        members, size = population.members, self.group_size
        valid = evaluation.valid
        if self.antithetic:
            valid = shaping.pairs_valid(valid)
        utility = self.shaping(evaluation.fitness, valid) * members.sign
        utility = utility.reshape(-1, size).sum(axis=1)
        # g = -1 / (P sigma) sum_p u_p s_p z_p, one weight for the pair's one z
        weights = -utility / (self.population_size * members.sigma[::size])
        decay = schedules.at("weight_decay", self.weight_decay, state.step)
        # the sum goes into the L2 term in place, which is not made before its weights
        decay = decay + zero_after(weights)
        penalty = jax.tree.map(lambda m: decay * m.astype(weights.dtype), state.mean)
        gradient = self.noise.add_weighted(penalty, members.seed[::size], weights)
        gradient = trees.cast_like(gradient, state.mean)
        norm = optax.tree.norm(gradient)
        rate = self.learning_rate
        if rate is None:
            rate = 0.01 if self.transform is None else 1.0
        rate = schedules.at("learning_rate", rate, state.step)
        old = (state.mean, state.transform)

        def step() -> tuple[Solution, PyTree]:
            updates, transform = (self.transform or _DESCENT).update(
                gradient, state.transform, state.mean
            )
            mean = jax.tree.map(lambda m, u: m + rate * u, state.mean, updates)
            return trees.cast_like((mean, transform), old)

        # a step in which nothing counted, or whose raw fitness was too large a number
        # for a gradient, leaves the momentum alone, too; a select between old and new
        # would take a copy of both moments
        usable = jnp.any(valid) & jnp.isfinite(norm)
        mean, transform = lax.cond(usable, step, lambda: old)
        info = OpenESInfo(members.sigma[0], norm, jnp.sum(evaluation.valid))
        return OpenESState(state.step + 1, mean, transform), info

    def recommend(self, state: OpenESState) -> Solution:
        """Returns ``theta``."""
        return state.mean
