"""Bytes that training takes, by part and by method, for a decoder of a given size.

    QZO    P b / 8 + (P / g) (4 + zeros) + 2 R + forward(1 layer)
    MeZO   2 (P + R) + forward(1 layer)
    LoRA   2 (P + R) + 16 A + backward           adapters in float32, with Adam
    Adam   2 (P + R) + 2 (P + R) + 8 (P + R) + backward

with ``P`` weights in linear layers, ``b`` bits, groups of ``g``, ``R`` other weights in
16 bits (embedding, head) and ``A`` adapter weights. A forward pass keeps what is alive
in one layer, or the logits; a backward pass with checkpoints keeps one vector for each
token and layer. This is a plan, made of the model's size; for the compiler's own
see ``benchmarks/qzo_memory.py``.

Source: Shang et al. (2025), arXiv 2505.13430, table 1 for what was measured.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from gfopt import checks
from gfopt.quantization.quantized import BITS

METHODS = ("qzo", "inference", "mezo", "lora", "adam")
HALF, FLOAT = 2, 4  # bytes
HEAD_SIZE = 128


class Decoder(NamedTuple):
    """Sizes of a Llama-type decoder.

    Attributes:
        linear: weights in linear layers.
        rest: weights of the embedding and the head.
        layers: their number.
        width: of the residual stream.
        inner: of the gated layer.
        vocabulary: number of tokens.

    Example:
        >>> decoder(7e9)
        Decoder(...)
    """

    linear: int
    rest: int
    layers: int
    width: int
    inner: int
    vocabulary: int


def decoder(
    parameters: float, *, vocabulary: int = 32000, width: int | None = None
) -> Decoder:
    """Returns the usual shape of a decoder with about that many parameters.

    ``layers = width / 128`` and ``12 width**2`` weights a layer, embedding and head
    apart.

    Args:
        parameters: in all.
        vocabulary: number of tokens.
        width: of the residual stream; by default as ``parameters`` ask for.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or fewer parameters than the embedding has.

    Example:
        >>> decoder(6.74e9).width, decoder(6.74e9).layers
        (4096, 32)
    """
    checks.positive("parameters", parameters)
    checks.integer("vocabulary", vocabulary, 1)
    if width is None:
        # P = 12 w^2 (w / 128), rounded to whole heads
        heads = (parameters * HEAD_SIZE / 12) ** (1 / 3) / HEAD_SIZE
        width = HEAD_SIZE * max(1, round(heads))
    checks.integer("width", width, 1)
    rest = 2 * vocabulary * width
    linear = round(parameters) - rest
    if linear <= 0:
        raise ValueError(
            f"parameters must be more than those of embedding and head, {rest}; "
            f"got {checks.shown(parameters)} (a smaller vocabulary or width?)"
        )
    layers = max(1, round(linear / (12 * width**2)))
    return Decoder(linear, rest, layers, width, round(8 * width / 3), vocabulary)


def memory_plan(
    shape: Decoder,
    method: str = "qzo",
    *,
    bits: int = 4,
    group_size: int = 128,
    symmetric: bool = True,
    batch: int = 1,
    length: int = 512,
    rank: int = 8,
) -> dict[str, int]:
    """Returns the bytes of each part.

    Args:
        shape: of the model, see ``decoder``.
        method: ``"qzo"``, ``"inference"`` (of the quantized model), ``"mezo"``,
            ``"lora"`` or ``"adam"``.
        bits: of a code.
        group_size: weights that share a scale.
        symmetric: False for a byte more for each group.
        batch: texts in a forward pass.
        length: tokens of a text.
        rank: of the adapters.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> plan = memory_plan(decoder(7e9))
        >>> sorted(plan)
        ['activations', 'codes', 'embedding and head', 'scales']
        >>> 3e9 < plan["codes"] < 3.5e9
        True
    """
    checks.one_of("method", method, METHODS)
    checks.one_of("bits", bits, BITS)
    for name, value in (("group_size", group_size), ("batch", batch)):
        checks.integer(name, value, 1)
    checks.integer("length", length, 1)
    checks.integer("rank", rank, 1)
    tokens = batch * length
    layer = FLOAT * tokens * (4 * shape.width + 3 * shape.inner)
    heads = max(1, shape.width // HEAD_SIZE)
    layer += 2 * FLOAT * batch * heads * length**2  # scores and their softmax
    logits = FLOAT * tokens * shape.vocabulary
    forward = max(layer, logits)
    if method in ("qzo", "inference"):
        groups = math.ceil(shape.linear / group_size)
        parts = {
            "codes": shape.linear * bits // 8,
            "scales": FLOAT * groups,
            "zeros": 0 if symmetric else groups,
            "embedding and head": HALF * shape.rest,
            "activations": forward,
        }
        return {name: size for name, size in parts.items() if size}
    total = shape.linear + shape.rest
    parts = {"weights": HALF * total}
    if method == "mezo":
        return parts | {"activations": forward}
    backward = HALF * shape.layers * tokens * shape.width + 2 * layer + logits
    if method == "lora":
        # two factors for each matrix of a layer: four of attention, three of the rest
        sizes = 8 * shape.width + 3 * (shape.width + shape.inner)
        adapters = shape.layers * rank * sizes
        parts["adapters"] = FLOAT * adapters
        parts["their gradients and moments"] = 3 * FLOAT * adapters
    else:
        parts["gradients"] = HALF * total
        parts["moments"] = 2 * FLOAT * total
    return parts | {"activations": backward}
