"""CR-FM-NES: a natural evolution strategy for thousands of numbers.

The covariance has a scale for each parameter and one direction, ``sigma^2 d (I + v v^T)
d`` with vectors ``d`` and ``v`` (written as a diagonal where it is a matrix), so that a
step takes time and memory linear in D. With ``vbar = v / |v|`` and antithetic ``z``,

    y_p = z_p + (sqrt(1 + |v|^2) - 1) (z_p . vbar) vbar,   x_p = m + sigma d y_p
    p_s <- (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu_eff) sum_p u_p z_p
    w_p = u_p, or where |p_s| >= chi: hat_u_p exp(alpha |z_p|) / sum(...) - 1 / P
    p_c <- (1 - c_c) p_c + sqrt(c_c (2 - c_c) mu_eff) d sum_p w_p y_p
    m <- m + sigma d sum_p w_p y_p
    sigma <- sigma exp(eta_s / 2 sum_p w_p (|z_p|^2 / D - 1))

where ``hat_u`` are the utilities by rank before they are shifted to sum to 0. While the
mean moves fast (``|p_s| >= chi``), distant candidates weigh more; ``eta_s`` depends on
whether it moves, stagnates or converges. ``d`` and ``v`` follow the natural gradient
of the ``w_p`` at ``y_p`` and of ``p_c`` (``vd_covariance``), and ``d`` is scaled so
that the determinant of the shape stays 1.

Sources: Nomura & Ono (2022), "Fast moving natural evolution strategy for
high-dimensional problems", CEC, arXiv 2201.11422; Akimoto, Auger, Hansen (2014),
"Comparison-based natural gradient optimization in high dimension" (VD-CMA), GECCO, for
the natural gradient. Deviations: the learning rate of ``p_c`` is 0, not negative,
below five dimensions; a step is shortened where it would change an element of ``d``, or
``v``, by more than 0.7 of its length, as in VD-CMA; ties share their utility; up to a
third of failures are left out, and more rank last; a step that ranks nothing moves
nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.optimizers import stopping, vectors
from gfopt.optimizers.cma import vd_covariance
from gfopt.optimizers.evolution_strategies import snes
from gfopt.optimizers.gaussian import Gaussian, GaussianInfo
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution

AT_RANDOM = 1 / 3  # fraction of failures up to which they seem random


class CRFMNESState(NamedTuple):
    """The distribution ``N(mean, sigma^2 d (I + v v^T) d)`` and its two paths.

    Attributes:
        step: ``i32[]``.
        mean: the solution's tree.
        sigma: ``float[]``.
        scale: ``d``, ``float[D]``.
        direction: ``v``, ``float[D]``.
        path_sigma: ``float[D]``, of whitened steps.
        path_c: ``float[D]``.
        history: the fitness of the last steps.
    """

    step: jax.Array
    mean: Solution
    sigma: jax.Array
    scale: jax.Array
    direction: jax.Array
    path_sigma: jax.Array
    path_c: jax.Array
    history: stopping.FitnessHistory

    @property
    def std(self) -> jax.Array:
        """Standard deviations of the parameters, ``float[D]``."""
        return self.sigma * self.scale * jnp.sqrt(1 + self.direction**2)


class Constants(NamedTuple):
    """Strategy parameters: functions of dimension and population size alone."""

    mu_eff: float
    c_sigma: float
    c_c: float
    c_1: float
    chi: float
    alpha: float


def constants(dimension: int, population_size: int) -> Constants:
    """Computes the default strategy parameters.

    Args:
        dimension: ``D``.
        population_size: ``P``.
    """
    from scipy.optimize import brentq  # slow to import

    n, lam = dimension, population_size
    raw = np.maximum(math.log(lam / 2 + 1) - np.log(np.arange(1, lam + 1)), 0)
    mu_eff = float(raw.sum() ** 2 / (raw**2).sum())
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff) * max(n - 5, 0) / 6
    # (1 + h^2) exp(h^2 / 2) / 0.24 = 10 + D
    root = brentq(lambda h: (1 + h * h) * math.exp(h * h / 2) / 0.24 - 10 - n, 0, 10)
    return Constants(
        mu_eff=mu_eff,
        c_sigma=(mu_eff + 2) / (n + mu_eff + 5),
        c_c=(4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n),
        c_1=c_1,
        chi=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n)),
        alpha=root * min(1, math.sqrt(lam / n)),
    )


@pytree
class CRFMNES(Gaussian):
    """Cost-reduced fast-moving NES, for up to about 10,000 numbers.

    Args:
        population_size: candidates a step, ``P``, even, as they come in pairs ``m +- s
            y``; None for ``4 + floor(3 ln D)`` or one more.
        sigma: first standard deviation, about a fifth of the region of interest.
        tol_x: stop where every standard deviation is below this.
        tol_fun: stop where the recent fitness moves less than this.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd population.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.CRFMNES(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(100), key=jax.random.key(0), generations=500)
        >>> bool(jnp.sum(result.recommended**2) < 1e-6)
        True
    """

    population_size: int | None = static(default=None)
    sigma: schedules.Number = 0.3
    tol_x: schedules.Number = 1e-11
    tol_fun: schedules.Number = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.population_size is not None:
            checks.integer("population_size", self.population_size, 2, even=True)

    def _size(self, dimension: int) -> int:
        size = super()._size(dimension)
        return size + size % 2

    def init(self, key: Key, solution: Solution) -> CRFMNESState:
        """Starts near ``N(solution, sigma^2 I)``, with a random direction."""
        mean = trees.starting_point(solution)
        dimension, dtype = trees.num_parameters(mean), trees.wide_dtype(mean)
        normal = threefry.standard_normal(key, (1, dimension), dtype)[0]
        return CRFMNESState(
            step=jnp.int32(0),
            mean=mean,
            sigma=jnp.asarray(schedules.at("sigma", self.sigma, 0), dtype),
            scale=jnp.ones(dimension, dtype),
            direction=normal / math.sqrt(dimension),
            path_sigma=jnp.zeros(dimension, dtype),
            path_c=jnp.zeros(dimension, dtype),
            history=stopping.start(
                min(dimension, snes.MOST_REMEMBERED), self._size(dimension), dtype
            ),
        )

    def ask(self, key: Key, state: CRFMNESState) -> Population:
        """Draws standard normals ``[P, D]``, rows ``2i`` and ``2i + 1`` opposite."""
        dimension, dtype = state.scale.size, state.scale.dtype
        size = self._size(dimension)
        half = threefry.standard_normal(key, (size // 2, dimension), dtype)
        z = jnp.stack([half, -half], axis=1).reshape(size, dimension)
        return Population(z, jnp.ones(size, bool))

    def decode(self, state: CRFMNESState, member: Member) -> Solution:
        """Returns ``m + sigma d y``."""
        x = state.sigma * state.scale * vd_covariance.stretched(state.direction, member)
        return vectors.unflat(vectors.flat(state.mean) + x, state.mean)

    def tell(
        self, state: CRFMNESState, population: Population, evaluation: Evaluation
    ) -> tuple[CRFMNESState, GaussianInfo]:
        """Moves the mean, scales sigma and learns the scales and the direction."""
        z, dtype = population.members, state.sigma.dtype
        size, dimension = z.shape
        c = constants(dimension, size)
        history, ranked = stopping.extended(state.history, evaluation, state.step)
        fitness, valid = shaping.failures_last(
            evaluation.fitness.astype(dtype),
            evaluation.valid,
            population.active,
            AT_RANDOM,
        )
        ranked |= jnp.any(valid & ~evaluation.valid)
        count = jnp.sum(valid)
        uniform = valid / jnp.maximum(count, 1)
        utility = shaping.nes_utilities(fitness, valid)

        # p_s <- (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu_eff) sum u z
        path_sigma = (1 - c.c_sigma) * state.path_sigma
        path_sigma += math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * (utility @ z)
        length = jnp.linalg.norm(path_sigma)
        # hat_u exp(alpha |z|), relative to the largest exponent, which cannot overflow
        distance = jnp.linalg.norm(z, axis=1)
        alpha = c.alpha * jnp.sqrt(count / size)
        far = (utility + uniform) * jnp.exp(alpha * (distance - distance.max()))
        far = far / jnp.maximum(far.sum(), jnp.finfo(dtype).tiny) - uniform
        weights = jnp.where(length >= c.chi, far, utility)

        # p_c <- (1 - c_c) p_c + sqrt(c_c (2 - c_c) mu_eff) d sum w y
        y = vd_covariance.stretched(state.direction, z)
        shift = state.scale * (weights @ y)
        path_c = (1 - c.c_c) * state.path_c
        path_c += math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * shift
        flat = vectors.flat(state.mean)
        mean = vectors.limited(flat + state.sigma * shift)
        # sigma <- sigma exp(eta_s / 2 sum w (|z|^2 / D - 1)), where sum w is 0
        rate = _sigma_rate(length / c.chi, count, dimension)
        growth = rate / 2 * (weights @ distance**2) / dimension
        sigma = state.sigma * snes.growth(growth)

        rate = jnp.minimum(0.02 * count, 3 * math.log(dimension)) + 5
        rate = jnp.tanh(rate / (0.23 * dimension + 25))
        scale, direction = vd_covariance.learnt(
            state.scale,
            state.direction,
            jnp.concatenate([y, (path_c / state.scale)[None]]),
            jnp.append(rate * weights, c.c_1 * count / size),
        )
        new = CRFMNESState(
            step=state.step + 1,
            mean=vectors.unflat(mean, state.mean),
            sigma=sigma,
            scale=scale,
            direction=direction,
            path_sigma=path_sigma,
            path_c=path_c,
            history=history,
        )
        result = trees.select(ranked, new, state)
        new = result._replace(step=new.step, history=history)
        return new, self._info(new, evaluation)


def _sigma_rate(length: jax.Array, count: jax.Array, dimension: int) -> jax.Array:
    """Returns ``eta_s`` for a path of ``length``, in units of its expected length.

    1 while the mean moves, between 1 and 2 where it stagnates or converges.
    """
    stagnating = jnp.tanh((0.024 * count + 0.7 * dimension + 20) / (dimension + 12))
    near = 2 * jnp.tanh((0.025 * count + 0.75 * dimension + 10) / (dimension + 4))
    return jnp.where(length >= 1, 1.0, jnp.where(length >= 0.1, stagnating, near))
