"""The law of noise on parameter trees: addressable, any block of rows drawn alone.

Element ``(row, column)`` of a leaf's noise is a function of the seed, the crc32 of the
leaf's **path**, the row and the column, and of nothing else,

    word(row, column) = threefry2x32(key=(seed, path), counter=(row, column))[0],

so equal-shaped leaves differ, adding a leaf does not reshuffle the rest, and eager,
jit, vmap, map and scan agree bit for bit. A leaf of shape ``[..., C]`` has ``C``
columns and the product of the rest as rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt.fusion import made_once
from gfopt.noise import threefry

# A long vector is laid out in rows of this width, so that it has blocks too.
VECTOR_COLUMNS = 4096


def _gaussian(words: jax.Array, columns: int) -> jax.Array:
    del columns  # a word to each
    return threefry.round_significant(threefry.normal(words))


def _rademacher(words: jax.Array, columns: int) -> jax.Array:
    # 32 signs to a draw: bit b of word w is the sign of column b * num_words + w
    rows, num_words = words.shape
    shift = lax.broadcasted_iota(jnp.uint32, (rows, 32, num_words), 1)
    sign = (words[:, None, :] << shift) & np.uint32(0x80000000)
    signs = lax.bitcast_convert_type(sign | np.uint32(0x3F800000), jnp.float32)
    return signs.reshape(rows, 32 * num_words)[:, :columns]


class _Kind(NamedTuple):
    """How many columns share a word, and what ``[rows, words]`` become."""

    columns_per_word: int
    values: Callable[[jax.Array, int], jax.Array]

    def num_words(self, columns: int) -> int:
        """Returns the words of a row."""
        return -(-columns // self.columns_per_word)


KINDS = {"gaussian": _Kind(1, _gaussian), "rademacher": _Kind(32, _rademacher)}


def layout(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the rows and columns in which a leaf of ``shape`` draws its noise."""
    if len(shape) >= 2:
        return int(np.prod(shape[:-1])), shape[-1]
    size = shape[0] if shape else 1
    columns = max(1, min(size, VECTOR_COLUMNS))
    return -(-size // columns), columns


def noise_rows(
    kind: str,
    seed: jax.Array,
    path_hash: int | jax.Array,
    row_start: jax.Array | int,
    num_rows: int,
    columns: int,
) -> jax.Array:
    """Draws the standard noise of a block of rows.

    Args:
        kind: ``"gaussian"`` or ``"rademacher"``.
        seed: ``uint32[]``.
        path_hash: crc32 of the leaf's path.
        row_start: first row, may be traced.
        num_rows: number of rows, static.
        columns: number of columns of the leaf, static.

    Returns:
        ``float32[num_rows, columns]``, rounded to 12 significant bits.

    Example:
        >>> seed = np.uint32(7)
        >>> whole = noise_rows("gaussian", seed, 99, 0, 8, 5)
        >>> bool((noise_rows("gaussian", seed, 99, 6, 2, 5) == whole[6:]).all())
        True
    """
    family, start = KINDS[kind], jnp.asarray(row_start, jnp.int32)
    words = threefry.words(seed, path_hash, start, num_rows, family.num_words(columns))
    if family.columns_per_word > 1:
        words = threefry.drawn_once(words, seed)
    return family.values(words, columns)


def noise_leaf(
    kind: str, seed: jax.Array, path_hash: int | jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Draws the noise of a whole leaf: ``float32[shape]``."""
    rows, columns = layout(shape)
    if kind == "gaussian" and len(shape) == 1:
        # the same, element by element: a slice of rows would be ten times slower
        index = lax.iota(jnp.uint32, shape[0])
        counter = index // np.uint32(columns), index % np.uint32(columns)
        key = (jnp.asarray(seed, jnp.uint32), jnp.asarray(path_hash, jnp.uint32))
        return threefry.round_significant(
            threefry.normal(threefry.encrypt(key, counter)[0])
        )
    noise = noise_rows(kind, seed, path_hash, 0, rows, columns)
    return noise.reshape(-1)[: math.prod(shape)].reshape(shape)


def noise_leaves(
    kind: str,
    seed: jax.Array,
    path_hashes: Sequence[int],
    shapes: Sequence[tuple[int, ...]],
) -> list[jax.Array]:
    """Draws the noise of several small leaves with one use of the cipher.

    The bits are those of ``noise_leaf``; one program is compiled and run for all.
    """
    if len(shapes) == 1:
        return [noise_leaf(kind, seed, path_hashes[0], shapes[0])]
    family = KINDS[kind]
    sizes = [(rows, family.num_words(columns)) for rows, columns in map(layout, shapes)]
    counts = list(map(math.prod, sizes))
    ends = np.cumsum([rows * columns for rows, columns in map(layout, shapes)])[:-1]
    path = np.repeat(np.array(path_hashes, np.uint32), counts)
    row, column = np.concatenate(
        [np.indices(size, np.uint32).reshape(2, -1) for size in sizes], axis=1
    )

    def draw(seed: jax.Array) -> jax.Array:
        words = threefry.encrypt((seed, path), (row, column))[0]
        if family.columns_per_word == 1:
            return family.values(words[None], 1)[0]
        parts = jnp.split(threefry.drawn_once(words, seed), np.cumsum(counts)[:-1])
        z = [
            family.values(part.reshape(size), layout(shape)[1]).reshape(-1)
            for part, size, shape in zip(parts, sizes, shapes, strict=True)
        ]
        return jnp.concatenate(z)

    # else XLA would compile the cipher into every slice
    z = jnp.split(made_once(draw, jnp.asarray(seed, jnp.uint32)), ends)
    return [
        part[: math.prod(shape)].reshape(shape)
        for part, shape in zip(z, shapes, strict=True)
    ]
