"""Trees that the package Qwix quantized, as trees of ``Quantized`` leaves.

    Qwix   value = scale * (qvalue - zero_point),          -2^(bits - 1) <= qvalue
    here   value = scale * (code - zero),   code = qvalue + 2^(bits - 1)

Nothing is made dense and nothing is rounded: the values are the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import trees
from gfopt.quantization.quantized import BITS, Quantized, packed
from gfopt.types import PyTree


def from_qwix(params: PyTree) -> PyTree:
    """Returns a tree with ``Quantized`` leaves where Qwix has its own.

    Args:
        params: pytree with ``qwix.QArray`` leaves of 2, 4 or 8 bits, bare or as
            ``qwix.quantize_params`` wraps them; other leaves stay.

    Returns:
        The tree, for ``gfopt.partition`` and any model that takes arrays in its place.

    Raises:
        ImportError: without the package; it says what to install.
        ValueError: for a leaf whose scales are not for groups along one axis, or whose
            type is not an integer of that many bits.

    Example:
        >>> from_qwix({"bias": 1.0})
        {'bias': 1.0}
    """
    with checks.needed_by("from_qwix", "qwix", "pip install qwix"):
        from qwix import QArray

    def is_own(node: object) -> bool:
        return isinstance(getattr(node, "array", node), QArray)

    def leaf(path: tuple[object, ...], node: PyTree) -> PyTree:
        if not is_own(node):
            return node
        return _quantized(trees.path_name(path), getattr(node, "array", node))

    return jax.tree_util.tree_map_with_path(leaf, params, is_leaf=is_own)


def _quantized(name: str, array: Any) -> Quantized:
    kind = jnp.dtype(array.qtype)
    bits = jnp.iinfo(kind).bits if jnp.issubdtype(kind, jnp.signedinteger) else 0
    if bits not in BITS:
        raise ValueError(
            f"params must have codes of 2, 4 or 8 bits; got {kind.name} for {name!r}"
        )
    shape, parts = jnp.shape(array.qvalue), jnp.shape(array.scale)
    tiles = [size // part for size, part in zip(shape, parts, strict=True)]
    cut = [i for i, tile in enumerate(tiles) if tile > 1]
    axis, per_byte = cut[0] if cut else len(shape) - 1, 8 // bits
    group, columns = tiles[axis], shape[axis]
    if len(cut) > 1 or (group % per_byte and group != columns):
        raise ValueError(
            f"params must have scales for groups of {per_byte} codes or a multiple, "
            f"along one axis; got tiles of {tuple(tiles)} for {name!r}"
        )

    def grouped(part: Any) -> jax.Array:
        return jnp.moveaxis(jnp.asarray(part), axis, -1)

    half = 1 << (bits - 1)
    codes = (grouped(array.qvalue).astype(jnp.int32) + half).astype(jnp.uint8)
    codes = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, -columns % per_byte)])
    group += -group % per_byte
    rows = codes.shape[:-1]
    zeros = None
    if array.zero_point is not None:
        zeros = grouped(array.zero_point).astype(jnp.int32) + half
        checks.within(f"the zero points of {name!r}", zeros, 0, 2**bits - 1)
        zeros = zeros.astype(jnp.uint8)
    return Quantized(
        packed(codes.reshape(*rows, -1, group), bits).reshape(*rows, -1),
        grouped(array.scale),
        zeros,
        columns=columns,
        group_size=group,
        bits=bits,
        axis=axis,
        type=jnp.dtype(array.scale.dtype).name,
    )
