"""What is known of a function along each coordinate, and which points promise most.

A line holds what is known of ``h_i(t) = f(x with x_i = t) - f(x)``, sorted by ``t``.
Where its lowest point has a neighbour on each side, the next point is the minimum of
the parabola through the three, which promises a decrease ``g_i``. Parabolas close in
slowly on a kink: a step that is longer than half of the step before last gives way to
one of ``min(0.38 c, sqrt(a c))`` into the longer side, where ``a < c`` are the
distances to the neighbours.

An exploration halves the interval that needs the flattest parabola to hold a value
below the lowest,

    a_k = ((sqrt(h_k - h*) + sqrt(h_{k+1} - h*)) / (t_{k+1} - t_k))^2,
    h* = min h - eps,   eps = (median h - min h) / 100

Sources: Swarzberg, Seront, Bersini, "S.T.E.P.: the easiest way to optimize a function"
(ICEC 1994) for ``a_k``; Brent, "Algorithms for minimization without derivatives"
(1973), chapter 5, for the step before last. Deviations: ``eps`` follows the values;
lines have no ends, and look beyond their last point as into an interval of ``BEYOND
sigma`` whose far end is as good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

LENGTH = 256  # points of a line
BEYOND = 0.75  # in sigma, the width of the interval beyond the last point of a line
FIRST = 0.5  # in sigma, from x0 to the second point of a line


class Lines(NamedTuple):
    """What is known along each coordinate.

    Attributes:
        places: ``float[D, K]``, sorted, infinite where there is no point.
        values: ``float[D, K]``, relative to the value at ``x``; infinite likewise.
        num_points: ``i32[D]``.
        num_explored: ``i32[D]``, of them explored.
        idle: ``i32[D]``, explored since the last improvement.
        steps: ``float[D, 2]``, lengths of the last two refinements, newest first.
    """

    places: jax.Array
    values: jax.Array
    num_points: jax.Array
    num_explored: jax.Array
    idle: jax.Array
    steps: jax.Array


def lines_at(x: jax.Array) -> Lines:
    """Returns lines with one point each."""
    size, dtype = x.size, x.dtype
    empty = jnp.full((size, LENGTH), jnp.inf, dtype)
    zero = jnp.zeros(size, jnp.int32)
    return Lines(
        places=empty.at[:, 0].set(x),
        values=empty.at[:, 0].set(0),
        num_points=zero + 1,
        num_explored=zero + 0,
        idle=zero + 0,
        steps=jnp.full((size, 2), jnp.inf, dtype),
    )


def lowest(lines: Lines, x: jax.Array) -> jax.Array:
    """Returns the index of the lowest point of each line, rather ``x``: ``i32[D]``."""
    is_low = lines.values == jnp.min(lines.values, axis=1, keepdims=True)
    return jnp.argmax(is_low * (1 + (lines.places == x[:, None])), axis=1)


def extended(
    lines: Lines, is_new: jax.Array, place: jax.Array, value: jax.Array
) -> Lines:
    """Adds a point to some of the lines; a place that was known gets its new value."""
    is_known = (lines.places == place[:, None]) & is_new[:, None]
    values = jnp.where(is_known, value[:, None], lines.values)
    adds = is_new & ~jnp.any(is_known, axis=1)
    places = jnp.concatenate(
        [lines.places, jnp.where(adds, place, jnp.inf)[:, None]], axis=1
    )
    values = jnp.concatenate([values, jnp.where(adds, value, jnp.inf)[:, None]], axis=1)
    order = jnp.argsort(places, axis=1, stable=True)[:, : lines.places.shape[1]]
    return lines._replace(
        places=jnp.take_along_axis(places, order, 1),
        values=jnp.take_along_axis(values, order, 1),
        num_points=lines.num_points + adds,
    )


def refined(
    lines: Lines, x: jax.Array, sides: Sequence[jax.Array], sigma: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the next point near the lowest of each line, and what it promises.

    Args:
        lines: through ``x``.
        x: ``float[D]``, the best point.
        sides: where the lines end, ``float[D]`` each.
        sigma: ``float[]``, the scale at which the start may be wrong.

    Returns:
        ``float[D]`` each; the promise of a step out of a line is infinite.
    """
    t, h, count = lines.places, _heights(lines), lines.num_points
    (lower, upper), last, low = sides, count - 1, lowest(lines, x)
    rows = jnp.arange(t.shape[0])
    at = t[rows, low]
    left, right = jnp.maximum(low - 1, 0), jnp.minimum(low + 1, last)
    a, c = at - t[rows, left], t[rows, right] - at
    p, q = h[rows, left] - h[rows, low], h[rows, right] - h[rows, low]
    is_inner = (a > 0) & (c > 0)
    a, c = jnp.where(is_inner, a, 1), jnp.where(is_inner, c, 1)
    # h(d) = curvature d^2 + slope d through (-a, p), (0, 0) and (c, q)
    curvature = (p / a + q / c) / (a + c)
    slope = q / c - curvature * c
    is_curved = curvature > 0
    divisor = jnp.where(is_curved, curvature, 1)
    vertex = -slope / (2 * divisor)
    gain = jnp.where(is_curved, slope**2 / (4 * divisor), 0)
    nearest = jnp.minimum(a, c) / 1000
    vertex = jnp.where(
        jnp.abs(vertex) < nearest, jnp.where(vertex < 0, -1, 1) * nearest, vertex
    )
    vertex = jnp.clip(vertex, -0.9 * a, 0.9 * c)
    longer = jnp.maximum(a, c)
    other = jnp.minimum(0.38 * longer, jnp.sqrt(a * c)) * jnp.where(c > a, 1, -1)
    is_slow = jnp.abs(vertex) > lines.steps[:, 1] / 2
    vertex = jnp.where(is_slow, other, vertex)
    # at an end of the line: twice as far as the last step
    is_right = low == last
    last_step = at - jnp.where(is_right, t[rows, left], t[rows, right])
    beyond = jnp.where(count == 1, FIRST * sigma, 2 * last_step)
    # away from a side that is near
    beyond = jnp.where((count == 1) & (at + beyond > upper), -beyond, beyond)
    place = jnp.clip(at + jnp.where(is_inner, vertex, beyond), lower, upper)
    gain = jnp.where(is_inner, gain, jnp.where(place == at, 0, jnp.inf))
    return place, gain


def explored(
    lines: Lines, x: jax.Array, sides: Sequence[jax.Array], sigma: jax.Array
) -> jax.Array:
    """Returns the next exploration of each line, ``float[D]``; see ``refined``."""
    t, h, count = lines.places, _heights(lines), lines.num_points
    (lower, upper), last = sides, count - 1
    rows = jnp.arange(t.shape[0])
    # the flattest parabola that holds h*, over intervals and both ends
    known = jnp.arange(t.shape[1]) < count[:, None]
    ordered = jnp.sort(jnp.where(known, h, jnp.inf), axis=1)
    middle = (ordered[rows, last // 2] + ordered[rows, count // 2]) / 2
    low = h[rows, lowest(lines, x)]
    goal = low - 0.01 * (middle - low) - jnp.finfo(t.dtype).tiny
    height = jnp.sqrt(jnp.where(known, h - goal[:, None], jnp.inf))
    end = t[rows, last]
    inside = jnp.arange(t.shape[1] - 1) < last[:, None]
    width = jnp.where(inside, jnp.diff(jnp.where(known, t, 0), axis=1), 1)
    rise = (height[:, :-1] + height[:, 1:]) / jnp.maximum(width, 1e-300)
    rise = jnp.where(inside & (width > 0), rise, jnp.inf)
    outside = jnp.stack([t[:, 0] - lower, upper - end], axis=1)
    outside = jnp.minimum(outside, BEYOND * sigma)
    outer = jnp.stack([height[:, 0], height[rows, last]], axis=1)
    outer = jnp.where(outside > 0, outer / jnp.maximum(outside, 1e-300), jnp.inf)
    middles = jnp.where(inside, (t[:, :-1] + t[:, 1:]) / 2, 0)
    edges = jnp.stack([t[:, 0], end], axis=1) + outside * jnp.array(
        [-0.5, 0.5], t.dtype
    )
    middles = jnp.concatenate([edges, middles], axis=1)
    flattest = jnp.argmin(jnp.concatenate([outer, rise], axis=1), axis=1)
    return middles[rows, flattest]


def _heights(lines: Lines) -> jax.Array:
    """Returns the values; failures count as the worst that is known."""
    is_known = jnp.isfinite(lines.values)
    worst = jnp.max(jnp.where(is_known, lines.values, -jnp.inf), axis=1)
    return jnp.where(is_known, lines.values, worst[:, None])
