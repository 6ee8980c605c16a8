"""Llama-type models from the files of Hugging Face: ``config.json``, safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.language import INSTALL, Pretrained
from gfopt.problems.llama import Llama

#: What Hugging Face calls a layer's weights, and what ``Llama`` does.
LAYER_NAMES = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "output",
    "post_attention_layernorm": "feed_forward_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}


def load_safetensors(folder: str | Path) -> Pretrained:
    """Reads a Llama-type model with a tied head from a folder of Hugging Face.

    The rotary positions of these files turn the pairs ``(i, i + s / 2)`` of a head;
    queries and keys are put into the order that ``Llama`` turns, ``(2i, 2i + 1)``,
    which changes no logits.

    Args:
        folder: with ``config.json``, one or more files ``*.safetensors`` and, where
            there is one, ``tokenizer.json``.

    Returns:
        The model; its weights are as those of ``load_gguf``, in float32. Its tokenizer
        is None where the folder has none.

    Raises:
        ImportError: where a package is missing; it says what to install.
        ValueError: for a model of another type.
    """
    try:
        from safetensors import safe_open
    except ImportError:
        raise ImportError(
            f"load_safetensors needs the package safetensors: {INSTALL}"
        ) from None
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    kind = config.get("model_type")
    # that of a config without it is False
    if kind != "llama" or not config.get("tie_word_embeddings", False):
        what = "with an untied head" if kind == "llama" else f"of type {kind!r}"
        raise ValueError(f"folder must hold a tied llama model; got one {what}")
    scaling = config.get("rope_scaling")
    rotary = scaling or config.get("rope_parameters") or {}
    plain = None if scaling else "default"
    if rotary.get("rope_type", rotary.get("type", plain)) != "default":
        raise ValueError(
            f"folder must hold a model without rope_scaling; got {checks.shown(rotary)}"
        )
    for name in ("attention_bias", "mlp_bias"):
        if config.get(name):
            raise ValueError(f"folder must hold a model without {name}; got one")
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="flax") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                short = name.removeprefix("model.").removesuffix(".weight")
                found[short] = np.asarray(tensors.get_tensor(name), np.float32)
    if "embed_tokens" not in found:
        raise ValueError(f"folder must hold the weights, *.safetensors; got {folder}")
    heads = int(config["num_attention_heads"])
    shared = int(config.get("num_key_value_heads") or heads)
    turned = {"query": heads, "key": shared}

    def stacked(name: str, ours: str) -> Any:
        numbers = range(int(config["num_hidden_layers"]))
        whole = np.stack([found[f"layers.{number}.{name}"] for number in numbers])
        if ours in turned:
            count, rows, width = whole.shape
            halves = whole.reshape(count, turned[ours], 2, -1, width)
            whole = halves.swapaxes(2, 3).reshape(count, rows, width)
        return jnp.asarray(whole)

    weights = {
        "embedding": jnp.asarray(found["embed_tokens"]),
        "layers": {ours: stacked(name, ours) for name, ours in LAYER_NAMES.items()},
        "norm": jnp.asarray(found["norm"]),
    }
    rope = config.get("rope_theta") or config.get("rope_parameters", {})["rope_theta"]
    model = Llama(
        num_heads=heads,
        num_key_value_heads=shared,
        rope_base=float(rope),
        norm_eps=float(config["rms_norm_eps"]),
    )
    return Pretrained(model, weights, _tokenizer(folder / "tokenizer.json"))


def _tokenizer(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError(
            f"load_safetensors needs the package tokenizers: {INSTALL}"
        ) from None
    return Tokenizer.from_file(str(path))
