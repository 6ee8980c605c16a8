"""What ``quantization_config`` says of a file's codes; the rest is refused.

Weights are read as they are; activations are not rounded, which files for integer or
8-bit float products allow for.

Sources: the formats of compressed-tensors 0.20 and of the fine-grained FP8 files that
transformers 5.24 reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gfopt import checks
from gfopt.problems.language_models.hugging_face.config_file import is_ignored
from gfopt.types import JsonObject

FORMATS = ("int-quantized", "float-quantized", "naive-quantized", "pack-quantized")
# of each method the fields that change nothing here
_UNUSED = {
    "compressed-tensors": (
        "global_compression_ratio",
        "quantization_status",
        "version",
        "ignore",  # modules that have no codes: their tensors say so
    ),
    "fp8": ("fmt", "modules_to_not_convert", "dequantize"),
}
# of each group of modules
_WEIGHTS = {
    "num_bits": (4, 8),
    "type": ("int", "float"),
    "strategy": ("tensor", "channel", "group"),
    "symmetric": (True,),
    "dynamic": (False,),
    "actorder": (False,),
}
_UNUSED_WEIGHTS = ("observer", "observer_kwargs")


def block_of(
    config: JsonObject | None, path: Path, ignore: Sequence[str]
) -> tuple[int, int] | None:
    """Checks a ``quantization_config`` and returns the block that shares a scale.

    Args:
        config: the field's value.
        path: of the file, for messages.
        ignore: names of fields to treat as absent, such as
            ``"quantization_config.kv_cache_scheme"``.

    Returns:
        Rows and columns, or None where scales are for matrices, rows or groups.

    Raises:
        ValueError: for a method or a field that is not computed; it says which.
    """
    if config is None:
        return None
    where = "quantization_config"
    entries = _known(config, where, ignore)
    method = entries.pop("quant_method", None)
    if not isinstance(method, str) or method not in _UNUSED:
        raise ValueError(
            f"quant_method in {where} of {path} must be one of "
            f"{', '.join(_UNUSED)}; got {checks.shown(method)} (load the weights of "
            "the model before it was quantized, or a GGUF file)"
        )
    entries = {name: v for name, v in entries.items() if name not in _UNUSED[method]}
    block = None
    if method == "fp8":
        if entries.pop("activation_scheme", "dynamic") != "dynamic":
            raise _refused(
                path, where, "activation_scheme", config["activation_scheme"]
            )
        block = entries.pop("weight_block_size", None)
        is_pair = isinstance(block, list) and len(block) == 2
        if block is not None and not (
            is_pair and all(type(size) is int and size > 0 for size in block)
        ):
            raise _refused(path, where, "weight_block_size", block)
    else:
        if entries.pop("format", None) not in FORMATS:
            raise _refused(path, where, "format", config.get("format"))
        groups = _known(
            entries.pop("config_groups", None), f"{where}.config_groups", ()
        )
        sizes = {
            _group_size(f"{where}.config_groups.{name}", group, path, ignore)
            for name, group in groups.items()
        }
        if len(sizes) > 1:
            raise ValueError(
                f"config_groups in {where} of {path} must have one group_size; got "
                f"{sorted(map(str, sizes))}"
            )
        size = sizes.pop() if sizes else None
        block = None if size is None else [1, size]
    for name, value in entries.items():
        raise _refused(path, where, name, value)
    return None if block is None else (block[0], block[1])


def _group_size(
    where: str, group: JsonObject, path: Path, ignore: Sequence[str]
) -> int | None:
    """Checks what is said of some modules; returns how many codes share a scale."""
    entries = _known(group, where, ignore)
    entries.pop("targets", None)
    if entries.pop("format", FORMATS[0]) not in FORMATS:
        raise _refused(path, where, "format", group["format"])
    inputs = _known(
        entries.pop("input_activations", None), f"{where}.input_activations", ignore
    )
    if inputs.get("dynamic", True) not in (True, "local"):
        raise _refused(path, f"{where}.input_activations", "dynamic", inputs["dynamic"])
    weights = _known(entries.pop("weights", None), f"{where}.weights", ignore)
    size = weights.pop("group_size", None)
    if size is not None and (type(size) is not int or size < 1):
        raise _refused(path, f"{where}.weights", "group_size", size)
    if size is not None and weights.get("strategy") != "group":
        raise _refused(path, f"{where}.weights", "strategy", weights.get("strategy"))
    for name, value in weights.items():
        if name in _UNUSED_WEIGHTS or value in _WEIGHTS.get(name, ()):
            continue
        raise _refused(path, f"{where}.weights", name, value)
    for name, value in entries.items():
        raise _refused(path, where, name, value)
    return size


def _known(fields: object, where: str, ignore: Sequence[str]) -> JsonObject:
    """Returns the fields that say something and are not ignored."""
    if fields is not None and not isinstance(fields, dict):
        raise ValueError(f"{where} must be an object; got {checks.shown(fields)}")
    return {
        name: value
        for name, value in (fields or {}).items()
        if value not in (None, {}, []) and not is_ignored(f"{where}.{name}", ignore)
    }


def _refused(path: Path, where: str, name: str, value: object) -> ValueError:
    return ValueError(
        f"{where} of {path} must have fields that are computed; got {name}: "
        f"{checks.shown(value)} (load the weights of the model before it was "
        f"quantized, or pass ignore=('{where}.{name}',) if the logits don't depend on "
        "it)"
    )
