"""Coordinate search: a global line search along each coordinate, all of them in turn.

The line that promises most comes first, by the parabola through its three lowest
points; every fourth point explores the line that was explored least. If ``f`` is a sum
of functions of one coordinate, a line stays true when ``x`` moves along another, and
this is a global search; otherwise it is a local one.

Source: Baudis and Posik, "Global line search algorithm hybridized with quadratic
interpolation and its extension to separable functions" (GECCO 2015). Deviations: the
parabola with the largest promise comes first, in place of turns; those of ``lines``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.optimizers import vectors
from gfopt.optimizers.box import Box, check_box
from gfopt.optimizers.lines import (
    LENGTH,
    Lines,
    explored,
    extended,
    lines_at,
    lowest,
    refined,
)
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.spaces.spaces import Space
from gfopt.types import Evaluation, Key, Member, Population, Solution

EXPLORED = 4  # one point of so many explores
ATTEMPTS = 6  # at a point that fails, where failures seem to be random


class CoordinateSearchState(NamedTuple):
    """The best point and the lines through it.

    Attributes:
        step: ``i32[]``.
        center: the starting solution.
        x: ``float[D]``, the best point.
        fitness: ``float[]``, its value; infinite before the first step.
        lines: through it.
        num_asked: ``i32[]``, candidates so far.
        failed: ``i32[D + 1]``, how often the candidate of each line, and of the joint
            step, has failed and is asked for again.
        retries: ``i32[2]``, candidates that were asked for again, and those of them
            that did not fail.
    """

    step: jax.Array
    center: Solution
    x: jax.Array
    fitness: jax.Array
    lines: Lines
    num_asked: jax.Array
    failed: jax.Array
    retries: jax.Array


class CoordinateMember(NamedTuple):
    """A candidate.

    Attributes:
        x: ``float[D]``.
        coordinate: ``i32[]``, in which it differs from the best point; -1 if it is the
            best of each line, or the start.
        explores: ``bool[]``.
        refines: ``bool[]``, whether it is between two points of its line.
    """

    x: jax.Array
    coordinate: jax.Array
    explores: jax.Array
    refines: jax.Array


class CoordinateSearchInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: so far.
        num_points: along all lines.
        num_done: lines that are explored.
    """

    best_fitness: jax.Array
    num_points: jax.Array
    num_done: jax.Array


@pytree
class CoordinateSearch(Method):
    """A global search along each coordinate, for sums of functions of one coordinate.

    Args:
        sigma: the scale at which ``x0`` may be wrong: the first points of a line lie
            half of it and more away.
        batch_size: candidates a step, for objectives that are evaluated in parallel.
        tol_fun: promises of a parabola below this are not followed.
        patience: explorations of a line without an improvement before it is done.
        box: where the lines end, set by ``drawn_within``; None for nowhere.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> def rastrigin(x):
        ...     return jnp.sum(x**2 + 10 * (1 - jnp.cos(2 * jnp.pi * x)))
        >>> search = CoordinateSearch(sigma=2.0)
        >>> result = gfopt.minimize(rastrigin, [2.7, -3.6, 1.2], method=search,
        ...                         target=1e-8)
        >>> result.success, result.nfev < 150
        (True, True)
    """

    sigma: schedules.Number = 0.3
    batch_size: int = static(default=1)
    tol_fun: schedules.Number = 1e-12
    patience: int = static(default=128)
    box: Box | None = None

    def __post_init__(self) -> None:
        schedules.set_numbers(self, "sigma")
        schedules.set_numbers(self, "tol_fun", check=checks.non_negative)
        checks.integer("batch_size", self.batch_size, 1)
        checks.integer("patience", self.patience, 1)
        check_box(self.box)

    @property
    def population_size(self) -> int:
        """The batch size."""
        return self.batch_size

    def init(self, key: Key, solution: Solution) -> CoordinateSearchState:
        """Starts with a point on each line, ``x0``."""
        center = trees.starting_point(solution)
        if self.box is not None:
            center = self.box.folded(center)
        x = vectors.flat(center)
        return CoordinateSearchState(
            step=jnp.int32(0),
            center=center,
            x=x,
            fitness=jnp.full((), jnp.inf, x.dtype),
            lines=lines_at(x),
            num_asked=jnp.int32(0),
            failed=jnp.zeros(x.size + 1, jnp.int32),
            retries=jnp.zeros(2, jnp.int32),
        )

    def started_at(
        self, state: CoordinateSearchState, x: jax.Array, fitness: jax.Array
    ) -> CoordinateSearchState:
        """Returns the state with a start whose value is known: ``float[D]``."""
        return state._replace(x=x, fitness=fitness, lines=lines_at(x))

    def drawn_within(self, space: Space) -> CoordinateSearch:
        """Returns the method with lines that end at its bounds."""
        return replace(self, box=Box.of(space))

    def _sides(self, state: CoordinateSearchState) -> Sequence[jax.Array]:
        """Returns where the lines end, ``float[D]`` each."""
        if self.box is not None:
            return self.box.sides(state.center)
        far = jnp.full_like(state.x, vectors.LIMIT)
        return -far, far

    def ask(self, key: Key, state: CoordinateSearchState) -> Population:
        """Asks for the points that promise most, each on another line."""
        dimension, size = state.x.size, self.batch_size
        sigma = jnp.asarray(
            schedules.at("sigma", self.sigma, state.step), state.x.dtype
        )
        at = state.lines, state.x, self._sides(state), sigma
        nearby, gain = refined(*at)
        is_out = jnp.isinf(gain)
        is_open = state.lines.num_points < LENGTH
        least = 8 * jnp.finfo(state.x.dtype).eps * jnp.abs(state.fitness)
        promises = gain > jnp.maximum(least, self.tol_fun)

        def chosen(is_free: jax.Array, number: jax.Array) -> tuple[jax.Array, Any]:
            out, pays = is_free & is_out, is_free & promises
            explores = ~jnp.any(out)
            explores &= (number % EXPLORED == EXPLORED - 1) | ~jnp.any(pays)
            first = jnp.where(out, -state.lines.num_points, -jnp.inf)
            best = jnp.where(pays, gain, -jnp.inf)
            least = jnp.where(is_free, -state.lines.num_explored, -jnp.inf)
            score = jnp.where(explores, least, jnp.where(jnp.any(out), first, best))
            coordinate = jnp.argmax(score).astype(jnp.int32)
            is_free = is_free & (jnp.arange(dimension) != coordinate)
            return is_free, (coordinate, explores)

        numbers = state.num_asked + jnp.arange(size, dtype=jnp.int32)
        _, (coordinate, explores) = lax.scan(chosen, is_open, numbers)
        place = jnp.where(explores, explored(*at)[coordinate], nearby[coordinate])
        rows = jnp.arange(size)
        x = jnp.tile(state.x, (size, 1)).at[rows, coordinate].set(place)
        # the first row joins what was found on several lines at once, or is the start
        ends = lowest(state.lines, state.x)
        joined = state.lines.places[jnp.arange(dimension), ends]
        joins = self._is_first(state) | jnp.any(joined != state.x)
        here = joins & (rows == 0)
        line = jnp.maximum(rows - joins, 0)
        members = CoordinateMember(
            x=jnp.where(here[:, None], joined, x[line]),
            coordinate=jnp.where(here, -1, coordinate[line]),
            explores=explores[line] & ~here,
            refines=jnp.isfinite(gain)[coordinate][line] & ~here,
        )
        return Population(members, rows < jnp.sum(is_open) + joins)

    def decode(self, state: CoordinateSearchState, member: Member) -> Solution:
        """Returns the candidate."""
        return vectors.unflat(member.x, state.center)

    def tell(
        self,
        state: CoordinateSearchState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[CoordinateSearchState, CoordinateSearchInfo]:
        """Adds the points to their lines, and moves to the best.

        A point that fails is asked for again, up to ``ATTEMPTS`` times in all, until
        that has helped in less than half of the cases. Then it counts as the worst of
        its line.
        """
        members: CoordinateMember = population.members
        dimension, dtype = state.x.size, state.x.dtype
        valid = evaluation.valid & population.active
        fitness = jnp.where(valid, evaluation.fitness.astype(dtype), jnp.inf)
        on_line = population.active & (members.coordinate >= 0)
        row_of = on_line & (members.coordinate == jnp.arange(dimension)[:, None])
        row = jnp.argmax(row_of, axis=1)
        is_told = jnp.any(row_of, axis=1)
        place = members.x[row, jnp.arange(dimension)]
        is_joint = population.active & (members.coordinate < 0)
        told = jnp.append(is_told, jnp.any(is_joint))
        fails = jnp.append(is_told & ~valid[row], jnp.any(is_joint & ~valid))
        again = told & (state.failed > 0)
        retries = jnp.stack([jnp.sum(again), jnp.sum(again & ~fails)])
        retries = state.retries + retries.astype(jnp.int32)
        most = jnp.where(2 * retries[1] + 2 > retries[0], ATTEMPTS, 1)
        is_lost = fails & (state.failed + 1 < most)
        is_new = is_told & ~is_lost[:-1]
        first = jnp.min(jnp.where(is_joint, fitness, jnp.inf))
        base = jnp.where(self._is_first(state), first, state.fitness)
        value = jnp.where(jnp.isfinite(fitness[row]), fitness[row] - base, jnp.inf)
        value = jnp.where(jnp.isfinite(base), value, jnp.inf)
        lines = extended(state.lines, is_new, place, value)
        explores = is_new & members.explores[row]
        refines = is_new & members.refines[row] & ~explores

        best = jnp.argmin(fitness)
        improves = fitness[best] < state.fitness
        x = jnp.where(improves, members.x[best], state.x)
        # what a joint step does not confirm by half was not true
        promise = jnp.sum(jnp.min(state.lines.values, axis=1))
        refuted = jnp.any(is_joint & (fitness > state.fitness + promise / 2))
        refuted &= ~is_lost[-1]
        at_x = lines.places == x[:, None]
        level = jnp.min(jnp.where(at_x, lines.values, jnp.inf), axis=1)
        values = lines.values - jnp.where(jnp.isfinite(level), level, 0)[:, None]
        values = jnp.where(refuted, jnp.maximum(values, 0), values)
        lines = lines._replace(values=values)
        # the first value at all: what was tried before had none
        is_first = improves & jnp.isinf(base)
        lines = trees.select(is_first, lines_at(x), lines)
        length = jnp.abs(place - state.x)
        steps = jnp.stack([length, lines.steps[:, 0]], axis=1)
        leaps = ~refines & (x != state.x)
        steps = jnp.where(refines[:, None], steps, lines.steps)
        new = state._replace(
            step=state.step + 1,
            x=x,
            fitness=jnp.minimum(fitness[best], state.fitness),
            lines=lines._replace(
                num_explored=lines.num_explored + explores,
                steps=jnp.where(leaps[:, None], jnp.inf, steps),
                idle=jnp.where(x != state.x, 0, lines.idle + explores),
            ),
            num_asked=state.num_asked + jnp.sum(population.active, dtype=jnp.int32),
            failed=jnp.where(told, (state.failed + 1) * is_lost, state.failed),
            retries=retries,
        )
        num_done = jnp.sum(self._is_done(new))
        return new, CoordinateSearchInfo(
            new.fitness, jnp.sum(lines.num_points), num_done
        )

    def _is_first(self, state: CoordinateSearchState) -> jax.Array:
        """Tells whether the start is yet to be evaluated."""
        return (state.num_asked == 0) & jnp.isinf(state.fitness)

    def _is_done(self, state: CoordinateSearchState) -> jax.Array:
        """Tells which lines are explored: ``bool[D]``."""
        lines = state.lines
        return (lines.idle >= self.patience) | (lines.num_points >= LENGTH)

    def recommend(self, state: CoordinateSearchState) -> Solution:
        """Returns the best point."""
        return vectors.unflat(state.x, state.center)

    def stop(self, state: CoordinateSearchState) -> dict[str, jax.Array]:
        """Returns ``explored``: no line has become better in a long time."""
        return {"explored": jnp.all(self._is_done(state))}
