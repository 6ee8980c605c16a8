"""A small model as weights, as a GGUF file and as a folder of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gfopt.problems import Pretrained
from gfopt.problems.language_models.gguf_model import LAYER_NAMES
from gfopt.problems.language_models.llama import Llama

VOCABULARY, WIDTH, INNER, LAYERS, HEADS, SHARED = 32, 16, 32, 2, 4, 2
NARROW = WIDTH // HEADS * SHARED
SHAPES = {
    "query": (WIDTH, WIDTH),
    "key": (NARROW, WIDTH),
    "value": (NARROW, WIDTH),
    "output": (WIDTH, WIDTH),
    "gate": (INNER, WIDTH),
    "up": (INNER, WIDTH),
    "down": (WIDTH, INNER),
}


def small_model(seed: int = 0) -> Pretrained:
    """Returns a model with random weights."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return jnp.asarray(draw.normal(size=shape) / shape[-1] ** 0.5, jnp.float32)

    layers = {name: normal(LAYERS, *shape) for name, shape in SHAPES.items()}
    for name in ("attention_norm", "feed_forward_norm"):
        layers[name] = 1 + 0.1 * normal(LAYERS, WIDTH)
    weights = {
        "embedding": normal(VOCABULARY, WIDTH),
        "layers": layers,
        "norm": jnp.ones(WIDTH),
    }
    return Pretrained(Llama(HEADS, SHARED, rope_base=1e4), weights, None)


def small_adapter(rank: int = 2, seed: int = 1, scale: float = 0.5) -> Any:
    """Returns an adapter of all matrices that changes something."""
    draw = np.random.default_rng(seed)
    return {
        name: {
            "a": np.float32(draw.normal(size=(LAYERS, rank, columns)) * scale),
            "b": np.float32(draw.normal(size=(LAYERS, rows, rank)) * scale),
        }
        for name, (rows, columns) in SHAPES.items()
    }


def write_config(folder: Path) -> Path:
    """Writes the ``config.json`` of the model."""
    folder.mkdir(exist_ok=True)
    config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": SHARED,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_gguf(path: Path, architecture: str = "llama") -> Path:
    """Writes a GGUF file with the model's fields; its matrices are 0."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for name, value in {
        "block_count": LAYERS,
        "attention.head_count": HEADS,
        "attention.head_count_kv": SHARED,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "context_length": 64,
    }.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.rope.freq_base", 1e4)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    letters = [*map(chr, range(ord("a"), ord("a") + VOCABULARY - 2)), "ab"]
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "smollm")
    writer.add_array("tokenizer.ggml.tokens", [*letters, "<end>"])
    writer.add_array("tokenizer.ggml.merges", ["a b"])
    writer.add_array("tokenizer.ggml.token_type", [1] * (VOCABULARY - 1) + [3])
    for token in ("bos", "eos"):
        writer.add_uint32(f"tokenizer.ggml.{token}_token_id", VOCABULARY - 1)
    shapes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)}
    ours = SHAPES | dict.fromkeys(("attention_norm", "feed_forward_norm"), (WIDTH,))
    for number in range(LAYERS):
        shapes |= {f"blk.{number}.{n}": ours[o] for n, o in LAYER_NAMES.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
