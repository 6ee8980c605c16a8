"""What methods share that search with a normal distribution around a mean."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.optimizers import stopping
from gfopt.protocol import Method
from gfopt.types import Evaluation, Solution, State


def default_population_size(dimension: int) -> int:
    """Returns ``4 + floor(3 ln D)``."""
    return 4 + int(3 * math.log(dimension))


class GaussianInfo(NamedTuple):
    """Diagnostics of one step."""

    sigma: jax.Array
    max_std: jax.Array
    min_std: jax.Array
    num_valid: jax.Array


class Gaussian(Method):
    """A method with these fields; its state has ``mean, sigma, std`` and ``history``.

    ``std`` are the standard deviations of the parameters, ``float[D]``.
    """

    population_size: int | None
    sigma: schedules.Number
    tol_x: schedules.Number
    tol_fun: schedules.Number

    def __post_init__(self) -> None:
        if self.population_size is not None:
            checks.integer("population_size", self.population_size, 2)
        schedules.set_numbers(self, "sigma")
        schedules.set_numbers(self, "tol_x", "tol_fun", check=checks.non_negative)

    def _size(self, dimension: int) -> int:
        return self.population_size or default_population_size(dimension)

    def _info(self, state: State, evaluation: Evaluation) -> GaussianInfo:
        std, num_valid = state.std, jnp.sum(evaluation.valid)
        return GaussianInfo(state.sigma, std.max(), std.min(), num_valid)

    def recommend(self, state: State) -> Solution:
        """Returns the mean."""
        return state.mean

    def stop(self, state: State) -> dict[str, jax.Array]:
        """Returns ``tol_x``, ``tol_fun`` and ``diverged``, each ``bool[]``."""
        largest = state.std.max()
        return stopping.reasons(state.history, largest, self.tol_x, self.tol_fun)
