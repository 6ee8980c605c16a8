"""xNES: a natural evolution strategy with a full covariance matrix.

It follows the natural gradient of expected utility in exponential coordinates, where
``z ~ N(0, I)``, ``u_p`` are utilities by rank that sum to 0, and ``det B = 1``:

    x_p = m + sigma B z_p
    G_d = sum_p u_p z_p,   G_M = sum_p u_p (z_p z_p^T - I)
    G_s = tr(G_M) / D,     G_B = G_M - G_s I
    m <- m + eta_m sigma B G_d
    sigma <- sigma exp(eta_s / 2 G_s)
    B <- B expm(eta_B / 2 G_B)

``expm`` is the exponential of a matrix. ``G_B`` has no trace: ``det B`` stays 1.

Sources: Glasmachers, Schaul, Yi, Wierstra, Schmidhuber (2010), "Exponential natural
evolution strategies", GECCO; Wierstra, Schaul, Glasmachers, Sun, Peters, Schmidhuber
(2014), "Natural evolution strategies", JMLR 15, algorithm 5 with the defaults of its
table 1. Deviations: the exponent of ``B`` is at most 1 in the Frobenius norm and that
of ``sigma`` at most 1; ties share their utility, and a step that ranks nothing moves
nothing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.optimizers import stopping, vectors
from gfopt.optimizers.evolution_strategies import snes
from gfopt.optimizers.gaussian import Gaussian, GaussianInfo
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution

MAX_DIMENSION = 10_000  # B and its exponential take about 4 D^2 numbers
TERMS = 18  # terms of the exponential series: 1 / 19! is below double precision


class XNESState(NamedTuple):
    """The distribution ``N(mean, sigma^2 B B^T)``.

    Attributes:
        step: ``i32[]``.
        mean: the solution's tree.
        sigma: ``float[]``.
        shape: ``B``, ``float[D, D]`` with determinant 1.
        history: the fitness of the last steps.
    """

    step: jax.Array
    mean: Solution
    sigma: jax.Array
    shape: jax.Array
    history: stopping.FitnessHistory

    @property
    def std(self) -> jax.Array:
        """Standard deviations of the parameters, ``float[D]``."""
        return self.sigma * jnp.linalg.norm(self.shape, axis=1)


@pytree
class XNES(Gaussian):
    """Exponential natural evolution strategy, for up to some 100 numbers.

    Args:
        population_size: candidates a step, ``P``; None for ``4 + floor(3 ln D)``.
        sigma: first standard deviation of every parameter.
        learning_rate: ``eta_m``, or a schedule.
        sigma_learning_rate: ``eta_s``, or a schedule; None for
            ``(9 + 3 ln D) / (5 D sqrt(D))``.
        shape_learning_rate: ``eta_B``, the same for the shape.
        tol_x: stop where every standard deviation is below this.
        tol_fun: stop where the recent fitness moves less than this.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.XNES(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(4), key=jax.random.key(0), generations=200)
        >>> bool(jnp.sum(result.recommended**2) < 1e-6)
        True
    """

    population_size: int | None = static(default=None)
    sigma: schedules.Number = 0.3
    learning_rate: schedules.Hyperparameter = 1.0
    sigma_learning_rate: schedules.Hyperparameter | None = None
    shape_learning_rate: schedules.Hyperparameter | None = None
    tol_x: schedules.Number = 1e-11
    tol_fun: schedules.Number = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        rates = ("learning_rate", "sigma_learning_rate", "shape_learning_rate")
        schedules.set_schedules(self, *rates, check=checks.non_negative)

    def _rate(self, name: str, state: XNESState) -> schedules.Number:
        """Returns a learning rate of the covariance at this step."""
        value, dimension = getattr(self, name), len(state.shape)
        if value is None:
            value = (9 + 3 * math.log(dimension)) / (5 * dimension**1.5)
        return schedules.at(name, value, state.step)

    def init(self, key: Key, solution: Solution) -> XNESState:
        """Starts with ``N(solution, sigma^2 I)``."""
        mean = trees.starting_point(solution)
        dimension, dtype = trees.num_parameters(mean), trees.wide_dtype(mean)
        if dimension > MAX_DIMENSION:
            raise ValueError(
                f"xnes holds D x D matrices and takes at most {MAX_DIMENSION} "
                f"parameters; got a solution with {dimension}. Try snes."
            )
        return XNESState(
            step=jnp.int32(0),
            mean=mean,
            sigma=jnp.asarray(schedules.at("sigma", self.sigma, 0), dtype),
            shape=jnp.eye(dimension, dtype=dtype),
            history=stopping.start(dimension, self._size(dimension), dtype),
        )

    def ask(self, key: Key, state: XNESState) -> Population:
        """Draws standard normals, ``[P, D]``."""
        size = self._size(len(state.shape))
        z = threefry.standard_normal(key, (size, len(state.shape)), state.shape.dtype)
        return Population(z, jnp.ones(size, bool))

    def decode(self, state: XNESState, member: Member) -> Solution:
        """Returns ``m + sigma B z``."""
        x = vectors.flat(state.mean) + state.sigma * (state.shape @ member)
        return vectors.unflat(x, state.mean)

    def tell(
        self, state: XNESState, population: Population, evaluation: Evaluation
    ) -> tuple[XNESState, GaussianInfo]:
        """Moves the mean, scales sigma and turns and stretches the shape."""
        z, dtype = population.members, state.sigma.dtype
        history, ranked = stopping.extended(state.history, evaluation, state.step)
        fitness, counts = shaping.failures_last(
            evaluation.fitness.astype(dtype), evaluation.valid, population.active
        )
        ranked |= jnp.any(counts & ~evaluation.valid)
        utility = shaping.nes_utilities(fitness, counts) * ranked
        identity = jnp.eye(z.shape[1], dtype=dtype)
        # G_d = sum u z;  G_M = sum u z z^T, as sum u is 0;  G_s = tr(G_M) / D
        grad_mean, grad = utility @ z, (z.T * utility) @ z
        grad_sigma = jnp.trace(grad) / z.shape[1]
        grad_shape = grad - grad_sigma * identity
        rate = schedules.at("learning_rate", self.learning_rate, state.step)
        # m <- m + eta_m sigma B G_d
        shift = rate * state.sigma * (state.shape @ grad_mean)
        mean = vectors.limited(vectors.flat(state.mean) + shift)
        # sigma <- sigma exp(eta_s / 2 G_s)
        rate = self._rate("sigma_learning_rate", state)
        sigma = state.sigma * snes.growth(rate / 2 * grad_sigma)
        # B <- B expm(eta_B / 2 G_B)
        rate = self._rate("shape_learning_rate", state)
        shape = state.shape @ _exponential(rate / 2 * grad_shape)
        new = XNESState(
            step=state.step + 1,
            mean=vectors.unflat(mean, state.mean),
            sigma=sigma.astype(dtype),
            shape=shape.astype(dtype),
            history=history,
        )
        return new, self._info(new, evaluation)


def _exponential(exponent: jax.Array) -> jax.Array:
    """Returns ``expm(A)`` by its series, ``A`` being shrunk to a norm of at most 1.

    Actual steps are far smaller. A general ``expm`` and an eigendecomposition agree to
    rounding, but are slower, much more so under vmap.
    """
    exponent = exponent / jnp.maximum(jnp.linalg.norm(exponent), 1)
    identity = jnp.eye(exponent.shape[0], dtype=exponent.dtype)

    # Horner: I + A (I + A / 2 (I + A / 3 (...)))
    def term(i: jax.Array, total: jax.Array) -> jax.Array:
        return identity + exponent @ total / (TERMS - i)

    return lax.fori_loop(0, TERMS, term, identity)
