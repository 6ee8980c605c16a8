"""Values as records of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gfopt import checks
from gfopt.core.constraints import ConstraintValues
from gfopt.core.host.values import Value
from gfopt.driver.storage.records import JSON, Record
from gfopt.types import PyTree


def value_to_record(step: int, row: int, value: Value) -> Record:
    """Makes a record of the value of a row."""
    fitness, reason, aux = value[:3]
    meta: JSON = {"reason": reason} if reason else {}
    arrays: dict[str, np.ndarray] = {
        "step": np.asarray(step, np.uint32),
        "row": np.asarray(row, np.uint32),
        "fitness": np.asarray(fitness, np.float64),
    }
    if aux is not None:
        meta["aux"] = _skeleton(aux)
        for number, leaf in enumerate(jax.tree.leaves(aux)):
            arrays[f"aux{number}"] = np.asarray(leaf)
    if value.candidate is not None:
        meta["candidate"] = len(value.candidate)
        for number, leaf in enumerate(value.candidate):
            arrays[f"candidate{number}"] = np.asarray(leaf)
    return Record("value", meta, arrays)


def record_to_value(record: Record) -> Value:
    """Makes the value of a record again."""
    arrays, meta = record.arrays, record.meta
    aux = candidate = None
    if "aux" in meta:
        leaves = (arrays[f"aux{number}"] for number in range(len(arrays)))
        aux = _fleshed(meta["aux"], leaves)
    if "candidate" in meta:
        candidate = [arrays[f"candidate{n}"] for n in range(meta["candidate"])]
    fitness = float(arrays["fitness"])
    return Value(fitness, meta.get("reason", ""), aux, candidate=candidate)


def _skeleton(tree: PyTree) -> Any:
    """Describes a tree's containers in JSON: ``[type, [keys,] parts]``, 0 for a leaf.

    Raises:
        TypeError: for a container that JSON cannot bring back.
    """
    if type(tree) is dict:
        keys = sorted(tree)
        return ["dict", keys, [_skeleton(tree[key]) for key in keys]]
    if type(tree) in (list, tuple):
        return [type(tree).__name__, None, [_skeleton(part) for part in tree]]
    if isinstance(tree, ConstraintValues):
        return ["constraints", None, [_skeleton(part) for part in tree]]
    if tree is None or jax.tree_util.all_leaves([tree]):
        return None if tree is None else 0
    raise TypeError(
        "aux must be made of dicts, lists, tuples and arrays where there is a "
        f"checkpoint; got {checks.shown(tree)}"
    )


def _fleshed(skeleton: Any, leaves: Iterator[np.ndarray]) -> PyTree:
    if not skeleton:
        return next(leaves) if skeleton == 0 else None
    kind, keys, parts = skeleton
    inside = [_fleshed(part, leaves) for part in parts]
    if kind == "constraints":
        return ConstraintValues(*inside)
    if kind == "dict":
        return dict(zip(keys, inside, strict=True))
    return inside if kind == "list" else tuple(inside)
