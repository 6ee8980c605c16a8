"""OpenAI evolution strategy: a search gradient from seeds and signs.

    z_p ~ N(0, I) or random signs,   x_p = theta + sigma * s_p * z_p
    g = -1 / (P * sigma) * sum_p u_p * s_p * z_p
    theta <- theta + learning_rate * transform(g)

with ``u`` the shaped fitness (centered ranks) and antithetic pairs ``s = +1, -1`` on
one ``z``. A member is a seed and a sign; the sum is streamed, so the population is
never held.

Source: Salimans, Ho, Chen, Sidor, Sutskever (2017), arXiv 1703.03864, algorithm 2.
Its reference code does not divide by sigma, and adds the L2 term to the gradient as
we do; it breaks ties by index, while here they share their rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules
from gfopt.noise import noise
from gfopt.noise.perturbation.low_rank_noise import LowRankNoise
from gfopt.optimizers import descent
from gfopt.optimizers.evolution_strategies.search_gradient import SearchGradient
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Member

if TYPE_CHECKING:
    import optax


class OpenESInfo(NamedTuple):
    """Diagnostics of one step."""

    sigma: jax.Array
    gradient_norm: jax.Array
    num_valid: jax.Array


@pytree
class OpenES(SearchGradient):
    """The evolution strategy of Salimans et al. on any pytree.

    Args:
        population_size: candidates a step, ``P``; even if antithetic.
        sigma: standard deviation of the noise, or a schedule.
        learning_rate: factor on the transform's updates, or a schedule; None for
            0.01 with the default transform and 1 with one of your own.
        weight_decay: L2 coefficient, added to the gradient as the paper's code does.
        noise: ``gaussian()``, ``rademacher()`` or ``low_rank()``.
        antithetic: evaluate ``theta +- sigma z`` in pairs.
        shaping: ``(fitness[P], valid[P]) -> weights[P]``.
        transform: any complete optax optimizer (its updates are added to ``theta``);
            Adam by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd antithetic population.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.OpenES(population_size=32, sigma=0.1, learning_rate=0.1)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=60)
        >>> bool(jnp.sum(result.recommended**2) < 0.1)
        True
    """

    _default = descent.Default(descent.adam, 0.01)

    population_size: int = static(default=64)
    sigma: schedules.Hyperparameter = 0.05
    learning_rate: schedules.Hyperparameter | None = None
    weight_decay: schedules.Hyperparameter = 0.0
    noise: noise.Noise | LowRankNoise = static(default_factory=noise.gaussian)
    antithetic: bool = static(default=True)
    shaping: shaping.Shaping = static(default=shaping.centered_rank)
    transform: optax.GradientTransformation | None = static(default=None)

    def __post_init__(self) -> None:
        checks.instance("antithetic", self.antithetic, bool, "True or False")
        checks.integer("population_size", self.population_size, 2, even=self.antithetic)
        families = (noise.Noise, LowRankNoise)
        checks.instance("noise", self.noise, families, "a gfopt noise family")
        checks.is_callable("shaping", self.shaping, shaping.KIND)
        descent.set_fields(self)
        schedules.set_schedules(self, "sigma")
        schedules.set_schedules(self, "weight_decay", check=checks.non_negative)

    def _weights(
        self, members: Member, evaluation: Evaluation
    ) -> tuple[jax.Array, jax.Array, OpenESInfo]:
        """Returns the weights of the search gradient."""
        valid = evaluation.valid
        if self.antithetic:
            valid = shaping.pairs_valid(valid)
        # g = -1 / (P sigma) sum_p u_p s_p z_p
        utility = self.shaping(evaluation.fitness, valid)
        weights = -utility / (self.population_size * members.scale)
        unknown = jnp.full((), jnp.nan, weights.dtype)
        info = OpenESInfo(members.scale[0], unknown, jnp.sum(evaluation.valid))
        return weights, jnp.any(valid), info
