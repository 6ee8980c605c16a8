"""Integer codes that step by seeds, where a layer uses them.

    delta = floor(sigma z) + 1  with probability sigma z - floor(sigma z),
            floor(sigma z)      else
    code' = code + sign * delta  where that is one of 0, ..., 2^bits - 1,  else code

The noise ``z`` and the words that round it are functions of the seed and of the place
of a code: any block of rows is made alone, and nothing is stored.

Source: Xu, Miikkulainen, Qiu (2026), arXiv 2602.03120: perturbations are rounded at
random, and one that would leave the range is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt.lazy.lazy import RowBlocks
from gfopt.lazy.views import Index, View, rows_view, slice_axis
from gfopt.noise import law, threefry
from gfopt.pytree import pytree, static
from gfopt.quantization.quantized import packed, unpacked


class Packing(NamedTuple):
    """How codes lie in bytes: by groups, ``bits`` each."""

    group_size: int
    bits: int

    def num_codes(self, num_bytes: int) -> int:
        """Returns how many codes are in so many bytes."""
        return num_bytes * 8 // self.bits

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the codes in an array of bytes."""
        return (*stored[:-1], self.num_codes(stored[-1]))

    def unpack(self, rows: jax.Array) -> jax.Array:
        """Returns the codes of rows: ``uint8[n, bytes]`` to ``int32[n, codes]``.

        Example:
            >>> Packing(2, 4).unpack(jnp.uint8([[0x21, 0x43]])).tolist()
            [[1, 2, 3, 4]]
        """
        groups = rows.reshape(rows.shape[0], -1, self.group_size * self.bits // 8)
        codes = unpacked(groups, self.bits).reshape(rows.shape[0], -1)
        return codes.astype(jnp.int32)

    def pack(self, codes: jax.Array) -> jax.Array:
        """Returns the rows of codes, the inverse of ``unpack``."""
        groups = codes.astype(jnp.uint8).reshape(codes.shape[0], -1, self.group_size)
        return packed(groups, self.bits).reshape(codes.shape[0], -1)


@pytree(eq=False, repr=False)
class Stepped(RowBlocks):
    """The packed codes of a ``Quantized`` leaf, some of them a step away.

    Args:
        codes: ``uint8[R..., bytes]``, shared by all members.
        seed: ``uint32[]``.
        sign: ``float[]``, 1 or -1.
        scale: ``float[]``, sigma, in codes.
        packing: of the codes.
        path_hash: crc32 of the leaf's path, ``trees.path_hash``.
        kind: of the noise, ``"gaussian"`` or ``"rademacher"``.
        offset: the first row that is seen; set by slicing.
        view: set by the operations on the leaf.

    Example:
        >>> codes, half = jnp.full((1, 8), 9, jnp.uint8), jnp.float32(0.5)
        >>> leaf = Stepped(codes, jnp.uint32(3), jnp.float32(1), half, Packing(8, 8))
        >>> sorted(set(leaf.materialise().ravel().tolist()))
        [8, 9, 10]
    """

    codes: jax.Array
    seed: jax.Array
    sign: jax.Array
    scale: jax.Array
    packing: Packing = static()
    path_hash: int = static(default=0)
    kind: str = static(default="rademacher")
    offset: Index | None = None
    view: View | None = static(default=None)

    def storage_view(self) -> View:
        """Returns the view of the whole leaf."""
        return rows_view(self.codes.shape, self.codes.dtype)

    def block(self, start: Index, num_rows: int) -> jax.Array:
        """Returns rows of packed codes: ``uint8[num_rows, bytes]``."""
        rows = self.codes.reshape(-1, self.codes.shape[-1])
        codes = self.packing.unpack(slice_axis(rows, 0, start, num_rows))
        place = self.path_hash, start, codes.shape
        delta = steps(self.kind, self.seed, self.scale, *place)
        delta = self.sign.astype(jnp.int32) * delta
        return self.packing.pack(codes + within(codes, delta, self.packing.bits))


def steps(
    kind: str,
    seed: jax.Array,
    scale: jax.Array,
    path_hash: int,
    start: Index,
    shape: tuple[int, ...],
) -> jax.Array:
    """Returns ``delta``: ``int32`` of a shape of rows, from a first row on."""
    z = law.noise_rows(kind, seed, path_hash, start, shape[0], shape[1])
    # the cipher's second words, which no noise is made of
    words = threefry.words(seed, path_hash, jnp.int32(start), shape[0], shape[1], 1)
    # both factors have 12 significant bits: the product is exact
    x = threefry.round_significant(scale.astype(jnp.float32)) * z
    whole = jnp.floor(x)
    up = threefry.uniform(words) < x - whole
    return whole.astype(jnp.int32) + up


def within(codes: jax.Array, delta: jax.Array, bits: int) -> jax.Array:
    """Returns the steps, 0 for those that would leave the range of the codes.

    Example:
        >>> within(jnp.array([0, 0, 14]), jnp.array([-1, 1, 2]), 4).tolist()
        [0, 1, 0]
    """
    new = codes + delta
    return jnp.where((new >= 0) & (new < 1 << bits), delta, 0)
