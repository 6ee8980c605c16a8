"""The blocks of GGUF's types: bytes on the one side, codes and scales on the other.

Blocks of 32 weights, little-endian, with ``d`` and ``m`` in float16:

    Q4_0  d, codes                           w = d (code - 8)
    Q4_1  d, m, codes                        w = d code + m
    Q5_0  d, fifth bits, codes               w = d (code - 16)
    Q5_1  d, m, fifth bits, codes            w = d code + m
    Q8_0  d, signed codes                    w = d code

Blocks of 256 weights, in groups ``g`` of 32, in Q6_K of 16, with 6 bits for ``s`` and
``t``, in Q6_K 8 and a sign:

    Q4_K  d, m, (s, t), codes                w = d s_g code - m t_g
    Q5_K  d, m, (s, t), fifth bits, codes    w = d s_g code - m t_g
    Q6_K  codes, upper bits, s, d            w = d s_g (code - 32)

Source: the format's reference, ``docs/gguf.md``, and the blocks of ``ggml-common.h`` in
the repository ggml-org/ggml.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gfopt.quantization.quantized import packed, unpacked


class Layout(NamedTuple):
    """Where the bytes of a block are.

    Attributes:
        bits: of a code.
        group: codes that share a scale.
        fields: their bytes, in order: ``scale``, ``minimum``, ``pairs`` and ``sub``
            (scales of groups), ``low`` (four bits of a code, or all eight), ``high``.
        chunks: bytes of ``low`` and of ``high`` that are packed together.
    """

    bits: int
    group: int
    fields: dict[str, int]
    chunks: tuple[int, int]

    @property
    def size(self) -> int:
        """Codes in a block."""
        return self.fields["low"] * (1 if self.bits == 8 else 2)

    @property
    def has_minima(self) -> bool:
        """Whether something is added to what a code means."""
        return "minimum" in self.fields

    @property
    def num_sub(self) -> int:
        """Scales of groups in a block, 0 for none."""
        has_sub = "pairs" in self.fields or "sub" in self.fields
        return self.size // self.group if has_sub else 0


_K = {"scale": 2, "minimum": 2, "pairs": 12}
LAYOUTS = {
    "Q4_0": Layout(4, 32, {"scale": 2, "low": 16}, (16, 0)),
    "Q4_1": Layout(4, 32, {"scale": 2, "minimum": 2, "low": 16}, (16, 0)),
    "Q5_0": Layout(5, 32, {"scale": 2, "high": 4, "low": 16}, (16, 1)),
    "Q5_1": Layout(5, 32, {"scale": 2, "minimum": 2, "high": 4, "low": 16}, (16, 1)),
    "Q8_0": Layout(8, 32, {"scale": 2, "low": 32}, (32, 0)),
    "Q4_K": Layout(4, 32, _K | {"low": 128}, (32, 0)),
    "Q5_K": Layout(5, 32, _K | {"high": 32, "low": 128}, (32, 32)),
    "Q6_K": Layout(6, 16, {"low": 128, "high": 64, "sub": 16, "scale": 2}, (64, 32)),
}


class Parts(NamedTuple):
    """What ``Quantized`` has of blocks ``B``.

    Attributes:
        codes: ``uint8[..., B * n]``, packed by groups.
        scales: ``float16[..., B]``.
        minima: ``float16[..., B]``, or None.
        subscales: ``uint8`` or ``int8[..., B * groups]``, or None.
        subminima: ``uint8[..., B * groups]``, or None.
    """

    codes: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None = None
    subscales: np.ndarray | None = None
    subminima: np.ndarray | None = None


def parts_of(kind: str, blocks: np.ndarray) -> Parts:
    """Returns the parts of blocks ``uint8[..., B, bytes]``."""
    layout = LAYOUTS[kind]
    ends = np.cumsum([*layout.fields.values()])[:-1]
    field = dict(zip(layout.fields, np.split(blocks, ends, axis=-1), strict=True))
    lead = blocks.shape[:-2]
    parts = Parts(_codes(layout, field).reshape(*lead, -1), _halves(field["scale"]))
    if layout.has_minima:
        parts = parts._replace(minima=_halves(field["minimum"]))
    if "sub" in field:
        parts = parts._replace(subscales=field["sub"].view(np.int8).reshape(*lead, -1))
    if "pairs" in field:
        # w = d s code - m t
        scales, minima = _pairs(field["pairs"])
        parts = parts._replace(
            minima=-_halves(field["minimum"]),
            subscales=scales.reshape(*lead, -1),
            subminima=minima.reshape(*lead, -1),
        )
    return parts


def blocks_of(kind: str, parts: Parts) -> np.ndarray:
    """Returns the blocks ``uint8[..., B, bytes]``, the inverse of ``parts_of``."""
    layout = LAYOUTS[kind]
    lead = parts.scales.shape

    def grouped(array: np.ndarray | None) -> np.ndarray:
        return np.ascontiguousarray(array).view(np.uint8).reshape(*lead, -1)

    field = _code_fields(layout, grouped(parts.codes))
    field["scale"] = grouped(parts.scales)
    if layout.has_minima:
        field["minimum"] = grouped(parts.minima)
    if "sub" in layout.fields:
        field["sub"] = grouped(parts.subscales)
    if "pairs" in layout.fields:
        field["minimum"] = grouped(-np.asarray(parts.minima))
        pairs = grouped(parts.subscales), grouped(parts.subminima)
        field["pairs"] = _paired(*pairs)
    return np.concatenate([field[name] for name in layout.fields], axis=-1)


def _halves(field: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(field).view("<f2")[..., 0]


def _codes(layout: Layout, field: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the codes of each block, packed by groups."""
    if layout.bits == 8:
        return field["low"] ^ np.uint8(0x80)  # signed to above 0
    low, high = layout.chunks
    if layout.bits == 4 and low * 2 == layout.group:
        return field["low"]
    codes = _unchunked(field["low"], low, 4)
    if high:
        upper = _unchunked(field["high"], high, layout.bits - 4)
        codes = codes | upper << np.uint8(4)
    lead = codes.shape[:-1]
    return packed(codes.reshape(*lead, -1, layout.group), layout.bits)


def _code_fields(layout: Layout, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the bytes that have the codes, the inverse of ``_codes``."""
    if layout.bits == 8:
        return {"low": codes ^ np.uint8(0x80)}
    low, high = layout.chunks
    if layout.bits == 4 and low * 2 == layout.group:
        return {"low": codes}
    lead, size = codes.shape[:-1], layout.group * layout.bits // 8
    plain = unpacked(codes.reshape(*lead, -1, size), layout.bits).reshape(*lead, -1)
    fields = {"low": _chunked(plain & np.uint8(15), low, 4)}
    if high:
        fields["high"] = _chunked(plain >> np.uint8(4), high, layout.bits - 4)
    return fields


def _unchunked(field: np.ndarray, chunk: int, bits: int) -> np.ndarray:
    lead = field.shape[:-1]
    return unpacked(field.reshape(*lead, -1, chunk), bits).reshape(*lead, -1)


def _chunked(codes: np.ndarray, chunk: int, bits: int) -> np.ndarray:
    lead = codes.shape[:-1]
    groups = codes.reshape(*lead, -1, chunk * 8 // bits)
    return packed(groups, bits).reshape(*lead, -1)


def _pairs(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns eight scales and eight minima of 6 bits that are packed in 12 bytes."""
    first, second, rest = np.split(field, 3, axis=-1)
    upper = np.uint8(0x30)
    scales = [first & 63, rest & 15 | first >> 2 & upper]
    minima = [second & 63, rest >> 4 | second >> 2 & upper]
    return np.concatenate(scales, axis=-1), np.concatenate(minima, axis=-1)


def _paired(scales: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """Returns the 12 bytes of ``_pairs``."""
    upper = np.uint8(0x30)
    parts = [
        scales[..., :4] | (scales[..., 4:] & upper) << 2,
        minima[..., :4] | (minima[..., 4:] & upper) << 2,
        scales[..., 4:] & 15 | (minima[..., 4:] & 15) << 4,
    ]
    return np.concatenate(parts, axis=-1)
