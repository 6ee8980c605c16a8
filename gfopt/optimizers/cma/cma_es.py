"""CMA-ES: covariance matrix adaptation, dense, with the active update.

    x_k = m + sigma y_k,   y_k = A z_k,   z_k ~ N(0, I),   C = A A^T

The state keeps the root ``A`` and, in its coordinates, all later updates:
``C = A W A^T``. Every few steps ``A <- A L`` with ``L L^T = W``, and ``W`` restarts at
I. ``W`` stays near I, so that no eigendecomposition is needed, which would dominate the
time, and single precision suffices for condition numbers far above 1e7, with which it
cannot represent ``C``. The schedule follows a step counter shared by a batch of runs,
so that it remains a branch under vmap.

Sources: Hansen, "The CMA evolution strategy: a tutorial" (2016), arXiv 1604.00772,
whose equation numbers are given below; Krause, Arbones and Igel, "CMA-ES with optimal
covariance update and storage complexity" (NeurIPS 2016) for the triangular root.
Deviations: those of ``cma_parameters``; the root may be ten times as old as in the
tutorial; ``p_sigma`` rotates with the root, see ``renewed``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.optimizers import stopping, vectors
from gfopt.optimizers.box import Box, check_box, drawn_again
from gfopt.optimizers.cma.parameters import (
    constants_of_valid,
    cumulated,
    recombination_weights,
    scaled_negative,
    shortened,
)
from gfopt.optimizers.cma.root import condition_number, renewed, root_gap
from gfopt.optimizers.gaussian import Gaussian
from gfopt.pytree import pytree, static
from gfopt.spaces.spaces import Space
from gfopt.types import Evaluation, Key, Member, Population, Solution

CONDITION_GAP = 10  # root updates between two checks of the condition number
MAX_DIMENSION = 20_000  # A and W take 2 D^2 numbers: 3.2 GB in float32


class CMAESState(NamedTuple):
    """The distribution ``N(mean, sigma^2 covariance)`` and its two paths.

    Attributes:
        step: ``i32[]``, a counter shared by a batch of runs.
        age: ``i32[]``, steps of this run.
        mean: the solution's tree.
        sigma: ``float[]``.
        root: ``A``, ``float[D, D]``, lower triangular.
        learnt: ``W``, ``float[D, D]``, the covariance in the coordinates of the root.
        path_sigma: ``float[D]``, in the coordinates of the root.
        path_c: ``float[D]``, in the coordinates of the root.
        condition: ``float[]``, the condition number of ``C`` at the last check.
        history: the fitness of the last steps.
    """

    step: jax.Array
    age: jax.Array
    mean: Solution
    sigma: jax.Array
    root: jax.Array
    learnt: jax.Array
    path_sigma: jax.Array
    path_c: jax.Array
    condition: jax.Array
    history: stopping.FitnessHistory

    @property
    def std(self) -> jax.Array:
        """Standard deviations of the parameters, ``float[D]``."""
        return self.sigma * jnp.linalg.norm(self.root, axis=1)

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


@pytree
class CMAES(Gaussian):
    """Covariance matrix adaptation evolution strategy, for up to ~1,000 numbers.

    Args:
        population_size: ``P``; None for ``4 + floor(3 ln D)``.
        sigma: first standard deviation, about a fifth of the region of interest.
        active: also use negative weights.
        num_active: how many rows of the population are in use; may be traced, so that
            one program serves all sizes up to ``P``. None for all.
        tol_x: stop where every standard deviation is below this.
        tol_up: stop where a standard deviation is above this times the first one.
        tol_fun: stop where the recent best values and the last step vary by less.
        tol_fun_history: stop where the recent best values vary by less.
        tol_condition: stop where the condition number of ``C`` is above this.
        box: where candidates are drawn, set by ``drawn_within``; None for everywhere.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(gfopt.CMAES(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(4), key=jax.random.key(0), generations=100)
        >>> bool(jnp.sum(result.recommended**2) < 1e-6)
        True
    """

    population_size: int | None = static(default=None)
    sigma: schedules.Number = 0.3
    active: bool = static(default=True)
    num_active: int | jax.Array | None = None
    tol_x: schedules.Number = 1e-11
    tol_up: schedules.Number = 1e3
    tol_fun: schedules.Number = 1e-11
    tol_fun_history: schedules.Number = 1e-12
    tol_condition: schedules.Number = 1e14
    box: Box | None = None

    can_restart = True
    has_margin = True
    late_members = "encoded"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("active", self.active, bool, "True or False")
        if self.num_active is not None:
            kinds = int, np.integer, jax.Array
            checks.instance("num_active", self.num_active, kinds, "a number of rows")
        check_box(self.box)
        schedules.set_numbers(self, "tol_up", "tol_condition")
        schedules.set_numbers(self, "tol_fun_history", check=checks.non_negative)

    def init(self, key: Key, solution: Solution) -> CMAESState:
        """Starts with ``N(solution, sigma^2 I)``."""
        mean = trees.starting_point(solution)
        if self.box is not None:
            mean = self.box.folded(mean)
        flat, _ = ravel_pytree(mean)
        dimension, dtype = flat.size, trees.wide_dtype(mean)
        if dimension > MAX_DIMENSION:
            raise ValueError(
                f"cma_es holds D x D matrices and takes at most {MAX_DIMENSION} "
                f"parameters; got a solution with {dimension}. Try open_es."
            )
        identity = jnp.eye(dimension, dtype=dtype)
        zero = jnp.zeros(dimension, dtype)
        return CMAESState(
            step=jnp.int32(0),
            age=jnp.int32(0),
            mean=mean,
            sigma=jnp.asarray(schedules.at("sigma", self.sigma, 0), dtype),
            root=identity,
            learnt=identity + 0,
            path_sigma=zero,
            path_c=zero + 0,
            condition=jnp.ones((), dtype),
            history=stopping.start(dimension, self._size(dimension), dtype),
        )

    def ask(self, key: Key, state: CMAESState) -> Population:
        """Samples ``y_k = A z_k``, eq. 38-39."""
        dimension = state.path_c.size
        size = self._size(dimension)
        z = threefry.standard_normal(key, (size, dimension), state.root.dtype)
        used = size if self.num_active is None else self.num_active
        y = z @ state.root.T
        if self.box is not None:
            sides = self.box.sides(state.mean)
            mean = vectors.flat(state.mean)
            z, y = drawn_again(sides, key, z, y, mean, state.sigma, state.root)
        return Population(CMAESMember(z, y), jnp.arange(size) < used)

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
        size = self._size(dimension)
        c = constants_of_valid(dimension, size, evaluation.valid, dtype)
        gap = root_gap(dimension, size)
        z, y = population.members
        table = c.weights if self.active else jnp.maximum(c.weights, 0)
        weights, share = recombination_weights(table, evaluation, dtype)
        positive = jnp.maximum(weights, 0)
        z_w, y_w = positive @ z, positive @ y
        mean = flat + state.sigma * y_w  # eq. 41-42

        # In the coordinates of the root, C^{-1/2} is I and y is z.
        sigma, path_sigma, path_c, stall = cumulated(
            c, state, state.age, z_w, z_w, share
        )
        # eq. 46-47: W <- (1 - c_1 - c_mu sum w) W + c_1 p p^T + c_mu sum w_k z_k z_k^T
        missing = c.c_1 * (1 - stall) * c.c_c * (2 - c.c_c)
        keep = 1 + missing - c.c_1 - c.c_mu * jnp.sum(weights)
        learnt = keep * state.learnt + c.c_mu * (z.T * scaled_negative(weights, z)) @ z
        learnt += c.c_1 * jnp.outer(path_c, path_c)

        root, learnt, path_sigma, path_c = lax.cond(
            (state.step + 1) % gap == 0,
            renewed,
            lambda *old: old,
            state.root,
            learnt,
            path_sigma,
            path_c,
        )
        condition = lax.cond(
            (state.step + 1) % (CONDITION_GAP * gap) == 0,
            condition_number,
            lambda root: state.condition,
            root,
        )
        history, _ = stopping.extended(state.history, evaluation, state.step)
        new = CMAESState(
            step=state.step + 1,
            age=state.age + jnp.any(evaluation.valid),
            mean=state.mean,
            sigma=sigma,
            root=root,
            learnt=learnt,
            path_sigma=path_sigma,
            path_c=path_c,
            condition=condition,
            history=history,
        )
        # there is nothing to learn if no row is valid or all are equal
        ranked = share > 0
        result = trees.select(ranked, new, state)
        mean = jnp.where(ranked, mean, flat).astype(flat.dtype)
        new = result._replace(
            step=new.step, age=new.age, mean=unravel(mean), history=history
        )
        std = new.std
        axis_ratio = jnp.sqrt(new.condition)
        return new, CMAESInfo(new.sigma, axis_ratio, std.max(), std.min())

    def drawn_within(self, space: Space) -> CMAES:
        """Returns the method that draws again what falls outside."""
        return replace(self, box=Box.of(space))

    def standard_deviations(self, state: CMAESState) -> Solution:
        """Returns the standard deviation of each coordinate, like the mean."""
        _, unravel = ravel_pytree(state.mean)
        return unravel(state.std)

    def encode(self, state: CMAESState, solution: Solution) -> Member:
        """Returns the member of a solution, its step shortened to a sample's length.

        Source: Hansen, "Injecting external solutions into CMA-ES" (2011), arXiv
        1110.4181, section 2 with ``c_y``. The step of the mean needs no limit of its
        own: one candidate is only a part of it, and sigma grows by at most one e-fold a
        step.
        """
        step = ravel_pytree(solution)[0] - ravel_pytree(state.mean)[0]
        whitened = solve_triangular(state.root, step / state.sigma, lower=True)
        z = shortened(whitened.astype(state.root.dtype))
        return CMAESMember(z, state.root @ z)

    def stop(self, state: CMAESState) -> dict[str, jax.Array]:
        """Returns pycma's reasons to stop, each ``bool[]``.

        ``tol_x``: all standard deviations and the path are tiny; ``tol_up``: one is far
        above its first value; ``tol_fun``: the best of the recent steps and the last
        step hardly differ; ``tol_fun_history``: the best of the recent steps do not;
        ``flat``: twice in a row three quarters of a step had the best value;
        ``stagnation``: neither best nor median became better in a long time;
        ``tol_condition``: the covariance is degenerate; ``no_effect_axis``,
        ``no_effect_coordinate``: steps are lost in the rounding of the mean;
        ``max_generations``: this run is long; ``diverged``: sigma is no longer finite.
        """
        mean, _ = ravel_pytree(state.mean)
        dimension, history = mean.size, state.history
        used = self._size(dimension) if self.num_active is None else self.num_active
        std = state.std
        path = state.sigma * jnp.abs(state.root @ state.path_c)
        axis = state.sigma * state.root[:, state.step % dimension]
        first = schedules.at("sigma", self.sigma, 0)
        oldest = 100 + 150 * (dimension + 3) ** 2 / jnp.sqrt(used)
        recent = history.recent
        return {
            "tol_x": jnp.all(jnp.maximum(std, path) < self.tol_x),
            "tol_up": jnp.any(std > self.tol_up * first),
            "tol_fun": stopping.is_flat(history, self.tol_fun),
            "tol_fun_history": recent.max() - recent.min() < self.tol_fun_history,
            "flat": history.num_flat > 1,
            "stagnation": history.is_stagnant,
            "tol_condition": state.condition > self.tol_condition,
            "no_effect_axis": jnp.all(mean + (0.1 * axis).astype(mean.dtype) == mean),
            "no_effect_coordinate": jnp.any(
                mean + (0.2 * std).astype(mean.dtype) == mean
            ),
            "max_generations": state.age >= oldest,
            "diverged": ~jnp.isfinite(state.sigma) | (state.sigma > 1e20),
        }
