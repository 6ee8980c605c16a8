"""Control: networks that act in environments of ours, of gymnax, Brax and Gymnasium.

All candidates and runs meet the same episodes, of 200 steps at most, so that values can
be compared: a value is minus their mean return. A run starts at random first weights of
a network with one hidden layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gfopt.problems.environments.control import CartPole, Pendulum
from gfopt.problems.environments.environments import brax, gymnax
from gfopt.problems.environments.gymnasium_rollout import GymnasiumRollout
from gfopt.problems.environments.policies import (
    Policy,
    continuous_action,
    discrete_action,
)
from gfopt.problems.environments.rollout import Rollout
from gfopt.problems.networks import mlp
from gfopt.problems.problem import Problem
from gfopt.research.suites.compiled import Compiled, first_weights, with_numbers
from gfopt.types import PyTree

EPISODES, HOST_EPISODES, MAX_STEPS, HIDDEN = 8, 4, 200, 8
GYMNAX = ("Acrobot-v1", "MountainCarContinuous-v0", "Reacher-misc")
BRAX = ("inverted_pendulum", "reacher")
GYMNASIUM = ("MountainCarContinuous-v0", "InvertedPendulum-v5", "Swimmer-v5")
_POLES = ("cart_pole", "inverted_pendulum", "InvertedPendulum-v5")
_BACKEND = "spring"  # of Brax; MuJoCo XLA takes twice as long on a CPU

_Sizes = tuple[int, ...]
#: From a name to an environment, a policy for it and the sizes of the policy's network.
_Made = Callable[[str], tuple[Any, Policy, _Sizes]]


def control() -> list[Problem]:
    """Returns a pole on a cart and a pendulum, which need nothing else."""
    return [_problem(_ours, name) for name in ("cart_pole", "pendulum")]


def gymnax_control() -> list[Problem]:
    """Returns an acrobot, a car in a valley and an arm, through gymnax.

    Raises:
        ImportError: without gymnax; it says what to install.
    """
    return [_problem(_gymnax, name) for name in GYMNAX]


def brax_control() -> list[Problem]:
    """Returns a pole on a cart and an arm, through Brax.

    Raises:
        ImportError: without Brax; it says what to install.
    """
    return [_problem(_brax, name) for name in BRAX]


def gymnasium_control() -> list[Problem]:
    """Returns a car in a valley, MuJoCo's pole on a cart and its swimmer.

    Raises:
        ImportError: without Gymnasium; it says what to install.
    """
    return [
        Problem(
            functools.partial(_host_value, name),
            functools.partial(first_weights, _gymnasium(name)[1]),
            name=name,
            optimum=_optimum(name),
        )
        for name in GYMNASIUM
    ]


def _problem(made: _Made, name: str) -> Problem:
    fun = Compiled(_value, made, name, x64=False)
    start = functools.partial(first_weights, made(name)[2])
    return Problem(fun, start, name=name, optimum=_optimum(name))


def _optimum(name: str) -> float | None:
    """Returns the smallest value, where each step that a pole stands gives 1."""
    return -MAX_STEPS if name in _POLES else None


def _value(made: _Made, name: str) -> Callable[[jax.Array], jax.Array]:
    environment, policy, sizes = made(name)
    task = Rollout(environment, policy, num_episodes=EPISODES, max_steps=MAX_STEPS)
    network = mlp(jax.random.key(0), sizes)

    def value(w: jax.Array) -> jax.Array:
        weights = with_numbers(network, w)
        return -task.returns(jax.random.key(0), weights, EPISODES).mean()

    return value


def _ours(name: str) -> tuple[Any, Policy, _Sizes]:
    if name == "cart_pole":
        return CartPole(), discrete_action, (4, HIDDEN, 2)
    return Pendulum(), continuous_action, (3, HIDDEN, 1)


def _gymnax(name: str) -> tuple[Any, Policy, _Sizes]:
    found = gymnax(name)
    theirs, parameters = found.environment, found.parameters
    spaces = theirs.observation_space(parameters), theirs.action_space(parameters)
    return found, *_acting(*spaces)


def _brax(name: str) -> tuple[Any, Policy, _Sizes]:
    found = brax(name, backend=_BACKEND)
    theirs = found.environment  # its actions are from -1 to 1
    sizes = theirs.observation_size, HIDDEN, theirs.action_size
    return found, continuous_action, sizes


@functools.lru_cache
def _gymnasium(name: str) -> tuple[GymnasiumRollout, _Sizes]:
    theirs = GymnasiumRollout(name, discrete_action).environment
    policy, sizes = _acting(theirs.observation_space, theirs.action_space)
    return GymnasiumRollout(name, policy, HOST_EPISODES, MAX_STEPS), sizes


def _host_value(name: str, x: np.ndarray) -> float:
    task, sizes = _gymnasium(name)
    weights = with_numbers(_host_network(sizes), x)
    return -float(task.returns(range(HOST_EPISODES), weights).mean())


@functools.lru_cache
def _host_network(sizes: _Sizes) -> PyTree:
    with jax.enable_x64(False):
        return jax.tree.map(np.asarray, mlp(jax.random.key(0), sizes))


def _acting(observations: Any, actions: Any) -> tuple[Policy, _Sizes]:
    """Returns a policy for spaces of gymnax or Gymnasium, and its network's sizes."""
    (seen,) = observations.shape
    if hasattr(actions, "n"):
        return discrete_action, (seen, HIDDEN, int(actions.n))
    low, high = (
        np.broadcast_to(np.asarray(end, np.float32), actions.shape)
        for end in (actions.low, actions.high)
    )
    return functools.partial(_action_within, low, high), (seen, HIDDEN, low.size)


def _action_within(
    low: np.ndarray, high: np.ndarray, network: PyTree, observation: jax.Array
) -> jax.Array:
    """A policy whose tanh goes from one end of the actions to the other."""
    return low + (high - low) * (continuous_action(network, observation) + 1) / 2
