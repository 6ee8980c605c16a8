"""Llama-type models from the files of Hugging Face: ``config.json``, safetensors.

Every tensor of the files is used and every field of the configuration is computed, or
the folder is refused with its name: nothing is left out without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.problems.language_models.gguf_tokenizer import INSTALL
from gfopt.problems.language_models.hugging_face.config_file import (
    checked_ignore,
    is_ignored,
    read_config,
)
from gfopt.problems.language_models.hugging_face.llama_config import (
    layer_names,
    model_of,
)
from gfopt.problems.language_models.hugging_face.quantization_config import block_of
from gfopt.problems.language_models.hugging_face.tensor_files import read_tensors
from gfopt.problems.language_models.hugging_face.weight_source import WeightSource
from gfopt.problems.language_models.layer_stacks import stacked, with_stacks
from gfopt.problems.language_models.pretrained import Pretrained
from gfopt.types import PyTree

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOP = {"embed_tokens.weight": "embedding", "norm.weight": "norm"}


def load_safetensors(folder: str | Path, *, ignore: Sequence[str] = ()) -> Pretrained:
    """Reads a Llama-type model from a folder of Hugging Face.

    The types are llama, mistral, qwen2, qwen3, smollm3, gemma, gemma2 and gemma3_text.
    The documentation has a table of the fields of ``config.json`` that are computed.

    The rotary positions of these files turn the pairs ``(i, i + s / 2)`` of a head;
    queries and keys are put into the order that ``Llama`` turns, ``(2i, 2i + 1)``,
    which changes no logits.

    Args:
        folder: with ``config.json``, one or more files ``*.safetensors`` and, where
            there is one, ``tokenizer.json``.
        ignore: fields of ``config.json`` and tensors to treat as
            absent, such as ``("rope_scaling", "*.input_scale")``: what the logits
            you want don't depend on.

    Returns:
        The model; its weights are as those of ``load_gguf``, in float32, and matrices
        of int8 or float8 codes with scales are ``Quantized`` leaves. Its tokenizer is
        None where the folder has none.

    Raises:
        ImportError: where a package is missing; it says what to install.
        TypeError: for ``ignore`` that is not a sequence of texts.
        ValueError: for a model of another type, and for a tensor or a field that is not
            computed, missing, or of another shape or type; it says which.
    """
    ignore = checked_ignore(ignore)
    folder = Path(folder)
    path = folder / "config.json"
    config = read_config(path, ignore)
    block = block_of(config["quantization_config"], path, ignore)
    model = model_of(config, path)
    tensors = read_tensors(folder)
    files = {name: t for name, t in tensors.items() if not is_ignored(name, ignore)}
    source = WeightSource(files, config, path, block)
    top: dict[str, PyTree] = {
        ours: source.take(name, ours) for name, ours in _TOP.items()
    }
    if not config["tie_word_embeddings"]:
        top["head"] = source.take("lm_head.weight", "head")
    else:
        source.check_tied_head()
    names, layers = layer_names(config), []
    for number in range(config["num_hidden_layers"]):
        start = f"layers.{number}."
        layers.append({o: source.take(start + n, o) for n, o in names.items()})
        source.check_rates(f"{start}self_attn.rotary_emb.inv_freq", model, number)
    source.check_all_used()
    weights = jax.tree.map(jnp.asarray, top)
    weights["layers"], kinds = stacked(layers)
    tokenizer = _tokenizer(folder / "tokenizer.json")
    return Pretrained(with_stacks(model, kinds), weights, tokenizer)


def _tokenizer(path: Path) -> Tokenizer | None:
    if not path.exists():
        return None
    with checks.needed_by("load_safetensors", "tokenizers", INSTALL):
        from tokenizers import Tokenizer
    return Tokenizer.from_file(str(path))
