"""Environments of other libraries: gymnax and Brax for ``Rollout``, any of Gymnasium's.

gymnax and Brax (with MuJoCo XLA as one of its backends) are JAX: an adapter gives them
the form that ``Rollout`` takes. What Gymnasium runs is not, and is called on the host,
in processes if ``workers`` says so, with a NumPy policy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.core.objective import Objective
from gfopt.problems.environments import normalisation
from gfopt.problems.environments.normalisation import Moments
from gfopt.problems.environments.policies import Policy
from gfopt.problems.environments.rollout import Episodes
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, PyTree, Solution


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
    try:
        import gymnax
    except ImportError as error:
        raise ImportError(
            f"gymnax({name!r}) needs gymnax: pip install 'gfopt[gymnax]' ({error})"
        ) from None
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
    try:
        from brax import envs
    except ImportError as error:
        raise ImportError(
            f"brax({name!r}) needs Brax: pip install 'gfopt[brax]' ({error})"
        ) from None
    return BraxEnvironment(envs.get_environment(name, backend=backend, **options))


@dataclass(frozen=True)
class GymnasiumRollout:
    """The mean return of a NumPy policy over episodes of a Gymnasium environment.

    The counterpart of ``Rollout`` for what is not JAX: ``minimize`` calls it on the
    host, in as many processes as ``workers`` says. The policy must then be one that can
    be pickled, a function of a module. ``discrete_action`` and ``continuous_action``
    are.

    Args:
        name: of the environment, such as ``"Swimmer-v5"``.
        policy: ``(parameters, observation) -> action``, of NumPy arrays.
        num_episodes: episodes of one evaluation.
        max_steps: steps after which an episode is cut off; None for the environment's
            own limit.
        normalise: show the policy normalised observations, as ``Rollout`` does.
        options: of ``gymnasium.make``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a number below 1.
        ImportError: at the first call, without Gymnasium; it says what to install.

    Example:
        >>> import gfopt
        >>> from gfopt.problems import GymnasiumRollout, discrete_action, mlp
        >>> task = GymnasiumRollout("CartPole-v1", discrete_action)
        >>> search = dict(method="snes", sigma0=0.5, budget=300, workers=2)
        >>> network = mlp(jax.random.key(0), (4, 2))
        >>> result = gfopt.minimize(
        ...     task.objective(), network, **search)  # doctest: +SKIP
    """

    name: str
    policy: Policy
    num_episodes: int = 1
    max_steps: int | None = None
    normalise: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.instance("name", self.name, str, "the name of an environment")
        checks.is_callable("policy", self.policy)
        checks.integer("num_episodes", self.num_episodes, 1)
        if self.max_steps is not None:
            checks.integer("max_steps", self.max_steps, 1)
        checks.instance("normalise", self.normalise, bool, "True or False")
        checks.instance("options", self.options, Mapping, "a mapping of options")

    def objective(self) -> Objective:
        """Returns what a method maximises, with the first moments as its context."""
        fixed: dict[str, Any] = {
            "takes_key": True,
            "has_aux": True,
            "traceable": False,
            "maximize": True,
        }
        if not self.normalise:
            return Objective(self, **fixed)
        shape = self._environment().observation_space.shape
        first = jax.tree.map(np.asarray, normalisation.prior_moments(shape))
        return Objective(self, context=first, update=_updated, **fixed)

    def episodes(self, step: ArrayLike, key: Key) -> np.ndarray:
        """Draws the episodes of a generation; the ``batches`` of ``minimize``."""
        del step
        return episode_seeds(np.asarray(jax.random.key_data(key)), self.num_episodes)

    def __call__(
        self,
        key: np.ndarray,
        parameters: Solution,
        episodes: np.ndarray | None = None,
        context: Moments | None = None,
    ) -> tuple[float, Episodes]:
        """Returns the mean return of some episodes, and what was seen in them.

        Args:
            key: ``uint32[2]``, from which episodes are drawn unless they are given.
            parameters: of the policy.
            episodes: a seed for each episode.
            context: the moments by which observations are normalised.
        """
        seeds = episode_seeds(key, self.num_episodes) if episodes is None else episodes
        found = [self._episode(parameters, int(seed), context) for seed in seeds]
        totals, seen = zip(*found, strict=True)
        rows = np.concatenate(seen)
        moments: PyTree = ()
        if self.normalise:
            mean = rows.mean(axis=0)
            apart = ((rows - mean) ** 2).sum(axis=0)
            moments = Moments(*map(np.float32, (len(rows), mean, apart)))
        return float(np.mean(totals)), Episodes(np.int32(len(rows)), moments)

    def returns(
        self,
        seeds: Iterable[int],
        parameters: Solution,
        context: Moments | None = None,
    ) -> np.ndarray:
        """Returns the returns of the episodes with these seeds, ``float64[n]``.

        Args:
            seeds: integers, one for each episode.
            parameters: of the policy.
            context: the moments that the search ended with; they stay as they are.

        Raises:
            ValueError: where observations are normalised and ``context`` is None.
        """
        if self.normalise and context is None:
            raise ValueError(
                "context must be the search's last one (result.context) where "
                "observations are normalised; got None"
            )
        found = [self._episode(parameters, int(seed), context)[0] for seed in seeds]
        return np.array(found)

    def _environment(self) -> Any:
        return _made(self.name, tuple(sorted(self.options.items())))

    def _episode(
        self, parameters: Solution, seed: int, context: Moments | None
    ) -> tuple[float, np.ndarray]:
        """Runs one episode: its return, and the observations that were acted on."""
        parameters, context = jax.tree.map(np.asarray, (parameters, context))
        environment = self._environment()
        observation, _ = environment.reset(seed=seed)
        seen: list[np.ndarray] = []
        total, done = 0.0, False
        while not done and (self.max_steps is None or len(seen) < self.max_steps):
            seen.append(np.array(observation, np.float64))
            shown: Any = seen[-1]
            if context is not None:
                shown = normalisation.normalised(shown, context)
            action = self.policy(parameters, shown)
            observation, reward, terminated, truncated, _ = environment.step(action)
            total += float(reward)
            done = terminated or truncated
        return total, np.stack(seen)


def _updated(moments: Moments, evaluation: Evaluation) -> Moments:
    """Adds what a population observed, in NumPy: workers need no backend of JAX."""
    return jax.tree.map(np.asarray, normalisation.updated(moments, evaluation))


def episode_seeds(words: np.ndarray, count: int) -> np.ndarray:
    """Returns seeds of episodes, ``uint32[count]``, from the words of a key."""
    return np.random.SeedSequence(np.asarray(words).tolist()).generate_state(count)


@functools.lru_cache(maxsize=8)  # a worker makes each environment once
def _made(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError(
            f"GymnasiumRollout({name!r}) needs Gymnasium: "
            f"pip install 'gfopt[gymnasium]' ({error})"
        ) from None
    return gymnasium.make(name, **dict(options))
