"""CMA-ES: covariance matrix adaptation, dense, with the active update.

    x_k = m + sigma y_k,   y_k = A z_k,   z_k ~ N(0, I),   C = A A^T

The state keeps the root ``A`` and, in its coordinates, what has been learnt since it
was made: ``C = A W A^T``. Every few steps ``A <- A L`` with ``L L^T = W``, and ``W``
starts from I again. ``W`` stays near I, so that this takes no eigendecomposition, which
would be most of the time, and single precision bears condition numbers far above 1e7,
with which it can't hold ``C``. The schedule goes by the step counter that a batch of
runs shares: it stays a branch under vmap.

Sources: Hansen, "The CMA evolution strategy: a tutorial" (2016), arXiv 1604.00772,
whose equation numbers are given below; Krause, Arbones and Igel, "CMA-ES with optimal
covariance update and storage complexity" (NeurIPS 2016) for the triangular root.
Deviations: ``c_mu`` has 1/4 more in its numerator, ``c_1`` the factor ``min(1, P / 6)``
and ``c_sigma`` 3 for 5 in its denominator, as pycma 4.5 sets them; the root may be ten
times as old as in the tutorial; ``p_sigma`` turns with the root, see ``_renewed``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from gfopt import checks
from gfopt.core import noise, schedules, shaping, trees
from gfopt.optimizers import stopping
from gfopt.types import Evaluation, Key, Member, Population, Solution

CONDITION_GAP = 10  # roots between two looks at the condition number
MAX_DIMENSION = 20_000  # A and W take 2 D^2 numbers: 3.2 GB in float32


class CMAESState(NamedTuple):
    """The distribution ``N(mean, sigma^2 covariance)`` and its two paths.

    Attributes:
        step: ``i32[]``.
        mean: the solution's tree.
        sigma: ``float[]``.
        root: ``A``, ``float[D, D]``, lower triangular.
        learnt: ``W``, ``float[D, D]``, the covariance in the coordinates of the root.
        path_sigma: ``float[D]``, in the coordinates of the root.
        path_c: ``float[D]``, in the coordinates of the root.
        condition: ``float[]``, the condition number of ``C`` at the last look.
        history: the fitness of the last steps.
    """

    step: jax.Array
    mean: Solution
    sigma: jax.Array
    root: jax.Array
    learnt: jax.Array
    path_sigma: jax.Array
    path_c: jax.Array
    condition: jax.Array
    history: stopping.FitnessHistory

    @property
    def covariance(self) -> jax.Array:
        """``C``, ``float[D, D]``."""
        return self.root @ self.learnt @ self.root.T


class CMAESInfo(NamedTuple):
    """Diagnostics of one step."""

    sigma: jax.Array
    axis_ratio: jax.Array
    max_std: jax.Array
    min_std: jax.Array


class CMAESMember(NamedTuple):
    """A standard normal vector ``z`` and the step ``y = A z``, each ``[D]``."""

    z: jax.Array
    y: jax.Array


class Constants(NamedTuple):
    """Strategy parameters: functions of dimension and population size alone."""

    weights: np.ndarray
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    chi: float
    root_gap: int


def constants(dimension: int, population_size: int) -> Constants:
    """Computes the default strategy parameters, tutorial table 1.

    Args:
        dimension: ``D``.
        population_size: ``P``.

    Example:
        >>> c = constants(10, 10)
        >>> round(c.mu_eff, 4), round(c.c_1, 6), round(c.c_mu, 6), round(c.c_c, 6)
        (3.1673, 0.015284, 0.023552, 0.29499)
    """
    n, lam = dimension, population_size
    raw = math.log((lam + 1) / 2) - np.log(np.arange(1, lam + 1))  # eq. 49
    positive, negative = np.maximum(raw, 0), np.minimum(raw, 0)
    mu_eff = float(positive.sum() ** 2 / (positive**2).sum())
    mu_eff_minus = float(negative.sum() ** 2 / max((negative**2).sum(), 1e-300))
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)  # eq. 56
    c_1 = min(1, lam / 6) * 2 / ((n + 1.3) ** 2 + mu_eff)  # eq. 57
    c_mu = 2 * (mu_eff - 1.75 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff)  # eq. 58
    c_mu = min(1 - c_1, max(c_mu, 0))
    c_sigma = (mu_eff + 2) / (n + mu_eff + 3)
    d_sigma = 1 + 2 * max(0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma  # 55
    # eq. 50-53: the negative weights' sum keeps C positive definite
    limits = [1 + 2 * mu_eff_minus / (mu_eff + 2)]
    if c_mu > 0:
        limits += [1 + c_1 / c_mu, (1 - c_1 - c_mu) / (n * c_mu)]
    scale = min(limits) / max(-negative.sum(), 1e-300)
    weights = positive / positive.sum() + negative * scale
    # Section B.2 renews ten times as often. So long as the root is not older than this,
    # eq. 50 keeps C positive definite: each step takes at most n c_mu sum |w-| <=
    # n (c_1 + c_mu) of it away, measured in the root that made the candidates.
    gap = max(1, int(1 / (n * (c_1 + c_mu))))
    chi = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    return Constants(weights, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, chi, gap)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["sigma", "tol_x", "tol_fun", "tol_condition"],
    meta_fields=["population_size", "active"],
)
@dataclass(frozen=True)
class CMAES:
    """Covariance matrix adaptation evolution strategy, for up to ~1,000 numbers.

    Args:
        population_size: ``P``; None for ``4 + floor(3 ln D)``.
        sigma: first standard deviation, about a fifth of the region of interest.
        active: use the negative weights, too.
        tol_x: stop where every standard deviation is below this.
        tol_fun: stop where the recent fitness moves less than this.
        tol_condition: stop where the condition number of ``C`` is above this.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.CMAES(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(4), key=jax.random.key(0), generations=100)
        >>> bool(jnp.sum(result.x**2) < 1e-6)
        True
    """

    population_size: int | None = None
    sigma: schedules.Hyperparameter = 0.3
    active: bool = True
    tol_x: schedules.Hyperparameter = 1e-11
    tol_fun: schedules.Hyperparameter = 1e-12
    tol_condition: schedules.Hyperparameter = 1e14

    def __post_init__(self) -> None:
        if self.population_size is not None:
            checks.integer("population_size", self.population_size, 2)
        checks.instance("active", self.active, bool, "True or False")
        number = schedules.number
        schedules.set_fields(
            self,
            sigma=number("sigma", self.sigma),
            tol_x=number("tol_x", self.tol_x, checks.non_negative),
            tol_fun=number("tol_fun", self.tol_fun, checks.non_negative),
            tol_condition=number("tol_condition", self.tol_condition),
        )

    def _constants(self, dimension: int) -> Constants:
        size = self.population_size or 4 + int(3 * math.log(dimension))
        return constants(dimension, size)

    def init(self, key: Key, solution: Solution) -> CMAESState:
        """Starts with ``N(solution, sigma^2 I)``."""
        mean = trees.starting_point(solution)
        flat, _ = ravel_pytree(mean)
        dimension, dtype = flat.size, trees.wide_dtype(mean)
        if dimension > MAX_DIMENSION:
            raise ValueError(
                f"cma_es holds D x D matrices and takes at most {MAX_DIMENSION} "
                f"parameters; got a solution with {dimension}. Try open_es."
            )
        lam = self._constants(dimension).weights.size
        identity = jnp.eye(dimension, dtype=dtype)
        zero = jnp.zeros(dimension, dtype)
        return CMAESState(
            step=jnp.int32(0),
            mean=mean,
            sigma=jnp.asarray(schedules.at("sigma", self.sigma, 0), dtype),
            root=identity,
            learnt=identity + 0,
            path_sigma=zero,
            path_c=zero + 0,
            condition=jnp.ones((), dtype),
            history=stopping.start(dimension, lam, dtype),
        )

    def ask(self, key: Key, state: CMAESState) -> Population:
        """Samples ``y_k = A z_k``, eq. 38-39."""
        dimension = state.path_c.size
        size = self._constants(dimension).weights.size
        z = noise.standard_normal(key, (size, dimension), state.root.dtype)
        return Population(CMAESMember(z, z @ state.root.T), jnp.ones(size, bool))

    def decode(self, state: CMAESState, member: Member) -> Solution:
        """Returns ``m + sigma y``, eq. 40."""
        flat, unravel = ravel_pytree(state.mean)
        return unravel((flat + state.sigma * member.y).astype(flat.dtype))

    def tell(
        self, state: CMAESState, population: Population, evaluation: Evaluation
    ) -> tuple[CMAESState, CMAESInfo]:
        """Updates mean, step size and covariance, eq. 41-47."""
        flat, unravel = ravel_pytree(state.mean)
        dimension, dtype = flat.size, state.sigma.dtype
        c = self._constants(dimension)
        z, y = population.members
        table = c.weights if self.active else np.maximum(c.weights, 0)
        weights, share = recombination_weights(table, evaluation, dtype)
        positive = jnp.maximum(weights, 0)
        z_w, y_w = positive @ z, positive @ y
        mean = flat + state.sigma * y_w  # eq. 41-42

        # In the coordinates of the root, C^{-1/2} is I and y is z.
        sigma, path_sigma, path_c, stall = cumulated(c, state, z_w, z_w, share)
        # eq. 46-47: W <- (1 - c_1 - c_mu sum w) W + c_1 p p^T + c_mu sum w_k z_k z_k^T
        missing = c.c_1 * (1 - stall) * c.c_c * (2 - c.c_c)
        keep = 1 + missing - c.c_1 - c.c_mu * jnp.sum(weights)
        learnt = keep * state.learnt + c.c_mu * (z.T * scaled_negative(weights, z)) @ z
        learnt += c.c_1 * jnp.outer(path_c, path_c)

        root, learnt, path_sigma, path_c = lax.cond(
            (state.step + 1) % c.root_gap == 0,
            _renewed,
            lambda *old: old,
            state.root,
            learnt,
            path_sigma,
            path_c,
        )
        condition = lax.cond(
            (state.step + 1) % (CONDITION_GAP * c.root_gap) == 0,
            _condition,
            lambda root: state.condition,
            root,
        )
        history, _ = stopping.extended(state.history, evaluation)
        new = CMAESState(
            step=state.step + 1,
            mean=state.mean,
            sigma=sigma,
            root=root,
            learnt=learnt,
            path_sigma=path_sigma,
            path_c=path_c,
            condition=condition,
            history=history,
        )
        # nothing is learnt where no row is valid or all are equal
        ranked = share > 0
        kept = jax.tree.map(
            lambda a, b: jnp.where(ranked, a, b).astype(b.dtype), new, state
        )
        mean = jnp.where(ranked, mean, flat).astype(flat.dtype)
        new = kept._replace(step=new.step, mean=unravel(mean), history=history)
        std = new.sigma * jnp.linalg.norm(new.root, axis=1)
        axis_ratio = jnp.sqrt(new.condition)
        return new, CMAESInfo(new.sigma, axis_ratio, std.max(), std.min())

    def recommend(self, state: CMAESState) -> Solution:
        """Returns the mean."""
        return state.mean

    def standard_deviations(self, state: CMAESState) -> Solution:
        """Returns the standard deviation of each coordinate, like the mean."""
        _, unravel = ravel_pytree(state.mean)
        return unravel(state.sigma * jnp.linalg.norm(state.root, axis=1))

    def stop(self, state: CMAESState) -> dict[str, jax.Array]:
        """Returns the reasons to stop, each ``bool[]``.

        ``tol_x``: all standard deviations and the path are tiny; ``tol_fun``: the
        best of the recent steps and the last generation hardly differ;
        ``tol_condition``: the covariance is degenerate; ``diverged``: sigma is not a
        finite number any more.
        """
        path = jnp.abs(state.root @ state.path_c)
        std = jnp.linalg.norm(state.root, axis=1)
        reach = state.sigma * jnp.maximum(std, path)
        return {
            "tol_x": jnp.all(reach < self.tol_x),
            "tol_fun": stopping.is_flat(state.history, self.tol_fun),
            "tol_condition": state.condition > self.tol_condition,
            "diverged": ~jnp.isfinite(state.sigma) | (state.sigma > 1e20),
        }


def recombination_weights(
    table: np.ndarray, evaluation: Evaluation, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Recombination weights by rank, failures at 0; and the share that is valid.

    Failed rows stand last in the ranking but are left out of the sums: with k
    valid rows the best k positive weights count, brought to sum 1 again.
    """
    weights = shaping.by_rank(
        evaluation.fitness.astype(dtype),
        evaluation.valid,
        lambda rank, _: jnp.asarray(table),
    )
    positive = jnp.maximum(weights, 0)
    total = jnp.sum(positive)
    # ties can smear negative weight over the best: then it is simply smaller
    positive = positive / jnp.where(total > 0, total, 1)
    return positive + jnp.minimum(weights, 0), jnp.minimum(total, 1)


def cumulated(
    c: Constants, state: Any, z_w: jax.Array, y_w: jax.Array, share: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Updates step size and paths, eq. 43-45.

    Args:
        c: strategy parameters.
        state: with ``step``, ``sigma``, ``path_sigma`` and ``path_c``.
        z_w: ``float[D]``, the weighted mean of ``z``.
        y_w: ``float[D]``, the weighted mean of ``y``.
        share: ``float[]``, of the weights that count.

    Returns:
        ``(sigma, path_sigma, path_c, h_sigma)``.
    """
    # eq. 43: p_s <- (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu_eff) C^{-1/2} y_w
    path_sigma = (1 - c.c_sigma) * state.path_sigma
    path_sigma += math.sqrt(c.c_sigma * (2 - c.c_sigma) * c.mu_eff) * z_w
    length = jnp.linalg.norm(path_sigma)
    # eq. 44, with pycma's limit of one e-fold a step
    change = c.c_sigma / c.d_sigma * (length / c.chi - 1) * share
    sigma = state.sigma * jnp.exp(jnp.minimum(change, 1.0))

    # eq. 45, with h_s stalling the path while p_s is long
    bias = 1 - (1 - c.c_sigma) ** (2 * (state.step.astype(length.dtype) + 1))
    stall = length / jnp.sqrt(bias) < (1.4 + 2 / (z_w.size + 1)) * c.chi
    path_c = (1 - c.c_c) * state.path_c
    path_c += stall * math.sqrt(c.c_c * (2 - c.c_c) * c.mu_eff) * y_w
    return sigma, path_sigma, path_c, stall


def scaled_negative(weights: jax.Array, z: jax.Array) -> jax.Array:
    """Returns the weights, negative ones times ``D / |C^{-1/2} y|^2``, eq. 46."""
    norms = jnp.maximum(jnp.sum(z * z, axis=1), jnp.finfo(z.dtype).tiny)
    return jnp.where(weights < 0, weights * z.shape[1] / norms, weights)


def _renewed(
    root: jax.Array, learnt: jax.Array, path_sigma: jax.Array, path_c: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Moves what was learnt into the root: ``A <- A L``, ``L L^T = W``, ``W <- I``.

    ``p_c`` is a step, so that it becomes ``L^{-1} p_c``. ``p_sigma`` is made of
    whitened steps and keeps its length; it turns as ``L^{-1} W^{1/2}``, the rotation
    between this root and the next, would turn it. ``(I + W) / 2`` is ``W^{1/2}`` but
    for a second-order term. So the search does not depend on the order of the
    parameters, as it would with a triangular root alone.
    """
    identity = jnp.eye(learnt.shape[0], dtype=learnt.dtype)
    factor = jnp.linalg.cholesky(learnt)
    # rounding can spoil W only where fitness is noise; then that is not learnt
    fine = jnp.all(jnp.isfinite(factor))
    factor = jnp.where(fine, factor, identity)
    steps = jnp.stack([path_sigma + learnt @ path_sigma, path_c], axis=1)
    turned, path_c = solve_triangular(factor, steps, lower=True).T
    norm = jnp.linalg.norm(turned)
    turned *= jnp.linalg.norm(path_sigma) / jnp.where(norm > 0, norm, 1)
    return root @ factor, identity, turned, path_c


def _condition(root: jax.Array) -> jax.Array:
    """Returns the condition number of ``C``, from the singular values of its root."""
    values = jnp.linalg.svd(root, compute_uv=False)
    return (values[0] / jnp.maximum(values[-1], jnp.finfo(root.dtype).tiny)) ** 2
