"""Bayesian optimization in a trust region: for few evaluations that cost a lot.

A Gaussian process of the values so far says where the next one is likely to improve on
the best. It looks within

    |x_i - x_best,i| <= L w_i / g,  g = (w_1 .. w_D)^(1/D)

w the lengths of the process. ``L`` is doubled after three improvements in a row and
halved after ``max(4, D)`` evaluations without one; where it has become tiny it is as
large as at first again. Choices are free in every region, and integers may go to the
next one.

The process takes a point that failed for one of an average value, so that the search
leaves a region where all fail, and comes back to one where few do.

The first step evaluates ``x0`` and D points of a Latin hypercube.

Sources: Eriksson, Pearce, Gardner, Turner and Poloczek (NeurIPS 2019), "Scalable global
optimization via local Bayesian optimization", arXiv 1910.01739, section 2 (TuRBO-1).
Deviations: the expected improvement is maximised, without Thompson samples; the first
region is the whole box, and one that has become tiny is widened, with all points kept;
the process is told transformed values. Several points at once are
chosen one after another, each taken to have the value that the process expects
(Ginsbourger, Le Riche and Carraro 2010, "Kriging believer").
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import threefry
from gfopt.optimizers import vectors
from gfopt.optimizers.bayesian import acquisition, gaussian_process
from gfopt.optimizers.bayesian.coordinates import Coordinates, coordinates
from gfopt.optimizers.bayesian.gaussian_process import Hyperparameters
from gfopt.optimizers.bayesian.warping import spread, warped
from gfopt.optimizers.box import Box, check_box
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.spaces.spaces import Space
from gfopt.types import Evaluation, Key, Member, Population, Solution

WIDEST, NARROWEST = 0.8, 0.5**8  # L, in widths of the box; the first is the widest
NUM_GOOD, NUM_BAD = 3, 4  # steps in a row that change it
IMPROVEMENT = 1e-3  # of the distance to the median, the least that counts


class BayesianState(NamedTuple):
    """What has been evaluated, and what the process has learnt of it.

    Attributes:
        step: ``i32[]``.
        center: the starting solution.
        points: ``float[A, D]``, newest first, as they were evaluated.
        fitness: ``float[A]``, infinite for those that failed.
        is_used: ``bool[A]``, which places hold a point.
        parameters: of the process.
        radius: ``L``.
        num_good: ``i32[]``, improvements in a row.
        num_bad: ``i32[]``, steps without one.
    """

    step: jax.Array
    center: Solution
    points: jax.Array
    fitness: jax.Array
    is_used: jax.Array
    parameters: Hyperparameters
    radius: jax.Array
    num_good: jax.Array
    num_bad: jax.Array


class BayesianInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: so far.
        radius: of the trust region, in widths of the box.
        noise: of the process, in variances of the values.
    """

    best_fitness: jax.Array
    radius: jax.Array
    noise: jax.Array


class _Known(NamedTuple):
    """What a process knows: points, values, and which rows count."""

    points: jax.Array
    values: jax.Array
    is_known: jax.Array


@pytree
class BayesianOptimization(Method):
    """Bayesian optimization, for up to some 20 evaluations of each number.

    A step takes as long as some thousand evaluations of a cheap function: ``A^3``.

    Args:
        sigma: how far ``x0`` may be from the minimum in a coordinate without bounds.
        num_points: ``A``, how many points the process knows; then the oldest goes, but
            never the best.
        batch_size: candidates a step, for objectives that are evaluated in parallel.
        box: where candidates are drawn, set by ``drawn_within``; None for everywhere.
        space: the space with integers and choices, set likewise; None without.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> def f(x):
        ...     return jnp.sum((x - 0.3) ** 2) + jnp.sin(5 * x[0])
        >>> result = gfopt.minimize(f, [2.0, 2.0], bounds=(-3, 3), budget=30,
        ...                         method=BayesianOptimization(num_points=30))
        >>> bool(result.fun < -0.5)
        True
    """

    sigma: schedules.Number = 1.0
    num_points: int = static(default=128)
    batch_size: int = static(default=1)
    box: Box | None = None
    space: Space | None = None

    def __post_init__(self) -> None:
        schedules.set_numbers(self, "sigma")
        checks.integer("num_points", self.num_points, 4)
        checks.integer("batch_size", self.batch_size, 1)
        check_box(self.box)
        if self.space is not None:
            checks.instance("space", self.space, Space, "a gfopt.spaces.Space")

    def drawn_within(self, space: Space) -> BayesianOptimization:
        """Returns the method for a space, whose kinds of numbers the process knows."""
        known = space if space.is_discrete else None
        return replace(self, box=Box.of(space), space=known)

    def init(self, key: Key, solution: Solution) -> BayesianState:
        """Starts with no point."""
        center = trees.starting_point(solution)
        x0 = vectors.flat(center)
        places = max(self.num_points, x0.size + 2)
        return BayesianState(
            step=jnp.int32(0),
            center=center,
            points=jnp.zeros((places, x0.size), x0.dtype),
            fitness=jnp.full(places, jnp.inf, x0.dtype),
            is_used=jnp.zeros(places, bool),
            parameters=gaussian_process.prior(x0.size, x0.dtype),
            radius=jnp.full((), WIDEST, x0.dtype),
            num_good=jnp.int32(0),
            num_bad=jnp.int32(0),
        )

    def ask(self, key: Key, state: BayesianState) -> Population:
        """Proposes the first points, or where to look next: ``float[P, D]``."""
        at = self._coordinates(state.center)
        dimension = state.points.shape[1]
        # options of a choice are to be seen, though not all of many: they cost a budget
        size = max(1 + min(dimension, 2 * at.num_parameters), self.batch_size)

        def first() -> tuple[jax.Array, jax.Array]:
            share = _latin_hypercube(key, size - 1, dimension)
            low, high = jnp.maximum(at.low, 0), jnp.minimum(at.high, 1)
            design = at.outward(low + share.astype(low.dtype) * (high - low))
            x0 = vectors.flat(state.center)[None]
            return jnp.concatenate([x0, design]), jnp.ones(size, bool)

        def promising() -> tuple[jax.Array, jax.Array]:
            rows = self._promising(key, state, at)
            rest = jnp.zeros((size - self.batch_size, dimension), rows.dtype)
            return jnp.concatenate([rows, rest]), jnp.arange(size) < self.batch_size

        return Population(*jax.lax.cond(jnp.any(state.is_used), promising, first))

    def _promising(self, key: Key, state: BayesianState, at: Coordinates) -> jax.Array:
        """Returns points that are likely to improve on the best, ``float[q, D]``."""
        region = self._region(state, at)
        more = self.batch_size - 1  # places for what is expected
        place = jnp.arange(state.is_used.size + more) - state.is_used.size

        def evaluated(x: jax.Array) -> jax.Array:
            return at.inward(at.evaluated(at.outward(x)))

        def choose(carry: _Known, numbered: tuple[jax.Array, Key]) -> Any:
            number, own_key = numbered
            process = gaussian_process.conditioned(state.parameters, *carry)
            goal = jnp.min(carry.values)  # at most 0

            def score(x: jax.Array) -> jax.Array:
                x = evaluated(x)
                mean, std = gaussian_process.predicted(process, x)
                return acquisition.log_expected_improvement(mean, std, goal)

            x = acquisition.most_promising(own_key, score, region)
            seen = evaluated(x[None])
            expected, _ = gaussian_process.predicted(process, seen)
            here = place == number
            return _Known(
                jnp.where(here[:, None], seen, carry.points),
                jnp.where(here, expected, carry.values),
                carry.is_known | here,
            ), x

        start = _Known(
            jnp.pad(at.inward(state.points), ((0, more), (0, 0))),
            jnp.pad(warped(state.fitness), (0, more)),
            jnp.pad(state.is_used, (0, more)),
        )
        keys = jax.random.split(key, self.batch_size)
        _, rows = jax.lax.scan(choose, start, (jnp.arange(self.batch_size), keys))
        return at.outward(rows)

    def _region(self, state: BayesianState, at: Coordinates) -> acquisition.Region:
        """Returns the trust region around the best point."""
        y = vectors.flat(self.recommend(state)).astype(state.points.dtype)
        best, least = at.inward(y), at.to_another(y)
        # |x_i - x_best,i| <= L w_i / g
        lengths = state.parameters.lengths
        half = state.radius * jnp.exp(lengths - jnp.mean(lengths))
        half = jnp.maximum(half, least)
        low, high = jnp.maximum(best - half, at.low), jnp.minimum(best + half, at.high)
        return acquisition.Region(jnp.clip(best, low, high), low, high, least)

    def decode(self, state: BayesianState, member: Member) -> Solution:
        """Returns the point."""
        return vectors.unflat(member, state.center)

    def tell(
        self, state: BayesianState, population: Population, evaluation: Evaluation
    ) -> tuple[BayesianState, BayesianInfo]:
        """Notes the points, fits the process to them, and resizes the region."""
        dtype = state.points.dtype
        at = self._coordinates(state.center)
        valid = evaluation.valid & population.active
        largest = jnp.finfo(dtype).max / 1e12  # differences must not overflow
        values = jnp.clip(evaluation.fitness.astype(dtype), -largest, largest)
        values = jnp.where(valid, values, jnp.inf)
        used = jnp.concatenate([population.active, state.is_used])
        fitness = jnp.concatenate([values, state.fitness])
        points = jnp.concatenate([at.evaluated(population.members), state.points])
        # the best first, then the newest
        place = jnp.where(used, 1, 2).at[jnp.argmin(fitness)].add(-1)
        order = jnp.argsort(place, stable=True)[: state.is_used.size]
        points, fitness, used = points[order], fitness[order], used[order]
        fitted = gaussian_process.fitted(
            state.parameters, at.inward(points), warped(fitness), used
        )
        has_value = jnp.any(jnp.isfinite(fitness))
        new = self._resized(state, values)._replace(
            step=state.step + 1,
            points=points,
            fitness=fitness,
            is_used=used,
            parameters=trees.select(has_value, fitted, state.parameters),
        )
        noise = jnp.exp(new.parameters.noise)
        return new, BayesianInfo(jnp.min(fitness), new.radius, noise)

    def _resized(self, state: BayesianState, values: jax.Array) -> BayesianState:
        """Returns the state with the region for the next step.

        A step without a value, which is no news of the region, changes nothing.
        """
        before = jnp.min(state.fitness)
        is_first, has_value = ~jnp.isfinite(before), jnp.any(jnp.isfinite(values))
        is_good = jnp.min(values) < before - IMPROVEMENT * spread(state.fitness)
        num_good = jnp.where(is_good, state.num_good + 1, 0)
        num_bad = jnp.where(is_good, 0, state.num_bad + 1)
        most_bad = -(-max(NUM_BAD, state.points.shape[1]) // self.batch_size)
        widens, narrows = num_good >= NUM_GOOD, num_bad >= most_bad
        radius = state.radius * jnp.where(widens, 2, jnp.where(narrows, 0.5, 1))
        radius = jnp.where(radius < NARROWEST, WIDEST, jnp.minimum(radius, WIDEST))
        resized = state._replace(
            radius=radius.astype(state.radius.dtype),
            num_good=jnp.where(widens, 0, num_good),
            num_bad=jnp.where(narrows, 0, num_bad),
        )
        return trees.select(has_value & ~is_first, resized, state)

    def recommend(self, state: BayesianState) -> Solution:
        """Returns the best point so far."""
        row = jnp.argmin(state.fitness)
        best = vectors.unflat(state.points[row], state.center)
        return trees.select(jnp.isfinite(state.fitness[row]), best, state.center)

    def _coordinates(self, center: Solution) -> Coordinates:
        sigma = schedules.at("sigma", self.sigma, 0)
        return coordinates(center, sigma, self.box, self.space)


def _latin_hypercube(key: Key, count: int, dimension: int) -> jax.Array:
    """Draws ``[N, D]`` in [0, 1), one of them in each N-th of each coordinate."""
    order_key, place_key = jax.random.split(key)
    shape = count, dimension
    order = jnp.argsort(threefry.standard_uniform(order_key, shape), axis=0)
    return (order + threefry.standard_uniform(place_key, shape)) / count
