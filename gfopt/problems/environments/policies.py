"""Policies: from the parameters that are searched and an observation to an action."""

from __future__ import annotations

from collections.abc import Callable

import jax

from gfopt.problems.networks import network_outputs
from gfopt.types import PyTree

Policy = Callable[[PyTree, jax.Array], jax.Array]


def discrete_action(network: PyTree, observation: jax.Array) -> jax.Array:
    """A policy with one output for each action: the number of the largest."""
    return network_outputs(network, observation).argmax()


def continuous_action(network: PyTree, observation: jax.Array) -> jax.Array:
    """A policy with one output for each number of the action: its tanh."""
    outputs = network_outputs(network, observation)
    return outputs.__array_namespace__().tanh(outputs)
