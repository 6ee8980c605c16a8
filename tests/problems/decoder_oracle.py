"""A Llama-type model as Hugging Face's files mean it, in plain NumPy and float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2,
    "gelu_pytorch_tanh": lambda x: (
        x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    ),
}


def logits(config: dict[str, Any], tensors: dict[str, Any], text: Any) -> np.ndarray:
    """Returns ``[L, V]``: head by head, the halves of each turned."""
    w = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
    heads = config["num_attention_heads"]
    shared = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_scaling") or {}
    rates = config["rope_theta"] ** (-2 * np.arange(size // 2) / size)
    rates = rates / rope.get("factor", 1)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        square = np.mean(x**2) + config["rms_norm_eps"]
        return x / np.sqrt(square) * w[f"model.{name}.weight"]

    def turned(x: np.ndarray, t: int) -> np.ndarray:
        a, b = x[: size // 2], x[size // 2 :]
        cosine, sine = np.cos(t * rates), np.sin(t * rates)
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine])

    h = [w["model.embed_tokens.weight"][token] for token in text]
    for number in range(config["num_hidden_layers"]):

        def linear(name: str, x: Any, number: int = number) -> np.ndarray:
            full = f"model.layers.{number}.{name}"
            return w[f"{full}.weight"] @ x + w.get(f"{full}.bias", 0)

        n = [norm(x, f"layers.{number}.input_layernorm") for x in h]
        new = []
        for t, x in enumerate(h):
            mixed = []
            for head in range(heads):
                mine = slice(head * size, (head + 1) * size)
                group = head // (heads // shared)
                own = slice(group * size, (group + 1) * size)
                query = turned(linear("self_attn.q_proj", n[t])[mine], t)
                keys = [
                    turned(linear("self_attn.k_proj", n[s])[own], s)
                    for s in range(t + 1)
                ]
                scores = np.array(keys) @ query / np.sqrt(size)
                shares = np.exp(scores - scores.max())
                values = [linear("self_attn.v_proj", n[s])[own] for s in range(t + 1)]
                mixed.append(shares / shares.sum() @ np.array(values))
            new.append(x + linear("self_attn.o_proj", np.concatenate(mixed)))
        h = []
        for x in new:
            m = norm(x, f"layers.{number}.post_attention_layernorm")
            gate = ACTIVATIONS[config["hidden_act"]](linear("mlp.gate_proj", m))
            h.append(x + linear("mlp.down_proj", gate * linear("mlp.up_proj", m)))
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return np.array([head @ norm(x, "norm") for x in h])
