"""The fields of ``config.json``: which are computed, which are refused, by model type.

A field that is in no table here may change the forward pass, so that it is refused by
name unless its value is null. Defaults are those of the package ``transformers``.

Source: the configuration classes of transformers 5.24, which is Apache-2.0.
"""

from __future__ import annotations

import json
from typing import Any

from gfopt.types import JsonObject

REQUIRED = "required"

SIZES = dict.fromkeys(
    [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ],
    REQUIRED,
)
_SHARED: JsonObject = SIZES | {
    "num_key_value_heads": None,  # as many as there are heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "rope_parameters": None,
    "quantization_config": None,
}
_WINDOWS = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_GEMMA: JsonObject = _SHARED | {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": None,
    "hidden_activation": None,  # the one or the other
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_GEMMA_2 = _GEMMA | {
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}

#: What is computed, by ``model_type``: each field with its default.
KINDS: dict[str, JsonObject] = {
    "llama": _SHARED | {"attention_bias": False, "mlp_bias": False},
    "mistral": _SHARED | {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": _SHARED | {"num_key_value_heads": 32} | _WINDOWS,
    "qwen3": _SHARED
    | {"num_key_value_heads": 32, "head_dim": 128, "attention_bias": False}
    | _WINDOWS,
    "smollm3": _SHARED
    | {
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "rope_theta": 2e6,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "layer_types": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
    },
    "gemma": _GEMMA,
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_2
    | {
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 6,
    },
}

#: Taken with one of these values alone, besides null, where it is not computed.
FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "auto_map": (),
    "chunk_size_feed_forward": (0,),
    "is_encoder_decoder": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "pruned_heads": ({},),
    "rope_interleaved": (False,),
    "use_bidirectional_attention": (False,),
    "use_mrope": (False,),
    "use_sliding_window": (False,),
}

#: These change no logits of a text that is read from its start.
UNUSED = frozenset(
    """_attn_implementation _attn_implementation_autoset _name_or_path architectures
    attention_dropout attn_implementation bos_token_id cache_implementation
    decoder_start_token_id dtype eos_token_id finetuning_task id2label
    initializer_range is_decoder is_llama_config label2id max_position_embeddings
    max_window_layers model_type output_attentions output_hidden_states pad_token_id
    prefix pretraining_tp problem_type return_dict sep_token_id task_specific_params
    tie_encoder_decoder tokenizer_class torch_dtype torchscript
    transformers.js_config transformers_version unsloth_fixed unsloth_version
    use_bfloat16 use_cache""".split()
)


def fields_table() -> str:
    """Returns the tables above in Markdown, as the documentation has them."""
    names = sorted({name for fields in KINDS.values() for name in fields})
    lines = ["| field | computed for |", "|---|---|"]
    for name in names:
        having = [kind for kind, fields in KINDS.items() if name in fields]
        listed = "all" if len(having) == len(KINDS) else ", ".join(having)
        lines.append(f"| `{name}` | {listed} |")
    lines += ["", "| field | refused unless null or |", "|---|---|"]
    for name, values in FIXED.items():
        listed = " or ".join(f"`{json.dumps(value)}`" for value in values)
        lines.append(f"| `{name}` | {listed or '-'} |")
    unused = ", ".join(f"`{name}`" for name in sorted(UNUSED))
    lines += ["", f"These do not change the logits: {unused}."]
    return "\n".join(lines)
