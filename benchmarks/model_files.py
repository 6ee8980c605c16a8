"""Writes small models with random weights as transformers saves them, for the tests.

Each folder has ``config.json``, the weights, and ``logits.npy``: those of transformers'
own forward pass in float32 for the tokens of ``tokens.npy``. Those of models that
compressed-tensors quantized are for the weights that it makes of its files again;
activations are not rounded.

    pip install torch==2.13.0 transformers==5.24.0 compressed-tensors==0.20.1
    python benchmarks/model_files.py tests/problems/model_files
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TOKENS = np.random.default_rng(0).integers(0, 32, (2, 11))
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LAYERS = ["sliding_attention", "full_attention"] * 2
FOUR = {"num_hidden_layers": 4}
# name of the folder: model type, fields, options of saving
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama_2": ("llama", {"num_key_value_heads": 4}, {"max_shard_size": "4KB"}),
    "llama_3": (
        "llama",
        {"rope_parameters": LLAMA_3, "head_dim": 8, "tie_word_embeddings": True},
        {},
    ),
    "llama_biases": (
        "llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu",
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 100.0,
                "factor": 4.0,
            },
        },
        {},
    ),
    "mistral": ("mistral", {"sliding_window": 4}, {}),
    "qwen2": (
        "qwen2",
        FOUR
        | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2},
        {},
    ),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}, {}),
    "qwen3": ("qwen3", {"head_dim": 8, "tie_word_embeddings": True}, {}),
    "smollm3": ("smollm3", FOUR | {"pad_token_id": 0}, {}),
    "gemma": ("gemma", {"head_dim": 8}, {}),
    "gemma2": (
        "gemma2",
        FOUR
        | {
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
        },
        {},
    ),
    "gemma3_text": (
        "gemma3_text",
        FOUR
        | {
            "head_dim": 8,
            "sliding_window": 4,
            "layer_types": LAYERS,
            "query_pre_attn_scalar": 12,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "linear",
                    "rope_theta": 1e4,
                    "factor": 8.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
        {},
    ),
}
DYNAMIC = {"strategy": "token", "dynamic": True, "num_bits": 8}
# name of the folder: what is said of weights, what of activations
QUANTIZED: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "compressed_int8": (
        {"num_bits": 8, "type": "int", "strategy": "channel"},
        DYNAMIC | {"type": "int"},
    ),
    "compressed_float8": (
        {"num_bits": 8, "type": "float", "strategy": "channel"},
        DYNAMIC | {"type": "float"},
    ),
    "compressed_packed8": (
        {"num_bits": 8, "type": "int", "strategy": "group", "group_size": 8},
        None,
    ),
    "compressed_packed4": (
        {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 8},
        None,
    ),
}


def made(kind: str, fields: dict[str, Any]) -> Any:
    """Returns a model whose every weight is drawn, norms and biases among them."""
    config = CONFIG_MAPPING[kind](**SIZES | fields, max_position_embeddings=64)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    is_gemma = kind.startswith("gemma")
    with torch.no_grad():
        for name, weights in model.named_parameters():
            size = weights.shape[-1] ** -0.5 if weights.ndim > 1 else 0.3
            drawn = torch.randn(weights.shape) * size * (2 if weights.ndim > 1 else 1)
            if "norm" in name and not is_gemma:
                drawn = 1 + drawn
            # what bfloat16 holds exactly, which halves the files
            weights.copy_(drawn.to(torch.bfloat16).float())
    return model.eval()


def save_quantized(name: str, folder: Path) -> np.ndarray:
    """Saves a Llama that compressed-tensors quantized, and returns its logits."""
    weights, inputs = QUANTIZED[name]
    model = made("llama", {"intermediate_size": 24})
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(symmetric=True, **weights),
        input_activations=inputs and QuantizationArgs(symmetric=True, **inputs),
    )
    config = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=["lm_head"],
        quant_method="compressed-tensors",
    )
    apply_quantization_config(model, config)
    bits = weights["num_bits"]
    most = 448 if weights["type"] == "float" else 2 ** (bits - 1) - 1
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            scale = module.weight_scale.data
            groups = module.weight.data.reshape(len(scale), scale.shape[1], -1)
            scale.copy_(groups.abs().amax(-1) / most)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    compressor.decompress_model(model)
    plain = made("llama", {"intermediate_size": 24})
    state = model.state_dict()
    plain.load_state_dict({name: state[name].float() for name in plain.state_dict()})
    with torch.no_grad():
        return plain(torch.tensor(TOKENS)).logits.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "tokens.npy", TOKENS)
    for name, (kind, fields, options) in MODELS.items():
        model = made(kind, fields)
        with torch.no_grad():
            logits = model(torch.tensor(TOKENS)).logits.numpy()
        model.to(torch.bfloat16).save_pretrained(folder / name, **options)
        np.save(folder / name / "logits.npy", logits.astype(np.float32))
        print(f"{name}: {model.num_parameters()} weights, {np.abs(logits).max():.1f}")
    for name in QUANTIZED:
        logits = save_quantized(name, folder / name)
        np.save(folder / name / "logits.npy", logits.astype(np.float32))
        print(f"{name}: {np.abs(logits).max():.1f}")
    for extra in folder.glob("*/generation_config.json"):
        extra.unlink()


if __name__ == "__main__":
    main()
