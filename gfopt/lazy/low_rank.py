"""Low-rank lazy leaves: one base for all members, a thin change for each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from gfopt.jaxprs import Equation
from gfopt.lazy.lazy import Lazy, is_lazy, materialise
from gfopt.lazy.views import Dot, Index, View, prefix, slice_axis
from gfopt.pytree import pytree, static


@pytree(eq=False, repr=False)
class LowRank(Lazy):
    """A base matrix plus a product of two thin ones.

        value[s, row, col] = w[s, row, col] + sum_r a[s, row, r] b[s, col, r]

    A product costs that of the base, which all members share, plus two thin ones:
    ``x @ value = x @ w + (x @ a) @ b^T``. Stacked (``s``), row and column axes may each
    be any number of axes; they are told apart by the number of axes of ``w, a, b``.

    Args:
        w: ``float[..., R, C]``, the base, shared by all members; may be a lazy leaf.
        a: ``float[..., R, rank]``.
        b: ``float[..., C, rank]``.
        view: set by the operations on the leaf.

    Example:
        >>> LowRank(jnp.ones((3, 2)), jnp.ones((3, 1)), jnp.ones((2, 1))).materialise()
        Array([[2., 2.],
               [2., 2.],
               [2., 2.]], dtype=float32)
    """

    w: Any
    a: jax.Array
    b: jax.Array
    view: View | None = static(default=None)

    def storage_view(self) -> View:
        """Returns the view of the whole leaf."""
        shape = tuple(self.w.shape)
        return View(shape, tuple(range(len(shape))), jnp.dtype(self.w.dtype))

    @property
    def own_size(self) -> int:
        """The numbers in the factors."""
        return self.a.size + self.b.size

    def _split(self, axes: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Splits what belongs to the storage axes into stack, rows and columns."""
        w, a, b = tuple(self.w.shape), jnp.shape(self.a), jnp.shape(self.b)
        stack, rows = len(a) + len(b) - 2 - len(w), len(a) - 1
        fits = 0 <= stack <= rows and a[-1:] == b[-1:] and a[:-1] == w[:rows]
        if not fits or b[:-1] != w[:stack] + w[rows:]:
            raise ValueError(
                "a and b must be the factors of w: for w [..., R, C], a [..., R, rank] "
                f"and b [..., C, rank]; got shapes w {w}, a {a}, b {b}"
            )
        return list(axes[:stack]), list(axes[stack:rows]), list(axes[rows:])

    def storage_dense(self) -> jax.Array:
        """Returns ``w + a b^T``, in float32 or wider."""
        stack, rows, columns = self._split(range(self.w.ndim))
        dot = Dot(jnp.promote_types(self.dtype, jnp.float32))
        a, b = [*stack, *rows, -1], [*stack, *columns, -1]
        change = dot(self.a, a, self.b, b, [*stack, *rows, *columns])
        return materialise(self.w.astype(change.dtype)) + change

    def storage_slice(self, axis: int, start: Index, size: int) -> Self | None:
        """Cuts ``w``, and the factors that have this axis."""
        stack, rows, columns = self._split(range(self.w.ndim))
        a, b = self.a, self.b
        if is_lazy(self.w):
            w = self.w.slice(axis, start, size)
        else:
            w = slice_axis(self.w, axis, start, size)
        if w is None:
            return None
        if axis not in columns:
            a = slice_axis(a, axis, start, size)
        if axis not in rows:
            b = slice_axis(b, [*stack, *columns].index(axis), start, size)
        return dataclasses.replace(self, w=w, a=a, b=b).viewed(dims=w.shape)

    def storage_reshape(self, dims: tuple[int, ...]) -> Self | None:
        """Splits or merges axes within the stack, the rows and the columns."""
        stack, rows, _ = (math.prod(part) for part in self._split(self.layout.dims))
        i = prefix(dims, stack)
        j = None if i is None else prefix(dims[i:], rows)
        w = self.w.reshape(dims)
        if i is None or j is None or w is None:
            return None
        a = self.a.reshape(*dims[: i + j], self.a.shape[-1])
        b = self.b.reshape(*dims[:i], *dims[i + j :], self.b.shape[-1])
        leaf = dataclasses.replace(self, w=w, a=a, b=b)
        return leaf.viewed(dims=dims)

    def astype(self, dtype: DTypeLike) -> Self:
        """Casts the base, once for all members; the factors keep their precision."""
        leaf = dataclasses.replace(self, w=self.w.astype(dtype))
        return leaf.viewed(dtype=jnp.dtype(dtype))

    def times(self, factor: jax.Array) -> Self | None:
        """Scales the base and one factor."""
        w = self.w.times(factor) if is_lazy(self.w) else self.w * factor
        if w is None:
            return None
        return dataclasses.replace(self, w=w, a=self.a * factor)

    def contract(
        self,
        x: jax.Array,
        x_labels: Sequence[int],
        labels: Sequence[int],
        out: Sequence[int],
        dot: Dot,
    ) -> jax.Array:
        """Returns ``x w + (x a) b^T``, or ``x w^T + (x b) a^T``, or any such."""
        rank = -1
        stack, rows, columns = self._split(labels)
        factors = [
            (self.a, [*stack, *rows, rank], rows),
            (self.b, [*stack, *columns, rank], columns),
        ]
        # The factor with more to sum over goes first, and leaves a thin product.
        size = dict(zip(labels, self.layout.dims, strict=True))

        def summed(labels: list[int]) -> int:
            return math.prod(size[i] for i in labels if i in x_labels and i not in out)

        factors.sort(key=lambda factor: -summed(factor[2]))
        (p, p_labels, _), (q, q_labels, _) = factors
        kept = [i for i in x_labels if i in out or i in q_labels or i not in p_labels]
        kept += [i for i in p_labels if i not in x_labels]
        wide = dot.wide()
        thin = wide(x, x_labels, p, p_labels, kept)
        change = wide(thin, kept, q, q_labels, out)
        if is_lazy(self.w):
            base = self.w.contract(x, x_labels, self.w.stored(labels), out, wide)
        else:
            base = wide(x, x_labels, self.w, labels, out)
        return (base + change).astype(dot.dtype)

    def convolve(self, x: jax.Array, eqn: Equation) -> jax.Array | None:
        """Returns ``conv(x, w) + conv(x, a) b^T``, if ``b`` has the output features.

        Or the same with ``a`` and ``b`` exchanged, if ``a`` has them.
        """
        numbers, order = eqn["dimension_numbers"], self.layout.order
        groups = eqn["feature_group_count"] * eqn["batch_group_count"]
        stack, rows, columns = self._split(range(self.w.ndim))
        outputs = [order[numbers.rhs_spec[0]]]
        if groups != 1 or stack or outputs not in (rows, columns):
            return None
        # the rank stands where the output features stood
        thin, wide = self.a, self.b
        if outputs != columns:
            thin, wide = jnp.moveaxis(self.b, -1, 0), self.a

        def product(kernel: jax.Array) -> jax.Array:
            kernel = lax.transpose(kernel, order).astype(self.dtype)
            return eqn.bind([x, kernel])[0]

        if is_lazy(self.w):
            base = self.w.transpose(order).convolve(x, eqn)
            if base is None:
                return None
        else:
            base = product(self.w)
        axis = numbers.out_spec[1]
        change = jnp.tensordot(product(thin), wide, ((axis,), (1,)))
        return (base + jnp.moveaxis(change, -1, axis)).astype(base.dtype)
