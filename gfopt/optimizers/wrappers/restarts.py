"""Restarts with growing populations, IPOP and BIPOP: a wrapper that is an optimizer.

When a run of the inner method has a reason to stop, the next one starts elsewhere with
another population size. IPOP doubles it each time. BIPOP alternates between two
regimes: large populations, doubled each time, and small ones,

    P_small = P_0 (P_large / (2 P_0))^(U^2),   sigma = sigma_0 10^(-2 U)

with U uniform in [0, 1], each with at most half of the evaluations of the large ones.

A program has ``P_0 2^tier`` rows, of which ``num_active`` are in use. The driver moves
a run that needs more rows, or less than half of them, to another tier, through
``wanted_tier`` and ``at_tier``. There are thus at most ``log2(P_max / P_0) + 1``
programs, and the cost is that of the rows in use.

Sources: Auger and Hansen, "A restart CMA evolution strategy with increasing population
size" (CEC 2005); Hansen, "Benchmarking a BI-population CMA-ES on the BBOB-2009
function testbed" (GECCO workshop 2009), section 2. Deviations: a run starts at a point
drawn uniformly from ``x0 +- reach sigma`` in each coordinate, since there may be no
bounds; small runs have at least ``P_0`` rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.optimizers.gaussian import default_population_size
from gfopt.protocol import Optimizer, Wrapper, as_method, innermost
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Info, Key, Population, Solution, State


class RestartsState(NamedTuple):
    """The current run, and a record of the earlier ones.

    Attributes:
        step: ``i32[]``.
        inner: the state of the current run.
        seed: ``uint32[2]``, from which the starts are drawn.
        origin: the first starting point.
        sigma: ``float[]``, the first step size of this run.
        num_active: ``i32[]``, the population size of this run.
        doublings: ``i32[]``, of the large population.
        num_restarts: ``i32[]``.
        began: ``i32[]``, the first step of this run.
        is_small: ``bool[]``, whether this is a run of the small regime.
        spent: ``float[2]``, evaluations of the large and of the small regime.
        left: ``float[]``, evaluations left for this run.
        run_fitness: ``float[]``, the best of this run.
        fitness: ``float[]``, the best of the earlier runs.
        answer: the recommendation of the best earlier run.
        since_better: ``i32[]``, runs since then.
    """

    step: jax.Array
    inner: State
    seed: jax.Array
    origin: Solution
    sigma: jax.Array
    num_active: jax.Array
    doublings: jax.Array
    num_restarts: jax.Array
    began: jax.Array
    is_small: jax.Array
    spent: jax.Array
    left: jax.Array
    run_fitness: jax.Array
    fitness: jax.Array
    answer: Solution
    since_better: jax.Array


@pytree
class Restarts(Wrapper):
    """Runs ``inner`` again and again, IPOP or BIPOP.

    Args:
        inner: a method that can be restarted, such as ``CMAES``; this wrapper sets its
            population size.
        bipop: alternate between large and small populations; otherwise always double.
        first_size: ``P_0``; None for ``4 + floor(3 ln D)``.
        largest_size: largest population size.
        tier: there are ``P_0 2^tier`` rows. Drivers raise it as needed; in
            ``gfopt.run`` it limits the population size.
        patience: stop after this many runs in a row without an improvement by the inner
            method's ``tol_fun``; None for never.
        reach: a run starts within this many standard deviations of x0. Bounds fold, so
            that it may exceed them.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> def rastrigin(x):
        ...     return 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))
        >>> search = gfopt.Restarts(gfopt.CMAES(sigma=2.0))
        >>> result = gfopt.minimize(rastrigin, [3.0, -2.0], method=search,
        ...                         budget=20_000, target=1e-8)
        >>> result.success
        True
    """

    inner: Any
    bipop: bool = static(default=True)
    first_size: int | None = static(default=None)
    largest_size: int = static(default=2**14)
    tier: int = static(default=0)
    patience: int | jax.Array | None = None
    reach: float | jax.Array = 2.0

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        if not as_method(self.inner).can_restart:
            raise ValueError(
                "inner must be a method that can be restarted, such as gfopt.CMAES or "
                "gfopt.LQCMAES (most wrappers go around Restarts); "
                f"got {checks.shown(self.inner)}"
            )
        checks.instance("bipop", self.bipop, bool, "True or False")
        if self.first_size is not None:
            checks.integer("first_size", self.first_size, 2)
        checks.integer("largest_size", self.largest_size, self.first_size or 2)
        checks.integer("tier", self.tier, 0)
        if self.patience is not None:
            checks.positive("patience", self.patience)
        checks.positive("reach", self.reach)

    @property
    def sigma(self) -> schedules.Hyperparameter:
        """The first step size of the method that is restarted."""
        return innermost(self.inner).sigma  # type: ignore[attr-defined]

    @property
    def population_size(self) -> int | None:
        """``P_0``, where it is set."""
        return self.first_size

    def resized(self, population_size: int) -> Restarts:
        """Returns this method with another ``P_0``."""
        largest = max(population_size, self.largest_size)
        return replace(self, first_size=population_size, largest_size=largest)

    @property
    def late_members(self) -> str:
        """As the method inside, within a run."""
        return as_method(self.inner).late_members

    def began(self, state: RestartsState) -> jax.Array:
        """Returns the first step of this run."""
        return state.began

    def _first_size(self, dimension: int) -> int:
        return self.first_size or default_population_size(dimension)

    def _sized(self, dimension: int, num_active: jax.Array, sigma: jax.Array) -> Any:
        """Returns the inner method with its population and step size set."""
        size = self._first_size(dimension) * 2**self.tier
        active = jnp.minimum(num_active, size)
        return as_method(self.inner).sized(size, active, sigma)

    def init(self, key: Key, solution: Solution) -> RestartsState:
        """Starts the first run at the solution, with ``P_0`` candidates."""
        key, inner_key = jax.random.split(key)
        origin = trees.starting_point(solution)
        dimension = trees.num_parameters(origin)
        first = jnp.int32(self._first_size(dimension))
        dtype = trees.wide_dtype(origin)
        sigma = jnp.asarray(self.sigma, dtype)
        infinite = jnp.full((), jnp.inf, dtype)
        return RestartsState(
            step=jnp.int32(0),
            inner=self._sized(dimension, first, sigma).init(inner_key, origin),
            seed=jax.random.key_data(key).ravel()[:2],
            origin=origin,
            sigma=sigma,
            num_active=first,
            doublings=jnp.int32(0),
            num_restarts=jnp.int32(0),
            began=jnp.int32(0),
            is_small=jnp.ones((), bool),  # the first run is counted as such
            spent=jnp.zeros(2, dtype),
            left=infinite,
            run_fitness=infinite + 0,
            fitness=infinite + 0,
            answer=jax.tree.map(jnp.array, origin),
            since_better=jnp.int32(0),
        )

    def within(self, state: RestartsState) -> Any:
        """Returns the method of the current run."""
        dimension = trees.num_parameters(state.origin)
        return self._sized(dimension, state.num_active, state.sigma)

    def tell(
        self, state: RestartsState, population: Population, evaluation: Evaluation
    ) -> tuple[RestartsState, Info]:
        """Tells the current run; starts the next if it has ended."""
        current = self.within(state)
        inner, info = current.tell(state.inner, population, evaluation)
        used = jnp.sum(population.active).astype(state.left.dtype)
        best = jnp.min(jnp.where(evaluation.valid, evaluation.fitness, jnp.inf))
        state = state._replace(
            step=state.step + 1,
            inner=inner,
            spent=state.spent.at[state.is_small.astype(jnp.int32)].add(used),
            left=state.left - used,
            run_fitness=jnp.minimum(state.run_fitness, best).astype(state.left.dtype),
        )
        ended = state.left <= 0
        for holds in current.stop(inner).values():
            ended |= holds
        # one step counter for a batch of runs: the inner method's schedules go by it
        new = lax.cond(ended, self._restarted, lambda state: state, state)
        return new._replace(inner=current.at_step(new.inner, state.step)), info

    def _restarted(self, state: RestartsState) -> RestartsState:
        """Chooses the regime, population size, step size and start of the next run."""
        key = jax.random.wrap_key_data(state.seed, impl="threefry2x32")
        key = jax.random.fold_in(key, state.num_restarts)
        where, when, inner_key = jax.random.split(key, 3)
        flat, unravel = ravel_pytree(state.origin)
        dimension, dtype = flat.size, state.sigma.dtype
        first = self._first_size(dimension)
        is_small = self.bipop & (state.spent[1] < state.spent[0])
        doublings = state.doublings + ~is_small
        large = first * 2.0 ** doublings.astype(dtype)
        uniform = jax.random.uniform(when, (2,), dtype)
        small = first * (large / (2 * first)) ** (uniform[0] ** 2)
        size = jnp.where(is_small, jnp.floor(small), large)
        sigma = jnp.asarray(self.sigma, dtype)
        reach = jnp.asarray(self.reach, dtype)
        away = jax.random.uniform(where, (dimension,), dtype, -reach, reach) * sigma
        start = unravel((flat + away).astype(flat.dtype))
        sigma = jnp.where(is_small, sigma * 10 ** (-2 * uniform[1]), sigma)
        num_active = jnp.clip(size, 2, self.largest_size).astype(jnp.int32)
        better = state.run_fitness < state.fitness
        rounding = 4 * jnp.finfo(dtype).eps * jnp.abs(state.fitness)
        tolerance = as_method(self.inner).tolerance("tol_fun") + rounding
        gained = state.run_fitness < state.fitness - tolerance
        gained |= jnp.isinf(state.fitness)
        found = self.within(state).recommend(state.inner)
        return state._replace(
            inner=self._sized(dimension, num_active, sigma).init(inner_key, start),
            sigma=sigma,
            num_active=num_active,
            doublings=doublings,
            num_restarts=state.num_restarts + 1,
            began=state.step,
            is_small=is_small,
            left=jnp.where(is_small, state.spent[0] / 2, jnp.inf),
            run_fitness=jnp.full_like(state.fitness, jnp.inf),
            fitness=jnp.minimum(state.run_fitness, state.fitness),
            answer=trees.select(better, found, state.answer),
            since_better=jnp.where(gained, 0, state.since_better + 1),
        )

    def recommend(self, state: RestartsState) -> Solution:
        """Returns the answer of the run with the best value."""
        found = self.within(state).recommend(state.inner)
        is_best = state.run_fitness <= state.fitness
        return trees.select(is_best, found, state.answer)

    def stop(self, state: RestartsState) -> dict[str, jax.Array]:
        """Returns ``patience``: the last runs brought no improvement."""
        if self.patience is None:
            return {}
        return {"patience": state.since_better >= self.patience}

    def wanted_tier(self, state: RestartsState) -> jax.Array:
        """Returns the tier that the current run needs, ``i32[]``."""
        first = self._first_size(trees.num_parameters(state.origin))
        doublings = jnp.ceil(jnp.log2(state.num_active / first) - 1e-6)
        return jnp.maximum(doublings, 0).astype(jnp.int32)

    def at_tier(self, tier: int) -> Restarts:
        """Returns this method with ``P_0 2^tier`` rows."""
        return replace(self, tier=tier)
