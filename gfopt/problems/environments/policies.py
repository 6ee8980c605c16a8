"""Policies: from the parameters that are searched and an observation to an action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gfopt.problems.networks import network_outputs
from gfopt.types import PyTree

Policy = Callable[[Any, Any], Any]


def discrete_action(network: PyTree, observation: Any) -> Any:
    """A policy with one output for each action: the number of the largest."""
    return network_outputs(network, observation).argmax()


def continuous_action(network: PyTree, observation: Any) -> Any:
    """A policy with one output for each number of the action: its tanh."""
    outputs = network_outputs(network, observation)
    return outputs.__array_namespace__().tanh(outputs)
