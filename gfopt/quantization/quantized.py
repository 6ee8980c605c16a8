"""Quantized lazy leaves: integer codes of a few bits, real scales for groups of them.

    value = scale * (code - zero) + minimum        or       scale * codebook[code]

with ``scale * subscale`` in place of ``scale`` where scales have two levels, and the
same for the minimum.

The codes are packed, and frozen unless they are what is searched; the scales are
ordinary trainable numbers. A product makes a block of rows dense at a time, never the
matrix. Both may be lazy leaves themselves: perturbed ones are drawn where they are
used, at no memory.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.lazy.lazy import RowBlocks, is_lazy, materialise
from gfopt.lazy.views import Index, View, rows_view, slice_axis
from gfopt.pytree import pytree, static
from gfopt.types import Array, PyTree

BITS = (2, 4, 5, 6, 8)


@pytree(eq=False, repr=False)
class Quantized(RowBlocks):
    """Weights as packed integer codes and a scale for each group, for any JAX model.

    ``gfopt.quantization.quantize`` makes it. As constructed, one axis is cut into
    groups and stored last, all others are its rows ``R``.

    Args:
        codes: ``uint8[R..., G * group_size * bits / 8]``. A byte holds ``8 / bits``
            codes, the lowest bits first; with two of them, it is a number of the first
            and one of the second half of a group, as in GGUF files. Of 5 and 6 bits
            come first the lowest four, packed as such, and then the rest. Or a lazy
            leaf of that shape.
        scales: ``float[R..., G]``, or a lazy leaf of that shape.
        zeros: ``uint8[R..., G]``, the codes that mean 0; None for ``2**(bits - 1)``, or
            for 0 where there are minima.
        minima: ``float[R..., G]``, added to what a code means; None for 0.
        codebook: ``float[2**bits]``, what the codes mean before the scale; None for
            themselves.
        subscales: ``uint8`` or ``int8[R..., G]``, each multiplies the scale of its
            group; ``scales`` and ``minima`` then are ``[R..., S]``, each for ``G / S``
            groups. None for 1.
        subminima: the same for the minima.
        columns: length of the axis that is cut into groups; the last may be padded.
        group_size: codes that share a scale.
        bits: of a code, 2, 4, 5, 6 or 8.
        axis: which axis of the weights is cut into groups.
        type: the weights' dtype.
        gain: ``float[]``, multiplies the whole value; set by ``times``.
        offset: the first row that is seen; set by slicing.
        view: set by the operations on the leaf.

    Raises:
        ValueError: for another number of bits.

    Example:
        >>> leaf = Quantized(jnp.uint8([[0x9A], [0x70]]), jnp.array([[0.5], [2.0]]),
        ...                  columns=2, group_size=2)
        >>> leaf, leaf.materialise().tolist()
        (Quantized(float32[2,2]), [[1.0, 0.5], [-16.0, -2.0]])
    """

    codes: PyTree
    scales: PyTree
    zeros: Array | None = None
    minima: Array | None = None
    codebook: Array | None = None
    subscales: Array | None = None
    subminima: Array | None = None
    columns: int = static(kw_only=True)
    group_size: int = static(kw_only=True)
    bits: int = static(default=4, kw_only=True)
    axis: int = static(default=-1, kw_only=True)
    type: str = static(default="float32", kw_only=True)
    gain: jax.Array | None = None
    offset: Index | None = None
    view: View | None = static(default=None)

    frozen_parts: ClassVar[frozenset[str]] = frozenset(
        {"codes", "zeros", "codebook", "subscales", "subminima"}
    )
    scale_parts: ClassVar[frozenset[str]] = frozenset({"scales"})
    code_parts: ClassVar[frozenset[str]] = frozenset({"codes"})

    def __post_init__(self) -> None:
        checks.one_of("bits", self.bits, BITS)

    @property
    def is_whole(self) -> bool:
        """Whether both codes and scales are there; ``partition`` takes them apart."""
        return self.codes is not None and self.scales is not None

    def __repr__(self) -> str:
        if self.is_whole and hasattr(self.codes, "shape"):
            return super().__repr__()
        fields = dataclasses.fields(self)
        names = [field.name for field in fields if not field.metadata.get("static")]
        parts = [name for name in names if getattr(self, name) is not None]
        return f"Quantized({', '.join(parts)})"

    def storage_view(self) -> View:
        """Returns the view of the whole leaf, the axis with the groups stored last."""
        dims = (*self.codes.shape[:-1], self.columns)
        view = rows_view(dims, self.type)
        order = [*range(len(dims) - 1)]
        order.insert(self.axis % len(dims), len(dims) - 1)
        return view._replace(order=tuple(order))

    def block(self, start: Index, num_rows: int) -> jax.Array:
        """Returns rows of the weights, in float32 or wider."""

        def part(array: Array) -> jax.Array:
            rows = jnp.reshape(array, (-1, array.shape[-1]))
            return slice_axis(rows, 0, start, num_rows)

        def wide(array: jax.Array) -> jax.Array:
            return array.astype(jnp.promote_types(self.scales.dtype, jnp.float32))

        def by_group(array: jax.Array, factors: Array | None) -> jax.Array:
            if factors is None:
                return array
            whole = wide(part(factors)).reshape(*array.shape, -1)
            return (array[..., None] * whole).reshape(num_rows, -1)

        scales = by_group(wide(_rows(self.scales, start, num_rows)), self.subscales)
        packed = _rows(self.codes, start, num_rows)
        codes = unpacked(packed.reshape(num_rows, scales.shape[1], -1), self.bits)
        if self.codebook is not None:
            value = jnp.asarray(self.codebook).astype(scales.dtype)[codes]
        elif self.zeros is not None:
            value = codes.astype(scales.dtype) - wide(part(self.zeros))[..., None]
        else:
            zero = 0 if self.minima is not None else 1 << (self.bits - 1)
            value = (codes.astype(jnp.int32) - zero).astype(scales.dtype)
        value = value * scales[..., None]
        if self.minima is not None:
            minima = by_group(wide(part(self.minima)), self.subminima)
            value = value + minima[..., None]
        value = value.reshape(num_rows, -1)[:, : self.columns]
        return value if self.gain is None else value * self.gain.astype(value.dtype)

    def times(self, factor: jax.Array) -> Quantized:
        """Multiplies each block once it is made."""
        gain = factor if self.gain is None else factor * self.gain
        return dataclasses.replace(self, gain=gain)


def _rows(part: PyTree, start: Index, num_rows: int) -> jax.Array:
    """Returns rows of codes or scales; of lazy ones no others, if possible."""
    if is_lazy(part):
        rows = part.reshape((part.size // part.shape[-1], part.shape[-1]))
        piece = None if rows is None else rows.slice(0, start, num_rows)
        if piece is not None:
            return piece.materialise()
    whole = materialise(part)
    return slice_axis(whole.reshape(-1, whole.shape[-1]), 0, start, num_rows)


def whole_bytes(bits: int) -> int:
    """Returns how many codes, at least, fill whole bytes."""
    return 8 // math.gcd(8, bits)


def unpacked(codes: PyTree, bits: int) -> PyTree:
    """Returns the codes in the bytes of a group: ``uint8[..., n * 8 / bits]``.

    Example:
        >>> unpacked(jnp.uint8([0x21, 0x43]), 4).tolist()
        [1, 3, 2, 4]
    """
    if bits == 8:
        return codes
    if bits in (5, 6):
        low = codes.shape[-1] * 4 // bits
        high = unpacked(codes[..., low:], bits - 4) << np.uint8(4)
        return unpacked(codes[..., :low], 4) | high
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts = codes[..., None, :] >> shifts & np.uint8(2**bits - 1)
    return parts.reshape(*codes.shape[:-1], -1)


def packed(codes: PyTree, bits: int) -> PyTree:
    """Returns the bytes of a group's codes, the inverse of ``unpacked``.

    Example:
        >>> [hex(byte) for byte in packed(jnp.uint8([1, 3, 2, 4]), 4).tolist()]
        ['0x21', '0x43']
    """
    if bits == 8:
        return codes
    if bits in (5, 6):
        low, high = codes & np.uint8(15), codes >> np.uint8(4)
        joined = np.concatenate if isinstance(codes, np.ndarray) else jnp.concatenate
        return joined([packed(low, 4), packed(high, bits - 4)], axis=-1)
    per_byte = 8 // bits
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts = codes.reshape(*codes.shape[:-1], per_byte, -1) << shifts
    return parts.sum(axis=-2, dtype=np.uint8)  # the bits don't overlap
