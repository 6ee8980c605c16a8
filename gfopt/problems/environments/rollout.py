"""Rollouts: the return of a policy's episodes as an objective.

An environment is an object with two pure JAX functions, a pytree where its numbers are
to be traced:

    reset(key) -> (state, observation)
    step(key, state, action) -> (state, observation, reward, done)

A policy is a function ``(parameters, observation) -> action``, its parameters are what
is searched. An episode ends with ``done`` or after ``max_steps``; episodes of all
members run in one loop, which ends with the longest of them. What an environment does
after ``done`` (resetting itself, say) counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.core import trees
from gfopt.core.objective import Objective
from gfopt.problems.environments import normalisation
from gfopt.problems.environments.normalisation import Moments
from gfopt.problems.environments.policies import Policy
from gfopt.types import Key, PyTree, Solution


class Environment(Protocol):
    """The contract of every environment."""

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        """Starts an episode: ``(state, observation)``."""

    def step(
        self, key: Key, state: PyTree, action: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array, jax.Array]:
        """Makes one step: ``(state, observation, reward, done)``."""


class Episodes(NamedTuple):
    """What an evaluation returns besides the return: its ``aux``.

    Attributes:
        num_steps: ``i32[]``, steps of all episodes together.
        observations: the moments of what was observed; () unless it is normalised.
    """

    num_steps: ArrayLike
    observations: PyTree


class _Turn(NamedTuple):
    """One episode under way."""

    time: jax.Array
    state: PyTree
    observation: jax.Array
    total: jax.Array
    done: jax.Array
    moments: PyTree


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Rollout:
    """The mean return of a policy over some episodes.

    ``objective()`` is what a method maximises. Every evaluation draws episodes of its
    own; with ``batches=task.episodes`` all members of a generation meet the same ones
    (common random numbers).

    Args:
        environment: see this module; a pytree's numbers may be traced, any other
            object is part of the program.
        policy: ``(parameters, observation) -> action``, a JAX function.
        num_episodes: episodes of one evaluation.
        max_steps: steps after which an episode is cut off.
        normalise: show the policy normalised observations. The moments are those of
            all generations before; the objective's ``context`` carries them.
        prepare: called once with each candidate's parameters, before its episodes; what
            it returns takes their place in ``policy``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a number below 1.

    Example:
        >>> import gfopt
        >>> from gfopt.problems import CartPole, Rollout, discrete_action, mlp
        >>> task = Rollout(CartPole(), discrete_action, num_episodes=2, max_steps=100)
        >>> network = mlp(jax.random.key(0), (4, 8, 2))
        >>> result = gfopt.run(
        ...     gfopt.OpenES(population_size=32, sigma=0.2, learning_rate=0.1),
        ...     task.objective(), network, key=jax.random.key(1), generations=20)
        >>> bool(task.returns(jax.random.key(2), result.recommended).mean() > 80)
        True
    """

    environment: Any
    policy: Policy
    num_episodes: int = 1
    max_steps: int = 1000
    normalise: bool = False
    prepare: Callable[[PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        checks.is_callable("policy", self.policy)
        checks.integer("num_episodes", self.num_episodes, 1)
        checks.integer("max_steps", self.max_steps, 1)
        checks.instance("normalise", self.normalise, bool, "True or False")
        if self.prepare is not None:
            checks.is_callable("prepare", self.prepare)

    def tree_flatten(self) -> tuple[tuple[PyTree], tuple[object, ...]]:
        """Flattens: the environment is data where it is a pytree, else static."""
        is_data = not jax.tree_util.all_leaves([self.environment])
        rest = tuple(getattr(self, f.name) for f in fields(self)[1:])
        if is_data:
            return (self.environment,), (None, *rest)
        return (None,), (self.environment, *rest)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], data: tuple[PyTree]) -> Rollout:
        """Rebuilds the task; what it holds was checked when it was made."""
        environment, *rest = static
        return cls(data[0] if environment is None else environment, *rest)

    def objective(self) -> Objective:
        """Returns what a method maximises, with the first moments as its context."""
        if not self.normalise:
            return Objective(
                self, takes_key=True, has_aux=True, traceable=True, maximize=True
            )
        return Objective(
            self,
            takes_key=True,
            has_aux=True,
            traceable=True,
            maximize=True,
            context=self.first_context(),
            update=normalisation.updated,
        )

    def first_context(self) -> Moments | None:
        """Returns the moments before the first observation, None without them."""
        if not self.normalise:
            return None
        _, observation = jax.eval_shape(self.environment.reset, jax.random.key(0))
        return normalisation.prior_moments(observation.shape)

    def episodes(self, step: ArrayLike, key: Key) -> jax.Array:
        """Draws the episodes of a generation; the ``batches`` argument of ``run``."""
        del step
        return jax.random.split(key, self.num_episodes)

    def __call__(
        self,
        key: Key,
        parameters: Solution,
        episodes: jax.Array | None = None,
        context: Moments | None = None,
    ) -> tuple[jax.Array, Episodes]:
        """Returns the mean return of some episodes, and what was seen in them.

        Args:
            key: from which the episodes are drawn unless they are given.
            parameters: of the policy.
            episodes: a key for each episode.
            context: the moments by which observations are normalised.
        """
        keys = self.episodes(0, key) if episodes is None else episodes
        last = self._played(keys, parameters, context)
        moments = normalisation.joined(last.moments) if self.normalise else ()
        return jnp.mean(last.total), Episodes(jnp.sum(last.time), moments)

    def returns(
        self,
        key: Key,
        parameters: Solution,
        num_episodes: int = 100,
        context: Moments | None = None,
    ) -> jax.Array:
        """Returns the returns of fresh episodes, ``float32[num_episodes]``.

        Args:
            key: from which the episodes are drawn.
            parameters: of the policy.
            num_episodes: how many.
            context: the moments that the search ended with; they stay as they are.

        Raises:
            ValueError: where observations are normalised and ``context`` is None.
        """
        checks.integer("num_episodes", num_episodes, 1)
        if self.normalise and context is None:
            raise ValueError(
                "context must be the search's last one (result.context) where "
                "observations are normalised; got None"
            )
        return _totals(self, jax.random.split(key, num_episodes), parameters, context)

    def _played(
        self, keys: jax.Array, parameters: Solution, context: Moments | None
    ) -> _Turn:
        """Runs an episode for each key; leaves of the result are ``[n, ...]``."""
        if self.prepare is not None:
            parameters = self.prepare(parameters)
        return jax.vmap(partial(self._episode, parameters, context))(keys)

    def _episode(
        self, parameters: Solution, context: Moments | None, key: Key
    ) -> _Turn:
        """Runs one episode; mapped over many, those that are done stay as they are."""

        def goes_on(turn: _Turn) -> jax.Array:
            return ~turn.done & (turn.time < self.max_steps)

        def turn(now: _Turn) -> _Turn:
            shown, moments = now.observation, now.moments
            if context is not None:
                moments = normalisation.with_observation(moments, shown)
                shown = normalisation.normalised(shown, context)
            action = self.policy(parameters, shown)
            step_key = jax.random.fold_in(key, now.time + 1)
            state, observation, reward, done = self.environment.step(
                step_key, now.state, action
            )
            total = now.total + reward
            new = _Turn(now.time + 1, state, observation, total, done, moments)
            return trees.cast_like(new, now)

        state, observation = trees.strongly_typed(
            self.environment.reset(jax.random.fold_in(key, 0))
        )
        moments = normalisation.no_moments(observation.shape) if self.normalise else ()
        total, done = jnp.zeros((), jnp.float32), jnp.zeros((), bool)
        first = _Turn(jnp.int32(0), state, observation, total, done, moments)
        return lax.while_loop(goes_on, turn, first)


@jax.jit
def _totals(
    task: Rollout, keys: jax.Array, parameters: Solution, context: Moments | None
) -> jax.Array:
    return task._played(keys, parameters, context).total
