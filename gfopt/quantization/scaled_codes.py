"""Matrices of codes with scales, as files have them, as ``Quantized`` leaves.

    int8       value = scale * code
    float8     value = scale * float8[code]       a codebook of all 256 values
    packed     value = scale * (code - 2^(bits - 1)),   4 or 8 bits in words of 32

The scales are for the whole matrix, for each row, for groups along a row, or for blocks
of rows and columns; here each row has its own.
"""

from __future__ import annotations

import numpy as np

from gfopt.quantization.quantized import Quantized, packed, whole_bytes
from gfopt.types import Array


def scaled_codes(
    name: str,
    codes: Array,
    scales: Array,
    block: tuple[int, int] | None = None,
) -> Quantized:
    """Returns a matrix as a lazy leaf.

    Args:
        name: of the matrix, for messages.
        codes: ``[out, in]`` of int8, float8_e4m3fn or float8_e5m2.
        scales: floating-point: one number, ``[out]``, or ``[out, groups]``; with a
            block, one for each block.
        block: rows and columns that share a scale; those at the edges may be smaller.

    Raises:
        ValueError: for scales that do not fit the codes, or codes and scales that are
            not finite.

    Example:
        >>> leaf = scaled_codes("w", np.int8([[2, -4], [6, 1]]), np.float32([0.5, 2]))
        >>> leaf, leaf.materialise().tolist()
        (Quantized(float32[2,2]), [[1.0, -2.0], [12.0, 2.0]])
    """
    table = None
    numbers = np.asarray(codes).view(np.uint8)
    if codes.dtype == np.int8:
        numbers = numbers ^ np.uint8(0x80)  # signed to above 0
    else:
        table = np.arange(256, dtype=np.uint8).view(codes.dtype).astype(np.float32)
        if not np.all(np.isfinite(table[numbers])):
            raise ValueError(f"{name} must have finite codes; got infinity or NaN")
        table = np.where(np.isfinite(table), table, 0)
    return _leaf(name, numbers, scales, block, codebook=table, bits=8)


def packed_codes(
    name: str,
    words: Array,
    scales: Array,
    block: tuple[int, int] | None = None,
    *,
    bits: int,
    columns: int,
) -> Quantized:
    """Returns a matrix whose codes are packed in words, the first in the lowest bits.

    Args:
        name: of the matrix, for messages.
        words: ``int32[out, in * bits / 32]``; the last of a row may be filled up.
        scales: as those of ``scaled_codes``.
        block: as that of ``scaled_codes``.
        bits: of a code, 4 or 8.
        columns: of the matrix, ``in``.

    Raises:
        ValueError: for scales that do not fit the codes or are not finite.

    Example:
        >>> words = np.int32([[0x5A79]])
        >>> leaf = packed_codes("w", words, np.float32([2]), bits=4, columns=4)
        >>> leaf.materialise().tolist()
        [[2.0, -2.0, 4.0, -6.0]]
    """
    codes = np.ascontiguousarray(words).view(np.uint8)
    if bits == 4:
        pairs = np.stack([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1)
        codes = pairs.reshape(len(codes), -1)
    return _leaf(name, codes[:, :columns], scales, block, codebook=None, bits=bits)


def _leaf(
    name: str,
    codes: np.ndarray,
    scales: Array,
    block: tuple[int, int] | None,
    *,
    codebook: np.ndarray | None,
    bits: int,
) -> Quantized:
    """Returns the leaf of codes above 0, one a byte."""
    rows, columns = codes.shape
    wide = np.asarray(scales).astype(np.float32)
    if block is not None:
        tall, group = block
        fits = wide.shape == (-(-rows // tall), -(-columns // group))
    else:
        if wide.size == 1:
            wide = np.full((rows, 1), wide.reshape(()))
        wide = wide[:, None] if wide.ndim == 1 else wide
        tall, group = 1, columns
        fits = wide.ndim == 2 and len(wide) == rows and wide.shape[1] > 0
        if fits:
            group = columns // wide.shape[1]
            fits = group * wide.shape[1] == columns
    least = whole_bytes(bits)
    if wide.ndim == 2 and wide.shape[1] == 1:
        group += -group % least  # the padding has no other scale
    if not fits or group % least:
        raise ValueError(
            f"the scales of {name} must be one number, or one for each row, group or "
            f"block{f' {block}' if block else ''} of its {rows} x {columns} codes; "
            f"got shape {np.shape(scales)}"
        )
    if not np.all(np.isfinite(wide)):
        raise ValueError(f"{name} must have finite scales; got infinity or NaN")
    wide = np.repeat(wide, tall, axis=0)[:rows]
    codes = np.pad(codes, [(0, 0), (0, wide.shape[1] * group - columns)])
    grouped = packed(codes.reshape(rows, -1, group), bits)
    return Quantized(
        grouped.reshape(rows, -1),
        wide,
        codebook=codebook,
        columns=columns,
        group_size=group,
        bits=bits,
    )
