"""One leaf of a space: between the search's real numbers and a solution's numbers.

``log`` and ``integer`` say which numbers of the leaf are of that kind; None is for
none of them, which then costs nothing.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

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


def solution(
    y: jax.Array,
    lower: Array,
    upper: Array,
    scale: Array,
    log: Mask,
    integer: Mask,
    k: int,
) -> jax.Array:
    """Returns the numbers of a solution for a leaf of the search."""
    if k:
        return jnp.argmax(y, axis=-1).astype(y.dtype)
    low, high = jnp.asarray(lower, y.dtype), jnp.asarray(upper, y.dtype)
    x = fold(y * scale, *edges(low, high, log, integer)).astype(y.dtype)
    if log is not None:
        x = jnp.clip(jnp.where(log, jnp.exp(x), x), low, high)
    if integer is not None:
        x = jnp.clip(jnp.where(integer, jnp.round(x), x), low, high)
    return x


def search(
    x: jax.Array,
    lower: Array,
    upper: Array,
    scale: Array,
    log: Mask,
    integer: Mask,
    k: int,
) -> jax.Array:
    """Returns numbers of the search whose solution is ``x``."""
    x = jnp.asarray(x)
    if k:
        return jax.nn.one_hot(x.astype(jnp.int32), k, dtype=x.dtype)
    return (stretched(x, log) / scale).astype(x.dtype)


def steps(
    y: jax.Array,
    lower: Array,
    upper: Array,
    scale: Array,
    log: Mask,
    integer: Mask,
    k: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns how far ``y`` is from where its integer changes, below and above.

    In units of the search; infinite where nothing ever changes: beyond the first and
    the last integer, where the fold turns back, and for real numbers.
    """
    none = jnp.full(y.shape, jnp.inf, y.dtype)
    if k or integer is None:
        return none, none
    low, high = jnp.asarray(lower, y.dtype), jnp.asarray(upper, y.dtype)
    limits = edges(low, high, log, integer)

    def folded(u: jax.Array) -> jax.Array:
        return fold(u, *limits)

    u = y * jnp.asarray(scale, y.dtype)
    value, slope = jax.jvp(folded, (u,), (jnp.ones_like(u),))
    x = solution(y, lower, upper, scale, log, integer, k)
    down = jnp.maximum(value - stretched(x - 0.5, log), 0)
    up = jnp.maximum(stretched(x + 0.5, log) - value, 0)
    down = jnp.where(integer & (x > low), down, jnp.inf) / scale
    up = jnp.where(integer & (x < high), up, jnp.inf) / scale
    is_mirrored = slope < 0
    return (
        jnp.where(is_mirrored, up, down).astype(y.dtype),
        jnp.where(is_mirrored, down, up).astype(y.dtype),
    )


def width(
    _: Array,
    lower: Array,
    upper: Array,
    scale: Array,
    log: Mask,
    integer: Mask,
    k: int,
) -> np.ndarray:
    """Returns the width of what is folded; infinite where a side is open."""
    low, high = edges(np.asarray(lower), np.asarray(upper), log, integer)
    with np.errstate(invalid="ignore"):
        width = np.asarray(high, np.float64) - np.asarray(low, np.float64)
    return np.where(np.isfinite(width), width, np.inf)


def edges(lower: Array, upper: Array, log: Mask, integer: Mask) -> tuple[Array, Array]:
    """Returns the bounds of what is folded: half a step more for integers."""
    if integer is not None:
        # all integers are as wide, the first and the last, too
        half = jnp.where(integer, 0.5, 0.0).astype(lower.dtype)
        lower, upper = lower - half, upper + half
    return stretched(lower, log), stretched(upper, log)


def stretched(x: A, log: Mask) -> A | jax.Array:
    """Returns ``log x`` where that is searched, else ``x``."""
    if log is None:
        return x
    return jnp.where(log, jnp.log(jnp.where(log, x, 1)), x)


def check_kind(
    lower: object, upper: object, log: object, integer: object, k: int
) -> None:
    """Refuses bounds that do not fit the kind of their numbers."""
    low, high = checks.concrete(lower), checks.concrete(upper)
    is_log, is_integer = _mask("log", log), _mask("integer", integer)
    if low is None or high is None or is_log is None or is_integer is None:
        return
    least = np.where(is_integer, 1.0, np.finfo(np.float64).tiny)
    if not np.all((low >= least) | ~is_log):
        raise ValueError(
            "lower must be above 0 where log is True, and 1 or above for integers; "
            f"got {checks.shown(lower)}"
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
            f"got {checks.shown(lower)} and {checks.shown(upper)}"
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
