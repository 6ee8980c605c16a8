"""The cross-entropy method with a Gaussian of independent coordinates.

    x_p = m + s z_p,   z_p ~ N(0, I)
    m <- m + learning_rate (mean of the elites - m)
    s <- s + std_learning_rate (standard deviation of the elites - s)
    s <- max(s, min_std)

The elites are the best fraction ``elite_fraction`` of a generation. Rates below 1
smooth the updates. The rate of ``s`` and the floor ``min_std`` may be schedules, for
dynamic smoothing and for extra noise that decays.

Sources: Rubinstein (1999), Methodology and Computing in Applied Probability 1, 127-190;
de Boer, Kroese, Mannor, Rubinstein (2005), Annals of Operations Research 134, 19-67.
The defaults did well on BBOB in 5 and 10 dimensions. With the textbook's tenth of
elites and 0.7 for both rates, the search stops short of most minima.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.core.evaluate import best_row
from gfopt.noise import threefry
from gfopt.optimizers import vectors
from gfopt.optimizers.cma.parameters import shortened
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution


class CrossEntropyState(NamedTuple):
    """``step``, the mean, and the standard deviations ``float[D]``."""

    step: jax.Array
    mean: Solution
    std: jax.Array


class CrossEntropyInfo(NamedTuple):
    """Diagnostics of one step."""

    best_fitness: jax.Array
    max_std: jax.Array
    min_std: jax.Array


@pytree
class CrossEntropy(Method):
    """The cross-entropy method on any pytree.

    Args:
        population_size: candidates a step, ``P``.
        sigma: first standard deviation of every coordinate.
        elite_fraction: fraction of the candidates from which the next step learns, or
            a schedule; at least one candidate.
        learning_rate: weight of the elites' mean relative to the old one, or a
            schedule.
        std_learning_rate: the same for the standard deviations.
        min_std: floor of the standard deviations, or a schedule.
        tol_x: stop where all standard deviations are below this.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> method = CrossEntropy(population_size=50, min_std=lambda step: 0.9**step)
        >>> result = gfopt.run(method, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=80)
        >>> bool(jnp.sum(result.recommended**2) < 1e-4)
        True
    """

    population_size: int = static(default=50)
    sigma: schedules.Number = 1.0
    elite_fraction: schedules.Hyperparameter = 0.25
    learning_rate: schedules.Hyperparameter = 1.0
    std_learning_rate: schedules.Hyperparameter = 0.3
    min_std: schedules.Hyperparameter = 0.0
    tol_x: schedules.Number = 1e-11

    has_margin = True
    late_members = "encoded"

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2)
        schedules.set_numbers(self, "sigma")
        schedules.set_numbers(self, "tol_x", check=checks.non_negative)
        shares = "elite_fraction", "learning_rate", "std_learning_rate"
        schedules.set_schedules(self, *shares, check=checks.share)
        schedules.set_schedules(self, "min_std", check=checks.non_negative)

    def init(self, key: Key, solution: Solution) -> CrossEntropyState:
        """Starts with ``N(solution, sigma^2 I)``."""
        mean = trees.starting_point(solution)
        flat = vectors.flat(mean)
        sigma = schedules.at("sigma", self.sigma, 0)
        return CrossEntropyState(
            jnp.int32(0), mean, jnp.full(flat.shape, sigma, flat.dtype)
        )

    def ask(self, key: Key, state: CrossEntropyState) -> Population:
        """Draws standard normals, ``[P, D]``."""
        shape = self.population_size, state.std.size
        z = threefry.standard_normal(key, shape, state.std.dtype)
        return Population(z, jnp.ones(self.population_size, bool))

    def decode(self, state: CrossEntropyState, member: Member) -> Solution:
        """Returns ``m + s z``."""
        x = vectors.flat(state.mean) + state.std * member
        return vectors.unflat(x, state.mean)

    def tell(
        self, state: CrossEntropyState, population: Population, evaluation: Evaluation
    ) -> tuple[CrossEntropyState, CrossEntropyInfo]:
        """Moves mean and standard deviations towards those of the elites."""
        z, step, dtype = population.members, state.step, state.std.dtype
        share = schedules.at("elite_fraction", self.elite_fraction, step)
        fitness = evaluation.fitness.astype(dtype)
        weights = shaping.truncated(fitness, evaluation.valid, share)
        mean_z = weights @ z
        std_z = jnp.sqrt(weights @ (z - mean_z) ** 2)
        # m <- m + a (m_e - m),   m_e = m + s mean_z
        rate = schedules.at("learning_rate", self.learning_rate, step)
        flat = vectors.flat(state.mean)
        mean = vectors.limited(flat + rate * state.std * mean_z)
        # s <- s + b (s_e - s),   s_e = s std_z
        rate = schedules.at("std_learning_rate", self.std_learning_rate, step)
        std = state.std * (1 + rate * (std_z - 1))
        floor = schedules.at("min_std", self.min_std, step)
        std = jnp.clip(std, floor, vectors.LIMIT)
        # without a valid row there is nothing to learn
        has_valid = jnp.any(evaluation.valid)
        new = CrossEntropyState(
            step=step + 1,
            mean=vectors.unflat(jnp.where(has_valid, mean, flat), state.mean),
            std=jnp.where(has_valid, std, state.std).astype(dtype),
        )
        _, best = best_row(evaluation)
        return new, CrossEntropyInfo(best, new.std.max(), new.std.min())

    def recommend(self, state: CrossEntropyState) -> Solution:
        """Returns the mean."""
        return state.mean

    def standard_deviations(self, state: CrossEntropyState) -> Solution:
        """Returns the standard deviation of each coordinate, like the mean."""
        return vectors.unflat(state.std, state.mean)

    def encode(self, state: CrossEntropyState, solution: Solution) -> Member:
        """Returns the member of a solution, its step shortened as in ``CMAES``."""
        step = vectors.flat(solution) - vectors.flat(state.mean)
        std = jnp.maximum(state.std, jnp.finfo(state.std.dtype).tiny)
        return shortened((step / std).astype(state.std.dtype))

    def stop(self, state: CrossEntropyState) -> dict[str, jax.Array]:
        """Returns ``tol_x``, tiny deviations, and ``diverged``, too large a number."""
        has_left = vectors.has_left(vectors.flat(state.mean))
        return {
            "tol_x": jnp.all(state.std < self.tol_x),
            "diverged": has_left | vectors.has_left(state.std),
        }
