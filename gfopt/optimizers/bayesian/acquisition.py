"""What a value at a point is likely to bring, and where that is most.

With the process's mean m and standard deviation s at x, and the best value z*, the
expected improvement is

    EI(x) = s h(u),  u = (z* - m) / s,  h(u) = phi(u) + u Phi(u)

It is as good as 0 nearly everywhere, so that its logarithm is compared. The largest is
looked for without gradients, in rounds: among points all over a region, and points that
differ in some coordinates from the best that there are.

Sources: Jones, Schonlau and Welch (1998), J. of Global Optimization 13, equation 15;
for the logarithm Ament, Daulton, Eriksson, Balandat and Bakshy (NeurIPS 2023), arXiv
2310.20708, section 4; for steps in some of the coordinates Regis and Shoemaker (2013),
Engineering Optimization 45, as in TuRBO.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import erfc

from gfopt.noise import threefry
from gfopt.types import Key

NUM_DRAWN, NUM_KEPT = 256, 8  # points of a round, twice, and how many of them are kept
LEAST_SHARE = 0.3  # of the coordinates are changed, 2 at least
# between which lengths a coordinate is changed in each round, in widths of the box
LENGTHS = ((3e-3, 0.5), (1e-2, 0.1), (5e-3, 5e-2), (2.5e-3, 2.5e-2), (1e-3, 1e-2))
TAIL = -5.0  # u below which h is a series


class Region(NamedTuple):
    """Where to look, ``float[D]`` each.

    Attributes:
        best: the best point so far.
        low: lower ends.
        high: upper ends.
        least: the shortest steps that change a coordinate.
    """

    best: jax.Array
    low: jax.Array
    high: jax.Array
    least: jax.Array


def log_expected_improvement(
    mean: jax.Array, std: jax.Array, best: jax.Array
) -> jax.Array:
    """Returns ``log EI``, elementwise."""
    u = (best - mean) / std
    inside = jnp.maximum(u, TAIL)
    density = jnp.exp(-0.5 * inside * inside) / math.sqrt(2 * math.pi)
    direct = jnp.log(density + 0.5 * inside * erfc(-inside / math.sqrt(2)))
    # h(u) = phi(u) / u^2 (1 - 3 / u^2 + 15 / u^4 - ..)
    far = jnp.minimum(u, TAIL)
    inverse = 1 / (far * far)
    series = jnp.log1p(-3 * inverse + 15 * inverse * inverse) + jnp.log(inverse)
    series -= 0.5 * far * far + 0.5 * math.log(2 * math.pi)
    return jnp.where(u > TAIL, direct, series) + jnp.log(std)


def most_promising(
    key: Key, score: Callable[[jax.Array], jax.Array], region: Region
) -> jax.Array:
    """Returns the point with the highest score that was found, ``float[D]``.

    Args:
        key: of the points that are drawn.
        score: of points ``[N, D]``, ``float[N]``.
        region: where.
    """
    best, low, high, least = region
    dimension, dtype = best.size, best.dtype
    share = min(1.0, max(2 / dimension, LEAST_SHARE))
    shape = NUM_DRAWN, dimension

    def one_round(
        kept: tuple[jax.Array, jax.Array], own: tuple[Key, jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        centers, scores = kept
        key, near, far = own
        everywhere, z_key, u_key, length_key = jax.random.split(key, 4)
        uniform = threefry.standard_uniform(everywhere, shape).astype(dtype)
        z = threefry.standard_normal(z_key, shape, dtype)
        changes = threefry.standard_uniform(u_key, shape) < share
        power = threefry.standard_uniform(length_key, (NUM_DRAWN, 1)).astype(dtype)
        length = jnp.maximum(near * (far / near) ** power, least)
        repeated = jnp.repeat(centers, NUM_DRAWN // NUM_KEPT, axis=0)
        around = jnp.clip(repeated + jnp.where(changes, length * z, 0), low, high)
        new = jnp.concatenate([low + uniform * (high - low), around])
        points = jnp.concatenate([centers, new])
        scores, rows = jax.lax.top_k(jnp.concatenate([scores, score(new)]), NUM_KEPT)
        return (points[rows], scores), None

    first = jnp.tile(best, (NUM_KEPT, 1)), jnp.full(NUM_KEPT, -jnp.inf, dtype)
    rounds = jax.random.split(key, len(LENGTHS))
    lengths = jnp.asarray(LENGTHS, dtype)
    (points, _), _ = jax.lax.scan(one_round, first, (rounds, *lengths.T))
    return points[0]
