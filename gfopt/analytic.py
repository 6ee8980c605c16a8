"""Ridge regression that learns rows, and forgets them, one batch after the other.

What comes out is what one fit of all present rows gives, to rounding: nothing is
forgotten by accident, and what is taken back leaves no trace. So a classifier on frozen
features can learn new classes, and be made to unlearn samples, without its old data.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.pytree import pytree

__all__ = ["RecursiveRidge", "recursive_ridge"]


@pytree(eq=False)
class RecursiveRidge:
    """The ridge regression of all rows that were added and not removed.

    ``W = argmin |X W - Y|^2 + ridge |W|^2``, kept together with
    ``R = (X^T X + ridge I)^-1``. A step with ``B`` rows costs ``O(B d^2 + B^3)`` and
    needs no row of another step. Keep it in float64 (``jax.enable_x64``), in which
    hundreds of steps agree with one fit to some 1e-13; in float32 it is some 1e-4.

    Attributes:
        weights: ``[d, K]``, one column for each output.
        inverse: ``[d, d]``, the matrix ``R``.

    Source: Zhuang et al. (2022), "ACIL", NeurIPS, theorem 1 for ``add``;
    arXiv 2505.12239 (2025) for ``remove``, which is the same identity of Woodbury's
    with the sign turned.

    Example:
        >>> import gfopt, jax, jax.numpy as jnp
        >>> with jax.enable_x64(True):
        ...     x = jax.random.normal(jax.random.key(0), (30, 3))
        ...     y = x @ jnp.array([[1.0], [2.0], [3.0]])
        ...     model = gfopt.analytic.recursive_ridge(3, 1, ridge=1e-6)
        ...     for rows in (slice(0, 10), slice(10, 30)):
        ...         model = model.add(x[rows], y[rows])
        ...     without = model.remove(x[:10], y[:10])
        ...     model.weights.round(3).ravel().tolist()
        [1.0, 2.0, 3.0]
    """

    weights: jax.Array
    inverse: jax.Array

    def add(self, x: ArrayLike, y: ArrayLike) -> RecursiveRidge:
        """Learns rows.

        ``K = (I + X R X^T)^-1``, ``R <- R - R X^T K X R``,
        ``W <- W + R X^T (Y - X W)``

        Args:
            x: features ``[B, d]``.
            y: outputs ``[B, K]``, for a classifier ones and zeros.

        Raises:
            ValueError: for shapes that don't fit.
        """
        return self._changed(x, y, 1)

    def remove(self, x: ArrayLike, y: ArrayLike) -> RecursiveRidge:
        """Forgets rows that were added.

        ``K = (I - X R X^T)^-1``, ``R <- R + R X^T K X R``,
        ``W <- W - R X^T (Y - X W)``

        Args:
            x: features ``[B, d]``, as they were added.
            y: outputs ``[B, K]``, as they were added.

        Raises:
            ValueError: for shapes that don't fit, and, where the values are known, for
                rows that can't have been added: ``I - X R X^T`` is not positive
                definite. In a compiled program the result is NaN instead.
        """
        changed = self._changed(x, y, -1)
        inverse = checks.concrete(changed.inverse)
        if inverse is not None and not jnp.isfinite(inverse).all():
            raise ValueError(
                "x must hold rows that were added before, for I - X R X^T to be "
                f"positive definite; got {checks.shown(x)}"
            )
        return changed

    def _changed(self, x: ArrayLike, y: ArrayLike, sign: int) -> RecursiveRidge:
        x, y = self._rows("x", x, 0), self._rows("y", y, 1)
        if len(x) != len(y):
            raise ValueError(
                f"y must have a row for each of the {len(x)} of x; got {len(y)}"
            )
        projected = self.inverse @ x.T  # R X^T: [d, B]
        inner = jnp.eye(len(x), dtype=x.dtype) + sign * x @ projected
        factor = jax.scipy.linalg.cho_factor(inner, lower=True)
        gain = jax.scipy.linalg.cho_solve(factor, projected.T)  # K X R: [B, d]
        inverse = self.inverse - sign * projected @ gain
        # R X^T with the new R is R X^T K with the old one
        weights = self.weights + sign * gain.T @ (y - x @ self.weights)
        return RecursiveRidge(weights, (inverse + inverse.T) / 2)

    def _rows(self, name: str, given: ArrayLike, axis: int) -> jax.Array:
        rows = jnp.asarray(given, self.weights.dtype)
        width = self.weights.shape[axis]
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(f"{name} must be [B, {width}]; got {list(rows.shape)}")
        return rows

    def widened(self, num_outputs: int) -> RecursiveRidge:
        """Returns the regression with more outputs, 0 for all rows until now.

        Args:
            num_outputs: how many there are from now on, the old ones first.

        Raises:
            ValueError: for fewer than there are.
        """
        checks.integer("num_outputs", num_outputs, self.weights.shape[1])
        more = num_outputs - self.weights.shape[1]
        return RecursiveRidge(jnp.pad(self.weights, ((0, 0), (0, more))), self.inverse)

    def predict(self, x: ArrayLike) -> jax.Array:
        """Returns the outputs ``[B, K]`` of rows ``[B, d]``."""
        return self._rows("x", x, 0) @ self.weights


def recursive_ridge(
    num_features: int, num_outputs: int, ridge: ArrayLike = 0.1
) -> RecursiveRidge:
    """Makes a regression that has seen nothing: ``W = 0``, ``R = I / ridge``.

    Args:
        num_features: ``d``.
        num_outputs: ``K``.
        ridge: weight of ``|W|^2``; may be traced, so that it can be searched.

    Raises:
        ValueError: for a number out of range.

    Example:
        >>> import gfopt
        >>> gfopt.analytic.recursive_ridge(3, 2).weights.shape
        (3, 2)
    """
    checks.integer("num_features", num_features, 1)
    checks.integer("num_outputs", num_outputs, 0)
    checks.positive("ridge", ridge)
    weights = jnp.zeros((num_features, num_outputs))
    return RecursiveRidge(weights, jnp.eye(num_features) / ridge)
