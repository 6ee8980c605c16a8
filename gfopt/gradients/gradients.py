"""Gradients from values alone: random directions and coordinates.

    two_sided     g = 1/q sum_i (f(x + eps z_i) - f(x - eps z_i)) / (2 eps) z_i
    one_sided     g = 1/q sum_i (f(x + eps z_i) - f(x)) / eps z_i
    one_point     g = 1/q sum_i (f(x + eps z_i) - f_before) / eps z_i
    coordinates   g = sum_k (f(x + eps e_k) - f(x - eps e_k)) / (2 eps) e_k

``z`` is normal, random signs, or uniform on the sphere of radius sqrt(D). On a
quadratic ``E|g|^2 / |gradient|^2`` of one two-sided direction is D + 2, D and D.
Coordinates cost 2 D values and have no variance: the choice where D is small.

Sources: Nesterov, Spokoiny (2017), "Random gradient-free minimization of convex
functions", Found. Comput. Math. 17, section 2 (one- and two-sided); Spall (1992), IEEE
Trans. Automatic Control 37 (signs); Zhang, Zhou, Ji, Zavlanos (2022), "A new one-point
residual-feedback oracle", Automatica 136 (one point).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.core import trees
from gfopt.deprecations import renamed_arguments
from gfopt.noise import noise, threefry
from gfopt.types import Key, PyTree, Solution

KINDS = ("two_sided", "one_sided", "one_point", "coordinates")
DIRECTIONS = {
    "gaussian": noise.Noise("gaussian"),
    "rademacher": noise.Noise("rademacher"),
    "sphere": noise.Noise("gaussian"),  # whose directions are uniform
}


class Estimate(NamedTuple):
    """What an estimator returns.

    Attributes:
        value: mean of the values that were computed.
        gradient: a tree like the solution, in its dtypes.
    """

    value: jax.Array
    gradient: PyTree


@dataclass(frozen=True)
class GradientEstimator:
    """A function ``(key, x, *args) -> Estimate``; made by ``gradient_estimator``.

    Example:
        >>> estimate = GradientEstimator(lambda x: jnp.sum(x**2), "coordinates")
        >>> estimate(jax.random.key(0), jnp.array([1.0, 2.0])).gradient.round(2)
        Array([2., 4.], dtype=float32)
    """

    fun: Callable[..., jax.Array]
    kind: str = "two_sided"
    num_directions: int = 1
    eps: ArrayLike = 1e-3
    directions: str = "gaussian"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        checks.is_callable("fun", self.fun)
        checks.one_of("kind", self.kind, KINDS)
        checks.integer("num_directions", self.num_directions, 1)
        checks.positive("eps", self.eps)
        checks.one_of("directions", self.directions, DIRECTIONS)
        if self.batch_size is not None:
            checks.integer("batch_size", self.batch_size, 1)
        if self.kind == "coordinates" and self.num_directions != 1:
            raise ValueError(
                "num_directions must be 1 with coordinates, which are all asked once "
                f"on each side; got {checks.shown(self.num_directions)}"
            )

    def __call__(
        self, key: Key, x: Solution, *args: PyTree, previous: ArrayLike | None = None
    ) -> Estimate:
        """Estimates the gradient of ``fun(x, *args)`` in ``x``.

        Args:
            key: a key from ``jax.random.key``; not used for coordinates.
            x: pytree of floating-point arrays.
            args: further arguments of the function.
            previous: for ``one_point``, the ``value`` of the estimate before; without
                one nothing is subtracted.

        Returns:
            ``(value, gradient)``. A value that is not finite weighs nothing.

        Raises:
            TypeError, ValueError: for an ``x`` that is not a solution.
            ValueError: for ``previous`` with another kind.
        """
        x = trees.as_inexact(x)
        if previous is not None and self.kind != "one_point":
            raise ValueError(f"previous must be None for {self.kind} estimates")
        if self.kind == "coordinates":
            return self._by_coordinates(x, args)
        family, wide = DIRECTIONS[self.directions], trees.wide_dtype(x)
        eps = jnp.asarray(self.eps, wide)
        seeds = threefry.seeds(key, self.num_directions)

        def radius(seed: jax.Array) -> jax.Array:
            """Returns what multiplies the noise: eps, or eps sqrt(D) / |z|."""
            if self.directions != "sphere":
                return threefry.round_significant(eps)
            squares = [jnp.sum(z**2) for z in jax.tree.leaves(family.sample(x, seed))]
            length = jnp.sqrt(sum(squares) / trees.num_parameters(x))
            return threefry.round_significant(eps / length.astype(wide))

        signs = jnp.array([1, -1] if self.kind == "two_sided" else [1], wide)

        def values(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Returns the values on the sides of one direction, and its radius."""
            scale = radius(seed)
            found = [self._value(family.add(x, seed, s * scale), args) for s in signs]
            return jnp.stack(found), scale

        found, scales = self._mapped(values, seeds, x)
        found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
        base: Any = found[:, -1]
        if self.kind == "one_sided":
            base = self._value(x, args)
        elif self.kind == "one_point":
            base = 0 if previous is None else previous
        # (difference / reach) z is the mean of (difference / eps) (radius / eps) z
        reach = eps * (2 if self.kind == "two_sided" else 1)
        slopes = (found[:, 0] - base) / reach * (scales / eps)
        usable = jnp.isfinite(slopes)
        count = jnp.maximum(jnp.sum(usable), 1)
        weights = jnp.where(usable, slopes, 0) / count
        gradient = family.weighted_sum(x, seeds, weights)
        if self.kind == "one_sided":
            found = jnp.append(found, base)
        return Estimate(_finite_mean(found), trees.cast_like(gradient, x))

    def _by_coordinates(self, x: Solution, args: tuple[PyTree, ...]) -> Estimate:
        flat, unravel = ravel_pytree(x)
        eps = jnp.asarray(self.eps, flat.dtype)

        def values(k: jax.Array) -> jax.Array:
            found = [self._value(unravel(flat.at[k].add(s)), args) for s in (eps, -eps)]
            return jnp.stack(found)

        found = self._mapped(values, jnp.arange(flat.size), x)
        # what was really added: eps and a number have digits in common
        width = (flat + eps) - (flat - eps)
        slopes = (found[:, 0] - found[:, 1]) / width
        slopes = jnp.where(jnp.isfinite(slopes), slopes, 0)
        gradient = unravel(slopes.astype(flat.dtype))
        return Estimate(_finite_mean(found), gradient)

    def _value(self, x: Solution, args: tuple[PyTree, ...]) -> jax.Array:
        return jnp.asarray(self.fun(x, *args))

    def _mapped(
        self, fun: Callable[[PyTree], PyTree], rows: jax.Array, x: Solution
    ) -> PyTree:
        """Maps over rows, all at once where the perturbed solutions are small."""
        batch = self.batch_size
        if batch is None:
            small = rows.size * trees.num_parameters(x) <= noise.CACHED_ELEMENTS
            batch = rows.size if small else 1
        return lax.map(fun, rows, batch_size=batch)


def _finite_mean(values: jax.Array) -> jax.Array:
    """Returns the mean of those that are numbers, NaN if there are none."""
    finite = jnp.isfinite(values)
    return jnp.sum(jnp.where(finite, values, 0)) / jnp.sum(finite)


@renamed_arguments(num_queries="num_directions")
def gradient_estimator(
    fun: Callable[..., jax.Array],
    kind: str = "two_sided",
    *,
    num_directions: int = 1,
    eps: float = 1e-3,
    directions: str = "gaussian",
    batch_size: int | None = None,
) -> GradientEstimator:
    """Returns an estimator of a function's gradient, for use with optax.

    Args:
        fun: ``(x, *args) -> number``, a JAX function (``jax.pure_callback`` makes one
            of any other), which need not be differentiable.
        kind: ``"two_sided"`` (2 q values), ``"one_sided"`` (q + 1), ``"one_point"`` (q,
            and the value of the estimate before), or ``"coordinates"`` (2 D).
        num_directions: directions that are averaged, q.
        eps: how far to go, above the spacing of the numbers in ``x``: 1e-3 is too
            little for bfloat16.
        directions: ``"gaussian"``, ``"rademacher"`` or ``"sphere"``, all with variance
            1 in each number.
        batch_size: directions that are evaluated together; by default all of them, or
            one by one where that many solutions are large.

    Returns:
        ``(key, x, *args) -> (value, gradient)``, pure.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import optax
        >>> estimate = gradient_estimator(lambda x: jnp.sum((x["w"] - 1) ** 2),
        ...                               num_directions=4, directions="rademacher")
        >>> optimizer, x = optax.adam(0.1), {"w": jnp.zeros(3)}
        >>> state = optimizer.init(x)
        >>> for key in jax.random.split(jax.random.key(0), 100):
        ...     value, gradient = estimate(key, x)
        ...     updates, state = optimizer.update(gradient, state)
        ...     x = optax.apply_updates(x, updates)
        >>> bool(jnp.abs(x["w"] - 1).max() < 0.1)
        True
    """
    return GradientEstimator(fun, kind, num_directions, eps, directions, batch_size)
