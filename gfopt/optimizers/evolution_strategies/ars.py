"""Augmented random search: finite differences along the best random directions.

    x_p = theta + s_p sigma z_p,   s = +1, -1 in pairs on one z
    theta <- theta - learning_rate / (b std) sum_best (f+ - f-) z

The sum is over the ``b`` pairs with the lowest ``min(f+, f-)``; ``std`` is the standard
deviation of their ``2 b`` values, so that the scale of the fitness does not matter.

Source: Mania, Guy, Recht (2018), arXiv 1803.07055, algorithm 2 (V1-t; the states that
V2-t normalises are the objective's own, which keeps their statistics in its context).
Deviation: the standard deviation has a floor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules
from gfopt.noise import noise
from gfopt.optimizers import descent
from gfopt.optimizers.evolution_strategies.search_gradient import SearchGradient
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Member

if TYPE_CHECKING:
    import optax

SMALLEST = 1e-8  # floor of the values' standard deviation


class ARSInfo(NamedTuple):
    """Diagnostics of one step.

    Attributes:
        fitness_std: standard deviation of the values that were used.
        gradient_norm: length of the gradient that the transform was given.
        num_valid: rows with a valid value.
    """

    fitness_std: jax.Array
    gradient_norm: jax.Array
    num_valid: jax.Array


@pytree
class ARS(SearchGradient):
    """Augmented random search on any pytree.

    Args:
        population_size: candidates a step, ``P``, two for each direction.
        sigma: standard deviation of the noise, or a schedule.
        learning_rate: factor on the transform's updates, or a schedule; None for 0.02
            with plain gradient descent and 1 with a transform of your own.
        weight_decay: L2 coefficient, added to the gradient.
        num_elites: ``b``, how many directions are used; None for half of them, rounded
            up.
        noise: ``gaussian()`` or ``rademacher()``.
        transform: any complete optax optimizer; gradient descent by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, an odd population, or more elites than pairs.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.ARS(population_size=16, sigma=0.05, learning_rate=0.05)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=100)
        >>> bool(jnp.sum(result.recommended**2) < 0.1)
        True
    """

    _default = descent.Default(descent.sgd, 0.02)

    population_size: int = static(default=64)
    sigma: schedules.Hyperparameter = 0.03
    learning_rate: schedules.Hyperparameter | None = None
    weight_decay: schedules.Hyperparameter = 0.0
    num_elites: int | None = static(default=None)
    noise: noise.Noise = static(default_factory=noise.gaussian)
    transform: optax.GradientTransformation | None = static(default=None)

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        checks.instance("noise", self.noise, noise.Noise, "a gfopt noise family")
        if self.num_elites is not None:
            checks.integer("num_elites", self.num_elites, 1)
            checks.within("num_elites", self.num_elites, 1, self.population_size // 2)
        descent.set_fields(self)
        schedules.set_schedules(self, "sigma")
        schedules.set_schedules(self, "weight_decay", check=checks.non_negative)

    def _weights(
        self, members: Member, evaluation: Evaluation
    ) -> tuple[jax.Array, jax.Array, ARSInfo]:
        """Returns ``f / (b std)`` for the best pairs, 0 for the others."""
        valid = shaping.pairs_valid(evaluation.valid)
        weights, std = self._of_elites(evaluation.fitness, valid)
        unknown = jnp.full((), jnp.nan, weights.dtype)
        info = ARSInfo(std, unknown, jnp.sum(evaluation.valid))
        return weights, jnp.any(valid), info

    def _of_elites(
        self, fitness: jax.Array, valid: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns ``f / (b std)`` for the best pairs, 0 for the others, and std."""
        pairs = fitness.shape[0] // 2
        lowest = jnp.where(valid, fitness, jnp.inf).reshape(pairs, 2).min(axis=1)
        rank = jnp.argsort(jnp.argsort(lowest))
        elites = -(-pairs // 2) if self.num_elites is None else self.num_elites
        used = jnp.repeat(rank < elites, 2) & valid
        count = jnp.maximum(jnp.sum(used), 1)
        # relative to one of the values: large values lose no digits
        first = jnp.min(jnp.where(used, fitness, jnp.inf))
        values = jnp.where(used, fitness - jnp.where(jnp.any(used), first, 0), 0)
        centered = jnp.where(used, values - jnp.sum(values) / count, 0)
        std = jnp.sqrt(jnp.sum(centered**2) / count)
        # the gradient is 1 / (b std) sum (f+ - f-) z, and b pairs are 2 b rows
        return values / (count / 2 * jnp.maximum(std, SMALLEST)), std
