"""Matrices of 8-bit codes with scales, as files have them, as ``Quantized`` leaves.

    int8       value = scale * code
    float8     value = scale * float8[code]       a codebook of all 256 values

The scales are for the whole matrix, for each row, for groups along a row, or for blocks
of rows and columns; here each row has its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gfopt.quantization.quantized import Quantized


def scaled_codes(
    name: str, codes: Any, scales: Any, block: tuple[int, int] | None = None
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
    rows, columns = codes.shape
    wide = np.asarray(scales).astype(np.float32)
    if block is not None:
        tall, group = block
        expected = (-(-rows // tall), -(-columns // group))
        fits = wide.shape == expected
    else:
        if wide.size == 1:
            wide = np.full((rows, 1), wide.reshape(()))
        wide = wide[:, None] if wide.ndim == 1 else wide
        tall, group = 1, columns
        fits = wide.ndim == 2 and len(wide) == rows and wide.shape[1] > 0
        if fits:
            group = columns // wide.shape[1]
            fits = group * wide.shape[1] == columns
    if not fits:
        raise ValueError(
            f"the scales of {name} must be one number, or one for each row, group or "
            f"block{f' {block}' if block else ''} of its {rows} x {columns} codes; "
            f"got shape {np.shape(scales)}"
        )
    wide = np.repeat(wide, tall, axis=0)[:rows]
    table = None
    numbers = np.asarray(codes).view(np.uint8)
    if codes.dtype == np.int8:
        numbers = numbers ^ np.uint8(0x80)  # signed to above 0
    else:
        table = np.arange(256, dtype=np.uint8).view(codes.dtype).astype(np.float32)
        if not np.all(np.isfinite(table[numbers])):
            raise ValueError(f"{name} must have finite codes; got infinity or NaN")
        table = np.where(np.isfinite(table), table, 0)
    if not np.all(np.isfinite(wide)):
        raise ValueError(f"{name} must have finite scales; got infinity or NaN")
    numbers = np.pad(numbers, [(0, 0), (0, wide.shape[1] * group - columns)])
    return Quantized(
        numbers, wide, codebook=table, columns=columns, group_size=group, bits=8
    )
