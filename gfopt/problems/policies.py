"""Policies: from the parameters that are searched and an observation to an action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gfopt.types import PyTree

Policy = Callable[[Any, Any], Any]


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
