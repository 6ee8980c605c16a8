"""Reads a ``config.json``: every field is computed, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from gfopt import checks
from gfopt.problems.language_models.hugging_face.config_fields import (
    FIXED,
    KINDS,
    REQUIRED,
    SIZES,
    UNUSED,
)
from gfopt.types import JsonObject

# null switches these off, or means something else than their default
_NULLABLE = (
    "num_key_value_heads",
    "sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
_COUNTS = (
    *SIZES,
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "max_window_layers",
    "sliding_window_pattern",
    "no_rope_layer_interval",
)
_NUMBERS = (
    "rms_norm_eps",
    "rope_theta",
    "rope_local_base_freq",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)
_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window")
_TEXTS = ("hidden_act", "hidden_activation")
_MAPPINGS = ("rope_scaling", "rope_parameters", "quantization_config")
# other names of a field
_ALIASES = {"_sliding_window_pattern": "sliding_window_pattern"}


def read_json(path: Path) -> JsonObject:
    """Reads one object of a JSON file.

    Raises:
        ValueError: for a file that is missing or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"folder must hold {path.name}; got {path.parent} without it"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON; got {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object; got {checks.shown(content)}")
    return content


def checked_ignore(ignore: Iterable[str]) -> tuple[str, ...]:
    """Returns names and patterns of what is not read.

    Raises:
        TypeError: for anything but a sequence of texts.
    """
    if isinstance(ignore, str) or not all(isinstance(name, str) for name in ignore):
        raise TypeError(f"ignore must be a tuple of names; got {checks.shown(ignore)}")
    return tuple(ignore)


def is_ignored(name: str, ignore: Sequence[str]) -> bool:
    """Tells whether one of the patterns fits a name."""
    return any(fnmatchcase(name, pattern) for pattern in ignore)


def read_config(path: Path, ignore: Sequence[str] = ()) -> JsonObject:
    """Returns all computed fields of a ``config.json``, defaults filled in.

    Args:
        path: of the file.
        ignore: names of fields to treat as absent, patterns
            with ``*`` among them.

    Raises:
        ValueError: for a file, a type or a field that is not computed; it says which.
    """
    entries = {
        _ALIASES.get(name, name): value
        for name, value in read_json(path).items()
        if not is_ignored(name, ignore)
    }
    kind = entries.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"model_type of {path} must be one of {', '.join(KINDS)}; "
            f"got {checks.shown(kind)}"
        )
    fields = KINDS[kind]
    for name, value in entries.items():
        _check(path, kind, name, value)
    config = fields | {name: value for name, value in entries.items() if name in fields}
    for name, value in config.items():
        may_be_null = name in _NULLABLE or fields[name] is None
        if value == REQUIRED or (value is None and not may_be_null):
            raise ValueError(
                f"{path} must have a value of {name}, which {kind} models need; "
                "got none"
            )
        if value is not None:
            _check_type(path, name, value)
    return config | {"model_type": kind}


def _check_type(path: Path, name: str, value: object) -> None:
    where = f"{name} of {path}"
    try:
        if name in _COUNTS:
            checks.integer(where, value, 0 if name == "max_window_layers" else 1)
        elif name in _NUMBERS:
            checks.real(where, value)
            checks.positive(where, value)
        elif name in _FLAGS:
            checks.instance(where, value, bool, "true or false")
        elif name in _TEXTS:
            checks.instance(where, value, str, "a text")
        elif name in _MAPPINGS:
            checks.instance(where, value, dict, "an object")
    except TypeError as error:
        raise ValueError(str(error)) from None


def _check(path: Path, kind: str, name: str, value: object) -> None:
    if name in KINDS[kind] or name in UNUSED or value is None:
        return
    remedy = f"pass ignore=({name!r},) if the logits don't depend on it"
    shown = checks.shown(value)
    if name not in FIXED:
        raise ValueError(
            f"{path} must have fields that are computed for {kind} models; "
            f"got {name}: {shown} ({remedy})"
        )
    if value not in FIXED[name]:
        taken = " or ".join(["null", *map(repr, FIXED[name])])
        raise ValueError(f"{name} of {path} must be {taken}; got {shown} ({remedy})")
