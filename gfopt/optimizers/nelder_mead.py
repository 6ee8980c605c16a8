"""The downhill simplex method of Nelder and Mead, one evaluation a step.

With vertices ``x_0 .. x_D``, best first, and ``c`` the mean of all but the worst,

    x(t) = c + t (c - x_D):  reflection t = rho, expansion t = rho chi,
                             contraction t = psi rho outside, t = -psi inside,
    shrink                   x_i <- x_0 + shrinkage (x_i - x_0),  D evaluations

The first step evaluates all vertices, ``x0`` and ``x0 + sigma e_i``. A point that fails
is asked for once more: a failure at random would otherwise contract or shrink the
simplex for nothing. One that fails twice counts as worse than any value.

A vertex keeps the value that it once had, which is wrong where the function drifts, and
too good where noise was kind. With ``max_age``, values that are older are measured
again before the next reflection, in one step.

Sources: Nelder, Mead (1965), The Computer Journal 7, 308-313, with the comparisons of
Lagarias, Reeds, Wright, Wright (1998), SIAM J. Optimization 9, 112-147, as in scipy;
for ``adaptive`` Gao, Han (2012), Comp. Optimization and Applications 51, 259-277. The
use for ``max_age``, a simplex on a policy that is still in training: Moskovitz et al.
(ICLR 2024), arXiv 2310.04373, section 5; its values are kept without a limit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.optimizers import vectors
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution

# what a step evaluates
START, REFLECTION, EXPANSION, OUTSIDE, INSIDE, SHRINK, REFRESH = range(7)
AGAIN = 7  # added to a stage: its point failed once, and is asked for once more
MAX_DIMENSION = 20_000  # whose simplex takes 1.6 GB in float32


class NelderMeadState(NamedTuple):
    """The simplex, and which evaluation comes next.

    Attributes:
        step: ``i32[]``.
        center: the starting solution.
        simplex: ``float[D + 1, D]``, the best vertex first.
        fitness: ``float[D + 1]``, infinite for a vertex that failed.
        measured: ``i32[D + 1]``, the step at which each vertex was evaluated last.
        stage: ``i32[]``, what the next step evaluates; ``AGAIN`` more if it failed.
        reflected: ``float[D]``, the reflected point, while another is evaluated.
        reflected_fitness: ``float[]``.
    """

    step: jax.Array
    center: Solution
    simplex: jax.Array
    fitness: jax.Array
    measured: jax.Array
    stage: jax.Array
    reflected: jax.Array
    reflected_fitness: jax.Array


class NelderMeadInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: of the vertices.
        spread: longest edge of the box around them.
        stage: what was evaluated, from 0: start, reflection, expansion, contraction
            outside and inside, shrink, old vertices.
    """

    best_fitness: jax.Array
    spread: jax.Array
    stage: jax.Array


@pytree
class NelderMead(Method):
    """The downhill simplex method on any pytree, for up to a few dozen numbers.

    Args:
        sigma: length of the edges from ``x0`` in the first simplex.
        adaptive: coefficients that depend on the dimension, and are the classic ones in
            two. On BBOB within 1000 D evaluations they reach .54 of the targets, not
            .49, in 5-D, and .47, not .30, in 10-D.
        max_age: measure a vertex again whose value is older, in steps; None for never.
            For functions that drift, with a ``min_size``.
        min_size: a simplex smaller than this in every coordinate is made anew around
            its best vertex, with edges twice as long; 0 for never.
        tol_x: stop where the vertices differ by less in every coordinate.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.run(NelderMead(sigma=0.5), lambda x: jnp.sum(x**2),
        ...                    jnp.ones(3), key=jax.random.key(0), generations=150)
        >>> bool(jnp.sum(result.recommended**2) < 1e-6)
        True
    """

    sigma: schedules.Number = 0.3
    adaptive: bool = static(default=True)
    max_age: int | None = static(default=None)
    min_size: schedules.Number = 0.0
    tol_x: schedules.Number = 1e-11

    def __post_init__(self) -> None:
        checks.instance("adaptive", self.adaptive, bool, "True or False")
        if self.max_age is not None:
            checks.integer("max_age", self.max_age, 1)
        schedules.set_numbers(self, "sigma")
        schedules.set_numbers(self, "min_size", "tol_x", check=checks.non_negative)

    def init(self, key: Key, solution: Solution) -> NelderMeadState:
        """Starts with the simplex ``x0, x0 + sigma e_i``."""
        center = trees.starting_point(solution)
        x0 = vectors.flat(center)
        if x0.size > MAX_DIMENSION:
            raise ValueError(
                f"nelder_mead holds D + 1 vertices and takes at most {MAX_DIMENSION} "
                f"parameters; got a solution with {x0.size}. Try open_es."
            )
        edges = schedules.at("sigma", self.sigma, 0) * jnp.eye(x0.size, dtype=x0.dtype)
        return NelderMeadState(
            step=jnp.int32(0),
            center=center,
            simplex=jnp.concatenate([x0[None], x0 + edges]).astype(x0.dtype),
            fitness=jnp.full(x0.size + 1, jnp.inf, x0.dtype),
            measured=jnp.zeros(x0.size + 1, jnp.int32),
            stage=jnp.int32(START),
            reflected=x0 + 0,
            reflected_fitness=jnp.full((), jnp.inf, x0.dtype),
        )

    def ask(self, key: Key, state: NelderMeadState) -> Population:
        """Proposes one point, or all vertices of a new simplex, ``[D + 1, D]``."""
        simplex, stage = state.simplex, state.stage % AGAIN
        dimension = simplex.shape[1]
        rho, chi, psi, shrinkage = _coefficients(dimension, self.adaptive)
        best, worst = simplex[0], simplex[-1]
        # x(t) = (1 + t) c - t x_D
        t = jnp.array([0, rho, rho * chi, psi * rho, -psi, 0, 0], simplex.dtype)[stage]
        point = (1 + t) * (jnp.sum(simplex[:-1], axis=0) / dimension) - t * worst
        # x_i <- x_0 + shrinkage (x_i - x_0), before the one that stays
        shrunk = jnp.roll(best + shrinkage * (simplex - best), -1, axis=0)
        points = jnp.where(
            stage == START, simplex, jnp.where(stage == SHRINK, shrunk, point)
        )
        count = jnp.array([dimension + 1, 1, 1, 1, 1, dimension, 0])[stage]
        if self.max_age is not None:
            is_old = self._is_old(state)
            old_first = simplex[jnp.argsort(~is_old)]
            points = jnp.where(stage == REFRESH, old_first, points)
            count = jnp.where(stage == REFRESH, jnp.sum(is_old), count)
        return Population(vectors.limited(points), jnp.arange(dimension + 1) < count)

    def decode(self, state: NelderMeadState, member: Member) -> Solution:
        """Returns the point as a solution."""
        return vectors.unflat(member, state.center)

    def tell(
        self, state: NelderMeadState, population: Population, evaluation: Evaluation
    ) -> tuple[NelderMeadState, NelderMeadInfo]:
        """Replaces the worst vertex, or asks for another point first."""
        new = self._moved(state, population, evaluation)
        if self.max_age is not None:
            is_refresh = state.stage % AGAIN == REFRESH
            new = trees.select(is_refresh, self._refreshed(state, evaluation), new)
            # a reflection at least between two measurements, or it would never move
            is_due = ~is_refresh & (new.stage == REFLECTION) & self._is_old(new).any()
            new = new._replace(stage=jnp.where(is_due, REFRESH, new.stage))
        new = self._kept_apart(new)
        spread = vectors.size(new.simplex)
        return new, NelderMeadInfo(new.fitness[0], spread, state.stage % AGAIN)

    def _moved(
        self, state: NelderMeadState, population: Population, evaluation: Evaluation
    ) -> NelderMeadState:
        """Returns the state after a step that evaluated new points."""
        stage, points = state.stage % AGAIN, population.members
        values = jnp.where(evaluation.valid, evaluation.fitness, jnp.inf)
        values = values.astype(state.fitness.dtype)
        point, value = points[0], values[0]
        best, second, worst = state.fitness[jnp.array([0, -2, -1])]
        waiting = state.reflected_fitness

        after_reflection = jnp.where(
            value < best,
            EXPANSION,
            jnp.where(
                value < second, REFLECTION, jnp.where(value < worst, OUTSIDE, INSIDE)
            ),
        )
        is_better = jnp.array(
            [
                jnp.any(evaluation.valid),  # START: without any value it stays
                after_reflection == REFLECTION,
                value < waiting,  # EXPANSION
                value <= waiting,  # OUTSIDE
                value < worst,  # INSIDE
                True,  # SHRINK
                False,  # REFRESH
            ]
        )[stage]
        turn_back = jnp.array(
            [START, REFLECTION, REFLECTION, SHRINK, SHRINK, REFLECTION, REFLECTION]
        )[stage]
        following = jnp.where(is_better, REFLECTION, turn_back)
        following = jnp.where(stage == REFLECTION, after_reflection, following)
        is_whole = (stage == START) | (stage == SHRINK)
        failed_once = (stage == state.stage) & ~is_whole & ~evaluation.valid[0]
        following = jnp.where(failed_once, stage + AGAIN, following)

        # unless the expansion is better than the reflection, the reflection stays
        is_kept = (stage == EXPANSION) & ~is_better
        vertex = jnp.where(is_kept, state.reflected, point)
        new_worst = jnp.where(is_kept, waiting, value)
        one = (vertex, new_worst, state.step - is_kept)
        vertices = state.simplex, state.fitness, state.measured
        replaced = jax.tree.map(lambda old, new: old.at[-1].set(new), vertices, one)
        # a shrink's points stand before the best vertex, which has its value
        last = jnp.where(stage == SHRINK, best, values[-1])
        since = jnp.where(stage == SHRINK, state.measured[0], state.step)
        now = jnp.full_like(state.measured, state.step)
        rebuilt = points, values.at[-1].set(last), now.at[-1].set(since)
        takes = (is_better | is_kept) & ~failed_once
        simplex, fitness, measured = jax.tree.map(
            lambda old, one, all: jnp.where(takes, jnp.where(is_whole, all, one), old),
            vertices,
            replaced,
            rebuilt,
        )
        order = jnp.argsort(fitness)
        is_reflection = stage == REFLECTION
        return NelderMeadState(
            step=state.step + 1,
            center=state.center,
            simplex=simplex[order],
            fitness=fitness[order],
            measured=measured[order],
            stage=following.astype(jnp.int32),
            reflected=jnp.where(is_reflection, point, state.reflected),
            reflected_fitness=jnp.where(is_reflection, value, waiting),
        )

    def _is_old(self, state: NelderMeadState) -> jax.Array:
        """Returns which vertices are to be measured again, ``bool[D + 1]``."""
        return state.step - state.measured > (self.max_age or 0)

    def _refreshed(
        self, state: NelderMeadState, evaluation: Evaluation
    ) -> NelderMeadState:
        """Returns the state after a step that measured old vertices again.

        What fails stays old and is asked for once more, then counts as worse than any
        value; where nothing would be left, all values stay.
        """
        is_old = self._is_old(state)
        order = jnp.argsort(~is_old)  # of the rows
        values = jnp.where(evaluation.valid, evaluation.fitness, jnp.inf)
        values = jnp.zeros_like(state.fitness).at[order].set(values)
        is_second = state.stage != REFRESH
        takes = is_old & (jnp.isfinite(values) | is_second)
        fitness = jnp.where(takes, values, state.fitness)
        takes &= jnp.any(jnp.isfinite(fitness))
        fitness = jnp.where(takes, values, state.fitness)
        measured = jnp.where(takes, state.step, state.measured)
        again = jnp.where(jnp.any(is_old & ~takes), REFRESH + AGAIN, REFLECTION)
        order = jnp.argsort(fitness)
        return state._replace(
            step=state.step + 1,
            simplex=state.simplex[order],
            fitness=fitness[order],
            measured=measured[order],
            stage=again.astype(jnp.int32),
        )

    def _kept_apart(self, state: NelderMeadState) -> NelderMeadState:
        """Returns a new simplex around the best vertex where this one is too small."""
        small = schedules.at("min_size", self.min_size, state.step)
        best = state.simplex[0]
        edges = 2 * small * jnp.eye(best.size, dtype=best.dtype)
        around = jnp.concatenate([best[None], best + edges]).astype(best.dtype)
        is_small = (state.stage == REFLECTION) & (vectors.size(state.simplex) < small)
        return state._replace(
            simplex=jnp.where(is_small, vectors.limited(around), state.simplex),
            stage=jnp.where(is_small, START, state.stage).astype(jnp.int32),
        )

    def recommend(self, state: NelderMeadState) -> Solution:
        """Returns the best vertex."""
        return vectors.unflat(state.simplex[0], state.center)

    def widened(self, state: NelderMeadState, factor: jax.Array) -> NelderMeadState:
        """Returns a larger simplex around the best vertex, to be evaluated anew.

        A lucky value is thus forgotten: otherwise it would draw all other vertices to
        its own, until they coincide.
        """
        best, is_larger = state.simplex[0], factor > 1
        edges = (state.simplex - best) * factor.astype(best.dtype)
        # a simplex that is a point has no edges to scale
        first = schedules.at("sigma", self.sigma, 0)
        least = jnp.finfo(best.dtype).eps ** 0.5 * jnp.maximum(first, abs(best).max())
        axes = jnp.concatenate([0 * best[None], least * jnp.eye(best.size)])
        is_point = jnp.abs(edges).max() < least
        edges = jnp.where(is_point, axes, edges).astype(best.dtype)
        larger = jnp.where(is_larger, vectors.limited(best + edges), state.simplex)
        stage = jnp.where(is_larger, START, state.stage).astype(jnp.int32)
        return state._replace(simplex=larger, stage=stage)

    def stop(self, state: NelderMeadState) -> dict[str, jax.Array]:
        """Returns ``tol_x``: the vertices are one; ``diverged``: one is too large."""
        return {
            "tol_x": vectors.is_small(state.simplex, self.tol_x),
            "diverged": vectors.has_left(state.simplex),
        }


def _coefficients(dimension: int, adaptive: bool) -> tuple[float, float, float, float]:
    """Returns ``rho, chi, psi`` and the shrinkage."""
    if (
        not adaptive or dimension == 1
    ):  # in one dimension 1 - 1/D would shrink to a point
        return 1.0, 2.0, 0.5, 0.5
    return 1.0, 1 + 2 / dimension, 0.75 - 1 / (2 * dimension), 1 - 1 / dimension
