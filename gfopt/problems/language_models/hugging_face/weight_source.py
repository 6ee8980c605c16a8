"""The tensors of a folder, each taken once, and checked against the configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from gfopt.problems.language_models.hugging_face.llama_config import head_size, shapes
from gfopt.problems.language_models.hugging_face.tensor_files import Tensor
from gfopt.problems.language_models.llama import Llama
from gfopt.problems.language_models.rotary import Rotary, neighbours
from gfopt.quantization.quantized import Quantized
from gfopt.quantization.scaled_codes import packed_codes, scaled_codes
from gfopt.types import JsonObject, PyTree

FLOATS = ("F32", "F16", "BF16", "F64")
CODES = ("I8", "F8_E4M3", "F8_E5M2")
MATRICES = frozenset(["query", "key", "value", "output", "gate", "up", "down", "head"])
_PACKED = frozenset(
    """qweight qzeros scales g_idx weight_packed SCB absmax quant_map
    nested_absmax nested_quant_map bitsandbytes__nf4 bitsandbytes__fp4""".split()
)


class WeightSource:
    """The tensors of a folder that were not used yet, and what they must be."""

    def __init__(
        self,
        files: dict[str, Tensor],
        config: JsonObject,
        path: Path,
        block: tuple[int, int] | None,
    ) -> None:
        self.files, self.config, self.path, self.block = files, config, path, block
        self.embedding: Tensor | None = None
        is_prefixed = any(name.startswith("model.") for name in files)
        self.prefix = "model." if is_prefixed else ""
        table, head = f"{self.prefix}embed_tokens.weight", "lm_head.weight"
        if config["tie_word_embeddings"] and table not in files and head in files:
            files[table] = files.pop(head)  # of two names of one tensor, one is saved
        self.shapes = shapes(config, path)
        self.head_size = head_size(config, path)
        self.is_gemma = config["model_type"].startswith("gemma")

    def take(self, name: str, ours: str) -> PyTree:
        """Returns a weight in our order and form; it counts as used."""
        name = name if ours == "head" else self.prefix + name
        if ours in MATRICES and f"{name}_packed" in self.files:
            return self._packed(name, ours)
        tensor = self.files.pop(name, None)
        if tensor is None:
            start = name.removesuffix("weight")
            near = [other for other in self.files if other.startswith(start)]
            beside = f"; beside it is {self.files[near[0]]}" if near else ""
            raise ValueError(
                f"folder must hold the tensor {name}, as {self.path} says"
                f"{beside}{_hint(near)}"
            )
        kinds = FLOATS + CODES if ours in MATRICES else FLOATS
        tensor.check(self.shapes[ours], kinds, f"as {self.path} says")
        if ours == "embedding":
            self.embedding = tensor
        if tensor.kind in CODES:
            return self._codes(name, ours, tensor)
        leaf = np.asarray(tensor.read(), np.float32)
        if self.is_gemma and ours.endswith("norm"):
            leaf = leaf + 1
        return self._turned(ours, leaf)

    def _codes(self, name: str, ours: str, tensor: Tensor) -> Quantized:
        is_blocked = f"{name}_scale_inv" in self.files
        scale = self._scale(name, tensor, "scale_inv" if is_blocked else "scale")
        leaf = scaled_codes(str(tensor), tensor.read(), scale.read(), self.block)
        return self._turned_leaf(ours, leaf)

    def _packed(self, name: str, ours: str) -> Quantized:
        """Returns codes of 4 or 8 bits that are packed in words of 32 bits."""
        words, size = self.files.pop(f"{name}_packed"), f"{name}_shape"
        shape = self.files.pop(size, None)
        rows, columns = self.shapes[ours]
        if shape is not None:
            shape.check((2,), ("I64", "I32"), f"as {words} has")
        if shape is None or shape.read().tolist() != [rows, columns]:
            raise ValueError(
                f"folder must hold {size}, {[rows, columns]} as {self.path} says; got "
                f"{shape.read().tolist() if shape else 'none'}"
            )
        width = words.shape[-1] if words.shape else 0
        bits = next((b for b in (4, 8) if -(-columns * b // 32) == width), 4)
        packed = (rows, -(-columns * bits // 32))
        words.check(packed, ("I32",), f"for {columns} codes of 4 or 8 bits in a row")
        scale = self._scale(name, words).read()
        how = {"bits": bits, "columns": columns}
        leaf = packed_codes(str(words), words.read(), scale, self.block, **how)
        return self._turned_leaf(ours, leaf)

    def _scale(self, name: str, codes: Tensor, suffix: str = "scale") -> Tensor:
        scale = self.files.pop(f"{name}_{suffix}", None)
        if scale is None or scale.kind not in FLOATS:
            raise ValueError(
                f"folder must hold {name}_{suffix}, floating-point numbers for the "
                f"codes of {codes}; got {scale or 'none'}"
            )
        return scale

    def _turned_leaf(self, ours: str, leaf: Quantized) -> Quantized:
        codes, scales = (self._turned(ours, part) for part in (leaf.codes, leaf.scales))
        return dataclasses.replace(leaf, codes=codes, scales=scales)

    def _turned(self, ours: str, rows: PyTree) -> PyTree:
        """Brings the pairs of a head into the order that ``Llama`` turns."""
        is_turned = ours.startswith(("query", "key"))
        return neighbours(rows, self.head_size) if is_turned else rows

    def check_tied_head(self) -> None:
        """Rejects a head beside a tied embedding, unless the two are equal."""
        head = self.files.pop("lm_head.weight", None)
        if head is None or self.embedding is None:
            return
        head.check(self.shapes["head"], FLOATS, f"as {self.path} says")
        if not np.array_equal(head.read(), self.embedding.read()):
            raise ValueError(
                f"{head} must equal the embedding, as tie_word_embeddings of "
                f"{self.path} is true; set it to false if the head is right, or pass "
                "ignore=('lm_head.weight',) if the embedding is"
            )

    def check_rates(self, name: str, model: Llama, number: int) -> None:
        """Rejects rates of a rotary embedding that differ from the computed ones."""
        tensor = self.files.pop(self.prefix + name, None)
        if tensor is None:
            return
        rotary = Rotary(model.rope_base)
        if model.layers:
            rotary = model.layers[number].rotary
        tensor.check((self.head_size // 2,), FLOATS, f"as {self.path} says")
        rates = rotary.rates(self.head_size)
        if not np.allclose(tensor.read().astype(np.float64), rates, rtol=1e-2):
            raise ValueError(
                f"{tensor} must have the rates that {self.path} says; got others (pass "
                f"ignore=('*.inv_freq',) if {self.path.name} is right)"
            )

    def check_all_used(self) -> None:
        """Rejects tensors that nothing used."""
        names = sorted(self.files)
        if names:
            rest = f" and {len(names) - 1} more" if names[1:] else ""
            raise ValueError(
                f"folder must hold tensors that a {self.config['model_type']} model "
                f"of {self.path} uses; got {self.files[names[0]]}{rest}"
                + (
                    _hint(names)
                    or f"; pass ignore=({names[0]!r},) if the logits don't need it"
                )
            )


def _hint(names: list[str]) -> str:
    """Returns what to do with packed codes, where some are among the tensors."""
    if any(name.rsplit(".", 1)[-1] in _PACKED for name in names):
        return "; such codes are not read: take a GGUF file, or compressed-tensors"
    return ""
