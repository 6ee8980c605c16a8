"""One leaf of a space: between the search's real numbers and a solution's numbers."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, jaxprs
from gfopt.types import Array

Mask: TypeAlias = Array | None  # which numbers of a leaf are of a kind
A = TypeVar("A", bound=Array)


def fold(x: jax.Array, lower: Array, upper: Array) -> jax.Array:
    """Reflects ``x`` at finite bounds until it lies inside; the identity inside."""
    low, high = jnp.asarray(lower, x.dtype), jnp.asarray(upper, x.dtype)
    both = jnp.isfinite(low) & jnp.isfinite(high)
    width = jnp.where(both & (high > low), high - low, 1)
    base = jnp.where(jnp.isfinite(low), low, 0)
    # a triangle wave of period 2 * width
    phase = jnp.mod(x - base, 2 * width)
    wave = base + jnp.minimum(phase, 2 * width - phase)
    one_sided = jnp.where(jnp.isfinite(low), base + jnp.abs(x - base), x)
    one_sided = jnp.where(
        jnp.isfinite(high) & ~jnp.isfinite(low), high - jnp.abs(x - high), one_sided
    )
    inside = (x >= low) & (x <= high)  # untouched, to the last bit
    folded = jnp.where(both, wave, one_sided)
    return jnp.where(inside, x, jnp.clip(folded, low, high))


class Axis(NamedTuple):
    """Bounds, scale and kind of the numbers of one leaf.

    Attributes:
        lower: the lower bounds.
        upper: the upper bounds.
        scale: length of one unit of the search.
        log: which numbers are searched in ``log x``; None for none of them, which then
            costs nothing.
        integer: which numbers are integers; None for none of them.
        choices: how many choices it has; 0 for numbers.
    """

    lower: Array
    upper: Array
    scale: Array
    log: Mask
    integer: Mask
    choices: int

    def solution(self, y: jax.Array) -> jax.Array:
        """Returns the numbers of a solution for a leaf of the search."""
        if self.choices:
            return jnp.argmax(y, axis=-1).astype(y.dtype)
        low, high = self._bounds(y)
        x = fold(y * self.scale, *self._edges(low, high)).astype(y.dtype)
        if self.log is not None:
            x = jnp.clip(jnp.where(self.log, jnp.exp(x), x), low, high)
        if self.integer is not None:
            x = jnp.clip(jnp.where(self.integer, jnp.round(x), x), low, high)
        return x

    def search(self, x: jax.Array) -> jax.Array:
        """Returns numbers of the search whose solution is ``x``."""
        x = jnp.asarray(x)
        if self.choices:
            return jax.nn.one_hot(x.astype(jnp.int32), self.choices, dtype=x.dtype)
        return (self._stretched(x) / self.scale).astype(x.dtype)

    def steps(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns how far ``y`` is from where its integer changes, below and above.

        In units of the search; infinite where nothing ever changes: beyond the first
        and the last integer, where the fold turns back, and for real numbers.
        """
        if self.choices or self.integer is None:
            none = jnp.full(y.shape, jnp.inf, y.dtype)
            return none, none
        low, high = self._bounds(y)
        limits = self._edges(low, high)

        def folded(u: jax.Array) -> jax.Array:
            return fold(u, *limits)

        u = y * jnp.asarray(self.scale, y.dtype)
        value, slope = jax.jvp(folded, (u,), (jnp.ones_like(u),))
        x = self.solution(y)
        down = jnp.maximum(value - self._stretched(x - 0.5), 0)
        up = jnp.maximum(self._stretched(x + 0.5) - value, 0)
        down = jnp.where(self.integer & (x > low), down, jnp.inf) / self.scale
        up = jnp.where(self.integer & (x < high), up, jnp.inf) / self.scale
        is_mirrored = slope < 0
        return (
            jnp.where(is_mirrored, up, down).astype(y.dtype),
            jnp.where(is_mirrored, down, up).astype(y.dtype),
        )

    def width(self) -> np.ndarray:
        """Returns the width of what is folded; infinite where a side is open."""
        low, high = self._edges(np.asarray(self.lower), np.asarray(self.upper))
        with np.errstate(invalid="ignore"):
            width = np.asarray(high, np.float64) - np.asarray(low, np.float64)
        return np.where(np.isfinite(width), width, np.inf)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the bounds of what is folded, in units of the search; concrete."""
        if self.choices:
            return np.array(-np.inf), np.array(np.inf)
        sides = np.asarray(self.lower, float), np.asarray(self.upper, float)
        low, high = (np.asarray(side) for side in self._edges(*sides))
        scale = np.asarray(self.scale, float)
        return low / scale, high / scale

    def holds(self, x: Array) -> bool:
        """Tells whether concrete numbers lie inside, in their own precision."""
        x = np.asarray(x)
        low, high = np.asarray(self.lower, x.dtype), np.asarray(self.upper, x.dtype)
        is_whole = np.asarray(
            bool(self.choices) if self.integer is None else self.integer
        )
        fits = (x == np.round(x)) | ~(is_whole | (self.choices > 0))
        return bool(np.all((x >= low) & (x <= high) & fits))

    def _bounds(self, like: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(self.lower, like.dtype), jnp.asarray(self.upper, like.dtype)

    def _edges(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Returns the bounds of what is folded: half a step more for integers."""
        if self.integer is not None:
            # all integers are as wide, also the first and the last
            half = jnp.where(self.integer, 0.5, 0.0).astype(lower.dtype)
            lower, upper = lower - half, upper + half
        return self._stretched(lower), self._stretched(upper)

    def _stretched(self, x: A) -> A | jax.Array:
        """Returns ``log x`` where that is searched, else ``x``."""
        if self.log is None:
            return x
        return jnp.where(self.log, jnp.log(jnp.where(self.log, x, 1)), x)

    def check(self) -> None:
        """Refuses bounds that are not in order, or do not fit the kind of numbers."""
        checks.below("lower", self.lower, "upper", self.upper, or_equal=True)
        checks.positive("scale", self.scale)
        k = self.choices
        low, high = checks.concrete(self.lower), checks.concrete(self.upper)
        is_log, is_integer = _mask("log", self.log), _mask("integer", self.integer)
        if low is None or high is None or is_log is None or is_integer is None:
            return
        least = np.where(is_integer, 1.0, np.finfo(np.float64).tiny)
        if not np.all((low >= least) | ~is_log):
            raise ValueError(
                "lower must be above 0 where log is True, and 1 or above for integers; "
                f"got {checks.shown(self.lower)}"
            )
        for name, side in (("lower", low), ("upper", high)):
            side = side.astype(np.float64)
            if not np.all((side == np.round(side)) | ~is_integer):
                raise ValueError(
                    f"{name} must be a whole number or infinite where integer is True; "
                    f"got {checks.shown(side)}"
                )
        if k and not (np.all(low == 0) and np.all(high == k - 1)):
            raise ValueError(
                f"lower and upper must be 0 and {k - 1} for a leaf with {k} choices; "
                f"got {checks.shown(self.lower)} and {checks.shown(self.upper)}"
            )


def _mask(name: str, mask: object) -> np.ndarray | None:
    if mask is None:
        return np.asarray(False)
    if jaxprs.is_tracer(mask) or type(mask) is object:
        return None
    array = np.asarray(mask)
    if array.dtype != bool:
        raise TypeError(f"{name} must be True or False; got {checks.shown(mask)}")
    return array
