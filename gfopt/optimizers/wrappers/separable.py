"""Separable problems are searched coordinate by coordinate, all others by ``inner``.

With ``x_S y_R`` for the point that has the coordinates S of x and the others of y, a
function is a sum of one of S and one of the others only if

    f(x) + f(y) = f(x_S y_R) + f(y_S x_R)

for all x and y. The first four candidates of ``inner`` are made to test that: the third
and fourth have halves of the first and second. Each is still a sample of the normal
distribution, so that the test costs no evaluation. If it holds to rounding, the
coordinates are divided in ``ceil(log2 D) - 1`` more ways, by the digits of their
numbers, until any two have been apart, with two evaluations each. If all hold, a
``CoordinateSearch`` takes over, from the best point so far; when it has explored its
lines, ``inner`` goes on from what it found.

Source for the test: Omidvar, Li, Mei, Yao, "Cooperative co-evolution with differential
grouping for large scale optimization" (2014), theorem 1. Deviations: one equation for
two groups of coordinates in place of one for each pair, at random points.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core import trees
from gfopt.optimizers import vectors
from gfopt.optimizers.coordinate_search import (
    CoordinateMember,
    CoordinateSearch,
    CoordinateSearchState,
)
from gfopt.protocol import Optimizer, Wrapper, innermost
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State

# who asks for candidates, and what is learnt from them
INNER, FIRST, LINES, TESTS = range(4)  # TESTS + k: division k is tested
REPEATED = 4  # steps in which failed candidates of the tests are asked for again
ROUNDING = 1_000.0  # units in the last place of the largest value
SPREAD = 1_000.0  # the values differ by more than so many times that
MOST_LEVELS = 64  # values on a grid of fewer steps are told from others,
GRID = 1e-6  # which lie so near to one by chance only


class SeparableState(NamedTuple):
    """Who searches, and what both parts know.

    Attributes:
        step: ``i32[]``.
        inner: the state of the method inside.
        lines: of the coordinate search.
        phase: ``i32[]``, ``INNER``, ``FIRST``, ``LINES``, or from ``TESTS`` on.
        points: ``float[2, D]``, the first two candidates, of which tests are made.
        values: ``float[4]``, theirs and those of the two with exchanged halves; NaN
            for what is not known.
        seed: ``uint32[2]``, for a new start of the method inside.
    """

    step: jax.Array
    inner: State
    lines: CoordinateSearchState
    phase: jax.Array
    points: jax.Array
    values: jax.Array
    seed: jax.Array


class SeparableMember(NamedTuple):
    """A candidate of the method inside, or one of the other part."""

    inner: Member
    own: CoordinateMember


@pytree
class Separable(Wrapper):
    """Searches coordinate by coordinate if the first values are those of a sum.

    Args:
        inner: a method that takes injected solutions and asks for at least four
            candidates at first, such as ``LQCMAES``, or ``Restarts`` around it.
        batch_size: candidates a step of the coordinate search.
        patience: as in ``CoordinateSearch``.
        stops: end when that has explored its lines, in place of going on with
            ``inner``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> def ripples(x):
        ...     return float(np.sum(x**2 - np.cos(9 * x)) + x.size)
        >>> search = Separable(gfopt.LQCMAES(sigma=2.0), stops=True)
        >>> result = gfopt.minimize(ripples, [2.7, -3.6, 1.2], method=search,
        ...                         target=1e-8)
        >>> result.success, result.nfev < 200
        (True, True)
    """

    inner: Any
    batch_size: int = static(default=1)
    patience: int = static(default=128)
    stops: bool = static(default=False)

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.integer("batch_size", self.batch_size, 1)
        checks.integer("patience", self.patience, 1)
        checks.instance("stops", self.stops, bool, "True or False")

    def _search(self) -> CoordinateSearch:
        method: Any = innermost(self.inner)
        return CoordinateSearch(
            sigma=method.sigma,
            batch_size=self.batch_size,
            patience=self.patience,
            box=getattr(method, "box", None),
        )

    def init(self, key: Key, solution: Solution) -> SeparableState:
        """Starts the method inside."""
        key, inner_key = jax.random.split(key)
        center = trees.starting_point(solution)
        lines = self._search().init(key, center)
        dimension, dtype = lines.x.size, lines.x.dtype
        return SeparableState(
            step=jnp.int32(0),
            inner=self.inner.init(inner_key, solution),
            lines=lines,
            phase=jnp.int32(FIRST if dimension > 1 else INNER),
            points=jnp.zeros((2, dimension), dtype),
            values=jnp.full(4, jnp.nan, dtype),
            seed=jax.random.key_data(key).ravel()[:2],
        )

    def ask(self, key: Key, state: SeparableState) -> Population:
        """Asks whose turn it is; at first, candidates 3 and 4 are halves of 1 and 2."""
        population, search = super().ask(key, state), self._search()
        size, dimension = population.active.size, state.lines.x.size
        nothing = jax.tree.map(
            lambda leaf: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype),
            jax.eval_shape(_asked, search, key, state.lines).members,
        )

        def inner() -> tuple[Member, CoordinateMember, jax.Array]:
            return population.members, nothing, population.active

        def first() -> tuple[Member, CoordinateMember, jax.Array]:
            points = self._places(state, population.members, 2)
            swapped = jax.vmap(lambda x: vectors.unflat(x, state.lines.center))(
                _swapped(points, _divisions(dimension)[0])
            )
            method = self.within(state)
            new = jax.vmap(lambda x: method.encode(state.inner, x))(swapped)
            members = jax.tree.map(
                lambda leaf, rows: leaf.at[2:4].set(rows), population.members, new
            )
            return members, nothing, population.active

        def lines() -> tuple[Member, CoordinateMember, jax.Array]:
            asked = _asked(search, key, state.lines)
            rows = jax.tree.map(lambda leaf: _padded(leaf, size), asked)
            return population.members, rows.members, rows.active

        def test() -> tuple[Member, CoordinateMember, jax.Array]:
            x = _padded(self._quartet(state), size)
            wanted = _padded(jnp.isnan(state.values), size)
            return population.members, nothing._replace(x=x), wanted

        turn = jnp.minimum(state.phase, TESTS)
        *members, active = lax.switch(turn, [inner, first, lines, test])
        return Population(SeparableMember(*members), active)

    def _places(self, state: SeparableState, members: Member, size: int) -> jax.Array:
        """Returns where the first members of the method inside lie, ``[size, D]``."""

        def place(member: Member) -> jax.Array:
            return vectors.flat(super(Separable, self).decode(state, member))

        places = jax.vmap(place)(jax.tree.map(lambda leaf: leaf[:size], members))
        return places.astype(state.points.dtype)

    def decode(self, state: SeparableState, member: SeparableMember) -> Solution:
        """Decodes for whom the candidate is."""
        inner = super().decode(state, member.inner)
        own = vectors.unflat(member.own.x, state.lines.center)
        return trees.select(state.phase >= LINES, own, inner)

    def tell(
        self,
        state: SeparableState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[SeparableState, Info]:
        """Tells whose turn it was, and decides who goes on."""
        members: SeparableMember = population.members
        original = Population(members.inner, population.active)
        method = self.within(state)

        @jax.jit  # traced once, for the types and for the branch
        def tell_inner(inner: State) -> tuple[State, Info]:
            return method.tell(inner, original, evaluation)

        skipped = jax.eval_shape(tell_inner, state.inner)[1]
        inner, info = lax.cond(
            state.phase < LINES,
            tell_inner,
            lambda inner: (inner, jax.tree.map(_unknown, skipped)),
            state.inner,
        )
        new = state._replace(step=state.step + 1, inner=inner)
        valid = evaluation.valid & population.active
        fitness = jnp.where(valid, evaluation.fitness, jnp.nan)
        fitness = fitness.astype(state.values.dtype)

        def first() -> SeparableState:
            points = self._places(state, members.inner, 2)
            phase = jnp.int32(TESTS)
            return self._tested(new._replace(points=points, phase=phase), fitness[:4])

        def lines() -> SeparableState:
            own = Population(members.own, population.active), evaluation
            rows = jax.tree.map(lambda leaf: leaf[: self.batch_size], own)
            lines, ended = _told(self._search(), state.lines, *rows)
            after = new._replace(lines=lines)
            if self.stops:
                return after
            return lax.cond(ended, self._handed_over, lambda state: state, after)

        def test() -> SeparableState:
            found = jnp.where(jnp.isnan(state.values), fitness[:4], state.values)
            return self._tested(new, found)

        turn = jnp.minimum(state.phase, TESTS)
        return lax.switch(turn, [lambda: new, first, lines, test]), info

    def _tested(self, state: SeparableState, values: jax.Array) -> SeparableState:
        """Goes to the next division, to the lines after the last, or back.

        What failed is asked for again, a few times in all.

        Args:
            state: in the phase of the division that is tested.
            values: ``float[4]``, of the two points and of the two with exchanged
                halves, NaN for those that failed.
        """
        count = len(_divisions(state.lines.x.size))
        number = state.phase - TESTS
        failed = jnp.any(jnp.isnan(values))
        goes_on = jnp.where(failed, state.step - number <= REPEATED, _is_sum(values))
        following = jnp.where(number + 1 < count, state.phase + 1, LINES)
        following = jnp.where(failed, state.phase, following)
        points = self._quartet(state)
        best = jnp.nanargmin(values)
        lines = self._search().started_at(state.lines, points[best], values[best])
        is_better = values[best] < state.lines.fitness
        return state._replace(
            phase=jnp.where(goes_on, following, INNER).astype(jnp.int32),
            values=jnp.where(failed | (jnp.arange(4) < 2), values, jnp.nan),
            lines=trees.select(is_better, lines, state.lines),
        )

    def _quartet(self, state: SeparableState) -> jax.Array:
        """Returns the two points and those with exchanged halves, ``[4, D]``."""
        division = jnp.asarray(_divisions(state.lines.x.size))[state.phase - TESTS]
        return jnp.concatenate([state.points, _swapped(state.points, division)])

    def _handed_over(self, state: SeparableState) -> SeparableState:
        """Starts the method inside where the lines have led to."""
        key = jax.random.wrap_key_data(state.seed, impl="threefry2x32")
        found = self._search().recommend(state.lines)
        inner = self.within(state).at_step(self.inner.init(key, found), state.step)
        return state._replace(inner=inner, phase=jnp.int32(INNER))

    def recommend(self, state: SeparableState) -> Solution:
        """Returns the answer of the part whose turn it is."""
        own = self._search().recommend(state.lines)
        return trees.select(state.phase >= LINES, own, super().recommend(state))

    def stop(self, state: SeparableState) -> dict[str, jax.Array]:
        """Returns the reasons of the method inside, or ``explored`` as well."""
        found = super().stop(state)
        if self.stops:
            ended = self._search().stop(state.lines)["explored"]
            found["explored"] = ended & (state.phase == LINES)
        return found


@jax.jit  # one trace for all sizes of the population inside
def _asked(
    search: CoordinateSearch, key: Key, state: CoordinateSearchState
) -> Population:
    return search.ask(key, state)


@jax.jit
def _told(
    search: CoordinateSearch,
    state: CoordinateSearchState,
    population: Population,
    evaluation: Evaluation,
) -> tuple[CoordinateSearchState, jax.Array]:
    """Returns the state after a step, and whether all lines are explored."""
    state, _ = search.tell(state, population, evaluation)
    return state, search.stop(state)["explored"]


def _divisions(dimension: int) -> np.ndarray:
    """Returns into which halves the coordinates are divided: ``bool[L, D]``."""
    count = max(1, math.ceil(math.log2(dimension))) if dimension > 1 else 1
    return (np.arange(dimension) >> np.arange(count)[:, None]) % 2 == 1


def _swapped(points: jax.Array, division: jax.Array | np.ndarray) -> jax.Array:
    """Returns two points ``[2, D]`` with the coordinates of one half exchanged."""
    return jnp.where(division, points, points[::-1])


def _is_sum(values: jax.Array) -> jax.Array:
    """Tells whether two pairs of values ``[4]`` have one sum: ``bool[]``.

    Values that repeat or lie on a grid, such as counts, prove nothing.
    """
    tolerance = ROUNDING * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    equal = jnp.abs(jnp.sum(values[:2]) - jnp.sum(values[2:])) <= tolerance
    # of sums that agree, the outer two of the three gaps are equal, too
    gaps = jnp.diff(jnp.sort(values))
    differs = jnp.all(gaps > SPREAD * tolerance)
    ratio = gaps[1] / gaps[0] * jnp.arange(1, MOST_LEVELS)
    is_grid = jnp.any(jnp.abs(ratio - jnp.round(ratio)) <= GRID)
    return equal & differs & ~is_grid


def _padded(leaf: jax.Array, size: int) -> jax.Array:
    """Returns rows with zeros after them."""
    missing = size - leaf.shape[0]
    return jnp.pad(leaf, ((0, missing), *[(0, 0)] * (leaf.ndim - 1)))


def _unknown(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns a diagnostic of a step in which it was not found."""
    is_float = jnp.issubdtype(like.dtype, jnp.floating)
    return jnp.full(like.shape, jnp.nan if is_float else 0, like.dtype)
