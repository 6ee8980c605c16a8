"""Novelty-seeking evolution strategies: agents that share an archive of behaviours.

``M`` agents, each with its own strategy, step in parallel. The strategy of agent ``m``
is told a mixed rank of its candidate ``p``:

    loss_mp = -((1 - w) rank(N(b_mp, A)) + w rank(-fitness_mp))

with the novelty ``N`` against the archive ``A`` alone. The archive holds the behaviours
of all agents' means at every step. ``w = 0`` is NS-ES, ``w = 1/2`` NSR-ES; NSRA-ES
adapts it: up by ``weight_change`` whenever a mean is better than all earlier means, and
down by as much after ``patience`` steps without that.

Source: Conti, Madhavan, Petroski Such, Lehman, Stanley, Clune (2018), arXiv 1712.06560,
algorithms 1 to 3. Deviations: all agents step in each generation, while the paper draws
one by its novelty; a mean is evaluated with the next generation; a strategy that ranks
its fitness ranks the mix again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import trees
from gfopt.lazy.lazy import materialise
from gfopt.noise import noise, threefry
from gfopt.optimizers.deep_ga import mutated
from gfopt.optimizers.wrappers import archive as archives
from gfopt.optimizers.wrappers.novelty import best_seen, described, mixed_loss, whole
from gfopt.protocol import Method, Optimizer, as_method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, PyTree, Solution, State


class AgentMember(NamedTuple):
    """A candidate of an agent, or the agent's mean.

    Attributes:
        agent: its number, ``i32[]``.
        is_mean: ``bool[]``.
        inner: the strategy's own member; unused for a mean.
    """

    agent: jax.Array
    is_mean: jax.Array
    inner: Member


class NoveltyAgentsState(NamedTuple):
    """The agents, their archive, and the best solution.

    Attributes:
        step: ``i32[]``.
        agents: states of the inner strategy, leaves ``[M, ...]``.
        archive: behaviours of the means.
        weight: of the fitness, ``float[]``.
        mean_fitness: of the best mean so far, ``float[]``.
        num_barren: steps since a mean improved, ``i32[]``.
        best: the solution of the best fitness so far.
        best_fitness: ``float[]``.
    """

    step: jax.Array
    agents: State
    archive: archives.Archive
    weight: jax.Array
    mean_fitness: jax.Array
    num_barren: jax.Array
    best: Solution
    best_fitness: jax.Array


class NoveltyAgentsInfo(NamedTuple):
    """Diagnostics of one step."""

    best_fitness: jax.Array
    mean_novelty: jax.Array
    weight: jax.Array
    num_kept: jax.Array
    num_valid: jax.Array


@pytree
class NoveltyAgents(Method):
    """Runs several copies of ``inner`` that avoid where any of them has been.

    A generation has ``M P + M`` rows: the candidates of the agents, then their means.
    The recommended solution is the best evaluated one by fitness.

    Args:
        inner: an evolution strategy, such as ``OpenES``, of which all rows are active.
        num_descriptors: numbers that describe a behaviour, ``K``.
        num_agents: ``M``.
        num_neighbours: ``k``.
        archive_size: behaviours in the archive; the oldest are replaced.
        weight: ``w``, the (initial) weight of the fitness; 0 for novelty alone.
        weight_change: how much ``w`` adapts; 0 for a constant weight.
        patience: steps without a better mean before ``w`` decreases.
        initial_std: None to start all agents at the solution. A number draws the
            matrices of each agent, with standard deviation ``initial_std /
            sqrt(fan_in)``.
        descriptor: ``aux -> float[K]`` of one candidate; the aux itself by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> inner = gfopt.OpenES(population_size=16, sigma=0.1, learning_rate=0.1)
        >>> optimizer = gfopt.NoveltyAgents(inner, num_descriptors=2, num_agents=3)
        >>> objective = gfopt.Objective(lambda x: (jnp.sum(x**2), x), has_aux=True)
        >>> result = gfopt.run(optimizer, objective, jnp.ones(2),
        ...                    key=jax.random.key(0), generations=20)
        >>> bool(result.state.best_fitness < 2), int(result.state.archive.num_kept)
        (True, 60)
    """

    inner: Optimizer
    num_descriptors: int = static()
    num_agents: int = static(default=5)
    num_neighbours: int = static(default=10)
    archive_size: int = static(default=2000)
    weight: float = 0.5
    weight_change: float = 0.0
    patience: int = static(default=50)
    initial_std: float | None = static(default=None)
    descriptor: Callable[[PyTree], jax.Array] = static(default=whole)

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Optimizer, "a gfopt optimizer")
        checks.integer("num_descriptors", self.num_descriptors, 1)
        checks.integer("num_agents", self.num_agents, 1)
        checks.integer("num_neighbours", self.num_neighbours, 1)
        checks.integer("archive_size", self.archive_size, self.num_agents)
        checks.integer("patience", self.patience, 1)
        checks.is_callable("descriptor", self.descriptor)
        checks.share("weight", self.weight)
        checks.share("weight_change", self.weight_change)
        if self.initial_std is not None:
            checks.real("initial_std", self.initial_std)
            checks.positive("initial_std", self.initial_std)

    def init(self, key: Key, solution: Solution) -> NoveltyAgentsState:
        """Starts the agents with an empty archive."""
        start = trees.starting_point(solution)
        wide = trees.wide_dtype(start)
        seed_key, key = jax.random.split(key)
        keys = jax.random.split(key, self.num_agents)
        if self.initial_std is None:
            agents = jax.vmap(self.inner.init, (0, None))(keys, start)
        else:
            seeds = threefry.seeds(seed_key, self.num_agents)
            std = threefry.round_significant(jnp.asarray(self.initial_std, wide))
            draw = partial(mutated, noise.gaussian(), start, sigma=-std)
            agents = jax.vmap(self.inner.init)(keys, jax.vmap(draw)(seeds))
        infinite = jnp.full((), jnp.inf, wide)
        return NoveltyAgentsState(
            step=jnp.int32(0),
            agents=agents,
            archive=archives.empty(self.archive_size, self.num_descriptors),
            weight=jnp.asarray(self.weight, wide),
            mean_fitness=infinite,
            num_barren=jnp.int32(0),
            best=start,
            best_fitness=infinite + 0,
        )

    def ask(self, key: Key, state: NoveltyAgentsState) -> Population:
        """Asks every agent, and adds the means."""
        keys = jax.random.split(key, self.num_agents)
        populations = jax.vmap(self.inner.ask)(keys, state.agents)
        numbers = jnp.arange(self.num_agents, dtype=jnp.int32)
        size = populations.active.shape[1]
        # a mean's row holds the agent's first member, which is not used
        inner = jax.tree.map(
            lambda leaf: jnp.concatenate([_flat(leaf), leaf[:, 0]]), populations.members
        )
        agent = jnp.concatenate([jnp.repeat(numbers, size), numbers])
        is_mean = jnp.arange(agent.size) >= self.num_agents * size
        active = _flat(populations.active)
        active = jnp.concatenate([active, jnp.ones(self.num_agents, bool)])
        return Population(AgentMember(agent, is_mean, inner), active)

    def decode(self, state: NoveltyAgentsState, member: Member) -> Solution:
        """Returns the agent's candidate, or its mean."""
        agent = jax.tree.map(lambda leaf: leaf[member.agent], state.agents)
        candidate = materialise(self.inner.decode(agent, member.inner))
        mean = self.inner.recommend(agent)
        return trees.select(member.is_mean, mean, candidate)

    def tell(
        self,
        state: NoveltyAgentsState,
        population: Population,
        evaluation: Evaluation,
    ) -> tuple[NoveltyAgentsState, NoveltyAgentsInfo]:
        """Puts the means into the archive and steps every agent."""
        descriptors, valid = described(self, evaluation)
        num = self.num_agents
        rows, means = slice(0, -num), slice(-num, None)
        archive = archives.insert(state.archive, descriptors[means], valid[means])
        state = self._adapted(state, evaluation.fitness[means], valid[means])
        found = archives.novelty(
            descriptors[rows],
            valid[rows],
            archive,
            self.num_neighbours,
            among_rows=False,
        )

        by_agent = partial(_by_agent, num)
        fitness, seen = by_agent(evaluation.fitness[rows]), by_agent(valid[rows])
        loss = jax.vmap(partial(mixed_loss, state.weight))
        losses = loss(by_agent(found), fitness, seen).astype(fitness.dtype)
        members = jax.tree.map(
            lambda leaf: by_agent(leaf[rows]), population.members.inner
        )
        populations = Population(members, by_agent(population.active[rows]))
        agents, _ = jax.vmap(self.inner.tell)(
            state.agents, populations, Evaluation(losses, seen)
        )
        best, best_fitness = best_seen(self, state, population, evaluation)
        new = state._replace(
            step=state.step + 1,
            agents=agents,
            archive=archive,
            best=best,
            best_fitness=best_fitness,
        )
        count = jnp.sum(valid[rows])
        mean = jnp.sum(found) / jnp.maximum(count, 1)
        info = NoveltyAgentsInfo(
            new.best_fitness, mean, new.weight, archive.num_kept, jnp.sum(valid)
        )
        return new, info

    def recommend(self, state: NoveltyAgentsState) -> Solution:
        """Returns the best by fitness."""
        return state.best

    @property
    def wrapped(self) -> Optimizer:
        """The agents' strategy."""
        return self.inner

    @property
    def follows_slopes(self) -> bool:
        """Whether the strategy does."""
        return as_method(self.inner).follows_slopes

    def noise_form(self, solution: Solution) -> str | None:
        """Returns what the strategy says."""
        return as_method(self.inner).noise_form(solution)

    def resized(self, population_size: int) -> Method:
        """Resizes the strategy of each agent."""
        return replace(self, inner=as_method(self.inner).resized(population_size))

    def _adapted(
        self, state: NoveltyAgentsState, fitness: jax.Array, valid: jax.Array
    ) -> NoveltyAgentsState:
        """Adapts the weight to the fitness of the means."""
        reached = jnp.min(jnp.where(valid, fitness, jnp.inf))
        reached = reached.astype(state.mean_fitness.dtype)
        is_better = reached < state.mean_fitness
        barren = jnp.where(is_better, 0, state.num_barren + 1)
        is_stuck = barren >= self.patience
        change = jnp.asarray(self.weight_change, state.weight.dtype)
        moved = jnp.where(is_better, change, jnp.where(is_stuck, -change, 0))
        return state._replace(
            weight=jnp.clip(state.weight + moved, 0, 1),
            mean_fitness=jnp.minimum(reached, state.mean_fitness),
            num_barren=jnp.where(is_stuck, 0, barren),
        )


def _flat(leaf: jax.Array) -> jax.Array:
    return leaf.reshape(-1, *leaf.shape[2:])


def _by_agent(num_agents: int, leaf: jax.Array) -> PyTree:
    return leaf.reshape(num_agents, -1, *leaf.shape[1:])
