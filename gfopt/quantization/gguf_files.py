"""Quantized weights of GGUF files, read and written as they are: never made dense.

``gguf_blocks`` has the types that are computed. Scales become float32, in which
training takes small steps; a file takes them rounded to float16 again, so what was only
read is written back to the same bits. Where scales have two levels, those of the blocks
are the ones that training moves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gfopt import checks
from gfopt.lazy.lazy import Lazy
from gfopt.quantization.gguf_blocks import LAYOUTS, Parts, blocks_of, parts_of
from gfopt.quantization.quantized import Quantized
from gfopt.types import PyTree

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

INSTALL = "pip install 'gfopt[lm]'"
_PLAIN: dict[str, DTypeLike] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
}


def open_gguf(path: str | os.PathLike[str]) -> GGUFReader:
    """Returns a reader of the package ``gguf``.

    Raises:
        ImportError: without the package; it says what to install.
        ValueError: for a file that is missing, damaged, or of another format.
    """
    with checks.needed_by("load_gguf", "gguf", INSTALL):
        import gguf
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"path must lead to a GGUF file; got {path}, which is none")

    class Reader(gguf.GGUFReader):
        """Reads nothing behind the end: a list may claim any length."""

        def _get(self, *where: Any, **order: Any) -> Any:
            found = super()._get(*where, **order)
            count = where[2] if len(where) > 2 else order.get("count", 1)
            if len(found) < count:
                raise ValueError("it ends within its fields")
            return found

    with checks.whole_file("GGUF file", path):
        reader = Reader(path)
    if reader.byte_order != "I":
        raise ValueError(
            f"path must lead to a file in this machine's byte order; got {path} "
            "(gguf-convert-endian turns it)"
        )
    parts = reader.fields.get("split.count")
    if parts is not None and parts.contents() > 1:
        raise ValueError(
            f"path must lead to a whole model; got {path}, one of {parts.contents()} "
            "parts (llama-gguf-split --merge joins them)"
        )
    return reader


def shape_of(tensor: ReaderTensor) -> tuple[int, ...]:
    """Returns the shape of a reader's tensor, ``[out, in]`` of a matrix."""
    return tuple(map(int, reversed(tensor.shape)))


def read_tensors(reader: GGUFReader) -> dict[str, PyTree]:
    """Returns the tensors of a file by name.

    Args:
        reader: of ``open_gguf``.

    Returns:
        ``Quantized`` leaves, and NumPy arrays for what is not quantized, with the
        shapes of the file's matrices, ``[out, in]``.

    Raises:
        ValueError: for a tensor of another type.
    """
    with checks.whole_file("GGUF file", str(reader.data.filename)):
        return {tensor.name: _read(tensor) for tensor in reader.tensors}


def dense_tensors(reader: GGUFReader) -> dict[str, np.ndarray]:
    """Returns the tensors of a file by name, all of them dense in float32.

    Args:
        reader: of ``open_gguf``.

    Raises:
        ValueError: for a type that the package ``gguf`` does not read.
    """
    from gguf.quants import dequantize

    found = {}
    for tensor in reader.tensors:
        try:
            dense = dequantize(tensor.data, tensor.tensor_type)
        except RuntimeError:  # of a type that is not implemented
            raise ValueError(
                "path must lead to a file with tensors of types that the package gguf "
                f"reads; got {tensor.tensor_type.name} for {tensor.name}"
            ) from None
        found[tensor.name] = np.asarray(dense, np.float32).reshape(shape_of(tensor))
    return found


def _read(tensor: ReaderTensor) -> PyTree:
    kind, shape = tensor.tensor_type.name, shape_of(tensor)
    if kind in _PLAIN:
        return np.array(tensor.data).view(_PLAIN[kind]).reshape(shape)
    if kind not in LAYOUTS:
        known = ", ".join((*LAYOUTS, *_PLAIN))
        raise ValueError(
            f"path must lead to a file with tensors of the types {known}; "
            f"got {kind} for {tensor.name}"
        )
    layout = LAYOUTS[kind]
    count = shape[-1] // layout.size
    blocks = np.asarray(tensor.data).reshape(*shape[:-1], count, -1)
    parts = parts_of(kind, blocks)
    return Quantized(
        parts.codes,
        parts.scales.astype(np.float32),
        minima=parts.minima,
        subscales=parts.subscales,
        subminima=parts.subminima,
        columns=shape[-1],
        group_size=layout.group,
        bits=layout.bits,
    )


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, PyTree], like: GGUFReader
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
    source = Path(str(like.data.filename))
    shutil.copyfile(source, path)
    with Path(path).open("r+b") as file:
        for name, data in parts.items():
            file.seek(int(known[name].data_offset))
            file.write(data)


def _written(tensor: ReaderTensor, value: PyTree, name: str) -> bytes:
    kind, shape = tensor.tensor_type.name, shape_of(tensor)
    is_quantized = isinstance(value, Lazy)
    if tuple(value.shape) != shape or is_quantized != (kind in LAYOUTS):
        raise ValueError(f"{name} must be a {kind} tensor of {shape}; got {value!r}")
    if not is_quantized:
        return np.asarray(value).astype(_PLAIN[kind]).tobytes()
    layout = LAYOUTS[kind]
    fits = (value.bits, value.group_size) == (layout.bits, layout.group)
    fits &= (value.minima is not None) == layout.has_minima
    fits &= (value.subscales is not None) == bool(layout.num_sub)
    fits &= value.gain is None and value.zeros is None and value.codebook is None
    if not fits:
        raise ValueError(f"{name} must be quantized as {kind}; got {value!r}")
    with np.errstate(over="ignore"):
        scales = np.asarray(value.scales).astype("<f2")
        minima = np.asarray(value.minima if layout.has_minima else 0).astype("<f2")
    if not (np.all(np.isfinite(scales)) and np.all(np.isfinite(minima))):
        raise ValueError(f"{name} must have scales that float16 can hold")
    sub = (value.subscales, value.subminima)
    parts = Parts(np.asarray(value.codes), scales, minima, *map(_as_array, sub))
    return blocks_of(kind, parts).tobytes()


def _as_array(part: PyTree) -> np.ndarray | None:
    return None if part is None else np.asarray(part)
