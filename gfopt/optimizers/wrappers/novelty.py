"""Novelty search: a wrapper that rewards new behaviours.

Instead of the fitness, the inner method is told how common a behaviour is, or a mixed
rank of both:

    loss_p = -((1 - w) rank(novelty_p) + w rank(-fitness_p))

A behaviour is a vector of ``K`` descriptors, which the objective returns as its aux
(``gfopt.Objective(fun, has_aux=True)``), such as where a walker ended.

Sources: Lehman, Stanley (2011), Evolutionary Computation 19, for novelty; Such et al.
(2017), arXiv 1712.06567, section 3, for the GA, whose archive takes each behaviour with
a small probability; Conti et al. (2018), arXiv 1712.06560, equation 4, for the mix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.core.evaluate import best_row
from gfopt.lazy.lazy import materialise
from gfopt.noise import threefry
from gfopt.optimizers.wrappers import archive as archives
from gfopt.protocol import Optimizer, Wrapper, as_method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Population, PyTree, Solution, State


def whole(aux: PyTree) -> jax.Array:
    """Returns the aux itself: it is the descriptor."""
    return aux


class NoveltyState(NamedTuple):
    """The inner method's state, the archive, and the best solution.

    Attributes:
        step: ``i32[]``.
        inner: the inner method's state.
        archive: earlier behaviours.
        seed: of the draws that decide what is archived.
        best: the solution of the best fitness so far.
        best_fitness: ``float[]``.
    """

    step: jax.Array
    inner: State
    archive: archives.Archive
    seed: jax.Array
    best: Solution
    best_fitness: jax.Array


class NoveltyInfo(NamedTuple):
    """Diagnostics of one step."""

    best_fitness: jax.Array
    mean_novelty: jax.Array
    num_kept: jax.Array
    num_valid: jax.Array


@pytree
class Novelty(Wrapper):
    """Runs ``inner`` on the novelty of its candidates' behaviours.

    The recommended solution is the best evaluated one by fitness.

    Args:
        inner: a method that ranks its candidates, such as
            ``DeepGA(elitism=False)``; an elite's novelty would become outdated.
        num_descriptors: numbers that describe a behaviour, ``K``.
        num_neighbours: ``k``.
        archive_size: behaviours in the archive; the oldest are replaced.
        probability: that a behaviour is archived, or a schedule.
        weight: ``w`` of the fitness, or a schedule; 0 for novelty alone.
        descriptor: ``aux -> float[K]`` of one candidate; the aux itself by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an inner method with elitism.

    Example:
        >>> import gfopt
        >>> inner = gfopt.DeepGA(population_size=32, num_parents=8, elitism=False)
        >>> optimizer = gfopt.Novelty(inner, num_descriptors=2)
        >>> objective = gfopt.Objective(lambda x: (jnp.sum(x**2), x), has_aux=True)
        >>> result = gfopt.run(optimizer, objective, jnp.ones(2),
        ...                    key=jax.random.key(0), generations=5)
        >>> bool(result.state.best_fitness < 2)
        True
    """

    inner: Optimizer
    num_descriptors: int = static()
    num_neighbours: int = static(default=25)
    archive_size: int = static(default=2000)
    probability: schedules.Hyperparameter = 0.01
    weight: schedules.Hyperparameter = 0.0
    descriptor: Callable[[PyTree], jax.Array] = static(default=whole)

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.integer("num_descriptors", self.num_descriptors, 1)
        checks.integer("num_neighbours", self.num_neighbours, 1)
        checks.integer("archive_size", self.archive_size, 1)
        checks.is_callable("descriptor", self.descriptor)
        if as_method(self.inner).elitism:
            raise ValueError(
                "inner must not keep an elite, whose novelty goes stale: expected "
                f"elitism=False; got {checks.shown(self.inner)}"
            )
        schedules.set_schedules(self, "probability", "weight", check=checks.share)

    def init(self, key: Key, solution: Solution) -> NoveltyState:
        """Starts the inner method with an empty archive."""
        start = trees.starting_point(solution)
        (seed,) = threefry.seeds(jax.random.fold_in(key, 1), 1)
        return NoveltyState(
            step=jnp.int32(0),
            inner=self.inner.init(key, solution),
            archive=archives.empty(self.archive_size, self.num_descriptors),
            seed=seed,
            best=start,
            best_fitness=jnp.full((), jnp.inf, trees.wide_dtype(start)),
        )

    def tell(
        self, state: NoveltyState, population: Population, evaluation: Evaluation
    ) -> tuple[NoveltyState, NoveltyInfo]:
        """Tells the inner method what is rare, and archives some behaviours."""
        descriptors, valid = described(self, evaluation)
        found = archives.novelty(descriptors, valid, state.archive, self.num_neighbours)
        weight = schedules.at("weight", self.weight, state.step)
        loss = mixed_loss(weight, found, evaluation.fitness, valid)
        loss_evaluation = Evaluation(
            loss.astype(evaluation.fitness.dtype), valid, evaluation.aux
        )
        inner, _ = self.inner.tell(state.inner, population, loss_evaluation)
        probability = schedules.at("probability", self.probability, state.step)
        key = jax.random.key(state.seed, impl="threefry2x32")
        coins = jax.random.uniform(jax.random.fold_in(key, state.step), valid.shape)
        best, best_fitness = best_seen(self, state, population, evaluation)
        archive = archives.insert(
            state.archive, descriptors, valid & (coins < probability)
        )
        new = NoveltyState(
            step=state.step + 1,
            inner=inner,
            archive=archive,
            seed=state.seed,
            best=best,
            best_fitness=best_fitness,
        )
        count = jnp.sum(valid)
        mean = jnp.sum(found) / jnp.maximum(count, 1)
        return new, NoveltyInfo(new.best_fitness, mean, archive.num_kept, count)

    def recommend(self, state: NoveltyState) -> Solution:
        """Returns the best by fitness."""
        return state.best


def described(optimizer: Any, evaluation: Evaluation) -> tuple[jax.Array, jax.Array]:
    """Returns the behaviours of a population, and which of them are valid.

    Args:
        optimizer: has a ``descriptor`` and ``num_descriptors``.
        evaluation: of the population.

    Returns:
        ``(float[P, K], bool[P])``; 0 where not valid.

    Raises:
        ValueError: where a descriptor has another shape.
    """
    shape = evaluation.valid.shape[0], optimizer.num_descriptors
    found = None
    if jax.tree.leaves(evaluation.aux):
        descriptors = jax.vmap(optimizer.descriptor)(evaluation.aux)
        found = jnp.shape(descriptors)[1:]
    if found != shape[1:]:
        raise ValueError(
            f"descriptor must return {optimizer.num_descriptors} numbers, as "
            "num_descriptors says, from the aux of an objective with has_aux=True, or "
            f"that AskTell is told; got {'no aux' if found is None else found}"
        )
    # a behaviour that is not finite has no novelty
    valid = evaluation.valid & jnp.all(jnp.isfinite(descriptors), axis=1)
    return jnp.where(valid[:, None], descriptors, 0), valid


def mixed_loss(
    weight: schedules.Number, novelty: jax.Array, fitness: jax.Array, valid: jax.Array
) -> jax.Array:
    """Returns ``-((1 - w) rank(novelty) + w rank(-fitness))``: ``float[P]``."""
    # larger utilities are better: centered ranks of -novelty and of the fitness
    utilities = (1 - weight) * shaping.centered_rank(-novelty, valid)
    return -(utilities + weight * shaping.centered_rank(fitness, valid))


def best_seen(
    optimizer: Any, state: Any, population: Population, evaluation: Evaluation
) -> tuple[Solution, jax.Array]:
    """Returns the best solution by fitness so far, and its fitness.

    Args:
        optimizer: decodes the members.
        state: has ``best`` and ``best_fitness``.
        population: that was evaluated.
        evaluation: of it.
    """
    index, fitness = best_row(evaluation)
    fitness = fitness.astype(state.best_fitness.dtype)
    member = jax.tree.map(lambda leaf: leaf[index], population.members)
    best = jax.lax.cond(
        fitness < state.best_fitness,
        lambda: materialise(optimizer.decode(state, member)),
        lambda: state.best,
    )
    return best, jnp.minimum(fitness, state.best_fitness)
