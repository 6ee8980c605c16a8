"""A consensus for each particle, of the points that are near it.

    c(x) = sum_j k(x, x_j)^alpha exp(-alpha f_j) x_j,   normalised

Source: Bungert, Roith, Wacker, arXiv 2211.05238 (polarised CBO).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.consensus.weights import lengths, weighted_mean
from gfopt.core import schedules
from gfopt.pytree import pytree, static

SHAPES = ("gaussian", "laplace", "constant", "inverse_quadratic")
_CHUNK = 32  # rows of the [N, N] kernel that are held at a time


@pytree
class Kernel:
    """Which points a particle sees.

    Args:
        shape: ``"gaussian"``, ``"laplace"``, ``"constant"`` or ``"inverse_quadratic"``.
        width: ``kappa``, or a schedule.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or an unknown shape.

    Example:
        >>> Kernel("laplace")
        Kernel(shape='laplace', width=1.0)
    """

    shape: str = static(default="gaussian")
    width: schedules.Hyperparameter = 1.0

    def __post_init__(self) -> None:
        checks.one_of("shape", self.shape, SHAPES)
        schedules.set_schedules(self, "width")

    def consensus(
        self,
        positions: jax.Array,
        points: jax.Array,
        logs: jax.Array,
        alpha: jax.Array,
        fallback: jax.Array,
        step: jax.Array,
    ) -> jax.Array:
        """Returns a consensus for each particle, ``[N, D]``, in chunks of its rows.

        Args:
            positions: ``x``, ``[N, D]``.
            points: ``x_j``, ``[N, D]``.
            logs: ``-alpha f_j``, ``[N]``, -inf for failures.
            alpha: the exponent of the kernel.
            fallback: ``[D]``, for a particle that sees no point.
            step: ``i32[]``.
        """
        width = schedules.at("width", self.width, step)

        def of_one(x: jax.Array) -> jax.Array:
            r = lengths(points - x)[:, 0] / width
            if self.shape == "gaussian":
                exponents = logs - alpha * r**2 / 2
            elif self.shape == "laplace":
                exponents = logs - alpha * r
            elif self.shape == "inverse_quadratic":
                exponents = logs - alpha * jnp.log1p(r**2)
            else:
                exponents = jnp.where(r <= 1, logs, -jnp.inf)
            highest = jnp.max(exponents)
            sees = jnp.isfinite(highest)
            weights = jnp.exp(exponents - jnp.where(sees, highest, 0))
            weights /= jnp.maximum(jnp.sum(weights), 1e-30)
            return jnp.where(sees, weighted_mean(weights, points), fallback)

        return lax.map(of_one, positions, batch_size=min(_CHUNK, len(positions)))
