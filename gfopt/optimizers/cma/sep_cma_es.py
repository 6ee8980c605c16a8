"""Sep-CMA-ES: CMA-ES with a diagonal covariance matrix, linear in time and memory.

    x_k = m + sigma y_k,   y_k = c^{1/2} z_k,   z_k ~ N(0, I)

with the variances ``c``, a vector (products, roots and squares are elementwise). Mean,
step size and paths are those of CMA-ES; the variances follow the diagonal of its
update, (D + 2) / 3 times as fast, as there are only D of them:

    c <- (1 - c_1 - c_mu sum_k w_k) c + c_1 p_c^2 + c_mu sum_k w_k y_k^2

Source: Ros & Hansen (2008), "A simple modification in CMA-ES achieving linear time and
space complexity", PPSN X. Deviations: the constants, the negative weights (the bound of
``cma_parameters.constants`` keeps them safe here too) and the stalled path are those of
``cma_es``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.optimizers import stopping, vectors
from gfopt.optimizers.cma.parameters import (
    constants_of_valid,
    cumulated,
    recombination_weights,
    scaled_negative,
    shortened,
)
from gfopt.optimizers.gaussian import Gaussian, GaussianInfo
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution


class SepCMAESState(NamedTuple):
    """The distribution ``N(mean, sigma^2 diag(variances))`` and its two paths.

    Attributes:
        step: ``i32[]``.
        mean: the solution's tree.
        sigma: ``float[]``.
        variances: ``c``, ``float[D]``.
        path_sigma: ``float[D]``, of whitened steps.
        path_c: ``float[D]``.
        history: the fitness of the last steps.
    """

    step: jax.Array
    mean: Solution
    sigma: jax.Array
    variances: jax.Array
    path_sigma: jax.Array
    path_c: jax.Array
    history: stopping.FitnessHistory

    @property
    def std(self) -> jax.Array:
        """Standard deviations of the parameters, ``float[D]``."""
        return self.sigma * jnp.sqrt(self.variances)


@pytree
class SepCMAES(Gaussian):
    """CMA-ES that learns a scale for each parameter, but no correlations.

    Args:
        population_size: ``P``; None for ``4 + floor(3 ln D)``.
        sigma: first standard deviation, about a fifth of the region of interest.
        active: also use negative weights.
        tol_x: stop where every standard deviation is below this.
        tol_fun: stop where the recent fitness moves less than this.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> scales = 10.0 ** jnp.arange(4)
        >>> result = gfopt.run(gfopt.SepCMAES(sigma=0.5),
        ...                    lambda x: jnp.sum(scales * x**2), jnp.ones(4),
        ...                    key=jax.random.key(0), generations=150)
        >>> bool(jnp.sum(result.recommended**2) < 1e-6)
        True
    """

    population_size: int | None = static(default=None)
    sigma: schedules.Number = 0.3
    active: bool = static(default=True)
    tol_x: schedules.Number = 1e-11
    tol_fun: schedules.Number = 1e-12

    late_members = "encoded"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("active", self.active, bool, "True or False")

    def init(self, key: Key, solution: Solution) -> SepCMAESState:
        """Starts with ``N(solution, sigma^2 I)``."""
        mean = trees.starting_point(solution)
        dimension, dtype = trees.num_parameters(mean), trees.wide_dtype(mean)
        return SepCMAESState(
            step=jnp.int32(0),
            mean=mean,
            sigma=jnp.asarray(schedules.at("sigma", self.sigma, 0), dtype),
            variances=jnp.ones(dimension, dtype),
            path_sigma=jnp.zeros(dimension, dtype),
            path_c=jnp.zeros(dimension, dtype),
            history=stopping.start(dimension, self._size(dimension), dtype),
        )

    def ask(self, key: Key, state: SepCMAESState) -> Population:
        """Draws standard normals, ``[P, D]``."""
        dimension, dtype = state.variances.size, state.variances.dtype
        size = self._size(dimension)
        z = threefry.standard_normal(key, (size, dimension), dtype)
        return Population(z, jnp.ones(size, bool))

    def decode(self, state: SepCMAESState, member: Member) -> Solution:
        """Returns ``m + sigma c^{1/2} z``."""
        x = vectors.flat(state.mean) + state.std * member
        return vectors.unflat(x, state.mean)

    def tell(
        self, state: SepCMAESState, population: Population, evaluation: Evaluation
    ) -> tuple[SepCMAESState, GaussianInfo]:
        """Updates mean, step size and variances."""
        z, dtype, dimension = population.members, state.sigma.dtype, state.path_c.size
        size = self._size(dimension)
        c = constants_of_valid(dimension, size, evaluation.valid, dtype, diagonal=True)
        table = c.weights if self.active else jnp.maximum(c.weights, 0)
        weights, share = recombination_weights(table, evaluation, dtype)
        z_w = jnp.maximum(weights, 0) @ z
        y_w = jnp.sqrt(state.variances) * z_w
        flat = vectors.flat(state.mean)
        mean = vectors.limited(flat + state.sigma * y_w)
        sigma, path_sigma, path_c, stall = cumulated(
            c, state, state.step, z_w, y_w, share
        )
        # c <- (1 - c_1 - c_mu sum w) c + c_1 p_c^2 + c_mu sum_k w_k y_k^2
        missing = c.c_1 * (1 - stall) * c.c_c * (2 - c.c_c)
        keep = 1 + missing - c.c_1 - c.c_mu * jnp.sum(weights)
        update = c.c_mu * (scaled_negative(weights, z) @ z**2)
        variances = (keep + update) * state.variances + c.c_1 * path_c**2

        history, ranked = stopping.extended(state.history, evaluation, state.step)
        new = SepCMAESState(
            step=state.step + 1,
            mean=vectors.unflat(mean, state.mean),
            sigma=sigma,
            variances=variances,
            path_sigma=path_sigma,
            path_c=path_c,
            history=history,
        )
        # there is nothing to learn if no row is valid or all are equal
        ranked &= share > 0
        result = trees.select(ranked, new, state)
        new = result._replace(step=new.step, history=history)
        return new, self._info(new, evaluation)

    def encode(self, state: SepCMAESState, solution: Solution) -> Member:
        """Returns the member of a solution, its step shortened as in ``CMAES``."""
        step = vectors.flat(solution) - vectors.flat(state.mean)
        std = jnp.maximum(state.std, jnp.finfo(state.std.dtype).tiny)
        return shortened((step / std).astype(state.std.dtype))
