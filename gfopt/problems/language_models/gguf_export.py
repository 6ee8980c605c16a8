"""Changed weights as a new GGUF file, of whatever type its matrices are to have."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gfopt import checks
from gfopt.lazy.lazy import materialise
from gfopt.problems.language_models.gguf_model import named_tensors
from gfopt.quantization import gguf_files
from gfopt.types import PyTree

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")


def export_gguf(
    weights: PyTree, path: str | Path, like: str | Path, *, kind: str = "F16"
) -> None:
    """Writes a model with other weights: merged with an adapter, or trained.

    ``save_gguf`` is for weights that are still quantized as the file has them. Here
    they are rounded anew: changes that are smaller than a type's steps get lost in it.

    Args:
        weights: dense, or with lazy leaves, which are made dense.
        path: of the new file.
        like: file with the same model, whose metadata it gets.
        kind: type of the matrices: F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1 or Q4_0.
            Vectors are float32.

    Raises:
        ImportError: without the package ``gguf``; it says what to install.
        ValueError: for another type, or weights that do not fit the file.
    """
    checks.one_of("kind", kind, KINDS)
    reader = gguf_files.open_gguf(like)
    import gguf

    tensors = named_tensors(
        materialise(weights), reader, {tensor.name: "" for tensor in reader.tensors}
    )
    shapes = {tensor.name: gguf_files.shape_of(tensor) for tensor in reader.tensors}
    writer = gguf.GGUFWriter(str(path), reader.fields[_ARCHITECTURE].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in (_ARCHITECTURE, _FILE_TYPE):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[kind]])
    matrix, vector = (gguf.GGMLQuantizationType[name] for name in (kind, "F32"))
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"weights must have what {like} calls {name}; got none")
        leaf = np.ascontiguousarray(tensors[name], np.float32)
        if leaf.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}; got {leaf.shape}")
        kind_of = matrix if leaf.ndim > 1 else vector
        data = gguf.quants.quantize(leaf, kind_of)
        writer.add_tensor(name, data, raw_dtype=kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_ARCHITECTURE, _FILE_TYPE = "general.architecture", "general.file_type"
_FILE_TYPES = {"F32": "ALL_F32"} | {kind: f"MOSTLY_{kind}" for kind in KINDS[1:]}
