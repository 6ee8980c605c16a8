"""The fields of a GGUF file: a model, or a refusal that names one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gfopt import checks
from gfopt.problems.language_models.hugging_face.config_file import is_ignored
from gfopt.problems.language_models.llama import Layer, Llama
from gfopt.problems.language_models.rotary import Rotary
from gfopt.types import JsonObject

if TYPE_CHECKING:
    from gguf import GGUFReader

KINDS = ("llama", "qwen2", "qwen3")
REQUIRED = "required"
_AGAIN = "convert the model again, or get another file"

#: What is computed, each field with llama.cpp's default.
FIELDS: JsonObject = {
    "block_count": REQUIRED,
    "attention.head_count": REQUIRED,
    "attention.head_count_kv": None,  # as many as there are heads
    "attention.layer_norm_rms_epsilon": REQUIRED,
    "attention.key_length": None,  # embedding_length / head_count
    "attention.value_length": None,
    "embedding_length": None,  # the tensors have it, as they have the next two
    "feed_forward_length": None,
    "vocab_size": None,
    "rope.dimension_count": None,  # the whole head
    "rope.freq_base": 1e4,
    "rope.scaling.type": "none",
    "rope.scaling.factor": 1.0,
}
#: Taken with one of these values alone.
FIXED: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.scale": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "rope.scale_linear": (1.0,),
    "use_parallel_residual": (False,),
}
#: These change no logits of a text that is read from its start.
UNUSED = frozenset(
    """context_length rope.scaling.finetuned rope.scaling.original_context_length
    tensor_data_layout""".split()
)


class Fields:
    """The fields of one file.

    Args:
        reader: of ``open_gguf``.
        ignore: names of those to treat as absent, patterns
            with ``*`` among them.
    """

    def __init__(self, reader: GGUFReader, ignore: Sequence[str] = ()) -> None:
        self.path = str(reader.data.filename)
        self.fields = {
            name: field
            for name, field in reader.fields.items()
            if not is_ignored(name, ignore)
        }
        self.kind = self.read("general.architecture")
        if self.kind not in KINDS:
            raise ValueError(
                f"path must lead to a model of the type {', '.join(KINDS)}; "
                f"got {self.path}, of type {self.kind!r}"
            )

    @property
    def turns_halves(self) -> bool:
        """Whether the positions turn the pairs ``(i, i + s / 2)`` of a head."""
        return bool(self.kind != "llama")

    @property
    def has_head_norms(self) -> bool:
        """Whether queries and keys are normed by head."""
        return bool(self.kind == "qwen3")

    def read(self, name: str, default: Any = REQUIRED, remedy: str = _AGAIN) -> Any:
        """Returns a field's value.

        Raises:
            ValueError: where it is missing and has no default.
        """
        if name in self.fields:
            return self.fields[name].contents()
        if isinstance(default, str) and default == REQUIRED:
            raise ValueError(
                f"{self.path} must have the field {name}; got none ({remedy})"
            )
        return default

    def known(self) -> JsonObject:
        """Returns all computed fields of a Llama, defaults filled in.

        Raises:
            ValueError: for a model of another type, and a field that is missing or not
                computed; it says which.
        """
        for name in self.fields:
            short = name.removeprefix(f"{self.kind}.")
            if short == name or short in FIELDS or short in UNUSED:
                continue
            value = self.read(name)
            if value not in FIXED.get(short, ()):
                taken = " or ".join(map(repr, FIXED.get(short, ("missing",))))
                raise ValueError(
                    f"{name} of {self.path} must be {taken}, since it is not computed; "
                    f"got {checks.shown(value)} (pass ignore=({name!r},) if the logits "
                    "don't depend on it)"
                )
        values = {
            n: self.read(f"{self.kind}.{n}", value) for n, value in FIELDS.items()
        }
        for name in ("block_count", "attention.head_count", "attention.head_count_kv"):
            self._check(checks.integer, name, values[name], 1)
        for name in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
            self._check(checks.positive, name, values[name])
        return values

    def _check(self, check: Any, name: str, value: object, *least: int) -> None:
        if value is None:
            return
        try:
            check(f"{self.kind}.{name} of {self.path}", value, *least)
        except TypeError as error:  # such as a number for each layer
            raise ValueError(str(error)) from None

    def sizes(self, values: JsonObject, shapes: JsonObject) -> dict[str, int]:
        """Returns the model's sizes by the names of ``config.json``.

        Args:
            values: of ``known``.
            shapes: of the tensors by name.

        Raises:
            ValueError: for a field that is not the size of a tensor.
        """
        heads = values["attention.head_count"]
        shared = values["attention.head_count_kv"] or heads
        vocabulary, width = shapes["token_embd.weight"]
        rows = shapes["blk.0.attn_q.weight"][0]
        size, inner = rows // heads, shapes["blk.0.ffn_up.weight"][0]
        if size * heads != rows or heads % shared or size % 2:
            raise ValueError(
                f"{self.kind}.attention.head_count of {self.path} must cut the {rows} "
                "rows of attn_q into heads of an even size, and be a multiple of "
                f"head_count_kv; got {heads} and {shared}"
            )
        expected = {
            "attention.key_length": size,
            "attention.value_length": size,
            "rope.dimension_count": size,
            "embedding_length": width,
            "feed_forward_length": inner,
            "vocab_size": vocabulary,
        }
        for name, number in expected.items():
            if values[name] not in (None, number):
                raise ValueError(
                    f"{self.kind}.{name} of {self.path} must be {number}, as its "
                    f"tensors have it; got {checks.shown(values[name])}"
                )
        return {
            "hidden_size": width,
            "intermediate_size": inner,
            "num_attention_heads": heads,
            "num_key_value_heads": shared,
            "head_dim": size,
            "vocab_size": vocabulary,
        }

    def model(self, values: JsonObject, size: int, factors: Iterable[Any]) -> Llama:
        """Returns the forward pass.

        Args:
            values: of ``known``.
            size: of a head.
            factors: of the rotary positions, the tensor ``rope_freqs.weight``; empty
                for none.

        Raises:
            ValueError: for scaled positions that are not computed.
        """
        scaling, scale = values["rope.scaling.type"], values["rope.scaling.factor"]
        if scaling not in ("none", "linear"):
            raise ValueError(
                f"{self.kind}.rope.scaling.type of {self.path} must be none or linear; "
                f"got {scaling!r}"
            )
        own: tuple[float, ...] = tuple(map(float, factors))
        if own and len(own) != size // 2:
            raise ValueError(
                f"rope_freqs.weight of {self.path} must have {size // 2} numbers, one "
                f"for each pair of a head; got {len(own)}"
            )
        if scaling == "linear" and scale != 1:
            self._check(checks.positive, "rope.scaling.factor", scale)
            own = tuple(scale * factor for factor in own or (1.0,))
        base = float(values["rope.freq_base"])
        heads = int(values["attention.head_count"])
        return Llama(
            num_heads=heads,
            num_key_value_heads=int(values["attention.head_count_kv"] or heads),
            rope_base=base,
            norm_eps=float(values["attention.layer_norm_rms_epsilon"]),
            layers=(Layer(Rotary(base, own)),) * values["block_count"] if own else (),
        )
