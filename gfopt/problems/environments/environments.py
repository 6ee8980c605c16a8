"""Environments of gymnax and Brax, in the form that ``Rollout`` takes.

Both (Brax with MuJoCo XLA as one of its backends) are JAX. What Gymnasium runs is not:
see ``gymnasium_rollout``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.pytree import pytree, static
from gfopt.types import Key, PyTree


@pytree
class GymnaxEnvironment:
    """An environment of gymnax in the form that ``Rollout`` takes; see ``gymnax``.

    Attributes:
        environment: gymnax's object.
        parameters: its parameters, a pytree whose numbers may be traced.
    """

    environment: Any = static()
    parameters: PyTree

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        """Starts an episode."""
        observation, state = self.environment.reset(key, self.parameters)
        return state, observation

    def step(
        self, key: Key, state: PyTree, action: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array, jax.Array]:
        """Makes one step; after the last one gymnax has begun a new episode."""
        observation, state, reward, *ends, _ = self.environment.step(
            key, state, action, self.parameters
        )
        return state, observation, reward, jnp.any(jnp.stack(ends))


def gymnax(name: str, **options: object) -> GymnaxEnvironment:
    """Makes an environment of gymnax.

    Args:
        name: such as ``"CartPole-v1"`` or ``"Breakout-MinAtar"``.
        **options: of ``gymnax.make``.

    Raises:
        ImportError: without gymnax; it says what to install.

    Example:
        >>> from gfopt.problems import Rollout, discrete_action
        >>> task = Rollout(gymnax("CartPole-v1"), discrete_action)  # doctest: +SKIP
    """
    with checks.needed_by(f"gymnax({name!r})", "gymnax", "pip install 'gfopt[gymnax]'"):
        import gymnax
    return GymnaxEnvironment(*gymnax.make(name, **options))


@dataclass(frozen=True)
class BraxEnvironment:
    """An environment of Brax in the form that ``Rollout`` takes; see ``brax``.

    Attributes:
        environment: Brax's object.
    """

    environment: Any

    def reset(self, key: Key) -> tuple[PyTree, jax.Array]:
        """Starts an episode."""
        state = self.environment.reset(key)
        return state, state.obs

    def step(
        self, key: Key, state: PyTree, action: jax.Array
    ) -> tuple[PyTree, jax.Array, jax.Array, jax.Array]:
        """Makes one step."""
        del key
        state = self.environment.step(state, action)
        return state, state.obs, state.reward, state.done > 0


def brax(name: str, backend: str = "mjx", **options: object) -> BraxEnvironment:
    """Makes an environment of Brax. On a CPU it compiles for minutes and runs slowly.

    Args:
        name: such as ``"inverted_pendulum"`` or ``"halfcheetah"``.
        backend: ``"mjx"`` for MuJoCo XLA, ``"positional"``, ``"spring"`` or
            ``"generalized"``.
        **options: of ``brax.envs.get_environment``.

    Raises:
        ImportError: without Brax; it says what to install.

    Example:
        >>> from gfopt.problems import Rollout, continuous_action
        >>> task = Rollout(brax("halfcheetah"), continuous_action)  # doctest: +SKIP
    """
    with checks.needed_by(f"brax({name!r})", "Brax", "pip install 'gfopt[brax]'"):
        from brax import envs
    return BraxEnvironment(envs.get_environment(name, backend=backend, **options))
