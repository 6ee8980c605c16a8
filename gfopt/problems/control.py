"""Control tasks: the return of a policy's episodes as an objective.

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

from gfopt import checks
from gfopt.core import trees
from gfopt.core.objective import Objective
from gfopt.problems import normalisation
from gfopt.problems.normalisation import Moments
from gfopt.types import Key, PyTree, Solution

Policy = Callable[[Any, Any], Any]


class Environment(Protocol):
    """The contract of every environment."""

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        """Starts an episode: ``(state, observation)``."""

    def step(
        self, key: Key, state: PyTree, action: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array, jax.Array]:
        """Makes one step: ``(state, observation, reward, done)``."""


class Episodes(NamedTuple):
    """What comes back beside the return: the evaluation's ``aux``.

    Attributes:
        num_steps: ``i32[]``, steps of all episodes together.
        observations: the moments of what was observed; () unless it is normalised.
    """

    num_steps: Any
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
        >>> bool(task.returns(jax.random.key(2), result.x).mean() > 80)
        True
    """

    environment: Any
    policy: Policy
    num_episodes: int = 1
    max_steps: int = 1000
    normalise: bool = False
    prepare: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        checks.is_callable("policy", self.policy)
        checks.integer("num_episodes", self.num_episodes, 1)
        checks.integer("max_steps", self.max_steps, 1)
        checks.instance("normalise", self.normalise, bool, "True or False")
        if self.prepare is not None:
            checks.is_callable("prepare", self.prepare)

    def tree_flatten(self) -> tuple[tuple[PyTree], tuple[Any, ...]]:
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

    def episodes(self, step: Any, key: Key) -> jax.Array:
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


def network_outputs(network: PyTree, observation: Any) -> Any:
    """Runs a network as ``mlp`` makes it, on one observation, of JAX or of NumPy.

    Args:
        network: a tuple of layers ``{"w": [in, out], "b": [out]}``, tanh between them.
        observation: ``[in]``.

    Returns:
        ``[out]``.
    """
    tanh = observation.__array_namespace__().tanh
    h = observation
    for layer in network[:-1]:
        h = tanh(h @ layer["w"] + layer["b"])
    return h @ network[-1]["w"] + network[-1]["b"]


def discrete_action(network: PyTree, observation: Any) -> Any:
    """A policy with one output for each action: the number of the largest."""
    return network_outputs(network, observation).argmax()


def continuous_action(network: PyTree, observation: Any) -> Any:
    """A policy with one output for each number of the action: its tanh."""
    outputs = network_outputs(network, observation)
    return outputs.__array_namespace__().tanh(outputs)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "gravity",
        "cart_mass",
        "pole_mass",
        "half_length",
        "force",
        "seconds",
    ],
    meta_fields=[],
)
@dataclass(frozen=True)
class CartPole:
    """A pole on a cart, kept upright by pushes to the left (0) and to the right (1).

    The state and the observation are position and speed of the cart, angle and angular
    speed of the pole. Every step gives 1; the episode ends beyond 2.4 metres or 12
    degrees. With ``max_steps=500`` a perfect return is 500. All numbers may be traced.

    Args:
        gravity: in metres per square second.
        cart_mass: in kilogrammes.
        pole_mass: in kilogrammes.
        half_length: of the pole, in metres.
        force: of a push, in newtons.
        seconds: of one (Euler) step.

    Source: Barto, Sutton, Anderson (1983), "Neuronlike adaptive elements that can solve
    difficult learning control problems", the appendix's equations without friction.

    Example:
        >>> state, observation = CartPole().reset(jax.random.key(0))
        >>> _, _, reward, done = CartPole().step(jax.random.key(1), state, 1)
        >>> float(reward), bool(done)
        (1.0, False)
    """

    gravity: Any = 9.8
    cart_mass: Any = 1.0
    pole_mass: Any = 0.1
    half_length: Any = 0.5
    force: Any = 10.0
    seconds: Any = 0.02

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Starts near the middle: every number uniform within 0.05 of 0."""
        state = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return state, state

    def step(
        self, key: Key, state: jax.Array, action: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Pushes for one step."""
        del key
        x, speed, angle, turning = state
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        push = jnp.where(action == 1, self.force, -self.force)
        mass = self.cart_mass + self.pole_mass
        # angle'' = (g sin - cos (F + m l angle'^2 sin) / M) / (l (4/3 - m cos^2 / M))
        pull = (push + self.pole_mass * self.half_length * turning**2 * sine) / mass
        lever = self.half_length * (4 / 3 - self.pole_mass * cosine**2 / mass)
        turn_rate = (self.gravity * sine - cosine * pull) / lever
        # x'' = (F + m l (angle'^2 sin - angle'' cos)) / M
        rate = pull - self.pole_mass * self.half_length * turn_rate * cosine / mass
        change = jnp.stack([speed, rate, turning, turn_rate])
        state = state + self.seconds * change.astype(state.dtype)
        done = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > jnp.deg2rad(12.0))
        return state, state, jnp.float32(1), done


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["gravity", "mass", "length", "torque", "seconds"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Pendulum:
    """A pendulum to swing up and hold, with a motor too weak to lift it at once.

    The action is one number from -1 to 1, the share of ``torque``. The observation is
    cosine and sine of the angle from upright, and the angular speed. A step costs
    ``angle^2 + 0.1 speed^2 + 0.001 torque^2``; episodes do not end by themselves (200
    steps are usual). All numbers may be traced.

    Args:
        gravity: in metres per square second.
        mass: of the rod, in kilogrammes.
        length: of the rod, in metres.
        torque: at most, in newton metres.
        seconds: of one step.

    Source: the equation of motion of a uniform rod on a pivot, angle'' = 3 g sin(angle)
    / (2 l) + 3 torque / (m l^2); numbers and cost as in Gymnasium's Pendulum-v1.

    Example:
        >>> state, observation = Pendulum().reset(jax.random.key(0))
        >>> observation.shape
        (3,)
    """

    gravity: Any = 10.0
    mass: Any = 1.0
    length: Any = 1.0
    torque: Any = 2.0
    seconds: Any = 0.05

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Starts at any angle, with an angular speed from -1 to 1."""
        most = jnp.array([jnp.pi, 1.0], jnp.float32)
        state = jax.random.uniform(key, (2,), jnp.float32, -most, most)
        return state, self._observed(state)

    def step(
        self, key: Key, state: jax.Array, action: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Turns the motor for one step."""
        del key
        angle, speed = state
        torque = self.torque * jnp.clip(jnp.reshape(action, ()), -1, 1)
        wrapped = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2
        fall = 3 * self.gravity / (2 * self.length) * jnp.sin(angle)
        drive = 3 * torque / (self.mass * self.length**2)
        speed = jnp.clip(speed + self.seconds * (fall + drive), -8, 8)
        state = jnp.stack([angle + self.seconds * speed, speed]).astype(state.dtype)
        return state, self._observed(state), -cost, jnp.zeros((), bool)

    def _observed(self, state: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])
