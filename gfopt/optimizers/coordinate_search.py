"""Coordinate search: a global line search along each coordinate, all of them in turn.

A line holds what is known of ``h_i(t) = f(x with x_i = t) - f(x)``, sorted by ``t``.
Where its lowest point has a neighbour on each side, the next point is the minimum of
the parabola through the three, which promises a decrease ``g_i``; the line that
promises most comes first. Parabolas close in slowly on a kink: a step that is longer
than half of the step before last gives way to one of ``min(0.38 c, sqrt(a c))`` into
the longer side, where ``a < c`` are the distances to the neighbours.

Every fourth point explores: on the line that was explored least, it halves the interval
that needs the flattest parabola to hold a value below the lowest,

    a_k = ((sqrt(h_k - h*) + sqrt(h_{k+1} - h*)) / (t_{k+1} - t_k))^2,
    h* = min h - eps,   eps = (median h - min h) / 100

If ``f`` is a sum of functions of one coordinate, a line stays true when ``x`` moves
along another, and this is a global search; otherwise it is a local one.

Sources: Swarzberg, Seront, Bersini, "S.T.E.P.: the easiest way to optimize a function"
(ICEC 1994) for ``a_k``; Baudis and Posik, "Global line search algorithm hybridized with
quadratic interpolation and its extension to separable functions" (GECCO 2015) for the
combination; Brent, "Algorithms for minimization without derivatives" (1973), chapter 5,
for the step before last. Deviations: ``eps`` follows the values; lines have no ends,
and look beyond their last point as into an interval of ``BEYOND sigma`` whose far end
is as good; the parabola with the largest promise comes first, in place of turns.
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
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution

LENGTH = 256  # points of a line
EXPLORED = 4  # one point of so many explores
BEYOND = 0.75  # in sigma, the width of the interval beyond the last point of a line
FIRST = 0.5  # in sigma, from x0 to the second point of a line
ATTEMPTS = 6  # at a point that fails, where failures seem to be random


class Lines(NamedTuple):
    """What is known along each coordinate.

    Attributes:
        places: ``float[D, K]``, sorted, infinite where there is no point.
        values: ``float[D, K]``, relative to the value at ``x``; infinite likewise.
        num_points: ``i32[D]``.
        num_explored: ``i32[D]``, of them explored.
        idle: ``i32[D]``, explored since the last improvement.
        steps: ``float[D, 2]``, lengths of the last two refinements, newest first.
    """

    places: jax.Array
    values: jax.Array
    num_points: jax.Array
    num_explored: jax.Array
    idle: jax.Array
    steps: jax.Array


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


class _Proposal(NamedTuple):
    """The next point of each line: ``[D]`` each."""

    place: jax.Array  # of the parabola, or the next step out
    gain: jax.Array  # what it promises; infinite for a step out
    explored: jax.Array  # of the exploration


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
            lines=_lines_at(x),
            num_asked=jnp.int32(0),
            failed=jnp.zeros(x.size + 1, jnp.int32),
            retries=jnp.zeros(2, jnp.int32),
        )

    def started_at(
        self, state: CoordinateSearchState, x: jax.Array, fitness: jax.Array
    ) -> CoordinateSearchState:
        """Returns the state with a start whose value is known: ``float[D]``."""
        return state._replace(x=x, fitness=fitness, lines=_lines_at(x))

    def drawn_within(self, lower: Solution, upper: Solution) -> CoordinateSearch:
        """Returns the method with lines that end at these bounds."""
        return replace(self, box=Box(lower, upper))

    def _sides(self, state: CoordinateSearchState) -> Sequence[jax.Array]:
        """Returns where the lines end, ``float[D]`` each."""
        if self.box is not None:
            return self.box.sides(state.center)
        far = jnp.full_like(state.x, vectors.LIMIT)
        return -far, far

    def ask(self, key: Key, state: CoordinateSearchState) -> Population:
        """Asks for the points that promise most, each on another line."""
        dimension, size = state.x.size, self.batch_size
        proposal = self._proposal(state)
        is_out = jnp.isinf(proposal.gain)
        is_open = state.lines.num_points < LENGTH
        least = 8 * jnp.finfo(state.x.dtype).eps * jnp.abs(state.fitness)
        promises = proposal.gain > jnp.maximum(least, self.tol_fun)

        def chosen(is_free: jax.Array, number: jax.Array) -> tuple[jax.Array, Any]:
            out, pays = is_free & is_out, is_free & promises
            explores = ~jnp.any(out)
            explores &= (number % EXPLORED == EXPLORED - 1) | ~jnp.any(pays)
            first = jnp.where(out, -state.lines.num_points, -jnp.inf)
            best = jnp.where(pays, proposal.gain, -jnp.inf)
            least = jnp.where(is_free, -state.lines.num_explored, -jnp.inf)
            score = jnp.where(explores, least, jnp.where(jnp.any(out), first, best))
            coordinate = jnp.argmax(score).astype(jnp.int32)
            is_free = is_free & (jnp.arange(dimension) != coordinate)
            return is_free, (coordinate, explores)

        numbers = state.num_asked + jnp.arange(size, dtype=jnp.int32)
        _, (coordinate, explores) = lax.scan(chosen, is_open, numbers)
        place = jnp.where(
            explores, proposal.explored[coordinate], proposal.place[coordinate]
        )
        rows = jnp.arange(size)
        x = jnp.tile(state.x, (size, 1)).at[rows, coordinate].set(place)
        # the first row joins what was found on several lines at once, or is the start
        lowest = _lowest(state.lines, state.x)
        joined = state.lines.places[jnp.arange(dimension), lowest]
        joins = self._is_first(state) | jnp.any(joined != state.x)
        here = joins & (rows == 0)
        line = jnp.maximum(rows - joins, 0)
        members = CoordinateMember(
            x=jnp.where(here[:, None], joined, x[line]),
            coordinate=jnp.where(here, -1, coordinate[line]),
            explores=explores[line] & ~here,
            refines=jnp.isfinite(proposal.gain)[coordinate][line] & ~here,
        )
        return Population(members, rows < jnp.sum(is_open) + joins)

    def _proposal(self, state: CoordinateSearchState) -> _Proposal:
        """Returns the next points of all lines, refining and exploring."""
        t, h, count, *_ = state.lines
        sigma = jnp.asarray(schedules.at("sigma", self.sigma, state.step), t.dtype)
        rows = jnp.arange(t.shape[0])
        last = count - 1
        lowest = _lowest(state.lines, state.x)
        known = jnp.isfinite(h)
        # failures count as the worst that is known
        worst = jnp.max(jnp.where(known, h, -jnp.inf), axis=1)
        h = jnp.where(known, h, worst[:, None])

        at = t[rows, lowest]
        left, right = jnp.maximum(lowest - 1, 0), jnp.minimum(lowest + 1, last)
        a, c = at - t[rows, left], t[rows, right] - at
        p, q = h[rows, left] - h[rows, lowest], h[rows, right] - h[rows, lowest]
        is_inner = (a > 0) & (c > 0)
        a, c = jnp.where(is_inner, a, 1), jnp.where(is_inner, c, 1)
        # h(d) = curvature d^2 + slope d through (-a, p), (0, 0) and (c, q)
        curvature = (p / a + q / c) / (a + c)
        slope = q / c - curvature * c
        is_curved = curvature > 0
        divisor = jnp.where(is_curved, curvature, 1)
        vertex = -slope / (2 * divisor)
        gain = jnp.where(is_curved, slope**2 / (4 * divisor), 0)
        nearest = jnp.minimum(a, c) / 1000
        vertex = jnp.where(
            jnp.abs(vertex) < nearest, jnp.where(vertex < 0, -1, 1) * nearest, vertex
        )
        vertex = jnp.clip(vertex, -0.9 * a, 0.9 * c)
        longer = jnp.maximum(a, c)
        other = jnp.minimum(0.38 * longer, jnp.sqrt(a * c)) * jnp.where(c > a, 1, -1)
        is_slow = jnp.abs(vertex) > state.lines.steps[:, 1] / 2
        vertex = jnp.where(is_slow, other, vertex)
        # at an end of the line: twice as far as the last step
        is_right = lowest == last
        last_step = at - jnp.where(is_right, t[rows, left], t[rows, right])
        beyond = jnp.where(count == 1, FIRST * sigma, 2 * last_step)
        lower, upper = self._sides(state)
        # away from a side that is near
        beyond = jnp.where((count == 1) & (at + beyond > upper), -beyond, beyond)
        place = jnp.clip(at + jnp.where(is_inner, vertex, beyond), lower, upper)
        gain = jnp.where(is_inner, gain, jnp.where(place == at, 0, jnp.inf))

        # the flattest parabola that holds h*, over intervals and both ends
        known = jnp.arange(t.shape[1]) < count[:, None]
        ordered = jnp.sort(jnp.where(known, h, jnp.inf), axis=1)
        middle = (ordered[rows, last // 2] + ordered[rows, count // 2]) / 2
        low = h[rows, lowest]
        goal = low - 0.01 * (middle - low) - jnp.finfo(t.dtype).tiny
        height = jnp.sqrt(jnp.where(known, h - goal[:, None], jnp.inf))
        end = t[rows, last]
        inside = jnp.arange(t.shape[1] - 1) < last[:, None]
        width = jnp.where(inside, jnp.diff(jnp.where(known, t, 0), axis=1), 1)
        rise = (height[:, :-1] + height[:, 1:]) / jnp.maximum(width, 1e-300)
        rise = jnp.where(inside & (width > 0), rise, jnp.inf)
        outside = jnp.stack([t[:, 0] - lower, upper - end], axis=1)
        outside = jnp.minimum(outside, BEYOND * sigma)
        outer = jnp.stack([height[:, 0], height[rows, last]], axis=1)
        outer = jnp.where(outside > 0, outer / jnp.maximum(outside, 1e-300), jnp.inf)
        middles = jnp.where(inside, (t[:, :-1] + t[:, 1:]) / 2, 0)
        edges = jnp.stack([t[:, 0], end], axis=1) + outside * jnp.array(
            [-0.5, 0.5], t.dtype
        )
        middles = jnp.concatenate([edges, middles], axis=1)
        flattest = jnp.argmin(jnp.concatenate([outer, rise], axis=1), axis=1)
        return _Proposal(place, gain, middles[rows, flattest])

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
        lines = _extended(state.lines, is_new, place, value)
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
        lines = trees.select(is_first, _lines_at(x), lines)
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


def _lines_at(x: jax.Array) -> Lines:
    """Returns lines with one point each."""
    size, dtype = x.size, x.dtype
    empty = jnp.full((size, LENGTH), jnp.inf, dtype)
    zero = jnp.zeros(size, jnp.int32)
    return Lines(
        places=empty.at[:, 0].set(x),
        values=empty.at[:, 0].set(0),
        num_points=zero + 1,
        num_explored=zero + 0,
        idle=zero + 0,
        steps=jnp.full((size, 2), jnp.inf, dtype),
    )


def _lowest(lines: Lines, x: jax.Array) -> jax.Array:
    """Returns the index of the lowest point of each line, rather ``x``: ``i32[D]``."""
    is_low = lines.values == jnp.min(lines.values, axis=1, keepdims=True)
    return jnp.argmax(is_low * (1 + (lines.places == x[:, None])), axis=1)


def _extended(
    lines: Lines, is_new: jax.Array, place: jax.Array, value: jax.Array
) -> Lines:
    """Adds a point to some of the lines; a place that was known gets its new value."""
    is_known = (lines.places == place[:, None]) & is_new[:, None]
    values = jnp.where(is_known, value[:, None], lines.values)
    adds = is_new & ~jnp.any(is_known, axis=1)
    places = jnp.concatenate(
        [lines.places, jnp.where(adds, place, jnp.inf)[:, None]], axis=1
    )
    values = jnp.concatenate([values, jnp.where(adds, value, jnp.inf)[:, None]], axis=1)
    order = jnp.argsort(places, axis=1, stable=True)[:, : lines.places.shape[1]]
    return lines._replace(
        places=jnp.take_along_axis(places, order, 1),
        values=jnp.take_along_axis(values, order, 1),
        num_points=lines.num_points + adds,
    )
