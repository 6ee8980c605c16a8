"""Quality diversity: a wrapper that keeps the best solution of every behaviour.

The objective returns a behaviour, a vector of ``K`` descriptors, as its aux
(``gfopt.Objective(fun, has_aux=True)``), and a grid divides the space of behaviours
into cells. ``M`` emitters, copies of the inner method, search side by side. They are
not told the fitness of a candidate, but how it improves the archive:

    value_p = t(cell_p) - fitness_p

where ``t`` is the threshold of its cell before this step. CMA-ME ranks candidates that
found an empty cell first, then those that improve one, then the others, and by value
within each of these. CMA-MAE has thresholds that start at ``worst`` and follow slowly,
and ranks by value alone. An emitter starts again at a random elite where the inner
method has a reason to stop, or where ``patience`` steps in a row have added nothing.

MAP-Elites is random search of one candidate that starts again after every step.

Sources: Mouret, Clune (2015), arXiv 1504.04909, for MAP-Elites; Fontaine, Togelius,
Nikolaidis, Hoover (2020), "Covariance matrix adaptation for the rapid illumination of
behavior space", arXiv 1912.02400, algorithms 1 and 3, for CMA-ME and its improvement
emitter; Fontaine, Nikolaidis (2023), arXiv 2205.10752, algorithm 1, for CMA-MAE.
Deviation: all candidates are ranked, where CMA-ME takes those that entered as parents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.lazy.lazy import materialise
from gfopt.noise import threefry
from gfopt.optimizers.wrappers import elites as archives
from gfopt.optimizers.wrappers.novelty import described, whole
from gfopt.protocol import Method, Optimizer, as_method
from gfopt.pytree import pytree, static
from gfopt.types import (
    Evaluation,
    HeatMap,
    Key,
    Member,
    Population,
    PyTree,
    Solution,
    State,
)

#: Reasons to stop that compare losses of different steps: ranks tell nothing of them.
IGNORED = frozenset({"tol_fun", "tol_fun_history", "flat", "stagnation"})


class EmitterMember(NamedTuple):
    """A candidate of an emitter.

    Attributes:
        emitter: its number, ``i32[]``.
        inner: the inner method's own member.
    """

    emitter: jax.Array
    inner: Member


class GridArchiveState(NamedTuple):
    """The emitters and their archive.

    Attributes:
        step: ``i32[]``.
        emitters: states of the inner method, leaves ``[M, ...]``.
        num_barren: ``i32[M]``, steps since an emitter added something.
        elites: the archive.
        seed: of the draws that restart emitters.
    """

    step: jax.Array
    emitters: State
    num_barren: jax.Array
    elites: archives.Elites
    seed: jax.Array


class GridArchiveInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        best_fitness: of all elites.
        coverage: the share of cells that have one.
        qd_score: ``sum (worst - fitness)`` over all elites.
        num_added: candidates that entered the archive.
        num_restarts: emitters that started again.
        num_valid: candidates with a fitness and a behaviour.
    """

    best_fitness: jax.Array
    coverage: jax.Array
    qd_score: jax.Array
    num_added: jax.Array
    num_restarts: jax.Array
    num_valid: jax.Array


@pytree
class GridArchive(Method):
    """Fills a grid of behaviours with the best solution of each.

    | method | setting |
    |---|---|
    | MAP-Elites | ``inner=RandomSearch(1, sigma), num_emitters=P, patience=0`` |
    | CMA-ME | ``inner=CMAES(P, sigma), num_emitters=15`` |
    | CMA-MAE | the same with ``learning_rate=0.01, worst=..., patience=None`` |

    The recommended solution is the best elite; ``state.elites`` holds all of them.

    Args:
        inner: a method that ranks its candidates; a generation has ``M`` times its
            population.
        lower: of each descriptor, ``K`` numbers; what is beyond belongs to the border.
        upper: of each descriptor.
        shape: cells along each descriptor.
        num_emitters: ``M``.
        learning_rate: ``alpha`` of a soft archive, in [0, 1], or a schedule; None for
            a hard one. It then ranks new cells first.
        worst: a fitness that is worth nothing: only what is better enters, and scores
            are measured from it. None lets everything in and measures from 0.
        patience: steps in a row without an entry before an emitter starts again; 0 for
            after every step, None for never.
        descriptor: ``aux -> float[K]`` of one candidate; the aux itself by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an inner method with elitism.

    Example:
        >>> import gfopt
        >>> inner = gfopt.CMAES(population_size=8, sigma=0.3)
        >>> optimizer = gfopt.GridArchive(inner, (-1, -1), (1, 1), (10, 10))
        >>> objective = gfopt.Objective(lambda x: (jnp.sum(x**2), x[:2]), has_aux=True)
        >>> result = gfopt.run(optimizer, objective, jnp.zeros(4),
        ...                    key=jax.random.key(0), generations=100)
        >>> bool(result.history["coverage"][-1] > 0.8)
        True
    """

    inner: Optimizer
    lower: tuple[float, ...] = static()
    upper: tuple[float, ...] = static()
    shape: tuple[int, ...] = static(default=(100, 100))
    num_emitters: int = static(default=1)
    learning_rate: schedules.Hyperparameter | None = None
    worst: schedules.Number | None = None
    patience: int | jax.Array | None = 1
    descriptor: Callable[[PyTree], jax.Array] = static(default=whole)

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.instance("shape", self.shape, (tuple, list), "a tuple of integers")
        for size in self.shape:
            checks.integer("shape", size, 1)
        if not self.shape:
            raise ValueError("shape must have a number for each descriptor; got ()")
        for name in ("lower", "upper"):
            ends = getattr(self, name)
            checks.instance(name, ends, (tuple, list, np.ndarray), "a tuple of numbers")
            checks.finite(name, ends)
            if np.shape(ends) != (len(self.shape),):
                raise ValueError(
                    f"{name} must have {len(self.shape)} numbers, one for each of "
                    f"shape; got {checks.shown(ends)}"
                )
            schedules.set_fields(self, **{name: tuple(map(float, ends))})
        checks.below("lower", self.lower, "upper", self.upper)
        checks.integer("num_emitters", self.num_emitters, 1)
        checks.is_callable("descriptor", self.descriptor)
        if as_method(self.inner).elitism:
            raise ValueError(
                "inner must not keep an elite, whose improvement goes stale: expected "
                f"elitism=False; got {checks.shown(self.inner)}"
            )
        if self.learning_rate is not None and self.worst is None:
            raise ValueError(
                "worst must be given with a learning_rate: thresholds start there; "
                "got None"
            )
        schedules.set_fields(self, shape=tuple(self.shape))
        schedules.set_schedules(self, "learning_rate", check=checks.share)
        schedules.set_numbers(self, "worst", check=checks.finite)
        if self.patience is not None:
            checks.non_negative("patience", self.patience)

    @property
    def num_descriptors(self) -> int:
        """``K``."""
        return len(self.shape)

    def init(self, key: Key, solution: Solution) -> GridArchiveState:
        """Starts all emitters at the solution, with an empty archive."""
        start = trees.starting_point(solution)
        key, seed_key = jax.random.split(key)
        (seed,) = threefry.seeds(seed_key, 1)
        keys = jax.random.split(key, self.num_emitters)
        threshold = jnp.inf if self.worst is None else self.worst
        num_cells = math.prod(self.shape)
        return GridArchiveState(
            step=jnp.int32(0),
            emitters=jax.vmap(self.inner.init, (0, None))(keys, start),
            num_barren=jnp.zeros(self.num_emitters, jnp.int32),
            elites=archives.empty(start, num_cells, self.num_descriptors, threshold),
            seed=seed,
        )

    def ask(self, key: Key, state: GridArchiveState) -> Population:
        """Asks every emitter."""
        inner = as_method(self.inner)
        keys = jax.random.split(key, self.num_emitters)

        def asked(key: Key, emitter: State) -> Population:
            # one counter for all: what goes by it stays a branch within a program
            return inner.ask(key, inner.at_step(emitter, state.step))

        populations = jax.vmap(asked)(keys, state.emitters)
        size = populations.active.shape[1]
        emitter = jnp.repeat(jnp.arange(self.num_emitters, dtype=jnp.int32), size)
        members, active = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), populations
        )
        return Population(EmitterMember(emitter, members), active)

    def decode(self, state: GridArchiveState, member: Member) -> Solution:
        """Returns the emitter's candidate."""
        emitter = jax.tree.map(lambda leaf: leaf[member.emitter], state.emitters)
        return self.inner.decode(emitter, member.inner)

    def tell(
        self, state: GridArchiveState, population: Population, evaluation: Evaluation
    ) -> tuple[GridArchiveState, GridArchiveInfo]:
        """Fills the archive, tells the emitters, and restarts those that are done."""
        descriptors, valid = described(self, evaluation)
        elites, entry = archives.insert(
            state.elites,
            jax.vmap(lambda m: materialise(self.decode(state, m)))(population.members),
            evaluation.fitness,
            descriptors,
            archives.cell_of(descriptors, self.lower, self.upper, self.shape),
            valid,
            self._learning_rate(state.step),
        )
        by_emitter = partial(_by_emitter, self.num_emitters)
        emitters, has_ended = jax.vmap(partial(self._told, state.step))(
            state.emitters,
            by_emitter(Population(population.members.inner, population.active)),
            by_emitter(entry),
            by_emitter(valid),
        )
        has_added = jnp.any(by_emitter(entry.enters), axis=1)
        num_barren = jnp.where(has_added, 0, state.num_barren + 1)
        if self.patience is not None:
            has_ended |= num_barren >= self.patience
        key = jax.random.key(state.seed, impl="threefry2x32")
        key = jax.random.fold_in(key, state.step)
        new = GridArchiveState(
            step=state.step + 1,
            emitters=lax.cond(
                jnp.any(has_ended),
                partial(self._restarted, key, elites, has_ended),
                lambda emitters: emitters,
                emitters,
            ),
            num_barren=jnp.where(has_ended, 0, num_barren),
            elites=elites,
            seed=state.seed,
        )
        info = GridArchiveInfo(
            best_fitness=jnp.min(elites.fitness),
            coverage=elites.coverage,
            qd_score=elites.qd_score(0.0 if self.worst is None else self.worst),
            num_added=jnp.sum(entry.enters),
            num_restarts=jnp.sum(has_ended),
            num_valid=jnp.sum(valid),
        )
        return new, info

    def recommend(self, state: GridArchiveState) -> Solution:
        """Returns the best elite, or the starting point where there is none."""
        best = jnp.argmin(state.elites.fitness)
        return jax.tree.map(lambda leaf: leaf[best], state.elites.solutions)

    def heat_map(self, state: GridArchiveState) -> HeatMap:
        """Returns the fitness of the elites by the first two descriptors.

        Along the others it is the best.
        """
        fitness = state.elites.fitness.reshape(*self.shape, 1)
        fitness = fitness.min(axis=tuple(range(2, fitness.ndim)))
        lower, upper = (*self.lower, 0.0), (*self.upper, 1.0)
        return HeatMap(fitness, lower[:2], upper[:2])

    @property
    def wrapped(self) -> Optimizer:
        """The emitters' method."""
        return self.inner

    @property
    def population_size(self) -> int | None:
        """That of all emitters."""
        size = as_method(self.inner).population_size
        return None if size is None else self.num_emitters * size

    def resized(self, population_size: int) -> Method:
        """Resizes each emitter."""
        size = max(1, population_size // self.num_emitters)
        return replace(self, inner=as_method(self.inner).resized(size))

    @property
    def follows_slopes(self) -> bool:
        """Whether the emitters do."""
        return as_method(self.inner).follows_slopes

    def noise_form(self, solution: Solution) -> str | None:
        """Returns what the emitters say."""
        return as_method(self.inner).noise_form(solution)

    def _learning_rate(self, step: jax.Array) -> schedules.Number | None:
        if self.learning_rate is None:
            return None
        return schedules.at("learning_rate", self.learning_rate, step)

    def _told(
        self,
        step: jax.Array,
        emitter: State,
        population: Population,
        entry: archives.Entry,
        valid: jax.Array,
    ) -> tuple[State, jax.Array]:
        """Tells one emitter; returns its state, and whether it has a reason to stop."""
        loss = -entry.value
        if self.learning_rate is None:
            # 0 for a new cell, 1 for a better elite, 2 for neither; then by the value
            status = 2 - entry.is_new.astype(loss.dtype) - entry.enters
            rank = shaping.by_rank(loss, valid, lambda rank, _: rank)
            loss = status * valid.size + rank
        inner = as_method(self.inner)
        emitter = inner.at_step(emitter, step)
        new, _ = inner.tell(emitter, population, Evaluation(loss, valid))
        ended = jnp.zeros((), bool)
        for name, holds in inner.stop(new).items():
            if name not in IGNORED:
                ended |= holds
        return new, ended

    def _restarted(
        self, key: Key, elites: archives.Elites, chosen: jax.Array, emitters: State
    ) -> State:
        """Starts the chosen emitters at random elites."""
        drawing, starting = jax.random.split(key)
        starts = archives.drawn(drawing, elites, self.num_emitters)
        keys = jax.random.split(starting, self.num_emitters)
        new = jax.vmap(self.inner.init)(keys, starts)
        return jax.vmap(trees.select)(chosen, new, emitters)


def _by_emitter(num_emitters: int, tree: PyTree) -> PyTree:
    """Returns leaves ``[M P, ...]`` as ``[M, P, ...]``."""
    return jax.tree.map(
        lambda leaf: leaf.reshape(num_emitters, -1, *leaf.shape[1:]), tree
    )
