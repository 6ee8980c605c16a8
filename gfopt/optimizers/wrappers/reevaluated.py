"""Noise handling for any method: a wrapper that is itself an optimizer.

Some of the candidates of a step are evaluated twice. With ``a_i`` and ``b_i`` the ranks
of both values of candidate i among all values of the step, n of them,

    agreement = 1 - 3 / (n - 2) mean_i max(|a_i - b_i| - 1, 0)

is 1 without noise, and 0 on average for pure noise. Its running mean determines the
evaluations of a step, in units of the method's population:

    effort = clip(GAIN (1 - agreement) / agreement, 1, max_effort)

A mean of that many values has the same reliability at every noise level (the
Spearman-Brown formula). If ``grows``, the evaluations go to more candidates, which
averages better than more values of the same ones: ``inner`` runs with 1, 4, 16, ...
times its population. Otherwise each candidate is evaluated that often, the first ones
once more if the number is not whole, and ``inner`` is told the means. When hardly any
agreement is left, ``inner`` is widened, by a larger sigma or simplex: longer steps
stand out from the noise. Without noise, two candidates of every third step are
evaluated twice. A step of one to three candidates has no ranks to compare: it uses the
values of the last eight candidates that were evaluated twice.

Source: Hansen, Niederberger, Guzzella and Koumoutsakos, "A method for handling
uncertainty in evolutionary optimization" (IEEE TEC 13(1), 2009): rank changes of
re-evaluated candidates, a larger sigma, more evaluations. Deviations: the rank change
is scaled by its mean under pure noise in place of a quantile; the effort follows from
it at once and not by a factor a step; population growth; most steps without noise
measure nothing.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core import trees
from gfopt.optimizers.wrappers.rank_agreement import rank_agreement
from gfopt.protocol import Method, Optimizer, Wrapper, as_method, diagnostics
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Info, Key, Member, Population, Solution, State

# Chosen on the sphere, an ellipsoid and Rosenbrock in 5-D, noise of many kinds
GAIN = 1.3
GROWTH = 4  # from one population size to the next: each is a program of its own
RATE = 0.1  # of the running mean, after the first steps
CALM = 0.9  # agreement above which measurements become rare:
INTERVAL = 3  # every third step, and
FIRST = 6  # in the first steps
CHECKED = 2  # candidates that are evaluated twice, or one of SHARE if that is more
SHARE = 8
FEW = 4  # candidates, in a step of fewer the last RECENT pairs are compared
RECENT = 8
DROWNED = 0.3  # agreement below which sigma is raised,
INFLATION = 0.3  # by this many e-folds a step for each 1 below it


class ReevaluatedState(NamedTuple):
    """The inner method's state and estimates of the noise.

    Attributes:
        step: ``i32[]``.
        inner: the inner method's state.
        agreement: ``float32[]``, a running mean, at most 1.
        recent: ``float[2, R]``, both values of the last candidates, newest first, of
            steps that have too few of them to be ranked; NaN for none.
    """

    step: jax.Array
    inner: State
    agreement: jax.Array
    recent: jax.Array


class ReevaluatedMember(NamedTuple):
    """A member of the inner method, and which of its candidates it is: ``i32[]``."""

    inner: Member
    candidate: jax.Array


@pytree
class Reevaluated(Wrapper):
    """Runs ``inner`` on noisy values, with as many evaluations as the noise asks for.

    The answer is what the method recommends: the best value so far is only the
    luckiest. The diagnostics are those of ``inner``, ``effort`` and ``agreement``.

    Args:
        inner: any optimizer.
        max_effort: largest number of evaluations a step, in populations of ``inner``.
        grows: spend them on more candidates. For methods whose state does not depend
            on the population size, flagged ``resizable``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> def noisy(key, x):
        ...     return jnp.sum(x**2) * jnp.exp(jax.random.normal(key))
        >>> method = gfopt.Reevaluated(gfopt.CMAES(sigma=0.5), grows=True)
        >>> objective = gfopt.Objective(noisy, takes_key=True)
        >>> result = gfopt.run(method, objective, jnp.ones(3), key=jax.random.key(0),
        ...                    generations=80)
        >>> bool(jnp.sum(result.recommended**2) < 1e-4)
        True
    """

    inner: Optimizer
    max_effort: int = static(default=16)
    grows: bool = static(default=False)

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.integer("max_effort", self.max_effort, 2)
        checks.instance("grows", self.grows, bool, "True or False")

    def _sizes(self, state: State) -> list[int]:
        """Returns the population sizes with which the inner method may run."""
        size = jax.eval_shape(self.inner.ask, jax.random.key(0), state).active.shape[0]
        tiers = (self.max_effort.bit_length() + 1) // 2 if self.grows else 1
        return [size * GROWTH**tier for tier in range(tiers)]

    def _method(self, size: int) -> Optimizer:
        method = as_method(self.inner)
        return method.resized(size) if self.grows else method

    def _tier(self, state: ReevaluatedState, count: int) -> jax.Array:
        tier = jnp.round(jnp.log(self._effort(state.agreement)) / jnp.log(GROWTH))
        return jnp.clip(tier.astype(jnp.int32), 0, count - 1)

    def _effort(self, agreement: jax.Array) -> jax.Array:
        known = jnp.maximum(agreement, 1e-3)
        return jnp.clip(GAIN * (1 - known) / known, 1, self.max_effort)

    def init(self, key: Key, solution: Solution) -> ReevaluatedState:
        """Starts the inner method, and assumes exact values."""
        inner = self.inner.init(key, solution)
        dtype = trees.wide_dtype(trees.starting_point(solution))
        recent = jnp.full((2, RECENT), jnp.nan, dtype)
        return ReevaluatedState(jnp.int32(0), inner, jnp.float32(1), recent)

    def ask(self, key: Key, state: ReevaluatedState) -> Population:
        """Asks the inner method and repeats its candidates, in full rounds."""
        sizes = self._sizes(state.inner)
        population = self._method(sizes[-1]).ask(key, state.inner)
        count = jnp.sum(population.active, dtype=jnp.int32)
        count = jnp.minimum(count, jnp.array(sizes)[self._tier(state, len(sizes))])
        repeats = 1.0 if self.grows else self._effort(state.agreement)
        more = jnp.round((repeats - 1) * count).astype(jnp.int32)
        is_due = (state.step % INTERVAL == 0) | (state.step < FIRST)
        is_due |= state.agreement < CALM
        checked = jnp.minimum(jnp.maximum(CHECKED, count // SHARE), count)
        more = jnp.maximum(more, jnp.where(is_due, checked, 0))
        rows = jnp.arange(self._num_rows(sizes), dtype=jnp.int32)
        # unevaluated members come last: the inner method may need them
        late = rows - (rows.size - sizes[-1])
        candidate = jnp.where(late >= count, late, rows % jnp.maximum(count, 1))
        members = jax.tree.map(lambda leaf: leaf[candidate], population.members)
        return Population(ReevaluatedMember(members, candidate), rows < count + more)

    def _num_rows(self, sizes: list[int]) -> int:
        if not self.grows:
            return sizes[0] * self.max_effort
        return sizes[-1] + max(min(CHECKED, sizes[-1]), sizes[-1] // SHARE)

    def decode(self, state: ReevaluatedState, member: ReevaluatedMember) -> Solution:
        """Decodes the inner method's member."""
        return super().decode(state, member.inner)

    def tell(
        self,
        state: ReevaluatedState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[ReevaluatedState, Info]:
        """Tells the inner method the means, and compares the ranks."""
        sizes = self._sizes(state.inner)
        members, candidate = population.members
        rows = jnp.arange(candidate.size, dtype=jnp.int32)
        count = jnp.argmax(candidate != rows).astype(jnp.int32)
        late = candidate.size - sizes[-1]
        values = jnp.where(evaluation.valid, evaluation.fitness, jnp.nan)
        # a row for each round, a column for each candidate; NaN where there is no value
        turns = 2 if self.grows else self.max_effort
        table = jnp.full((turns, sizes[-1]), jnp.nan, values.dtype)
        table = table.at[rows // count, candidate].set(values, mode="drop")
        fitness = _means(table)
        valid = jnp.isfinite(fitness)
        aux = jax.tree.map(lambda leaf: leaf[: sizes[-1]], evaluation.aux)
        averages = Evaluation(jnp.where(valid, fitness, jnp.inf), valid, aux)
        active = rows[: sizes[-1]] < count
        place = jnp.where(active, rows[: sizes[-1]], rows[late:])
        original = Population(jax.tree.map(lambda leaf: leaf[place], members), active)

        def tell_first(size: int) -> Callable[..., tuple[State, Info]]:
            def branch(*data: Any) -> tuple[State, Info]:
                first = jax.tree.map(lambda leaf: leaf[:size], data)
                return self._method(size).tell(state.inner, *first)

            return branch

        branches = [tell_first(size) for size in sizes]
        inner, info = lax.switch(
            self._tier(state, len(sizes)), branches, original, averages
        )

        pairs = jnp.stack([_means(table[0::2]), _means(table[1::2])])
        few = count < FEW
        recent = jnp.where(few, _newest(pairs, state.recent), state.recent)
        first, second = jnp.concatenate(
            [jnp.where(few, jnp.nan, pairs), jnp.where(few, recent, jnp.nan)], axis=1
        )
        found, is_known = rank_agreement(first, second)
        rate = jnp.maximum(RATE, 1 / (state.step.astype(jnp.float32) + 1))
        agreement = state.agreement + rate * (found - state.agreement)
        agreement = jnp.where(is_known, agreement, state.agreement)
        exponent = INFLATION * jnp.maximum(DROWNED - agreement, 0)
        inner = as_method(self.inner).widened(inner, jnp.exp(exponent))
        new = ReevaluatedState(state.step + 1, inner, agreement, recent)
        return new, _info(info, self._effort(agreement), agreement)

    def decode_group(self, state: ReevaluatedState, members: Member) -> Solution:
        """Decodes a group of members ``[g, ...]``."""
        return super().decode_group(state, members.inner)

    encode = Method.encode  # the index of the candidate is not known


def _means(table: jax.Array) -> jax.Array:
    """Returns the means of the columns, ignoring NaN; NaN for an empty column."""
    known = jnp.isfinite(table)
    total = jnp.sum(jnp.where(known, table, 0), axis=0)
    count = jnp.sum(known, axis=0)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def _newest(pairs: jax.Array, recent: jax.Array) -> jax.Array:
    """Returns the last pairs of values ``[2, R]``, those of this step first."""
    both = jnp.concatenate([pairs[:, :FEW].astype(recent.dtype), recent], axis=1)
    order = jnp.argsort(~jnp.isfinite(both).all(axis=0), stable=True)
    both = both[:, order[:RECENT]]
    return jnp.where(jnp.isfinite(both).all(axis=0), both, jnp.nan)


@functools.cache
def _info_type(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, (*fields, "effort", "agreement"))


def _info(info: Info, effort: jax.Array, agreement: jax.Array) -> Info:
    """Returns the inner method's diagnostics with two more."""
    fields_of_inner = diagnostics(info)
    info_type = _info_type(f"Reevaluated{type(info).__name__}", tuple(fields_of_inner))
    return info_type(*fields_of_inner.values(), effort, agreement)
