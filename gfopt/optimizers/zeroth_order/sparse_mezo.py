"""Sparse MeZO: zeroth-order SGD that moves the small weights of each matrix only.

    m = 1 where |theta| <= h, else 0
    p = (f(theta + eps m z) - f(theta - eps m z)) / (2 eps)
    theta <- theta - lr p m z

The limit ``h`` of a matrix is the quantile of its ``|theta|`` at the start; the mask is
recomputed from the weights wherever it is used, and never stored.

Source: Liu, Zhu, Gong, Cheng, Hsieh, You (2024), arXiv 2402.15751, section 3.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import schedules, trees
from gfopt.noise import leaves as noise_trees
from gfopt.noise import noise, sums
from gfopt.noise.perturbation.perturbed import perturbed
from gfopt.optimizers.zeroth_order.zeroth_order import TwoSided
from gfopt.pytree import pytree, static
from gfopt.types import Key, Member, NoiseOnBase, PyTree, Solution


class SparseMeZOState(NamedTuple):
    """``step``, the weights ``theta``, and ``h``, a number for each leaf."""

    step: jax.Array
    mean: Solution
    limits: PyTree


@pytree
class SparseMeZO(TwoSided):
    """MeZO on the small weights of each matrix, at the same memory.

    A weight that grows beyond its limit no longer moves. Vectors, and matrices whose
    quantile is 0, such as those that start at 0, move as a whole.

    Args:
        learning_rate: step size, or a schedule; None for 1e-3.
        eps: finite-difference radius, or a schedule.
        moving: fraction of a matrix's weights that move at first, in (0, 1].
        population_size: forward passes a step, ``P``, two for each direction.
        noise: ``gaussian()`` or ``rademacher()``.
        rounding: ``"nearest"``, or ``"stochastic"`` for bfloat16 and float16 weights.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an odd population.

    Example:
        >>> import gfopt
        >>> start = jnp.array([[0.1, -0.2], [3.0, 4.0]])
        >>> method = gfopt.SparseMeZO(learning_rate=0.02, moving=0.5)
        >>> result = gfopt.run(method, lambda w: jnp.sum((w - 1) ** 2), start,
        ...                    key=jax.random.key(0), generations=200)
        >>> result.recommended != start
        Array([[ True,  True],
               [False, False]], dtype=bool)

    Source: Liu et al. (2024), arXiv 2402.15751, section 3; it moves a quarter.
    """

    learning_rate: schedules.Hyperparameter | None = None
    eps: schedules.Hyperparameter = 1e-3
    moving: jax.Array | float = 0.25
    population_size: int = static(default=2)
    noise: noise.Noise = static(default_factory=noise.gaussian)
    rounding: str = static(default="nearest")

    def __post_init__(self) -> None:
        checks.integer("population_size", self.population_size, 2, even=True)
        checks.instance("noise", self.noise, noise.Noise, "a gfopt.noise.Noise")
        self._check()
        checks.positive("moving", self.moving)
        schedules.set_schedules(self, "eps")
        schedules.set_numbers(self, "moving", check=checks.share)

    def log_header(self) -> NoReturn:
        """Refuses: what moves depends on the weights, which a log does not hold."""
        raise ValueError(
            f"method must move all weights to be logged; got {checks.shown(self)}"
        )

    def noise_on_base(self) -> NoiseOnBase | None:
        """Returns how candidates are noise on a part of the weights."""
        found = super().noise_on_base()
        return found and found._replace(moving=self.moving)

    def init(self, key: Key, solution: Solution) -> SparseMeZOState:
        """Starts with ``theta`` at ``solution`` and measures its limits."""
        mean = trees.starting_point(solution)

        def limit(leaf: jax.Array) -> jax.Array:
            if leaf.ndim < 2 or leaf.size == 0:
                return jnp.asarray(jnp.inf, leaf.dtype)
            wide = jnp.abs(leaf).astype(jnp.promote_types(leaf.dtype, jnp.float32))
            # the largest weight that moves, not a number between two weights
            quantile = jnp.quantile(
                wide, jnp.asarray(self.moving, wide.dtype), method="lower"
            )
            return jnp.where(quantile > 0, quantile, jnp.inf).astype(leaf.dtype)

        return SparseMeZOState(jnp.int32(0), mean, jax.tree.map(limit, mean))

    def decode(self, state: SparseMeZOState, member: Member) -> Solution:
        """Returns ``theta + sign * eps * m z`` as lazy leaves."""
        scale = member.sign * member.scale
        by = member.seed, scale, self.noise.kind
        return perturbed(state.mean, *by, largest=state.limits)

    def _moved(
        self,
        state: SparseMeZOState,
        seeds: jax.Array,
        slopes: jax.Array,
        counts: jax.Array,
    ) -> SparseMeZOState:
        """Descends along ``g = sum_i slopes[i] m z_i``."""
        weights = -jnp.asarray(self.rate(state), slopes.dtype) * slopes
        random = seeds[0] if self.rounding == "stochastic" else None

        def moved(path: int, leaf: jax.Array, limit: jax.Array) -> jax.Array:
            added = partial(_added_below, limit)
            by = seeds, weights, random, added
            return noise_trees.add_weighted_leaf(self.noise.kind, path, leaf, *by)

        mean = trees.map_with_hash(moved, state.mean, state.limits)
        return SparseMeZOState(state.step + 1, mean, state.limits)


def _added_below(
    limit: jax.Array, old: jax.Array, change: jax.Array, words: jax.Array | None
) -> jax.Array:
    """Returns weights after a step: those above the limit do not move."""
    change = jnp.where(jnp.abs(old) <= limit, change, 0)
    return sums.added_to(old, change, words)
