"""Safetensors files: the tensors of a folder, read where they are used; and written."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.language_models.gguf_tokenizer import INSTALL
from gfopt.problems.language_models.hugging_face.config_file import read_json

INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "I8": np.int8,
    "I32": np.int32,
    "I64": np.int64,
}


class Tensor(NamedTuple):
    """A tensor that lies in a file.

    Attributes:
        name: of it.
        kind: its dtype, by the format's name.
        shape: of it.
        path: of the file.
        start: of its bytes.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    path: Path
    start: int

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return f"{self.name} of {self.path.name} ({self.kind} [{sizes}])"

    def read(self) -> np.ndarray:
        """Returns the tensor; its bytes are read when they are used."""
        dtype = np.dtype(_DTYPES[self.kind])
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        return np.memmap(self.path, dtype, "r", self.start, self.shape)

    def check(self, shape: tuple[int, ...], kinds: tuple[str, ...], why: str) -> None:
        """Rejects any other shape or dtype.

        Raises:
            ValueError: for it.
        """
        if self.shape != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(f"{self} must have shape [{expected}], {why}")
        if self.kind not in kinds:
            raise ValueError(f"{self} must have a dtype of {', '.join(kinds)}")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns all tensors of a folder: of the index, of one file, or of all files.

    Args:
        folder: with ``model.safetensors.index.json`` and the files that it names, or
            ``model.safetensors``, or else files ``*.safetensors``.

    Raises:
        ImportError: without the package ``safetensors``; it says what to install.
        ValueError: for a file that is missing, damaged, or has other tensors than the
            index says.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"folder must hold a whole model; got {folder} with adapter_config.json "
            "(merge the adapter into its model first)"
        )
    index, single = folder / INDEX, folder / "model.safetensors"
    named: dict[str, str] = {}
    if index.exists():
        named = _weight_map(index)
        paths = [folder / name for name in sorted(set(named.values()))]
    else:
        paths = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ValueError(f"folder must hold the weights, *.safetensors; got {folder}")
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"folder must hold {path.name}, which weight_map of {index} names; "
                "download it again"
            )
        for tensor in header_of(path):
            if tensor.name in tensors:
                other = tensors[tensor.name].path.name
                raise ValueError(
                    f"folder must hold each tensor once; got {tensor} and in {other}"
                )
            tensors[tensor.name] = tensor
    for name, file in named.items():
        if name not in tensors or tensors[name].path.name != file:
            raise ValueError(
                f"{folder / file} must hold {name}, as weight_map of {index} says; "
                "download both again"
            )
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) and Path(file).name == file
        for file in weight_map.values()
    ):
        raise ValueError(f"{index} must have weight_map, from tensors to file names")
    return weight_map


def header_of(path: Path) -> list[Tensor]:
    """Returns the tensors of one file, in the order of their names.

    Raises:
        ImportError: without the package ``safetensors``; it says what to install.
        ValueError: for a damaged file.
    """
    with checks.needed_by("load_safetensors", "safetensors", INSTALL):
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="np"):
            pass  # it checks the whole header
    except SafetensorError as error:
        raise ValueError(
            f"{path} must be a whole safetensors file; got one with: {error} "
            "(download it again)"
        ) from None
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return [
        Tensor(
            name,
            entry["dtype"],
            tuple(entry["shape"]),
            path,
            8 + size + entry["data_offsets"][0],
        )
        for name, entry in sorted(header.items())
    ]


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one file, and reads it again.

    Version 0.8 of the package writes arrays that are not contiguous in the wrong order,
    without a word: they are copied first.

    Raises:
        ImportError: without the package ``safetensors``; it says what to install.
        OSError: where the file does not have what was written.
    """
    with checks.needed_by("save_safetensors", "safetensors", INSTALL):
        from safetensors.numpy import save_file
    rows = {name: np.ascontiguousarray(leaf) for name, leaf in tensors.items()}
    save_file(rows, path, metadata={"format": "pt"})
    for tensor in header_of(path):
        written, wanted = (a.view(np.uint8) for a in (tensor.read(), rows[tensor.name]))
        if not np.array_equal(written, wanted):  # bit for bit
            raise OSError(f"{tensor} differs from what was written")
