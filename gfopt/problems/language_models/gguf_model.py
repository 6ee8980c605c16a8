"""Llama-type models in GGUF files: from a file to a pytree, and back.

Architectures other than llama turn the pairs ``(i, i + s / 2)`` of a head; their rows
are put into the order that ``Llama`` turns, ``(2i, 2i + 1)``, and back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.language_models.gguf_fields import Fields
from gfopt.problems.language_models.gguf_tokenizer import tokenizer_of
from gfopt.problems.language_models.hugging_face.config_file import (
    checked_ignore,
    is_ignored,
)
from gfopt.problems.language_models.hugging_face.llama_config import shapes
from gfopt.problems.language_models.layer_stacks import (
    numbered,
    stacked,
    unstacked,
    with_stacks,
)
from gfopt.problems.language_models.llama import stacks_of
from gfopt.problems.language_models.pretrained import Pretrained
from gfopt.problems.language_models.rotary import halves, neighbours
from gfopt.quantization import gguf_files
from gfopt.quantization.gguf_blocks import LAYOUTS
from gfopt.types import PyTree

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer

FACTORS = "rope_freqs.weight"
_NAMES = {
    "token_embd.weight": "embedding",
    "output_norm.weight": "norm",
    "output.weight": "head",
}
LAYER_NAMES = {
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
_HEAD_NORMS = {"attn_q_norm": "query_norm", "attn_k_norm": "key_norm"}
_BIASED = {n: ours for n, ours in LAYER_NAMES.items() if not n.endswith("norm")}


def load_gguf(
    path: str | Path,
    *,
    quantized: bool = False,
    tokenizer: Tokenizer | None = None,
    ignore: Sequence[str] = (),
) -> Pretrained:
    """Reads a Llama-type model from a GGUF file.

    The architectures are llama, qwen2 and qwen3. Every tensor of the file is used and
    every field of its type is computed, or the file is refused with its name.

    Args:
        path: of the file.
        quantized: keep matrices of the types Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K
            and Q6_K as ``Quantized`` leaves; else they, and those of any other type,
            are made dense.
        tokenizer: in place of the file's, of the ``tokenizers`` package; None for the
            one that the file describes.
        ignore: fields and tensors to treat as absent, such as
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
    available = {tensor.name for tensor in reader.tensors}
    available = {name for name in available if not is_ignored(name, ignore)}
    layers, top = _names(available, known["block_count"], fields)
    rest = available.difference(top, *layers) - {FACTORS}
    for name in sorted(rest):
        raise ValueError(
            f"{path} must have tensors that a {fields.kind} model with {len(layers)} "
            f"layers uses; got {name} (pass ignore=({name!r},) if the logits don't "
            "need it)"
        )
    size = _check_shapes(reader, fields, known, [*layers, top])
    if tokenizer is None:
        tokenizer = tokenizer_of(fields)
    read = gguf_files.read_tensors if quantized else gguf_files.dense_tensors
    tensors = {
        name: np.asarray(leaf, np.float32) if isinstance(leaf, np.ndarray) else leaf
        for name, leaf in read(reader).items()
        if name in available
    }
    factors = tensors.pop(FACTORS, ())
    weights = {
        ours: jax.tree.map(jnp.asarray, tensors.pop(name)) for name, ours in top.items()
    }
    order = neighbours if fields.turns_halves else None
    own = [
        _ordered({ours: tensors.pop(n) for n, ours in one.items()}, order, size)
        for one in layers
    ]
    weights["layers"], kinds = stacked(own)
    model = with_stacks(fields.model(known, size, factors), kinds)
    return Pretrained(model, weights, tokenizer)


def save_gguf(weights: PyTree, path: str | Path, like: str | Path) -> None:
    """Writes quantized weights, usually trained ones, as a GGUF file.

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
    # what is not quantized is float32 here, whatever it is in the file
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    types = {n: kind if kind in LAYOUTS else "" for n, kind in types.items()}
    gguf_files.write_tensors(path, named_tensors(weights, reader, types), reader)


def named_tensors(
    weights: PyTree, reader: GGUFReader, types: dict[str, str]
) -> dict[str, PyTree]:
    """Returns a model's weights by the names, and in the order, of a file's tensors.

    Args:
        weights: of the model in the file; what it lacks is left out.
        reader: of the file.
        types: of the file's tensors; layers with the same ones are of a kind.

    Raises:
        ValueError: for weights that do not fit the file.
    """
    fields = Fields(reader)
    heads = fields.read(f"{fields.kind}.attention.head_count")
    names, top = _names(types, fields.read(f"{fields.kind}.block_count"), fields)
    # what was not read is left out
    had = {*weights}.union(*stacks_of(weights))
    names = [{n: ours for n, ours in one.items() if ours in had} for one in names]
    kinds = numbered(
        [tuple((ours, types[n]) for n, ours in layer.items()) for layer in names]
    )
    tensors = {
        name: jax.tree.map(np.asarray, weights[ours])
        for name, ours in top.items()
        if ours in had
    }
    order = halves if fields.turns_halves else None
    for layer, values in zip(names, unstacked(weights, kinds), strict=True):
        size = values["query"].shape[0] // heads
        values = _ordered(values, order, size)
        tensors |= {name: values[ours] for name, ours in layer.items()}
    return tensors


def _names(
    available: Collection[str], num_layers: int, fields: Fields
) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Returns what each layer's tensors and the others are called here.

    Raises:
        ValueError: for a tensor that is missing.
    """
    layers = []
    for number in range(num_layers):
        start = f"blk.{number}."
        own = {f"{start}{n}.weight": ours for n, ours in LAYER_NAMES.items()}
        if fields.has_head_norms:
            own |= {f"{start}{n}.weight": ours for n, ours in _HEAD_NORMS.items()}
        biases = {f"{start}{n}.bias": f"{ours}_bias" for n, ours in _BIASED.items()}
        layers.append(own | {n: ours for n, ours in biases.items() if n in available})
    top = {n: ours for n, ours in _NAMES.items() if ours != "head" or n in available}
    for name in sorted(set(top).union(*layers).difference(available)):
        raise ValueError(
            f"{fields.path} must have the tensor {name}; got none "
            f"({fields.kind}.block_count is {num_layers})"
        )
    return layers, top


def _ordered(
    layer: dict[str, PyTree], order: Callable[..., np.ndarray] | None, size: int
) -> dict[str, PyTree]:
    """Returns a layer with the pairs of its heads in another order."""
    if order is None:
        return layer
    return {
        ours: jax.tree.map(lambda rows: order(rows, size), leaf)
        if ours.startswith(("query", "key"))
        else leaf
        for ours, leaf in layer.items()
    }


def _check_shapes(
    reader: GGUFReader,
    fields: Fields,
    known: dict[str, PyTree],
    names: list[dict[str, str]],
) -> int:
    """Rejects a tensor of the wrong shape; returns the size of a head."""
    actual = {tensor.name: gguf_files.shape_of(tensor) for tensor in reader.tensors}
    sizes = fields.sizes(known, actual)
    expected = shapes(sizes, Path(fields.path))
    for own in names:
        for name, ours in own.items():
            if actual[name] != expected[ours]:
                raise ValueError(
                    f"{name} of {fields.path} must have the shape {expected[ours]}, as "
                    f"the sizes of the model say; got {actual[name]}"
                )
    return sizes["head_dim"]
