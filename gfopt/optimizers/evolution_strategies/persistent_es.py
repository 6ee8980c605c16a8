"""Persistent and noise-reuse evolution strategies, for problems that are unrolled.

An episode is unrolled in ``K`` parts, with a step after each. Member p continues from
its own inner state; its perturbation of part t is ``eps_p(t) = s_p sigma z_p(t)``, with
``s = +1, -1`` in pairs on one z. Its loss depends on all of them,

    xi_p = sum_{k <= t} eps_p(k)                    (persistent: new noise each part)
    g = 1 / (P sigma^2) sum_p f_p xi_p
    theta <- theta + learning_rate * transform(g)

so that ``g`` has no truncation bias, unlike an estimate from ``eps_p(t)`` alone.
Noise reuse draws once per episode, and ``xi_p = eps_p``. The sum is streamed over the
seeds of the episode.

Sources: Vicol, Metz, Sohl-Dickstein (2021), arXiv 2112.13835 (persistent ES); Li,
Harrison, Sohl-Dickstein, Smith, Metz (2023), arXiv 2304.12180 (noise-reuse ES).
Deviation: all members are at the same part of the episode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import noise, threefry
from gfopt.optimizers import descent
from gfopt.optimizers.evolution_strategies.seeded import Seeded
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Population, PyTree, Solution, State

if TYPE_CHECKING:
    import optax

_ADAM = descent.Default(descent.adam, 1e-3)


class PersistentESState(NamedTuple):
    """``step``, the mean, the transform's state, and the noise of this episode.

    Attributes:
        step: ``i32[]``.
        mean: ``theta``.
        transform: the transform's own state.
        seeds: ``uint32[K, P / 2]``, those of each part; one row if noise is reused.
        used: ``bool[K]``, which rows count.
    """

    step: jax.Array
    mean: Solution
    transform: PyTree
    seeds: jax.Array
    used: jax.Array


class PersistentESInfo(NamedTuple):
    """Diagnostics of one step."""

    sigma: jax.Array
    gradient_norm: jax.Array
    num_valid: jax.Array


@pytree
class PersistentES(Seeded):
    """Evolution strategy for truncated unrolls, without truncation bias.

    The objective carries each member's inner state in its context, and restarts after
    ``num_unrolls`` steps: see ``problems.unrolled``.

    Args:
        population_size: candidates a step, ``P``; even.
        num_unrolls: steps in an episode, ``K``.
        reuses_noise: draw the noise once an episode instead of once a step.
        sigma: standard deviation of the noise, or a schedule, read once an episode.
        learning_rate: factor on the transform's updates, or a schedule; None for 0.001
            with the default transform and 1 with one of your own.
        weight_decay: L2 coefficient, added to the gradient.
        noise: ``gaussian()`` or ``rademacher()``; always redrawn from its seeds.
        shaping: ``(fitness[P], valid[P]) -> weights[P]``; with any but ``raw``, the
            gradient is not that of the loss.
        transform: any complete optax optimizer; Adam by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd population.

    Example:
        >>> import gfopt
        >>> problem = gfopt.problems.InfluenceBalancing()
        >>> optimizer = gfopt.PersistentES(population_size=100, num_unrolls=10,
        ...     reuses_noise=True, sigma=0.1, learning_rate=0.02)
        >>> result = gfopt.run(optimizer, problem.objective(100, num_unrolls=10),
        ...                    jnp.float32(0.5), key=jax.random.key(0), generations=300)
        >>> bool(problem.loss(result.recommended, num_unrolls=10) < 0.6)
        True
    """

    population_size: int = static(default=64)
    num_unrolls: int = static(default=10)
    reuses_noise: bool = static(default=False)
    sigma: schedules.Hyperparameter = 0.05
    learning_rate: schedules.Hyperparameter | None = None
    weight_decay: schedules.Hyperparameter = 0.0
    noise: noise.Noise = static(default_factory=noise.gaussian)
    shaping: shaping.Shaping = static(default=shaping.raw)
    transform: optax.GradientTransformation | None = static(default=None)

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        checks.integer("num_unrolls", self.num_unrolls, 1)
        checks.instance("reuses_noise", self.reuses_noise, bool, "True or False")
        checks.instance("noise", self.noise, noise.Noise, "a gfopt noise family")
        checks.is_callable("shaping", self.shaping, shaping.KIND)
        descent.set_fields(self)
        schedules.set_schedules(self, "sigma")
        schedules.set_schedules(self, "weight_decay", check=checks.non_negative)

    def _is_cached(self, solution: Solution) -> bool:
        return False  # a member holds only the latest part of the noise that tell needs

    def _sigma(self, state: State) -> schedules.Number:
        episode = state.step - state.step % self.num_unrolls
        return schedules.at("sigma", self.sigma, episode)

    def init(self, key: Key, solution: Solution) -> PersistentESState:
        """Starts an episode with ``theta`` at ``solution``."""
        mean = trees.starting_point(solution)
        rows = 1 if self.reuses_noise else self.num_unrolls
        return PersistentESState(
            jnp.int32(0),
            mean,
            descent.start(self, _ADAM, mean),
            jnp.zeros((rows, self.population_size // 2), jnp.uint32),
            jnp.zeros(rows, bool),
        )

    def _used(self, state: PersistentESState) -> jax.Array:
        """Tells which rows of ``seeds`` belong to this episode."""
        return state.used & (state.step % self.num_unrolls > 0)

    def ask(self, key: Key, state: PersistentESState) -> Population:
        """Draws ``P / 2`` seeds with both signs, or takes those of the episode."""
        seeds = threefry.seeds(key, self.population_size // 2)
        if self.reuses_noise:
            seeds = jnp.where(self._used(state)[0], state.seeds[0], seeds)
        return self._population(state, seeds)

    def tell(
        self, state: PersistentESState, population: Population, evaluation: Evaluation
    ) -> tuple[PersistentESState, PersistentESInfo]:
        """Steps along the gradient, with all noise of the episode so far."""
        members = population.members
        valid = shaping.pairs_valid(evaluation.valid)
        counts = jnp.any(valid)
        part = state.step % self.num_unrolls
        row = jnp.int32(0) if self.reuses_noise else part
        used = self._used(state)
        used = used.at[row].set(used[row] | counts)
        seeds = jnp.where(
            counts, state.seeds.at[row].set(members.seed[::2]), state.seeds
        )
        # g = 1 / (P sigma^2) sum_p f_p xi_p, one weight for a pair's one z
        utility = self.shaping(evaluation.fitness, valid)
        weights = -utility / (self.population_size * members.scale) * members.sign
        weights = self._per_draw(weights)

        def add_part(k: jax.Array, gradient: PyTree) -> PyTree:
            return self.noise.add_weighted(gradient, seeds[k], weights * used[k])

        gradient = descent.penalty(self, state, weights)
        gradient = lax.fori_loop(0, row + 1, add_part, gradient)
        mean, transform, norm = descent.step(self, _ADAM, state, gradient, counts)
        info = PersistentESInfo(members.scale[0], norm, jnp.sum(evaluation.valid))
        new = PersistentESState(state.step + 1, mean, transform, seeds, used)
        return new, info

    def recommend(self, state: PersistentESState) -> Solution:
        """Returns ``theta``."""
        return state.mean
