"""Environments of Gymnasium, on the host, in processes if ``workers`` says so."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from gfopt import checks
from gfopt.core.objective import Objective
from gfopt.problems.environments import normalisation
from gfopt.problems.environments.host_episodes import HostEpisodes
from gfopt.problems.environments.normalisation import Moments
from gfopt.problems.environments.policies import Policy
from gfopt.problems.environments.rollout import Episodes
from gfopt.types import Evaluation, PyTree, Solution


@dataclass(frozen=True)
class GymnasiumRollout(HostEpisodes):
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
        shape = self.environment.observation_space.shape
        first = jax.tree.map(np.asarray, normalisation.prior_moments(shape))
        return Objective(self, context=first, update=_updated, **fixed)

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
        seeds = self._seeds(key) if episodes is None else episodes
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

    @property
    def environment(self) -> Any:
        """The environment, which a process makes once.

        Raises:
            ImportError: without Gymnasium; it says what to install.
        """
        return _made(self.name, tuple(sorted(self.options.items())))

    def _episode(
        self, parameters: Solution, seed: int, context: Moments | None
    ) -> tuple[float, np.ndarray]:
        """Runs one episode: its return, and the observations that were acted on."""
        parameters, context = jax.tree.map(np.asarray, (parameters, context))
        environment = self.environment
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


@functools.lru_cache(maxsize=8)  # a worker makes each environment once
def _made(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    with checks.needed_by(
        f"GymnasiumRollout({name!r})", "Gymnasium", "pip install 'gfopt[gymnasium]'"
    ):
        import gymnasium
    return gymnasium.make(name, **dict(options))
