"""Quantized weights of GGUF files, read and written as they are: never made dense.

Types by their blocks of 32 weights, little-endian:

    Q4_0  d, 16 bytes of two codes           w = d (code - 8)
    Q4_1  d, m, 16 bytes of two codes        w = d code + m
    Q8_0  d, 32 signed bytes                 w = d code

with ``d`` and ``m`` in float16. The scales become float32, in which training takes
small steps; a file takes them rounded to float16 again, so what was only read is
written back to the same bits.

Source: the format's reference, ``docs/gguf.md`` of the repository ggml-org/ggml.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfopt.core.lazy import Lazy
from gfopt.quantization.quantized import Quantized

INSTALL = "pip install 'gfopt[lm]'"
GROUP = 32
# bits, float16 numbers before the codes
_TYPES = {"Q4_0": (4, 1), "Q4_1": (4, 2), "Q8_0": (8, 1)}
_PLAIN = {"F32": np.float32, "F16": np.float16}


def open_gguf(path: str | os.PathLike[str]) -> Any:
    """Returns a reader of the package ``gguf``.

    Raises:
        ImportError: without the package; it says what to install.
    """
    try:
        import gguf
    except ImportError:
        raise ImportError(f"GGUF files need the package gguf: {INSTALL}") from None
    return gguf.GGUFReader(Path(path))


def read_tensors(reader: Any) -> dict[str, Any]:
    """Returns the tensors of a file by name.

    Args:
        reader: of ``open_gguf``.

    Returns:
        ``Quantized`` leaves, and NumPy arrays for what is not quantized, with the
        shapes of the file's matrices, ``[out, in]``.

    Raises:
        ValueError: for a tensor of another type.
    """
    return {tensor.name: _read(tensor) for tensor in reader.tensors}


def _read(tensor: Any) -> Any:
    kind = tensor.tensor_type.name
    shape = tuple(map(int, reversed(tensor.shape)))
    if kind in _PLAIN:
        return np.array(tensor.data, _PLAIN[kind]).reshape(shape)
    if kind not in _TYPES:
        known = ", ".join((*_TYPES, *_PLAIN))
        raise ValueError(
            f"path must lead to a file with tensors of the types {known}; "
            f"got {kind} for {tensor.name}"
        )
    bits, num_numbers = _TYPES[kind]
    blocks = np.asarray(tensor.data).reshape(*shape[:-1], shape[-1] // GROUP, -1)
    numbers, codes = np.split(blocks, [2 * num_numbers], axis=-1)
    numbers = np.ascontiguousarray(numbers).view("<f2")
    codes = codes.reshape(*shape[:-1], -1)
    return Quantized(
        codes ^ np.uint8(0x80) if bits == 8 else codes,  # signed to above 0
        numbers[..., 0].astype(np.float32),
        minima=numbers[..., 1] if num_numbers == 2 else None,
        columns=shape[-1],
        group_size=GROUP,
        bits=bits,
    )


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], like: Any
) -> None:
    """Writes a file with other numbers in it, of the same types and metadata.

    Args:
        path: of the new file.
        tensors: as ``read_tensors`` returns them; those that are missing are copied.
        like: reader of the file that is copied, of ``open_gguf``.

    Raises:
        ValueError: for an unknown name, another shape or type, or a scale that float16
            can't hold.
    """
    known = {tensor.name: tensor for tensor in like.tensors}
    for name in tensors:
        if name not in known:
            raise ValueError(f"tensors must have names of the file; got {name!r}")
    parts = {
        name: _written(known[name], tensor, name) for name, tensor in tensors.items()
    }
    source = Path(like.data.filename)
    shutil.copyfile(source, path)
    with Path(path).open("r+b") as file:
        for name, data in parts.items():
            file.seek(int(known[name].data_offset))
            file.write(data)


def _written(tensor: Any, value: Any, name: str) -> bytes:
    kind, shape = tensor.tensor_type.name, tuple(map(int, reversed(tensor.shape)))
    is_quantized = isinstance(value, Lazy)
    if tuple(value.shape) != shape or is_quantized != (kind in _TYPES):
        raise ValueError(f"{name} must be a {kind} tensor of {shape}; got {value!r}")
    if not is_quantized:
        return np.asarray(value, _PLAIN[kind]).tobytes()
    bits, num_numbers = _TYPES[kind]
    has_minima = value.minima is not None
    if value.bits != bits or has_minima != (num_numbers == 2) or value.gain is not None:
        raise ValueError(f"{name} must be quantized as {kind}; got {value!r}")
    with np.errstate(over="ignore"):
        numbers = [np.asarray(value.scales).astype("<f2")]
        if has_minima:
            numbers.append(np.asarray(value.minima).astype("<f2"))
    if not all(np.all(np.isfinite(part)) for part in numbers):
        raise ValueError(f"{name} must have scales that float16 can hold")
    groups = (*shape[:-1], shape[-1] // GROUP, -1)
    codes = np.asarray(value.codes)
    codes = (codes ^ np.uint8(0x80) if bits == 8 else codes).reshape(groups)
    heads = np.stack(numbers, axis=-1).view(np.uint8).reshape(groups)
    return np.concatenate([heads, codes], axis=-1).tobytes()
