"""Pytrees as records, and what differs between two configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import trees
from gfopt.driver.storage.records import JSON, Record
from gfopt.types import PyTree

_TABLE = "history/"  # before the names of columns that stand beside a tree


def tree_to_record(kind: str, tree: PyTree, meta: JSON | None = None) -> Record:
    """Makes a record of a pytree of arrays, by the paths of its leaves.

    Args:
        kind: what the record is.
        tree: JAX or NumPy arrays and numbers; no typed keys (use ``key_data``).
        meta: a JSON object.

    Returns:
        The record.

    Raises:
        ValueError: two leaves have one path, as in ``{"a/b": x, "a": {"b": y}}``.
    """
    return Record(kind, meta or {}, {k: np.asarray(v) for k, v in _named(tree).items()})


def with_table(record: Record, columns: Mapping[str, np.ndarray]) -> Record:
    """Returns a record with columns beside its tree: both are written, or neither."""
    table = {_TABLE + name: column for name, column in columns.items()}
    return record._replace(arrays=record.arrays | table)


def without_table(record: Record) -> tuple[Record, dict[str, np.ndarray]]:
    """Returns what ``with_table`` was given.

    Example:
        >>> record = with_table(tree_to_record("x", {"w": 1}), {"best": np.ones(3)})
        >>> _, columns = without_table(record)
        >>> list(record.arrays), list(columns)
        (['w', 'history/best'], ['best'])
    """
    columns = {
        name.removeprefix(_TABLE): array
        for name, array in record.arrays.items()
        if name.startswith(_TABLE)
    }
    rest = {k: v for k, v in record.arrays.items() if not k.startswith(_TABLE)}
    return record._replace(arrays=rest), columns


def record_to_tree(record: Record, template: PyTree) -> PyTree:
    """Makes the pytree of a record again.

    Args:
        record: what ``tree_to_record`` made.
        template: a tree of the same structure, shapes and dtypes: arrays, or
            ``jax.eval_shape`` of what makes them.

    Returns:
        The tree; NumPy where the template has NumPy arrays or numbers, else JAX,
        sharded as the template's array if that was committed to devices.

    Raises:
        ValueError: the record does not fit; every difference is listed.

    Example:
        >>> record = tree_to_record("x", {"w": np.ones(2), "b": np.zeros(3)})
        >>> record_to_tree(record, {"w": np.ones(2), "b": np.zeros(4)})
        Traceback (most recent call last):
        ValueError: record 'x' does not fit the template:
          b: expected 'float64[4]', found 'float64[3]'
    """
    expected = _named(template)
    lines = differences(
        leaf_types(template),
        {name: _described(array) for name, array in record.arrays.items()},
    )
    if lines:
        raise ValueError(
            "\n  ".join([f"record {record.kind!r} does not fit the template:", *lines])
        )
    leaves = [_like(leaf, record.arrays[name]) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def differences(expected: JSON, found: JSON) -> list[str]:
    """Lists what differs between two nested dicts, one line for each key.

    Args:
        expected: what this run would write.
        found: what the file holds.

    Returns:
        Lines such as ``"method.sigma: expected 0.3, found 0.5"``; empty if equal. A
        tuple equals a list and NaN equals NaN, as after a way through JSON.

    Example:
        >>> differences({"seed": 1, "m": {"sigma": 0.3}}, {"m": {"sigma": 0.5}})
        ['seed: expected 1, found nothing', 'm.sigma: expected 0.3, found 0.5']
    """
    lines = []
    for key in [*expected, *(key for key in found if key not in expected)]:
        if key not in found:
            lines.append(f"{key}: expected {expected[key]!r}, found nothing")
        elif key not in expected:
            lines.append(f"{key}: expected nothing, found {found[key]!r}")
        elif isinstance(expected[key], dict) and isinstance(found[key], dict):
            inner = differences(expected[key], found[key])
            lines.extend(f"{key}.{line}" for line in inner)
        elif not _same(expected[key], found[key]):
            lines.append(f"{key}: expected {expected[key]!r}, found {found[key]!r}")
    return lines


def leaf_types(tree: PyTree) -> dict[str, str]:
    """Returns dtype and shape of each leaf, ``"float64[4]"``, by its path."""
    return {name: _described(leaf) for name, leaf in _named(tree).items()}


def _named(tree: PyTree) -> dict[str, PyTree]:
    named: dict[str, PyTree] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = trees.path_name(path)
        if name in named:
            raise ValueError(f"tree must have one leaf for each path; got two {name!r}")
        named[name] = leaf
    return named


def _described(leaf: PyTree) -> str:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def _like(leaf: PyTree, array: np.ndarray) -> jax.Array | np.ndarray:
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return array
    if getattr(leaf, "committed", False):
        result = jax.device_put(array, leaf.sharding)
    else:
        result = jnp.asarray(array)
    if result.dtype != array.dtype:
        raise ValueError(
            f"the record holds {array.dtype}, which JAX makes {result.dtype} now;"
            " load it under jax.enable_x64(True)"
        )
    return result


def _same(a: object, b: object) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return not differences(a, b)
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
