"""Differential evolution: steps are differences of the population's members.

    v_p = x_base + F (x_q - x_r),   F ~ U[mutation, mutation + dither), one a step
    u_p = v_p where U[0, 1) < crossover_rate, and at one random index; else x_p
    x_p <- u_p if f(u_p) <= f(x_p)

``x_base`` is the best member ("best1bin") or a random one ("rand1bin"); base, q and r
are drawn without replacement from the other members. A whole generation is made from
the previous one, as with scipy's ``updating="deferred"``. The first generation is
``x0`` and ``x0 + sigma z``, ``z ~ N(0, I)``.

Source: Storn, Price (1997), J. Global Optimization 11, 341-359. The defaults
of strategy and ``F`` are those of scipy's ``differential_evolution``. Population size
and crossover rate (``15 D`` and 0.7 there) did best on BBOB in 5, 10 and 20 dimensions
within 1000 D evaluations.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.optimizers import vectors
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution

STRATEGIES = ("best1bin", "rand1bin")


class DifferentialEvolutionState(NamedTuple):
    """The members and their values.

    Attributes:
        step: ``i32[]``.
        center: the starting solution.
        positions: ``float[P, D]``.
        fitness: ``float[P]``, infinite where a member has no value yet.
    """

    step: jax.Array
    center: Solution
    positions: jax.Array
    fitness: jax.Array


class DifferentialEvolutionInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: of all members.
        spread: longest edge of the box around them.
        success_rate: fraction of the candidates that became members.
    """

    best_fitness: jax.Array
    spread: jax.Array
    success_rate: jax.Array


@pytree
class DifferentialEvolution(Method):
    """Differential evolution on any pytree.

    Args:
        population_size: ``P``, 4 or above; None for ``2 D``, at least 30 and at most
            200.
        strategy: ``"best1bin"``, or ``"rand1bin"``, slower and harder to mislead.
        sigma: standard deviation of the first generation.
        mutation: smallest factor ``F`` of a difference, or a schedule.
        dither: width of the interval from which ``F`` is drawn; 0 for a constant.
        crossover_rate: probability that a coordinate changes, or a schedule.
        tol_x: stop where the members differ by less in every coordinate.
        tol_fun: stop where their values differ by less.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> method = DifferentialEvolution(population_size=20, sigma=1.0)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=60)
        >>> bool(jnp.sum(result.recommended**2) < 1e-4)
        True
    """

    population_size: int | None = static(default=None)
    strategy: str = static(default="best1bin")
    sigma: schedules.Number = 1.0
    mutation: schedules.Hyperparameter = 0.5
    dither: schedules.Hyperparameter = 0.5
    crossover_rate: schedules.Hyperparameter = 0.9
    tol_x: schedules.Number = 1e-11
    tol_fun: schedules.Number = 1e-12

    late_members = "same"

    def __post_init__(self) -> None:
        if self.population_size is not None:
            checks.integer("population_size", self.population_size, 4)
        checks.instance("strategy", self.strategy, str, "a strategy's name")
        checks.one_of("strategy", self.strategy, STRATEGIES)
        schedules.set_numbers(self, "sigma")
        schedules.set_numbers(self, "tol_x", "tol_fun", check=checks.non_negative)
        schedules.set_schedules(self, "mutation", "dither", check=checks.non_negative)
        schedules.set_schedules(self, "crossover_rate", check=checks.share)

    def init(self, key: Key, solution: Solution) -> DifferentialEvolutionState:
        """Starts without members: the first generation makes all of them."""
        center = trees.starting_point(solution)
        flat = vectors.flat(center)
        size = self.population_size or min(max(30, 2 * flat.size), 200)
        return DifferentialEvolutionState(
            step=jnp.int32(0),
            center=center,
            positions=jnp.tile(flat, (size, 1)),
            fitness=jnp.full(size, jnp.inf, flat.dtype),
        )

    def ask(self, key: Key, state: DifferentialEvolutionState) -> Population:
        """Mutates and crosses every member, ``[P, D]``."""
        x, dtype = state.positions, state.positions.dtype
        size, dimension = x.shape
        z, draws = threefry.normal_and_uniform(
            key, size, dimension, dimension + 5, dtype
        )
        coins, draws = draws[:, :dimension], draws[:, dimension:]
        start = x + schedules.at("sigma", self.sigma, state.step) * z.at[0].set(0)
        first, second, base = _others(draws[:, :3])
        x_base = x[base]
        if self.strategy == "best1bin":
            x_base = vectors.best(x, state.fitness)
        # v = x_base + F (x_q - x_r)
        factor = schedules.at("mutation", self.mutation, state.step)
        factor += schedules.at("dither", self.dither, state.step) * draws[0, 4]
        mutant = x_base + factor * (x[first] - x[second])
        # u = v where a coin says so, and at least at one index
        rate = schedules.at("crossover_rate", self.crossover_rate, state.step)
        fill = jnp.floor(draws[:, 3:4] * dimension)
        crossed = (coins < rate) | (jnp.arange(dimension) == fill)
        trial = jnp.where(crossed, mutant, x)
        has_started = jnp.any(jnp.isfinite(state.fitness))
        vector = jnp.where(has_started, trial, start).astype(dtype)
        return Population(vectors.limited(vector), jnp.ones(size, bool))

    def decode(self, state: DifferentialEvolutionState, member: Member) -> Solution:
        """Returns the vector as a solution."""
        return vectors.unflat(member, state.center)

    def tell(
        self,
        state: DifferentialEvolutionState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[DifferentialEvolutionState, DifferentialEvolutionInfo]:
        """Replaces each member by its candidate unless that is worse."""
        fitness = evaluation.fitness.astype(state.fitness.dtype)
        wins = evaluation.valid & (fitness <= state.fitness)
        # in the first generation even a failure takes a place, which any value may take
        is_first = jnp.all(jnp.isinf(state.fitness)) & jnp.any(wins)
        positions = jnp.where(
            (wins | is_first)[:, None], population.members, state.positions
        )
        new = DifferentialEvolutionState(
            step=state.step + 1,
            center=state.center,
            positions=positions,
            fitness=jnp.where(wins, fitness, state.fitness),
        )
        info = DifferentialEvolutionInfo(
            jnp.min(new.fitness), vectors.size(positions), jnp.mean(wins)
        )
        return new, info

    def recommend(self, state: DifferentialEvolutionState) -> Solution:
        """Returns the best member."""
        return vectors.unflat(
            vectors.best(state.positions, state.fitness), state.center
        )

    def stop(self, state: DifferentialEvolutionState) -> dict[str, jax.Array]:
        """Returns the reasons to stop, each ``bool[]``.

        ``tol_x``: all members are one point; ``tol_fun``: all have one value;
        ``diverged``: a member has reached the largest number allowed.
        """
        has_started = jnp.any(jnp.isfinite(state.fitness))
        return {
            "tol_x": has_started & vectors.is_small(state.positions, self.tol_x),
            "tol_fun": vectors.is_level(state.fitness, self.tol_fun),
            "diverged": vectors.has_left(state.positions),
        }


def _others(draws: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws three other rows for each row, all different.

    Args:
        draws: ``float[P, 3]``, uniform in [0, 1).

    Returns:
        Three arrays ``i32[P]``.
    """
    size = draws.shape[0]
    # distances from the row, excluding those in use: 1 .. P-1, P-2, P-3 of them
    count = jnp.arange(size - 1, size - 4, -1)
    a, b, c = (1 + jnp.floor(draws * count).astype(jnp.int32)).T
    b += b >= a
    c += c >= jnp.minimum(a, b)
    c += c >= jnp.maximum(a, b)
    row = jnp.arange(size)
    return (row + a) % size, (row + b) % size, (row + c) % size
