"""Feynman-Kac steering: the weights of lineages, and which of them go on.

Particles move by some random steps: tokens of a language model, the steps of a
diffusion sampler. A reward ``r`` of each particle as it is now gives its lineage a
weight. In the limit of many particles those of the last step follow

    p(x) exp(scale r(x)) / Z

for each of the potentials, of which the last corrects what the others did:

    difference  G_t = exp(scale (r_t - r_(t-1))),  r_0 = 0
    max         G_t = exp(scale max_(s <= t) r_s)
    sum         G_t = exp(scale sum_(s <= t) r_s)
    the last    G_T = exp(scale r_T) / (G_1 ... G_(T-1))

Weights are held as logarithms. They add up until their effective sample size falls
below a share of the particles; then these are resampled, and all weigh the same again.

Source: Singhal, Horvitz, Teehan, Ren, Yu, McKeown, Ranganath (2025), "A general
framework for inference-time scaling and steering of diffusion models", arXiv
2501.06848, section 3; systematic resampling of Kitagawa (1996). Deviation: a step
without resampling keeps its weights, so that adaptive resampling is not biased.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.types import Key

__all__ = ["Lineages", "Resampled", "lineages", "systematic"]

POTENTIALS = ("difference", "max", "sum")


class Lineages(NamedTuple):
    """What ``N`` lineages weigh, and what they have seen.

    Attributes:
        log_weights: since the last resampling, ``float[N]``.
        log_product: of the potentials so far, ``float[N]``.
        reward: the last one, ``float[N]``; 0 before the first.
        peak: the largest so far, ``float[N]``.
        total: the sum so far, ``float[N]``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> key, x = jax.random.key(0), jnp.zeros(1000)
        >>> kept = lineages(1000)
        >>> for step in range(4):  # of a random walk
        ...     move, choice = jax.random.split(jax.random.fold_in(key, step))
        ...     x = x + jax.random.normal(move, x.shape)
        ...     kept = kept.weighed(x, is_last=step == 3)
        ...     if step < 3:
        ...         kept, ancestors, _ = kept.resampled(choice)
        ...         x = x[ancestors]
        >>> abs(float(kept.weights @ x) - 4) < 0.3  # N(0, 4) exp(x) / Z is N(4, 4)
        True
    """

    log_weights: jax.Array
    log_product: jax.Array
    reward: jax.Array
    peak: jax.Array
    total: jax.Array

    @property
    def weights(self) -> jax.Array:
        """The particles' weights, ``float[N]``, which add up to 1."""
        return jax.nn.softmax(self.log_weights)

    @property
    def effective_sample_size(self) -> jax.Array:
        """``1 / sum w^2``, between 1 and ``N``."""
        return 1 / jnp.sum(self.weights**2)

    def weighed(
        self,
        reward: ArrayLike,
        *,
        scale: ArrayLike = 1.0,
        potential: str = "difference",
        is_last: ArrayLike = False,
    ) -> Lineages:
        """Multiplies the weights by the potential of a step.

        Args:
            reward: of the particles as they are now, ``float[N]``; what is not finite
                has failed and weighs nothing. If all have failed nothing changes.
            scale: how much a reward counts, the inverse of a temperature.
            potential: ``"difference"``, ``"max"`` or ``"sum"``.
            is_last: whether this is the last step, which makes the weights those of the
                last rewards.

        Raises:
            ValueError: for another potential, or a scale below 0.
        """
        checks.non_negative("scale", scale)
        checks.one_of("potential", potential, POTENTIALS)
        fresh = jnp.asarray(reward, self.reward.dtype)
        valid = jnp.isfinite(fresh)
        reward = jnp.where(valid, fresh, self.reward)
        peak = jnp.maximum(self.peak, jnp.where(valid, fresh, -jnp.inf))
        total = self.total + jnp.where(valid, fresh, 0)
        log_g = {
            "difference": reward - self.reward,
            "max": jnp.where(jnp.isfinite(peak), peak, 0),
            "sum": total,
        }[potential]
        log_g = jnp.where(is_last, scale * reward - self.log_product, scale * log_g)
        new = Lineages(
            self.log_weights + jnp.where(valid, log_g, -jnp.inf),
            self.log_product + jnp.where(valid, log_g, 0),
            reward,
            peak,
            total,
        )
        lives = jnp.any(jnp.isfinite(new.log_weights))
        return jax.tree.map(lambda x, old: jnp.where(lives, x, old), new, self)

    def resampled(self, key: Key, threshold: ArrayLike = 0.5) -> Resampled:
        """Draws which particles go on, if few of them carry the weight.

        Args:
            key: of the draw.
            threshold: resample where the effective sample size is below this share of
                the particles; 0 for never, above 1 for always.

        Raises:
            ValueError: for a threshold below 0.
        """
        checks.non_negative("threshold", threshold)
        size = self.log_weights.shape[0]
        is_resampled = self.effective_sample_size < threshold * size
        drawn = systematic(key, self.weights)
        ancestors = jnp.where(is_resampled, drawn, jnp.arange(size, dtype=jnp.int32))
        moved = jax.tree.map(lambda x: x[ancestors], self)
        equal = jnp.where(is_resampled, 0, moved.log_weights)
        return Resampled(moved._replace(log_weights=equal), ancestors, is_resampled)


class Resampled(NamedTuple):
    """The lineages that go on, and whom they come from.

    Attributes:
        lineages: in the order of ``ancestors``.
        ancestors: the particles to go on with, ``i32[N]``, ascending.
        is_resampled: ``bool[]``; if not, every particle is its own ancestor.

    Example:
        >>> kept = lineages(2).weighed([0.0, 1.0])
        >>> kept.resampled(jax.random.key(0), threshold=0).ancestors
        Array([0, 1], dtype=int32)
    """

    lineages: Lineages
    ancestors: jax.Array
    is_resampled: jax.Array


def lineages(num_particles: int) -> Lineages:
    """Returns the lineages before the first step, which all weigh the same.

    Args:
        num_particles: ``N``.

    Raises:
        TypeError: for anything but an integer.
        ValueError: for one below 1.

    Example:
        >>> kept = lineages(2).weighed([0.0, 1.0], scale=2.0)
        >>> kept.weights  # e^0 and e^2, over their sum
        Array([0.11920291, 0.880797  ], dtype=float32)
        >>> kept.resampled(jax.random.key(0), threshold=1.1).ancestors
        Array([1, 1], dtype=int32)
    """
    checks.integer("num_particles", num_particles, 1)
    zeros = jnp.zeros(num_particles, jnp.float32)
    return Lineages(zeros, zeros, zeros, zeros - jnp.inf, zeros)


def systematic(key: Key, weights: jax.Array) -> jax.Array:
    """Draws ``N`` ancestors with one random number: ``w_i N`` of each, rounded.

    Args:
        key: of the draw.
        weights: ``float[N]``, which add up to 1.

    Returns:
        ``i32[N]``, ascending.

    Example:
        >>> systematic(jax.random.key(0), jnp.array([0.5, 0.0, 0.0, 0.5]))
        Array([0, 0, 3, 3], dtype=int32)
    """
    size = weights.shape[0]
    places = (jnp.arange(size) + jax.random.uniform(key)) / size
    found = jnp.searchsorted(jnp.cumsum(weights), places, side="right")
    # the sum of the weights may end below 1
    last = size - 1 - jnp.argmax(weights[::-1] > 0)
    return jnp.minimum(found, last).astype(jnp.int32)
