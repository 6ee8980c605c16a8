"""lq-CMA-ES: CMA-ES that asks a quadratic model first and the objective when in doubt.

The candidates of a generation are evaluated in the order in which the model ranks them,
until model and objective order the evaluated ones alike, by Kendall's rank correlation.
The other candidates get the model's values. One candidate of each generation is the
model's own minimum within a trust region; as long as it is the best so far, the next
step tries another.

A generation thus spans several steps, each of which asks for a few candidates.

Source: Hansen, "A global surrogate assisted CMA-ES" (GECCO 2019), algorithm 1.
Deviations: the model is whitened, see ``quadratic_model``; its minimum is within a
trust region, which grows if the minimum was better than most of the latest points and
shrinks if it was not; and it may be tried more than once in a generation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.optimizers.cma import quadratic_model
from gfopt.optimizers.cma.cma_es import CMAES, CMAESInfo, CMAESMember, CMAESState
from gfopt.optimizers.cma.parameters import longest, shortened
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, Solution

LEAST_COMPARED = 15  # smallest number of evaluated points whose order is compared
LEAST_KNOWN = 4  # points before the model is used
NUM_LATEST = 9  # points whose median a model's minimum must beat
LEAST_RADIUS = 0.3  # smaller ones make the search converge prematurely


class LQMember(NamedTuple):
    """A candidate and its value.

    Attributes:
        z: ``float[D]``, standard normal.
        y: ``float[D]``, ``A z``.
        fitness: ``float[]``, where it is evaluated.
        is_evaluated: ``bool[]``.
        is_optimum: ``bool[]``, whether it is a minimum of the model.
    """

    z: jax.Array
    y: jax.Array
    fitness: jax.Array
    is_evaluated: jax.Array
    is_optimum: jax.Array


class LQCMAESState(NamedTuple):
    """The search, its evaluated points, and the open generation.

    Attributes:
        step: ``i32[]``.
        cma: the state of CMA-ES.
        points: ``float[A, D]``, evaluated points, newest first.
        fitness: ``float[A]``, theirs; infinite for places that hold no point.
        model: fitted to them.
        optimum: ``float[D]``, the model's minimum.
        radius: ``float[]``, of the trust region; 1 is the length of a long candidate.
        is_better: ``bool[]``, whether the last step's minimum was the best so far.
        members: the open generation, ``[P, ...]``.
        num_wanted: ``i32[]``, how many of them are evaluated next; 0 if none is open.
    """

    step: jax.Array
    cma: CMAESState
    points: jax.Array
    fitness: jax.Array
    model: quadratic_model.QuadraticModel
    optimum: jax.Array
    radius: jax.Array
    is_better: jax.Array
    members: LQMember
    num_wanted: jax.Array

    @property
    def mean(self) -> Solution:
        """The mean of the search distribution."""
        return self.cma.mean


@pytree
class LQCMAES(CMAES):
    """Surrogate-assisted CMA-ES, for costly objectives of 2 to about 40 numbers.

    Args:
        population_size: ``P``; None for ``4 + floor(3 ln D)``.
        sigma: first standard deviation, about a fifth of the region of interest.
        active: also use negative weights.
        num_active: as in ``CMAES``.
        tol_x: as in ``CMAES``, with all other reasons to stop.
        tol_up: as in ``CMAES``.
        tol_fun: as in ``CMAES``.
        tol_fun_history: as in ``CMAES``.
        tol_condition: as in ``CMAES``.
        threshold: rank correlation from which the model is trusted.
        batch_size: smallest number of candidates a step, for objectives that are
            evaluated in parallel.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.minimize(lambda x: jnp.sum((x - 1) ** 2), [3.0, -2.0],
        ...                         method=LQCMAES(), target=1e-8)
        >>> result.success, result.nfev < 60
        (True, True)
    """

    threshold: schedules.Number = 0.85
    batch_size: int = static(default=1)

    has_margin = False  # the model keeps values from one generation to the next
    late_members = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        schedules.set_numbers(self, "threshold", check=checks.share)
        checks.integer("batch_size", self.batch_size, 1)

    def init(self, key: Key, solution: Solution) -> LQCMAESState:  # type: ignore[override]
        """Starts CMA-ES, with no point evaluated."""
        cma = super().init(key, solution)
        mean, _ = ravel_pytree(cma.mean)
        dimension, dtype = mean.size, cma.sigma.dtype
        size = self._size(dimension)
        places = max(2 * quadratic_model.num_coefficients(dimension), size)
        zero = jnp.zeros((size, dimension), dtype)
        nothing, none = jnp.full(size, jnp.inf, dtype), jnp.zeros(size, bool)
        points = jnp.zeros((places, dimension), dtype)
        fitness = jnp.full(places, jnp.inf, dtype)
        return LQCMAESState(
            step=jnp.int32(0),
            cma=cma,
            points=points,
            fitness=fitness,
            model=quadratic_model.flat(mean.astype(dtype)),
            optimum=mean.astype(dtype),
            radius=jnp.ones((), dtype),
            is_better=jnp.zeros((), bool),
            members=LQMember(zero, zero + 0, nothing, none, none & False),
            num_wanted=jnp.int32(0),
        )

    def ask(self, key: Key, state: LQCMAESState) -> Population:  # type: ignore[override]
        """Asks for the candidates that the model ranks first, best first."""
        old = state.members
        fresh = super().ask(key, state.cma)
        used = jnp.sum(fresh.active)
        mean, _ = ravel_pytree(state.cma.mean)
        root, sigma = state.cma.root, state.cma.sigma
        opens = state.num_wanted == 0
        drawn: CMAESMember = fresh.members
        members = LQMember(
            z=jnp.where(opens, drawn.z, old.z),
            y=jnp.where(opens, drawn.y, old.y),
            fitness=jnp.where(opens, jnp.inf, old.fitness),
            is_evaluated=old.is_evaluated & ~opens,
            is_optimum=old.is_optimum & ~opens,
        )
        guess = quadratic_model.values(state.model, mean + sigma * members.y)
        # the model's minimum replaces the candidate that the model ranks last
        is_free = fresh.active & ~members.is_evaluated
        row = jnp.argmax(jnp.where(is_free, guess, -jnp.inf))
        z = solve_triangular(root, (state.optimum - mean) / sigma, lower=True)
        z = shortened(z)
        num_points = jnp.sum(jnp.isfinite(state.fitness))
        places = (num_points >= LEAST_KNOWN) & (opens | state.is_better)
        places &= jnp.linalg.norm(z) > 0
        here = places & (jnp.arange(guess.size) == row)
        members = members._replace(
            z=jnp.where(here[:, None], z, members.z),
            y=jnp.where(here[:, None], root @ z, members.y),
            is_optimum=members.is_optimum | here,
        )
        num_next = 1 + jnp.maximum(used // 50, LEAST_KNOWN - num_points)
        num_next = jnp.where(opens, num_next, state.num_wanted)
        # first come those in use, not yet evaluated, with a low value
        guess = quadratic_model.values(state.model, mean + sigma * members.y)
        guess = jnp.where(members.is_evaluated, jnp.inf, guess)
        order = jnp.lexsort((guess, members.is_evaluated, ~fresh.active))
        num_left = used - jnp.sum(members.is_evaluated)
        count = jnp.minimum(jnp.maximum(num_next, self.batch_size), num_left)
        members = jax.tree.map(lambda leaf: leaf[order], members)
        return Population(members, jnp.arange(order.size) < count)

    def decode(self, state: LQCMAESState, member: Member) -> Solution:  # type: ignore[override]
        """Returns ``m + sigma y``."""
        return super().decode(state.cma, member)

    def encode(self, state: LQCMAESState, solution: Solution) -> LQMember:  # type: ignore[override]
        """Returns the member of a solution, its step shortened to a sample's length."""
        z, y = super().encode(state.cma, solution)
        no = jnp.zeros((), bool)
        return LQMember(z, y, jnp.full((), jnp.inf, z.dtype), no, no)

    def tell(  # type: ignore[override]
        self, state: LQCMAESState, population: Population, evaluation: Evaluation
    ) -> tuple[LQCMAESState, CMAESInfo]:
        """Closes the generation if the model is right, else asks for more of it."""
        cma, members = state.cma, population.members
        mean, _ = ravel_pytree(cma.mean)
        dimension, dtype = mean.size, cma.sigma.dtype
        size = members.fitness.size
        used = size if self.num_active is None else self.num_active
        in_use = jnp.arange(size) < used  # ask has put them first
        valid = evaluation.valid & population.active
        fitness = jnp.where(valid, evaluation.fitness.astype(dtype), jnp.inf)
        members = members._replace(
            fitness=jnp.where(population.active, fitness, members.fitness),
            is_evaluated=members.is_evaluated | population.active,
        )
        tried = members.is_optimum & population.active
        lowest = jnp.min(jnp.where(tried, fitness, jnp.inf))
        is_good = lowest <= jnp.median(state.fitness[:NUM_LATEST])
        factor = jnp.where(is_good, 1.5, 0.7)
        radius = jnp.clip(state.radius * factor, LEAST_RADIUS, 1)
        radius = jnp.where(jnp.any(tried), radius, state.radius)

        # newest first
        points = jnp.concatenate([mean + cma.sigma * members.y, state.points])
        found = jnp.concatenate([fitness, state.fitness])
        order = jnp.argsort(~jnp.isfinite(found), stable=True)[: state.fitness.size]
        points, found = points[order], found[order]
        model = quadratic_model.fit(points, found, cma.root, cma.sigma)

        number = jnp.sum(members.is_evaluated)
        agrees = self._agreement(model, points, found, number, used) >= self.threshold
        # the model has no edges, and would cross them: if more than a third fails
        failed = jnp.sum(members.is_evaluated & ~jnp.isfinite(members.fitness) & in_use)
        agrees &= 3 * failed <= number
        is_done = number >= used
        closes = agrees | is_done
        guess = quadratic_model.values(model, mean + cma.sigma * members.y)
        best = jnp.min(members.fitness)
        lowest_guess = jnp.min(jnp.where(in_use, guess, jnp.inf))
        shifted = guess - lowest_guess + jnp.where(jnp.isfinite(best), best, 0)
        completed = Evaluation(
            fitness=jnp.where(is_done, members.fitness, shifted),
            valid=in_use
            & jnp.where(members.is_evaluated, jnp.isfinite(members.fitness), ~is_done),
        )
        whole = Population(CMAESMember(members.z, members.y), in_use)
        after, info = super().tell(cma, whole, completed)
        cma = trees.select(closes, after, cma)
        optimum = quadratic_model.minimum(model, mean, radius * longest(dimension))
        return state._replace(
            step=state.step + 1,
            cma=cma,
            points=points,
            fitness=found,
            model=model,
            optimum=self._inside(state, optimum),
            radius=radius,
            is_better=jnp.any(tried) & (lowest <= jnp.min(state.fitness)),
            members=members,
            num_wanted=jnp.where(closes, 0, (number + 1) // 2).astype(jnp.int32),
        ), info

    def _inside(self, state: LQCMAESState, x: jax.Array) -> jax.Array:
        """Returns the point of the box, if there is one, that is nearest to ``x``."""
        if self.box is None:
            return x
        return jnp.clip(x, *self.box.sides(state.cma.mean))

    def _agreement(
        self,
        model: quadratic_model.QuadraticModel,
        points: jax.Array,
        fitness: jax.Array,
        number: jax.Array,
        used: int | jax.Array,
    ) -> jax.Array:
        """Returns Kendall's tau of model and objective on the latest points."""
        most = max(LEAST_COMPARED, math.ceil(0.75 * self._size(points.shape[1])))
        num_compared = jnp.minimum(1.2 * number, 0.75 * used)
        num_compared = jnp.maximum(LEAST_COMPARED, num_compared).astype(jnp.int32)
        points, fitness = points[:most], fitness[:most]
        guess = quadratic_model.values(model, points)
        counts = jnp.isfinite(fitness) & (jnp.arange(fitness.size) < num_compared)
        true = jnp.where(counts, fitness, 0)
        pairs = counts[:, None] & counts[None, :]
        same = jnp.sign(guess[:, None] - guess) * jnp.sign(true[:, None] - true)
        count = jnp.sum(counts)
        tau = jnp.sum(jnp.where(pairs, same, 0)) / jnp.maximum(count * (count - 1), 1)
        return jnp.where(count < 3, 0, tau)

    def recommend(self, state: LQCMAESState) -> Solution:
        """Returns the mean."""
        return state.cma.mean

    def standard_deviations(self, state: LQCMAESState) -> Solution:  # type: ignore[override]
        """Returns the standard deviation of each coordinate, like the mean."""
        return super().standard_deviations(state.cma)

    def widened(self, state: LQCMAESState, factor: jax.Array) -> LQCMAESState:
        """Returns the state with a larger sigma."""
        return state._replace(cma=super().widened(state.cma, factor))

    def stop(self, state: LQCMAESState) -> dict[str, jax.Array]:  # type: ignore[override]
        """Returns the reasons of CMA-ES."""
        return super().stop(state.cma)
