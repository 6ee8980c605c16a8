"""Positions and window of each layer of a ``config.json``."""

from __future__ import annotations

from pathlib import Path

from gfopt import checks
from gfopt.problems.language_models.llama import Layer
from gfopt.problems.language_models.rotary import NO_POSITIONS, Rotary, llama3_factors
from gfopt.types import JsonObject

_ROPE_FIELDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def layers_of(config: JsonObject, path: Path, size: int) -> tuple[Layer, ...]:
    """Returns what differs from layer to layer.

    Args:
        config: of ``read_config``.
        path: of the file, for messages.
        size: of a head.

    Raises:
        ValueError: for a value that is not computed; it says which.
    """
    count, kind = config["num_hidden_layers"], config["model_type"]
    whole = _rotary(config, path, size, "full_attention")
    local = whole
    if kind == "gemma3_text":
        local = _rotary(config, path, size, "sliding_attention")
    turning = [True] * count
    if kind == "smollm3":
        turning = _turning(config, path, count)
    sliding = _sliding(config, path, turning)
    layers = []
    for is_sliding, turns in zip(sliding, turning, strict=True):
        rotary = local if is_sliding else whole
        rotary = rotary if turns else rotary._replace(factors=NO_POSITIONS)
        layers.append(Layer(rotary, config["sliding_window"] if is_sliding else None))
    return tuple(layers)


def _turning(config: JsonObject, path: Path, count: int) -> list[bool]:
    """Returns which layers of a SmolLM3 have positions."""
    flags = config["no_rope_layers"]
    if flags is None:
        every = config["no_rope_layer_interval"]
        return [(number + 1) % every != 0 for number in range(count)]
    if (
        not isinstance(flags, list)
        or len(flags) != count
        or any(flag not in (0, 1) for flag in flags)
    ):
        raise ValueError(
            f"no_rope_layers of {path} must be 0 or 1 for each of {count} layers; "
            f"got {checks.shown(flags)}"
        )
    return [bool(turns) for turns in flags]


def _sliding(config: JsonObject, path: Path, turning: list[bool]) -> list[bool]:
    """Returns which layers have a window."""
    kind, types = config["model_type"], config.get("layer_types")
    has_window = config.get("sliding_window") is not None
    has_window &= config.get("use_sliding_window", True)
    numbers = range(len(turning))
    if types is not None:
        kinds = {"full_attention": False, "sliding_attention": True}
        if not isinstance(types, list) or len(types) != len(numbers):
            types = [None]
        if not all(isinstance(name, str) and name in kinds for name in types) or (
            "sliding_attention" in types and not has_window
        ):
            raise ValueError(
                f"layer_types of {path} must be full_attention or, with a "
                f"sliding_window, sliding_attention for each of {len(numbers)} layers; "
                f"got {checks.shown(config['layer_types'])}"
            )
        return [kinds[name] for name in types]
    if not has_window:
        return [False for _ in numbers]
    if kind in ("qwen2", "qwen3"):
        return [number >= config["max_window_layers"] for number in numbers]
    if kind in ("gemma2", "gemma3_text"):
        every = config.get("sliding_window_pattern", 2)
        return [(number + 1) % every != 0 for number in numbers]
    if kind == "smollm3":
        return [not turns for turns in turning]
    return [True for _ in numbers]


def _rotary(config: JsonObject, path: Path, size: int, layer_type: str) -> Rotary:
    """Returns the positions of the layers of one type."""
    is_local = layer_type == "sliding_attention"
    base = config["rope_local_base_freq" if is_local else "rope_theta"]
    name, entry = "rope_parameters", config["rope_parameters"] or {}
    if entry and config["model_type"] == "gemma3_text":
        if entry.keys() - {"full_attention", "sliding_attention"}:
            raise ValueError(
                f"{name} of {path} must have full_attention and sliding_attention; "
                f"got {checks.shown(entry)}"
            )
        name, entry = f"{name}.{layer_type}", entry.get(layer_type) or {}
        if not isinstance(entry, dict):
            raise ValueError(f"{name} of {path} must be an object; got {entry!r}")
    if config["rope_scaling"] and not is_local:
        name, entry = "rope_scaling", {"rope_type": None} | config["rope_scaling"]
    entry = {key: value for key, value in entry.items() if value is not None}
    kind = entry.pop("rope_type", None) or entry.pop("type", None)
    entry.pop("type", None)
    if kind is None and name != "rope_scaling":
        kind = "default"
    if not isinstance(kind, str) or kind not in _ROPE_FIELDS:
        raise ValueError(
            f"{name} of {path} must have a rope_type of {', '.join(_ROPE_FIELDS)}; "
            f"got {checks.shown(config['rope_scaling'] or config['rope_parameters'])}"
        )
    base = entry.pop("rope_theta", base)
    if entry.get("partial_rotary_factor") == 1:
        del entry["partial_rotary_factor"]
    if entry.keys() != {*_ROPE_FIELDS[kind]}:
        fields = ", ".join(_ROPE_FIELDS[kind]) or "rope_theta"
        raise ValueError(
            f"{name} of {path} must have, for the type {kind}, the fields {fields}; "
            f"got {checks.shown(entry)}"
        )
    try:
        for field, value in (entry | {"rope_theta": base}).items():
            checks.real(f"{field} in {name} of {path}", value)
            checks.positive(f"{field} in {name} of {path}", value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if kind == "linear":
        return Rotary(float(base), (float(entry["factor"]),))
    if kind == "default":
        return Rotary(float(base))
    low, high = entry["low_freq_factor"], entry["high_freq_factor"]
    if low >= high:
        raise ValueError(
            f"low_freq_factor in {name} of {path} must be below high_freq_factor; "
            f"got {low} and {high}"
        )
    length = entry["original_max_position_embeddings"]
    how = {"factor": entry["factor"], "low": low, "high": high, "length": length}
    return Rotary(float(base), llama3_factors(size, base, **how))
