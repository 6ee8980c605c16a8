"""PGPE: parameter-exploring policy gradients with symmetric sampling.

It follows the gradient of the expected fitness with respect to the mean and standard
deviations of its sampling distribution (products elementwise),

    x_p = m + s_p sigma z_p,   z_p ~ N(0, I),   s = +1, -1 in pairs on one z
    g_m = -1 / P sum_p u_p s_p sigma z_p
    m <- m + learning_rate * transform(g_m)
    sigma <- sigma + clip(eta / P sum_p (u_p - b) sigma (z_p^2 - 1), +-c sigma)

with ``u`` the shaped fitness, larger for better, and ``b`` its mean, the baseline.

Sources: Sehnke, Osendorfer, Rueckstiess, Graves, Peters, Schmidhuber (2010),
"Parameter-exploring policy gradients", Neural Networks 23 (symmetric sampling); Toklu,
Liskowski, Srivastava (2020), arXiv 2008.02387, for ClipUp, ranks and the clipped change
of sigma. As there, ``g_m`` is sigma^2 times the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks, shaping
from gfopt.core import schedules, trees
from gfopt.noise import noise
from gfopt.optimizers import descent
from gfopt.optimizers.evolution_strategies.seeded import Seeded, check_deviations
from gfopt.optimizers.evolution_strategies.snes import extremes
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Population, PyTree, Solution, State

if TYPE_CHECKING:
    import optax

_CLIP_UP = descent.Default(lambda: descent.clip_up(1.0), 0.1)


class PGPEState(NamedTuple):
    """The distribution ``N(mean, diag(std^2))``, and the transform's own state."""

    step: jax.Array
    mean: Solution
    std: PyTree
    transform: PyTree


class PGPEInfo(NamedTuple):
    """Diagnostics of one step."""

    max_std: jax.Array
    min_std: jax.Array
    gradient_norm: jax.Array
    num_valid: jax.Array


@pytree
class PGPE(Seeded):
    """Policy gradients with parameter-based exploration, in symmetric pairs.

    A member is a seed and a sign, and both sums are streamed, so that it scales to
    networks.

    Args:
        population_size: candidates a step, ``P``; even.
        sigma: first standard deviation of every parameter.
        learning_rate: factor on the transform's updates, or a schedule; None for 0.1
            with ClipUp, which moves by up to twice as much a step, and 1 with a
            transform of your own.
        std_learning_rate: ``eta``, or a schedule; None for 0.1. With signs it must be
            None: ``z**2 - 1`` is 0 for them, and every deviation stays at ``sigma``.
        max_std_change: ``c``, the largest relative change of a standard deviation.
        noise: ``gaussian()`` or ``rademacher()``.
        shaping: ``(fitness[P], valid[P]) -> utilities[P]``, ranks or ``shaping.raw``.
        transform: any complete optax optimizer for the mean; ClipUp by default.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd population.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.PGPE(population_size=20, sigma=0.3)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=100)
        >>> bool(jnp.sum(result.recommended**2) < 0.1)
        True
    """

    population_size: int = static(default=64)
    sigma: schedules.Number = 0.1
    learning_rate: schedules.Hyperparameter | None = None
    std_learning_rate: schedules.Hyperparameter | None = None
    max_std_change: schedules.Number = 0.2
    noise: noise.Noise = static(default_factory=noise.gaussian)
    shaping: shaping.Shaping = static(default=shaping.centered_rank)
    transform: optax.GradientTransformation | None = static(default=None)

    has_margin = True

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        checks.is_callable("shaping", self.shaping, shaping.KIND)
        check_deviations(self)
        descent.set_fields(self)
        schedules.set_numbers(self, "sigma")
        schedules.set_schedules(self, "std_learning_rate", check=checks.non_negative)
        schedules.set_numbers(self, "max_std_change", check=checks.share)

    def init(self, key: Key, solution: Solution) -> PGPEState:
        """Starts with ``N(solution, sigma^2 I)``."""
        mean = trees.starting_point(solution)
        std = trees.filled(mean, schedules.at("sigma", self.sigma, 0))
        return PGPEState(jnp.int32(0), mean, std, descent.start(self, _CLIP_UP, mean))

    def _sigma(self, state: State) -> float:
        return 1.0  # in units of the standard deviations

    def _spread(self, state: State) -> PyTree:
        return state.std

    def tell(
        self, state: PGPEState, population: Population, evaluation: Evaluation
    ) -> tuple[PGPEState, PGPEInfo]:
        """Steps along both gradients."""
        valid = shaping.pairs_valid(evaluation.valid)
        utility = self.shaping(evaluation.fitness, valid)
        count = jnp.maximum(jnp.sum(valid), 1)
        # u - b, with a failed pair at 0
        centered = jnp.where(valid, utility - jnp.sum(utility) / count, 0)
        first, square = self._moments(
            state.mean,
            population.members,
            -utility / self.population_size,
            centered / self.population_size,
        )
        # g_m = -1 / P sum_p u_p s_p sigma z_p
        gradient = jax.tree.map(jnp.multiply, state.std, first)
        mean, transform, norm = descent.step(
            self, _CLIP_UP, state, gradient, jnp.any(valid)
        )
        std = state.std
        if square is not None:
            std = self._deviations(state, square, jnp.sum(centered))
        info = PGPEInfo(*extremes(std), norm, jnp.sum(evaluation.valid))
        return PGPEState(state.step + 1, mean, std, transform), info

    def _deviations(self, state: PGPEState, square: PyTree, total: jax.Array) -> PyTree:
        """Returns the new standard deviations, from ``1 / P sum_p (u_p - b) z_p^2``."""
        rate = 0.1 if self.std_learning_rate is None else self.std_learning_rate
        rate = schedules.at("std_learning_rate", rate, state.step)
        most = schedules.at("max_std_change", self.max_std_change, state.step)
        shift = total / self.population_size

        def grown(std: jax.Array, square: jax.Array) -> jax.Array:
            # eta / P sum_p (u_p - b) (z_p^2 - 1), relative to sigma
            change = jnp.clip(rate * (square - shift), -most, most)
            # sums of raw fitness may overflow
            return (std * (1 + jnp.where(jnp.isnan(change), 0, change))).astype(
                std.dtype
            )

        return jax.tree.map(grown, state.std, square)

    def recommend(self, state: PGPEState) -> Solution:
        """Returns the mean."""
        return state.mean

    def standard_deviations(self, state: PGPEState) -> PyTree:
        """Returns the standard deviation of each coordinate, like the mean."""
        return state.std
