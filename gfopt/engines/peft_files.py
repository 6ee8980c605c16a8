"""Adapters in the format of Hugging Face's peft, which vLLM and others read too.

A folder has ``adapter_config.json`` and ``adapter_model.safetensors``. A change is
``lora_alpha / r`` times ``B A`` there; ours is written with ``lora_alpha = r``. The
rotary positions of these models turn the pairs ``(i, i + s / 2)`` of a head: the rows
of ``B`` for queries and keys are put into that order, and back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.engines.adapters import MATRICES, Adapter, by_layer, rank_of
from gfopt.problems.language_models.hugging_face.config_file import read_json
from gfopt.problems.language_models.hugging_face.llama_config import LAYER_NAMES
from gfopt.problems.language_models.hugging_face.tensor_files import (
    Tensor,
    header_of,
    write_tensors,
)
from gfopt.problems.language_models.llama import Llama
from gfopt.problems.language_models.rotary import halves, neighbours

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = {ours: theirs for theirs, ours in LAYER_NAMES.items() if ours in MATRICES}
_NAME = "base_model.model.model.layers.{}.{}.lora_{}.weight"
_PATTERN = re.compile(_NAME.format(r"(\d+)", r"([a-z_.]+)", "([AB])"))
#: Taken with these values alone: what they say otherwise is not computed.
_FIXED = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}


def save_peft(
    adapter: Adapter, folder: str | Path, model: Llama, *, base: str = ""
) -> None:
    """Writes an adapter as peft has them, in float32.

    Args:
        adapter: the change.
        folder: which is made, or whose adapter is replaced.
        model: the forward pass, which knows the number of heads.
        base: name or folder of the model that it is for.

    Raises:
        ImportError: without the package ``safetensors``; it says what to install.
        TypeError, ValueError: for what is no adapter.

    Example:
        >>> import tempfile
        >>> from gfopt.engines import new_adapter
        >>> weights = {"layers": {"query": np.ones((2, 8, 4), np.float32)}}
        >>> adapter = new_adapter(weights, targets=["query"])
        >>> model = Llama(num_heads=2, num_key_value_heads=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_peft(adapter, folder, model)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    rank, folder = rank_of(adapter), Path(folder)
    tensors = {}
    for name, number, a, b in by_layer(adapter):
        which = number, MODULES[name]
        tensors[_NAME.format(*which, "A")] = a
        tensors[_NAME.format(*which, "B")] = by_head(halves, name, b, model)
    modules = sorted(MODULES[name].split(".")[1] for name in adapter)
    config = {
        **_FIXED,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": modules,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    write_tensors(folder / WEIGHTS, tensors)


def load_peft(folder: str | Path, model: Llama) -> Adapter:
    """Reads an adapter of peft, on matrices of all layers of a Llama-type model.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        model: the forward pass, which knows the number of heads.

    Raises:
        ImportError: without the package ``safetensors``; it says what to install.
        ValueError: for a file that is missing or damaged, and for an adapter of another
            kind; it says which.

    Example:
        >>> import tempfile
        >>> from gfopt.engines import new_adapter
        >>> weights = {"layers": {"query": np.ones((2, 8, 4), np.float32)}}
        >>> adapter = new_adapter(weights, targets=["query"])
        >>> model = Llama(num_heads=2, num_key_value_heads=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_peft(adapter, folder, model)
        ...     load_peft(folder, model)["query"]["b"].shape
        (2, 8, 1)
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    for field, value in _FIXED.items():
        if config.get(field, value) != value:
            raise ValueError(
                f"{field} of {folder / CONFIG} must be {value!r}; "
                f"got {checks.shown(config[field])}"
            )
    factor = _number(config, "lora_alpha", folder) / _number(config, "r", folder)
    if not (folder / WEIGHTS).exists():
        raise ValueError(f"folder must hold {WEIGHTS}; got {folder} without it")
    ours = {theirs: name for name, theirs in MODULES.items()}
    found: dict[str, dict[str, dict[int, Tensor]]] = {}
    for tensor in header_of(folder / WEIGHTS):
        match = _PATTERN.fullmatch(tensor.name)
        if match is None or match[2] not in ours:
            names = ", ".join(module.split(".")[1] for module in ours)
            raise ValueError(f"folder must change {names} of layers; got {tensor}")
        pair = found.setdefault(ours[match[2]], {"A": {}, "B": {}})
        pair[match[3]][int(match[1])] = tensor
    numbers = {tuple(sorted(part)) for pair in found.values() for part in pair.values()}
    if len(numbers) != 1 or (layers := numbers.pop()) != tuple(range(len(layers))):
        raise ValueError(f"{folder / WEIGHTS} must have both factors for every layer")

    def stacked(parts: dict[int, Tensor]) -> list[np.ndarray]:
        return [np.asarray(parts[number].read(), np.float32) for number in layers]

    with checks.whole_file("adapter", folder / WEIGHTS):
        made = {}
        for name, pair in found.items():
            rows = [by_head(neighbours, name, b, model) for b in stacked(pair["B"])]
            a, b = np.stack(stacked(pair["A"])), np.stack(rows)
            made[name] = {"a": jnp.asarray(a), "b": jnp.asarray(b * np.float32(factor))}
        rank_of(made)
    return made


def by_head(
    order: Callable[[np.ndarray, int], np.ndarray],
    name: str,
    rows: np.ndarray,
    model: Llama,
) -> np.ndarray:
    """Returns the rows of a factor with each head's in another order.

    Args:
        order: ``halves`` or ``neighbours``.
        name: of the matrix; only those of queries and keys are turned.
        rows: ``[out, rank]``.
        model: the forward pass.
    """
    heads = {"query": model.num_heads, "key": model.num_key_value_heads}
    return order(rows, len(rows) // heads[name]) if name in heads else rows


def _number(config: dict[str, object], field: str, folder: Path) -> float:
    value = config.get(field)
    if type(value) not in (int, float) or not value > 0:  # type: ignore[operator]
        raise ValueError(
            f"{field} of {folder / CONFIG} must be a number above 0; "
            f"got {checks.shown(value)}"
        )
    return float(value)  # type: ignore[arg-type]
