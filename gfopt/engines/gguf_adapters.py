"""Adapters in GGUF's format, which llama.cpp reads.

    general.type = "adapter",  adapter.type = "lora",  adapter.lora.alpha
    blk.<layer>.<matrix>.weight.lora_a [rank, in],  .lora_b [out, rank]

A change is ``alpha / rank`` times ``B A``; ours is written with ``alpha = rank``. The
rows of ``B`` are in the order of the base file's: for the architecture llama as here,
for others, such as qwen2, with a head's halves apart.

Source: the loader ``src/llama-adapter.cpp`` and the converter
``convert_lora_to_gguf.py`` of the repository ggml-org/llama.cpp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gfopt import checks
from gfopt.engines.adapters import Adapter, by_layer, rank_of
from gfopt.engines.peft_files import by_head
from gfopt.problems.language_models.gguf_fields import KINDS
from gfopt.problems.language_models.gguf_model import LAYER_NAMES
from gfopt.problems.language_models.llama import Llama
from gfopt.problems.language_models.rotary import halves
from gfopt.quantization.gguf_files import INSTALL

MATRICES = {ours: theirs for theirs, ours in LAYER_NAMES.items()}


def save_gguf_adapter(
    adapter: Adapter, path: str | Path, model: Llama, *, architecture: str = "llama"
) -> None:
    """Writes an adapter as llama.cpp reads them, in float32.

    Args:
        adapter: the change.
        path: of the file.
        model: the forward pass, which knows the number of heads.
        architecture: of the base file, its ``general.architecture``.

    Raises:
        ImportError: without the package ``gguf``; it says what to install.
        TypeError, ValueError: for what is no adapter, or another architecture.

    Example:
        >>> import tempfile
        >>> from gfopt.engines import new_adapter
        >>> weights = {"layers": {"query": np.ones((2, 8, 4), np.float32)}}
        >>> adapter = new_adapter(weights, targets=["query"])
        >>> model = Llama(num_heads=2, num_key_value_heads=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_gguf_adapter(adapter, Path(folder) / "adapter.gguf", model)
    """
    checks.one_of("architecture", architecture, KINDS)
    rank = rank_of(adapter)
    with checks.needed_by("save_gguf_adapter", "gguf", INSTALL):
        import gguf
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for name, number, a, b in by_layer(adapter):
        rows = b if architecture == "llama" else by_head(halves, name, b, model)
        start = f"blk.{number}.{MATRICES[name]}.weight"
        writer.add_tensor(f"{start}.lora_a", np.ascontiguousarray(a))
        writer.add_tensor(f"{start}.lora_b", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
