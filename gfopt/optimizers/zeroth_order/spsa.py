"""SPSA: two evaluations a step, with the decreasing gains of Spall.

    p_i = (f(theta + eps_k z_i) - f(theta - eps_k z_i)) / (2 eps_k)
    theta <- theta - lr_k 1/q sum_i p_i z_i
    lr_k = a / (A + k + 1)^alpha,   eps_k = c / (k + 1)^gamma

Source: Spall (1998), "Implementation of the simultaneous perturbation algorithm for
stochastic optimization", IEEE Trans. Aerospace and Electronic Systems 34(3), section
III.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules
from gfopt.noise import noise
from gfopt.noise.perturbation.low_rank_noise import LowRankNoise
from gfopt.optimizers.zeroth_order.zeroth_order import TwoSided, ZerothOrderState
from gfopt.pytree import pytree, static
from gfopt.types import Key, Solution


@pytree
class SPSA(TwoSided):
    """Simultaneous perturbation stochastic approximation with Spall's gains.

    After ``k = 0, 1, ...`` moves the learning rate is ``learning_rate / (stability + k
    + 1)**learning_rate_decay`` and the radius ``eps / (k + 1)**eps_decay``.

    Args:
        learning_rate: ``a``.
        eps: ``c``, about the standard deviation of the noise of a value.
        stability: ``A``, about a tenth of the steps.
        learning_rate_decay: ``alpha``.
        eps_decay: ``gamma``.
        population_size: evaluations a step, two for each direction.
        noise: ``rademacher()`` (Spall's), ``gaussian()`` or ``low_rank()``.
        rounding: ``"nearest"``, or ``"stochastic"`` for bfloat16 and float16.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd population.

    Example:
        >>> import gfopt, jax, jax.numpy as jnp
        >>> result = gfopt.run(gfopt.SPSA(learning_rate=0.5, stability=20),
        ...                    lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=200)
        >>> bool(jnp.sum(result.recommended**2) < 0.01)
        True

    Source: Spall (1998), section III; the exponents are those that it recommends.
    """

    learning_rate: schedules.Number = 0.1
    eps: schedules.Number = 1e-2
    stability: schedules.Number = 100.0
    learning_rate_decay: schedules.Number = 0.602
    eps_decay: schedules.Number = 0.101
    population_size: int = static(default=2)
    noise: noise.Noise | LowRankNoise = static(default_factory=noise.rademacher)
    rounding: str = static(default="nearest")

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        self._check()
        schedules.set_numbers(self, "eps")
        names = "learning_rate", "stability", "learning_rate_decay", "eps_decay"
        schedules.set_numbers(self, *names, check=checks.non_negative)

    def init(self, key: Key, solution: Solution) -> ZerothOrderState:
        """Starts with ``theta`` at ``solution``; ``k`` takes the transform's place.

        A failed step does not count: the gains do not decrease while nothing moves.
        """
        return super().init(key, solution)._replace(transform=jnp.int32(0))

    def _moved(
        self,
        state: ZerothOrderState,
        seeds: jax.Array,
        slopes: jax.Array,
        counts: jax.Array,
    ) -> ZerothOrderState:
        moved = super()._moved(state, seeds, slopes, counts)
        return moved._replace(transform=state.transform + counts)

    def rate(self, state: ZerothOrderState) -> schedules.Number:
        """Returns the learning rate of this step."""
        # a_k = a / (A + k + 1)^alpha
        delay = self._number("stability", state) + state.transform + 1
        power = delay ** self._number("learning_rate_decay", state)
        return self._number("learning_rate", state) / power

    def _eps(self, state: ZerothOrderState) -> schedules.Number:
        # c_k = c / (k + 1)^gamma
        power = (state.transform + 1) ** self._number("eps_decay", state)
        return self._number("eps", state) / power

    def _number(self, name: str, state: ZerothOrderState) -> schedules.Number:
        return schedules.at(name, getattr(self, name), state.transform)
