"""The weights of a consensus, and the alpha that gives a wanted number of them.

    w_i ~ exp(-alpha (f_i - min f)),   c = sum_i w_i x_i
    J(alpha) = (sum w)^2 / sum w^2   # effective sample size: N at 0, 1 at infinity

Source: Pinnau, Totzeck, Tse, Martin (2017), Math. Models Methods Appl. Sci. 27; the
effective sample size is that of Carrillo, Hoffmann, Stuart, Vaes (2022), Studies in
Applied Mathematics 148(3). The interval that is halved here is one of log alpha, and
as wide as the values need.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.core import schedules
from gfopt.pytree import pytree

_HALVINGS = 25  # of an interval of some 20 to 100 powers of e


@pytree
class EffectiveSampleSize:
    """An alpha that is chosen at every step, by ``J(alpha) = eta N``.

    It makes a method invariant under ``f -> a f + b``, and sharpens the weights by
    itself as the particles come together.

    Args:
        eta: share of the valid particles, in [0, 1].
        max_alpha: the largest alpha, for fitness that does not differ.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> fitness = jnp.array([0.0, 1.0, 2.0, 3.0])
        >>> alpha = EffectiveSampleSize(0.5).solve(fitness, fitness < 9)
        >>> weights = consensus_weights(fitness, fitness < 9, alpha)
        >>> round(float(effective_sample_size(weights)), 3)
        2.0
    """

    eta: schedules.Number = 0.5
    max_alpha: schedules.Number = 1e15

    def __post_init__(self) -> None:
        schedules.set_numbers(self, "eta", check=checks.share)
        schedules.set_numbers(self, "max_alpha")

    def solve(self, fitness: jax.Array, valid: jax.Array) -> jax.Array:
        """Returns alpha for fitness ``[N]``, or ``max_alpha`` where none is enough."""
        target, gap = self.eta * jnp.sum(valid), _gap(fitness, valid)
        # from weights that are equal to weights of the best alone: particles that fly
        # far off make the largest gap many decades larger than the smallest
        differs = valid & (gap > 0)
        largest = jnp.max(jnp.where(differs, gap, 0))
        smallest = jnp.min(jnp.where(differs, gap, jnp.inf))
        most = jnp.log(jnp.asarray(self.max_alpha, fitness.dtype))
        low, high = jnp.log(1e-4) - jnp.log(largest), jnp.log(1e3) - jnp.log(smallest)
        high = jnp.where(jnp.any(differs), jnp.minimum(high, most), most)
        low = jnp.where(jnp.any(differs), jnp.minimum(low, high), most)

        def halve(
            _: jax.Array, sides: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            low, high = sides
            middle = (low + high) / 2
            weights = consensus_weights(fitness, valid, jnp.exp(middle))
            above = effective_sample_size(weights) > target
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        sides = low.astype(fitness.dtype), high.astype(fitness.dtype)
        low, high = lax.fori_loop(0, _HALVINGS, halve, sides)
        return jnp.exp((low + high) / 2).astype(fitness.dtype)


def _gap(fitness: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns ``f - min f`` over the valid rows, finite even for the hugest."""
    lowest = jnp.min(jnp.where(valid, fitness, jnp.inf))
    return jnp.minimum(fitness - lowest, jnp.finfo(fitness.dtype).max)


def log_weights(
    fitness: jax.Array, valid: jax.Array, alpha: schedules.Number
) -> jax.Array:
    """Returns ``-alpha (f - min f)``, ``[N]``: 0 for the best, -inf for failures."""
    # the best comes first: no alpha, however large, overflows its weight
    return jnp.where(valid, -alpha * _gap(fitness, valid), -jnp.inf)


def consensus_weights(
    fitness: jax.Array, valid: jax.Array, alpha: schedules.Number
) -> jax.Array:
    """Returns the weights ``[N]`` of a consensus, which add up to 1.

    Args:
        fitness: ``float[N]``, lower is better.
        valid: ``bool[N]``; the other rows weigh 0.
        alpha: the inverse temperature, 0 for the mean.

    Returns:
        ``float[N]``; zeros where no row is valid.

    Example:
        >>> f = jnp.array([1.0, 2.0, jnp.nan])
        >>> consensus_weights(f, jnp.isfinite(f), 1e15)
        Array([1., 0., 0.], dtype=float32)
    """
    weights = jnp.exp(log_weights(fitness, valid, alpha))
    return weights / jnp.maximum(jnp.sum(weights), 1)


def effective_sample_size(weights: jax.Array) -> jax.Array:
    """Returns ``(sum w)^2 / sum w^2``, or 0 without a weight."""
    square = jnp.sum(weights**2)
    return jnp.where(square > 0, jnp.sum(weights) ** 2 / jnp.maximum(square, 1e-30), 0)


Alpha: TypeAlias = schedules.Hyperparameter | EffectiveSampleSize


def alpha_at(
    alpha: Alpha, step: jax.Array, fitness: jax.Array, valid: jax.Array
) -> jax.Array:
    """Returns a number's, a schedule's or an effective sample size's alpha."""
    if isinstance(alpha, EffectiveSampleSize):
        return alpha.solve(fitness, valid)
    return jnp.asarray(schedules.at("alpha", alpha, step), fitness.dtype)


def alpha_field(alpha: Alpha) -> Alpha:
    """Returns alpha as a dataclass stores it."""
    if isinstance(alpha, EffectiveSampleSize):
        return alpha
    return schedules.field("alpha", alpha, checks.non_negative)


def weighted_mean(weights: jax.Array, points: jax.Array) -> jax.Array:
    """Returns ``sum_i w_i x_i``, in full precision on every device."""
    return jnp.einsum("i,id->d", weights, points, precision=lax.Precision.HIGHEST)


def lengths(rows: jax.Array) -> jax.Array:
    """Returns the lengths ``[..., 1]`` of rows ``[..., D]``, safe from overflow."""
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    scaled = rows / jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum(scaled**2, axis=-1, keepdims=True))
