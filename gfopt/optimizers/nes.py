"""SNES: a natural evolution strategy with one standard deviation for each parameter.

It follows the natural gradient of expected utility in natural coordinates, where
``z ~ N(0, I)`` and ``u_p`` are utilities by rank that sum to 0 (products elementwise):

    x_p = m + s z_p
    m <- m + eta_m s sum_p u_p z_p
    s <- s exp(eta_s / 2 sum_p u_p (z_p^2 - 1))

Source: Wierstra, Schaul, Glasmachers, Sun, Peters, Schmidhuber (2014), "Natural
evolution strategies", JMLR 15, algorithm 6 with the defaults of its table 1.
Deviations: no standard deviation grows by more than a factor of e in a step; ties
share their utility, and a step that ranks nothing moves nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import noise, schedules, shaping, trees
from gfopt.optimizers import stopping
from gfopt.types import Evaluation, Key, Member, Population, PyTree, Solution

_GAUSSIAN = noise.gaussian()

MOST_REMEMBERED = 1000  # dimensions that the history of the fitness grows with


def default_population_size(dimension: int) -> int:
    """Returns ``4 + floor(3 ln D)``."""
    return 4 + int(3 * math.log(dimension))


class SNESState(NamedTuple):
    """The distribution ``N(mean, diag(std^2))``.

    Attributes:
        step: ``i32[]``.
        mean: the solution's tree.
        std: a tree like it, float32 or wider.
        history: the fitness of the last steps.
    """

    step: jax.Array
    mean: Solution
    std: PyTree
    history: stopping.FitnessHistory


class NESInfo(NamedTuple):
    """Diagnostics of one step."""

    max_std: jax.Array
    min_std: jax.Array
    num_valid: jax.Array


class SNESMember(NamedTuple):
    """A seed of noise and its sign."""

    seed: jax.Array
    sign: jax.Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["sigma", "learning_rate", "std_learning_rate", "tol_x", "tol_fun"],
    meta_fields=["population_size", "antithetic"],
)
@dataclass(frozen=True)
class SNES:
    """Separable natural evolution strategy: one standard deviation per parameter.

    A member is a seed, and both sums are streamed, so that it scales to networks.

    Args:
        population_size: candidates a step, ``P``; None for ``4 + floor(3 ln D)``, one
            more if antithetic needs it.
        sigma: first standard deviation of every parameter.
        learning_rate: ``eta_m``, or a schedule.
        std_learning_rate: ``eta_s``, or a schedule; None for
            ``(3 + ln D) / (5 sqrt(D))``.
        antithetic: evaluate ``m +- s z`` in pairs, which share one draw.
        tol_x: stop where every standard deviation is below this.
        tol_fun: stop where the recent fitness moves less than this.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd antithetic population.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.SNES(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(4), key=jax.random.key(0), generations=150)
        >>> bool(jnp.sum(result.x**2) < 1e-6)
        True
    """

    population_size: int | None = None
    sigma: schedules.Hyperparameter = 0.3
    learning_rate: schedules.Hyperparameter = 1.0
    std_learning_rate: schedules.Hyperparameter | None = None
    antithetic: bool = False
    tol_x: schedules.Hyperparameter = 1e-11
    tol_fun: schedules.Hyperparameter = 1e-12

    def __post_init__(self) -> None:
        checks.instance("antithetic", self.antithetic, bool, "True or False")
        if self.population_size is not None:
            size = self.population_size
            checks.integer("population_size", size, 2, even=self.antithetic)
        rate = learning_rate_field
        schedules.set_fields(
            self,
            sigma=schedules.number("sigma", self.sigma),
            learning_rate=rate("learning_rate", self.learning_rate),
            std_learning_rate=rate("std_learning_rate", self.std_learning_rate),
            tol_x=schedules.number("tol_x", self.tol_x, checks.non_negative),
            tol_fun=schedules.number("tol_fun", self.tol_fun, checks.non_negative),
        )

    @property
    def group_size(self) -> int:
        """Rows that share one draw: an antithetic pair."""
        return 2 if self.antithetic else 1

    def _size(self, solution: Solution) -> int:
        size = self.population_size
        if size is None:
            size = default_population_size(trees.num_parameters(solution))
            size += size % self.group_size
        return size

    def init(self, key: Key, solution: Solution) -> SNESState:
        """Starts with ``N(solution, sigma^2 I)``."""
        mean = trees.starting_point(solution)
        wide = trees.wide_dtype(mean)
        size, dimension = self._size(mean), trees.num_parameters(mean)
        sigma = schedules.at("sigma", self.sigma, 0)

        def std(leaf: jax.Array) -> jax.Array:
            dtype = jnp.promote_types(leaf.dtype, jnp.float32)
            return jnp.full(leaf.shape, sigma, dtype)

        # a network's history would else be as large as its weights
        history = stopping.start(min(dimension, MOST_REMEMBERED), size, wide)
        return SNESState(jnp.int32(0), mean, jax.tree.map(std, mean), history)

    def ask(self, key: Key, state: SNESState) -> Population:
        """Draws ``P`` seeds, or ``P / 2`` with both signs."""
        size = self._size(state.mean)
        groups = size // self.group_size
        members = SNESMember(
            jnp.repeat(noise.seeds(key, groups), self.group_size),
            jnp.tile(jnp.array([1.0, -1.0][: self.group_size], jnp.float32), groups),
        )
        return Population(members, jnp.ones(size, bool))

    def decode(self, state: SNESState, member: Member) -> Solution:
        """Returns ``m + sign * s * z(seed)``."""
        scale = jax.tree.map(lambda std: member.sign * std, state.std)
        return _GAUSSIAN.add(state.mean, member.seed, scale)

    def decode_group(self, state: SNESState, members: Member) -> PyTree:
        """Decodes a pair ``[2, ...]`` with one draw of its noise."""
        scales = jax.tree.map(
            lambda std: jnp.multiply.outer(members.sign, std), state.std
        )
        return _GAUSSIAN.add_each(state.mean, members.seed[0], scales)

    def tell(
        self, state: SNESState, population: Population, evaluation: Evaluation
    ) -> tuple[SNESState, NESInfo]:
        """Moves the mean and scales the standard deviations."""
        members, valid = population.members, evaluation.valid
        if self.antithetic:
            valid = shaping.pairs_valid(valid)
        history, ranked = stopping.extended(
            state.history, evaluation._replace(valid=valid), state.step
        )
        utility = shaping.nes_utilities(evaluation.fitness, valid) * ranked
        # a pair has one z: the mean sees u+ - u-, the squares see u+ + u-
        signed = (utility * members.sign).reshape(-1, self.group_size).sum(axis=1)
        total = utility.reshape(-1, self.group_size).sum(axis=1)
        seeds = members.seed[:: self.group_size]
        first, square = _GAUSSIAN.weighted_moments(state.mean, seeds, signed, total)
        rate = schedules.at("learning_rate", self.learning_rate, state.step)
        dimension = trees.num_parameters(state.mean)
        std_rate = self.std_learning_rate
        if std_rate is None:
            std_rate = (3 + math.log(dimension)) / (5 * math.sqrt(dimension))
        std_rate = schedules.at("std_learning_rate", std_rate, state.step)
        # m <- m + eta_m s sum_p u_p z_p
        mean = jax.tree.map(
            lambda m, s, g: (m + rate * s * g).astype(m.dtype),
            state.mean,
            state.std,
            first,
        )
        # s <- s exp(eta_s / 2 (sum_p u_p z_p^2 - sum_p u_p))
        shift = jnp.sum(total)
        std = jax.tree.map(
            lambda s, g: (s * growth(std_rate / 2 * (g - shift))).astype(s.dtype),
            state.std,
            square,
        )
        new = SNESState(state.step + 1, mean, std, history)
        return new, NESInfo(*extremes(std), jnp.sum(evaluation.valid))

    def recommend(self, state: SNESState) -> Solution:
        """Returns the mean."""
        return state.mean

    def standard_deviations(self, state: SNESState) -> PyTree:
        """Returns the standard deviation of each coordinate, like the mean."""
        return state.std

    def stop(self, state: SNESState) -> dict[str, jax.Array]:
        """Returns ``tol_x``, ``tol_fun`` and ``diverged``, each ``bool[]``."""
        largest, _ = extremes(state.std)
        return stopping.reasons(state.history, largest, self.tol_x, self.tol_fun)


def learning_rate_field(
    name: str, value: schedules.Hyperparameter | None
) -> schedules.Hyperparameter:
    """Returns a learning rate as a dataclass stores it; None is for its default."""
    return value if value is None else schedules.field(name, value, checks.non_negative)


def growth(exponent: jax.Array) -> jax.Array:
    """Returns ``exp(exponent)``, at most e: one lucky draw must not overflow it."""
    return jnp.exp(jnp.minimum(exponent, 1))


def extremes(std: PyTree) -> tuple[jax.Array, jax.Array]:
    """Returns the largest and the smallest number of a tree."""
    leaves = [leaf for leaf in jax.tree.leaves(std) if leaf.size]
    largest = jnp.stack([leaf.max() for leaf in leaves]).max()
    return largest, jnp.stack([leaf.min() for leaf in leaves]).min()
