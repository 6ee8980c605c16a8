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
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import noise
from gfopt.optimizers import stopping
from gfopt.optimizers.evolution_strategies.seeded import Seeded, check_deviations
from gfopt.optimizers.gaussian import default_population_size
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Population, PyTree, Solution, State

MOST_REMEMBERED = 1000  # dimensions up to which the fitness history grows


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


@pytree
class SNES(Seeded):
    """Separable natural evolution strategy: one standard deviation per parameter.

    A member is a seed, and both sums are streamed, so that it scales to networks.

    Args:
        population_size: candidates a step, ``P``; None for ``4 + floor(3 ln D)``, one
            more if antithetic needs it.
        sigma: first standard deviation of every parameter.
        learning_rate: ``eta_m``, or a schedule.
        std_learning_rate: ``eta_s``, or a schedule; None for
            ``(3 + ln D) / (5 sqrt(D))``. With signs it must be None: ``z**2 - 1`` is
            0 for them, so that every standard deviation would stay at ``sigma``.
        antithetic: evaluate ``m +- s z`` in pairs, which share one draw.
        tol_x: stop where every standard deviation is below this.
        tol_fun: stop where the recent fitness moves less than this.
        noise: ``gaussian()`` or ``rademacher()``.
        shaping: ``(fitness[P], valid[P]) -> utilities[P]``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd antithetic population.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.SNES(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(4), key=jax.random.key(0), generations=150)
        >>> bool(jnp.sum(result.recommended**2) < 1e-6)
        True
    """

    population_size: int | None = static(default=None)
    sigma: schedules.Number = 0.3
    learning_rate: schedules.Hyperparameter = 1.0
    std_learning_rate: schedules.Hyperparameter | None = None
    antithetic: bool = static(default=False)
    tol_x: schedules.Number = 1e-11
    tol_fun: schedules.Number = 1e-12
    noise: noise.Noise = static(default_factory=noise.gaussian)
    shaping: shaping.Shaping = static(default=shaping.nes_utilities)

    has_margin = True

    def __post_init__(self) -> None:
        checks.instance("antithetic", self.antithetic, bool, "True or False")
        if self.population_size is not None:
            size = self.population_size
            checks.integer("population_size", size, 2, even=self.antithetic)
        checks.is_callable("shaping", self.shaping, shaping.KIND)
        check_deviations(self)
        schedules.set_numbers(self, "sigma")
        schedules.set_numbers(self, "tol_x", "tol_fun", check=checks.non_negative)
        rates = "learning_rate", "std_learning_rate"
        schedules.set_schedules(self, *rates, check=checks.non_negative)

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
        std = trees.filled(mean, schedules.at("sigma", self.sigma, 0))
        # otherwise a network's history would be as large as its weights
        history = stopping.start(min(dimension, MOST_REMEMBERED), size, wide)
        return SNESState(jnp.int32(0), mean, std, history)

    def _sigma(self, state: State) -> float:
        return 1.0  # in units of the standard deviations

    def _spread(self, state: State) -> PyTree:
        return state.std

    def _std_rate(self, state: SNESState) -> schedules.Number:
        rate = self.std_learning_rate
        if rate is None:
            dimension = trees.num_parameters(state.mean)
            rate = (3 + math.log(dimension)) / (5 * math.sqrt(dimension))
        return schedules.at("std_learning_rate", rate, state.step)

    def tell(
        self, state: SNESState, population: Population, evaluation: Evaluation
    ) -> tuple[SNESState, NESInfo]:
        """Moves the mean and scales the standard deviations."""
        members = population.members
        history, ranked = stopping.extended(state.history, evaluation, state.step)
        fitness, counts = shaping.failures_last(
            evaluation.fitness, evaluation.valid, population.active
        )
        ranked |= jnp.any(counts & ~evaluation.valid)
        utility = self.shaping(fitness, counts) * ranked
        first, square = self._moments(state.mean, members, utility, utility)
        rate = schedules.at("learning_rate", self.learning_rate, state.step)
        # m <- m + eta_m s sum_p u_p z_p
        mean = jax.tree.map(
            lambda m, s, g: (m + rate * s * g).astype(m.dtype),
            state.mean,
            state.std,
            first,
        )
        std = state.std
        if square is not None:
            std_rate = self._std_rate(state)
            # s <- s exp(eta_s / 2 (sum_p u_p z_p^2 - sum_p u_p))
            shift = jnp.sum(utility)
            std = jax.tree.map(
                lambda s, g: (s * growth(std_rate / 2 * (g - shift))).astype(s.dtype),
                std,
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


def growth(exponent: jax.Array) -> jax.Array:
    """Returns ``exp(exponent)``, at most e: one lucky draw must not overflow it."""
    return jnp.exp(jnp.minimum(exponent, 1))


def extremes(std: PyTree) -> tuple[jax.Array, jax.Array]:
    """Returns the largest and the smallest number of a tree."""
    leaves = [leaf for leaf in jax.tree.leaves(std) if leaf.size]
    largest = jnp.stack([leaf.max() for leaf in leaves]).max()
    return largest, jnp.stack([leaf.min() for leaf in leaves]).min()
