"""Deep genetic algorithm: a genome is a list of seeds, and a child is one addition.

Each child takes a uniformly drawn parent and mutates it; the best ``T`` become the
parents of the next generation, the elite among them first:

    theta_child = theta_parent + sigma z(seed),   z ~ N(0, I)
    theta_first = std / sqrt(fan_in) z(seed)      for a network's matrices

A member is (parent, seed, sigma). The state logs the members of all parents of all
generations, so that the lineage of each is complete; the decoded parents are a cache.
For noisy objectives the best candidates are evaluated again, and only the new scores
select the elite.

Source: Such, Madhavan, Conti, Lehman, Stanley, Clune (2017), arXiv 1712.06567,
algorithm 1. In its code the elite is an additional parent; here it is one of the ``T``.
Its noise comes from a table, which is an option here. Deviation: if fewer than ``T``
children are valid, the best old parents stay.
"""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import noise, threefry
from gfopt.noise.table import NoiseTable
from gfopt.protocol import Method
from gfopt.pytree import pytree, static
from gfopt.types import (
    Chain,
    Evaluation,
    Key,
    Member,
    NoiseOnBase,
    Population,
    PyTree,
    Solution,
)


class DeepGAMember(NamedTuple):
    """A mutation of a parent.

    Attributes:
        parent: its slot among the parents, ``i32[]``.
        seed: of the noise, ``uint32[]``.
        sigma: its scale; 0 for the parent itself, ``-std`` for an initial draw.
    """

    parent: jax.Array
    seed: jax.Array
    sigma: jax.Array


class DeepGAState(NamedTuple):
    """The parents and where they come from.

    Attributes:
        step: ``i32[]``.
        generation: ``i32[]``; a generation takes two steps where candidates are
            evaluated again.
        parents: the solution's tree with leaves ``[T, ...]``, the elite first.
        fitness: ``float[T]``; infinite for a slot without a parent.
        lineage: members ``[G, T]`` that made the parents of each generation.
        tried: ``(members, fitness)`` of the best ``T`` children, which await a second
            evaluation; () without reevaluation.
        waits: ``bool[]``, whether candidates await a second evaluation.
    """

    step: jax.Array
    generation: jax.Array
    parents: PyTree
    fitness: jax.Array
    lineage: DeepGAMember
    tried: PyTree
    waits: jax.Array


class DeepGAInfo(NamedTuple):
    """Diagnostics of one step."""

    elite_fitness: jax.Array
    generation: jax.Array
    num_valid: jax.Array


@pytree
class DeepGA(Method):
    """The genetic algorithm of Such et al. on any pytree.

    Args:
        population_size: children of a generation, ``P``.
        num_parents: ``T``, how many breed; the elite is one of them.
        sigma: standard deviation of a mutation, or a schedule of the generation.
        initial_std: None to mutate the starting solution from the first generation on.
            A number draws the first generation's matrices anew, each with standard
            deviation ``initial_std / sqrt(fan_in)``, ``fan_in`` being the product of
            all axes but the last; vectors keep the starting solution's values.
        elitism: keep the best so far as a parent; False if scores become outdated.
        num_candidates: how many are evaluated again, including the elite.
        num_trials: new evaluations of each of them, whose mean selects the elite; 0
            for objectives without noise.
        max_generations: length of the lineage; the search then stops.
        noise: ``gaussian()``, ``rademacher()`` or a ``NoiseTable``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or more candidates than parents.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.DeepGA(population_size=64, num_parents=8, sigma=0.1)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=60)
        >>> bool(jnp.sum(result.recommended**2) < 0.1)
        True
    """

    population_size: int = static(default=100)
    num_parents: int = static(default=10)
    sigma: schedules.Hyperparameter = 0.02
    initial_std: float | None = static(default=None)
    elitism: bool = static(default=True)
    num_candidates: int = static(default=10)
    num_trials: int = static(default=0)
    max_generations: int = static(default=2000)
    noise: noise.Noise | NoiseTable = field(default_factory=noise.gaussian)

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 1)
        checks.integer("num_parents", self.num_parents, 1)
        checks.instance("elitism", self.elitism, bool, "True or False")
        checks.integer("num_candidates", self.num_candidates, 1)
        checks.integer("num_trials", self.num_trials, 0)
        checks.integer("max_generations", self.max_generations, 1)
        if self.num_trials and self.num_candidates > self.num_parents:
            raise ValueError(
                f"num_candidates must be at most num_parents = {self.num_parents}; "
                f"got {self.num_candidates}"
            )
        checks.instance(
            "noise", self.noise, (noise.Noise, NoiseTable), "a gfopt noise family"
        )
        schedules.set_schedules(self, "sigma")
        if self.initial_std is not None:
            checks.real("initial_std", self.initial_std)
            checks.positive("initial_std", self.initial_std)

    def init(self, key: Key, solution: Solution) -> DeepGAState:
        """Starts with ``solution``, which becomes a parent with its first children."""
        start = trees.starting_point(solution)
        size, wide = self.num_parents, trees.wide_dtype(start)
        parents = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), start
        )
        log = _members((self.max_generations, size), wide)
        fitness = jnp.full(size, jnp.inf, wide)
        tried = (_members((size,), wide), fitness + 0) if self.num_trials else ()
        zero = jnp.int32(0)
        return DeepGAState(
            zero, zero, parents, fitness, log, tried, jnp.zeros((), bool)
        )

    def ask(self, key: Key, state: DeepGAState) -> Population:
        """Draws a parent and a seed for each child, or repeats the candidates."""
        size = self.population_size
        words = threefry.seeds(key, 2 * size)
        count = jnp.sum(jnp.isfinite(state.fitness))
        # uniform among the slots that hold a parent, which stand first
        share = (words[size:] >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
        parent = (share * count).astype(jnp.int32)
        sigma = schedules.at("sigma", self.sigma, state.generation)
        sigma = threefry.round_significant(jnp.asarray(sigma, state.fitness.dtype))
        if self.initial_std is not None:
            std = jnp.asarray(self.initial_std, sigma.dtype)
            sigma = jnp.where(count == 0, -std, sigma)
        children = DeepGAMember(parent, words[:size], jnp.broadcast_to(sigma, size))
        active = jnp.ones(size, bool)
        if not self.num_trials:
            return Population(children, active)
        members, fitness = self._candidates(state)
        again = jax.tree.map(
            lambda leaf: jnp.repeat(leaf, self.num_trials), (members, fitness)
        )
        rows = max(size, again[1].size)
        first = jax.tree.map(lambda leaf: _padded(leaf, rows), (children, active))
        second = jax.tree.map(lambda leaf: _padded(leaf, rows), again)
        second = second[0], jnp.isfinite(second[1]) & (jnp.arange(rows) < again[1].size)
        return Population(*trees.select(state.waits, second, first))

    def decode(self, state: DeepGAState, member: Member) -> Solution:
        """Returns the mutated parent."""
        parent = jax.tree.map(lambda leaf: leaf[member.parent], state.parents)
        return mutated(self.noise, parent, member.seed, member.sigma)

    def tell(
        self, state: DeepGAState, population: Population, evaluation: Evaluation
    ) -> tuple[DeepGAState, DeepGAInfo]:
        """Selects the parents of the next generation."""
        fitness = jnp.where(evaluation.valid, evaluation.fitness, jnp.inf)
        fitness = fitness.astype(state.fitness.dtype)

        def first() -> DeepGAState:
            best = jnp.argsort(fitness)[: self.num_parents]
            children = jax.tree.map(
                lambda leaf: _padded(leaf[best], self.num_parents), population.members
            )
            found = _padded(fitness[best], self.num_parents, jnp.inf)
            if self.num_trials:
                waits = jnp.isfinite(found[0])
                return state._replace(tried=(children, found), waits=waits)
            is_better = found[0] < jnp.where(self.elitism, state.fitness[0], jnp.inf)
            elite = jnp.where(is_better, 0, self.num_parents)
            return self._bred(state, children, found, elite)

        def second() -> DeepGAState:
            # the mean of the new evaluations alone: selection biases the first score
            shape = self.num_candidates, self.num_trials
            rows, valid = fitness[: math.prod(shape)], evaluation.valid
            valid = valid[: math.prod(shape)].reshape(shape)
            total = jnp.sum(jnp.where(valid, rows.reshape(shape), 0), axis=1)
            mean = jnp.where(valid.any(axis=1), total / valid.sum(axis=1), jnp.inf)
            winner = jnp.argmin(mean)
            has_elite, is_known = self._has_elite(state), jnp.isfinite(mean[winner])
            stays = has_elite & ((winner == 0) | ~is_known)
            children, found = state.tried
            index = jnp.maximum(winner - has_elite, 0)
            found = found.at[index].set(
                jnp.where(is_known & ~stays, mean[winner], found[index])
            )
            old = jnp.where(stays & is_known, mean[0], state.fitness[0])
            rescored = state._replace(fitness=state.fitness.at[0].set(old))
            elite = jnp.where(stays, self.num_parents, index)
            new = self._bred(rescored, children, found, elite)
            return new._replace(waits=jnp.zeros((), bool))

        def told() -> DeepGAState:
            if not self.num_trials:
                return first()
            return lax.cond(state.waits, second, first)

        has_place = state.generation < self.max_generations
        counts = has_place & (state.waits | jnp.any(evaluation.valid))
        new = lax.cond(counts, told, lambda: state)
        info = DeepGAInfo(new.fitness[0], new.generation, jnp.sum(evaluation.valid))
        return new._replace(step=state.step + 1), info

    def recommend(self, state: DeepGAState) -> Solution:
        """Returns the elite."""
        return jax.tree.map(lambda leaf: leaf[0], state.parents)

    def chain(self, state: DeepGAState, member: Member) -> Chain:
        """Returns the mutations from the starting solution to a member, in order."""
        log, slot = jax.tree.map(np.asarray, state.lineage), int(member.parent)
        seeds, scales = [np.asarray(member.seed)], [np.asarray(member.sigma)]
        for row in reversed(range(int(state.generation))):
            seeds.append(log.seed[row, slot])
            scales.append(log.sigma[row, slot])
            slot = int(log.parent[row, slot])
        # 0: this parent was one before, too
        found = np.array(scales[::-1])
        return Chain(np.array(seeds[::-1], np.uint32)[found != 0], found[found != 0])

    def chain_of_parent(self, state: DeepGAState, slot: int = 0) -> Chain:
        """Returns the mutations that made a parent; that in slot 0 is the elite."""
        itself: Any = slot, np.uint32(0), np.zeros((), state.fitness.dtype)
        return self.chain(state, DeepGAMember(*itself))

    def noise_on_base(self) -> NoiseOnBase:
        """Returns how candidates are noise on the starting solution.

        Raises:
            ValueError: for noise from a table, and matrices that are drawn anew.
        """
        if self.initial_std is not None or not isinstance(self.noise, noise.Noise):
            raise ValueError(
                "method must mutate the starting solution by a gfopt noise family; "
                f"got {checks.shown(self)}"
            )
        return NoiseOnBase(self.noise, self.chain, None, None, self.chain_of_parent)

    def stop(self, state: DeepGAState) -> dict[str, jax.Array]:
        """Returns ``max_generations``: the lineage is full."""
        return {"max_generations": state.generation >= self.max_generations}

    def _has_elite(self, state: DeepGAState) -> jax.Array:
        return jnp.isfinite(state.fitness[0]) & self.elitism

    def _candidates(self, state: DeepGAState) -> tuple[DeepGAMember, jax.Array]:
        """Returns the elite, if any, and the best children."""
        elite = _members((1,), state.fitness.dtype), state.fitness[:1]
        with_elite = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b])[: self.num_candidates],
            elite,
            state.tried,
        )
        without = jax.tree.map(lambda leaf: leaf[: self.num_candidates], state.tried)
        return trees.select(self._has_elite(state), with_elite, without)

    def _bred(
        self,
        state: DeepGAState,
        children: DeepGAMember,
        fitness: jax.Array,
        elite: jax.Array,
    ) -> DeepGAState:
        """Selects the parents from the sorted children and the old parents."""
        size = self.num_parents
        old = _members((size,), state.fitness.dtype)
        old = old._replace(parent=jnp.arange(size, dtype=jnp.int32))
        pool, scores = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]),
            (children, fitness),
            (old, state.fitness),
        )
        # the elite first, then children, then old parents, each in their order
        places = jnp.arange(2 * size)
        worth = jnp.where(jnp.isfinite(scores), places, places + 2 * size)
        order = jnp.argsort(jnp.where(places == elite, -1, worth))[:size]
        pool, scores = jax.tree.map(lambda leaf: leaf[order], (pool, scores))
        return state._replace(
            generation=state.generation + 1,
            parents=lax.map(lambda member: self.decode(state, member), pool),
            fitness=scores,
            lineage=jax.tree.map(
                lambda log, row: log.at[state.generation].set(row), state.lineage, pool
            ),
        )


def mutated(
    noise: noise.Noise | NoiseTable, tree: PyTree, seed: jax.Array, sigma: jax.Array
) -> PyTree:
    """Applies one mutation: ``tree + sigma z(seed)``, or an initial draw.

    Args:
        noise: its family.
        tree: the parent.
        seed: ``uint32[]``.
        sigma: ``float[]``, as in ``DeepGAMember``.
    """
    is_first = sigma < 0

    def base(leaf: jax.Array) -> jax.Array:
        return jnp.where(is_first & (leaf.ndim > 1), jnp.zeros_like(leaf), leaf)

    def scale(leaf: jax.Array) -> jax.Array:
        fan_in = max(1, math.prod(leaf.shape[:-1]))
        first = -sigma / math.sqrt(fan_in) if leaf.ndim > 1 else jnp.zeros_like(sigma)
        return jnp.where(is_first, first, sigma)

    child = noise.add(jax.tree.map(base, tree), seed, jax.tree.map(scale, tree))
    # adding zeros would turn -0.0 into 0.0
    return jax.tree.map(lambda old, new: jnp.where(sigma == 0, old, new), tree, child)


def _members(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> DeepGAMember:
    """Returns members that are their parent, in slot 0."""
    return DeepGAMember(
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, jnp.uint32),
        jnp.zeros(shape, dtype),
    )


def _padded(leaf: jax.Array, size: int, end: float = 0) -> jax.Array:
    return jnp.pad(leaf, (0, size - leaf.shape[0]), constant_values=end)
