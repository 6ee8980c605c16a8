"""From the fields of ``config.json`` to a model and the tensors that it must have."""

from __future__ import annotations

from pathlib import Path

from gfopt import checks
from gfopt.problems.language_models.hugging_face.layer_kinds import layers_of
from gfopt.problems.language_models.llama import Llama
from gfopt.types import JsonObject

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
_HEAD_NORMS = {"self_attn.q_norm": "query_norm", "self_attn.k_norm": "key_norm"}
_FOUR_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "feed_forward_norm",
    "post_feedforward_layernorm": "post_feed_forward_norm",
}
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def head_size(config: JsonObject, path: Path) -> int:
    """Returns the numbers in a head, ``s``."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = config["head_dim"]
    if size is None:
        if width % heads:
            raise ValueError(
                f"hidden_size of {path} must be a multiple of num_attention_heads "
                f"where head_dim is missing; got {width} and {heads}"
            )
        size = width // heads
    if size % 2:
        raise ValueError(f"head_dim of {path} must be even; got {size}")
    return int(size)


def model_of(config: JsonObject, path: Path) -> Llama:
    """Returns the forward pass.

    Args:
        config: of ``read_config``.
        path: of the file, for messages.

    Raises:
        ValueError: for a value that is not computed; it says which.
    """
    kind, heads = config["model_type"], config["num_attention_heads"]
    is_gemma = kind.startswith("gemma")
    scalar = config.get("query_pre_attn_scalar")
    shared = config["num_key_value_heads"] or heads
    if heads % shared:
        raise ValueError(
            f"num_attention_heads of {path} must be a multiple of num_key_value_heads; "
            f"got {heads} and {shared}"
        )
    layers = layers_of(config, path, head_size(config, path))
    first = layers[0]
    are_plain = {*layers} == {first} and not (first.window or first.rotary.factors)
    return Llama(
        num_heads=heads,
        num_key_value_heads=shared,
        rope_base=first.rotary.base,
        norm_eps=float(config["rms_norm_eps"]),
        activation=_activation(config, path),
        attention_scale=None if scalar is None else float(scalar) ** -0.5,
        attention_cap=config.get("attn_logit_softcapping"),
        logit_cap=config.get("final_logit_softcapping"),
        embedding_scale=config["hidden_size"] ** 0.5 if is_gemma else 1.0,
        layers=() if are_plain else layers,
    )


def layer_names(config: JsonObject) -> dict[str, str]:
    """Returns what a layer's tensors are called in the file, and here."""
    kind, names = config["model_type"], dict(LAYER_NAMES)
    if kind in ("gemma2", "gemma3_text"):
        names |= _FOUR_NORMS
    if kind in ("qwen3", "gemma3_text"):
        names |= _HEAD_NORMS
    attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
    biased = attention if kind == "qwen2" else []
    if config.get("attention_bias"):
        biased = [*attention, "self_attn.o_proj"]
    if config.get("mlp_bias"):
        biased = [*biased, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    biases = {f"{name}.bias": f"{names[name]}_bias" for name in biased}
    return {f"{name}.weight": ours for name, ours in names.items()} | biases


def shapes(config: JsonObject, path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all weights that a layer may have, and of the others."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    size = head_size(config, path)
    rows = {
        "query": config["num_attention_heads"] * size,
        "key": (config["num_key_value_heads"] or config["num_attention_heads"]) * size,
        "output": width,
        "gate": inner,
        "up": inner,
        "down": width,
    }
    rows["value"] = rows["key"]
    columns: dict[str, int] = dict.fromkeys(rows, width) | {
        "output": rows["query"],
        "down": inner,
    }
    by_name: dict[str, tuple[int, ...]] = {}
    for name, count in rows.items():
        by_name[name], by_name[f"{name}_bias"] = (count, columns[name]), (count,)
    norms = (*LAYER_NAMES.values(), *_FOUR_NORMS.values())
    by_name |= {name: (width,) for name in ("norm", *norms) if name.endswith("norm")}
    by_name |= dict.fromkeys(_HEAD_NORMS.values(), (size,))
    return by_name | dict.fromkeys(("embedding", "head"), (config["vocab_size"], width))


def _activation(config: JsonObject, path: Path) -> str:
    """Returns the gate's activation; the first Gemma's "gelu" means its tanh form."""
    acts = [config["hidden_act"], config.get("hidden_activation")]
    if config["model_type"] == "gemma":
        acts = ["gelu_pytorch_tanh" if name == "gelu" else name for name in acts]
    names = {name for name in acts if name is not None} or {"gelu_pytorch_tanh"}
    name = names.pop()
    if names or name not in _ACTIVATIONS:
        field = "hidden_act" if acts[1] is None else "hidden_activation"
        raise ValueError(
            f"{field} of {path} must be one of {', '.join(_ACTIVATIONS)}; got "
            + " beside ".join(map(checks.shown, [name, *names]))
        )
    return _ACTIVATIONS[name]
