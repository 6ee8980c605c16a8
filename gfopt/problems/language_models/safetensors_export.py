"""Changed weights as a folder of Hugging Face, which transformers and vLLM read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.lazy.lazy import materialise
from gfopt.problems.language_models.hugging_face.config_file import (
    read_config,
    read_json,
)
from gfopt.problems.language_models.hugging_face.llama_config import (
    head_size,
    layer_names,
    shapes,
)
from gfopt.problems.language_models.hugging_face.tensor_files import write_tensors
from gfopt.problems.language_models.layer_stacks import unstacked
from gfopt.problems.language_models.rotary import halves
from gfopt.types import PyTree

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}
_OF_TOKENIZERS = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt")
_COPIED = (*_OF_TOKENIZERS, "generation_config.json", "chat_template*")


def export_safetensors(
    weights: PyTree, folder: str | Path, like: str | Path, *, dtype: str = "bfloat16"
) -> None:
    """Writes a model with other weights: merged with an adapter, or trained.

    Args:
        weights: dense, or with lazy leaves, which are made dense.
        folder: of the new model, which is made; it must not be ``like``.
        like: folder with the same model, of ``load_safetensors``, whose configuration
            and tokenizer it gets.
        dtype: of the tensors, float32, float16 or bfloat16.

    Raises:
        ImportError: without the package ``safetensors``; it says what to install.
        ValueError: for another dtype, a model of another type, or weights that do not
            fit it.
    """
    checks.one_of("dtype", dtype, DTYPES)
    folder, like = Path(folder), Path(like)
    if folder.resolve() == like.resolve():
        raise ValueError(f"folder must be another one than like; got {folder}")
    ignored = ("quantization_config",)  # what is written is dense
    config = read_config(like / "config.json", ignored)
    size, sizes = head_size(config, like), shapes(config, like)
    is_gemma = config["model_type"].startswith("gemma")
    weights, tensors = materialise(weights), {}

    def put(name: str, ours: str, leaf: np.ndarray) -> None:
        if leaf.shape != sizes[ours]:
            raise ValueError(f"{ours} must have shape {sizes[ours]}; got {leaf.shape}")
        if ours.startswith(("query", "key")):
            leaf = halves(leaf, size)
        if is_gemma and ours.endswith("norm"):
            leaf = leaf - 1  # the inverse of what is read
        tensors[name] = leaf.astype(DTYPES[dtype])

    try:
        put("model.embed_tokens.weight", "embedding", np.asarray(weights["embedding"]))
        put("model.norm.weight", "norm", np.asarray(weights["norm"]))
        if not config["tie_word_embeddings"]:
            put("lm_head.weight", "head", np.asarray(weights["head"]))
        layers = unstacked(weights, (0,) * config["num_hidden_layers"])
        for number, layer in enumerate(layers):
            for name, ours in layer_names(config).items():
                put(f"model.layers.{number}.{name}", ours, layer[ours])
    except KeyError as error:
        raise ValueError(
            f"weights must have {error}, as {like} has; got none"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in _COPIED:
        for path in like.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    described = read_json(like / "config.json")
    described.pop("quantization_config", None)
    described.pop("torch_dtype", None)  # the older name
    described["dtype"] = dtype
    text = json.dumps(described, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    write_tensors(folder / "model.safetensors", tensors)
