"""MeZO: SGD with forward passes alone, at the memory of inference.

    p_i = (f(theta + eps z_i) - f(theta - eps z_i)) / (2 eps)
    theta <- theta - lr 1/q sum_i p_i z_i

Source: Malladi, Gao, Nichani, Damian, Lee, Chen, Arora (2023), arXiv 2305.17333,
algorithm 1. Its code perturbs the weights in place and back; we do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gfopt import checks
from gfopt.core import schedules
from gfopt.noise import noise
from gfopt.noise.perturbation.low_rank_noise import LowRankNoise
from gfopt.optimizers.zeroth_order.zeroth_order import TwoSided
from gfopt.pytree import pytree, static

if TYPE_CHECKING:
    import optax


@pytree
class MeZO(TwoSided):
    """Memory-efficient zeroth-order SGD: forward passes in antithetic pairs.

    Args:
        learning_rate: step size, or a schedule; None for 1e-3, or for 1 with a
            transform, which has its own.
        eps: finite-difference radius, or a schedule.
        population_size: forward passes a step, ``P``, two for each direction. More
            directions take no memory.
        noise: ``gaussian()`` (the paper's), ``rademacher()`` (the cheapest) or
            ``low_rank()``.
        transform: any complete optax optimizer, such as ``optax.sgd(1e-3, 0.9)``,
            ``optax.sign_sgd``, ``optax.adam``, ``optax.amsgrad`` or ``optax.lion``. The
            estimate and its state are then trees like the weights.
        rounding: ``"nearest"``, or ``"stochastic"`` for bfloat16 and float16 weights,
            whose small steps then arrive on average, without extra memory.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, an odd population, or stochastic rounding
            with a transform or low-rank noise.

    Example:
        >>> import gfopt, jax, jax.numpy as jnp
        >>> result = gfopt.run(gfopt.MeZO(learning_rate=0.02),
        ...                    lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=200)
        >>> bool(jnp.sum(result.recommended**2) < 0.1)
        True
    """

    learning_rate: schedules.Hyperparameter | None = None
    eps: schedules.Hyperparameter = 1e-3
    population_size: int = static(default=2)
    noise: noise.Noise | LowRankNoise = static(default_factory=noise.gaussian)
    transform: optax.GradientTransformation | None = static(default=None)
    rounding: str = static(default="nearest")

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        self._check()
        schedules.set_schedules(self, "eps")
