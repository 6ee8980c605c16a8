"""A module's weights as leaves: their names, their paths, and the tree that they are.

The parameter ``"layers.0.weight"`` is the leaf at the path ``layers/0/weight`` of the
nested dict that its name spells. Noise is selected by that path, so the tree and the
module have the same noise, and one log of scalars.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch

from gfopt import checks
from gfopt.core import trees
from gfopt.types import PyTree

_KIND = "an nn.Module, named parameters, or dicts with these at 'params'"


class Leaf(NamedTuple):
    """A tensor that is tuned.

    Attributes:
        name: of the parameter.
        path_hash: crc32 of its path.
        tensor: the parameter.
        learning_rate: of its group, None for the method's.
    """

    name: str
    path_hash: int
    tensor: torch.Tensor
    learning_rate: float | None = None


def leaves_of(parameters: Any) -> list[Leaf]:
    """Returns what is tuned: parameters that require a gradient, each once.

    Args:
        parameters: an ``nn.Module``; pairs of a name and a tensor; or dicts with these
            at ``"params"``, and perhaps a ``"learning_rate"``.

    Raises:
        TypeError: for tensors without names, or of other numbers than floats.
        ValueError: where nothing is tuned, or one name has two tensors.
    """
    if isinstance(parameters, torch.nn.Module):
        parameters = parameters.named_parameters()
    checks.instance("parameters", parameters, Iterable, _KIND)
    found: dict[str, Leaf] = {}
    known: dict[int, str] = {}
    for name, tensor, rate in _named(parameters):
        if not tensor.requires_grad or id(tensor) in known:  # frozen, or tied
            continue
        if not tensor.is_floating_point():
            raise TypeError(f"parameter {name!r} must be of floats; got {tensor.dtype}")
        if name in found:
            raise ValueError(f"parameters must have a name each; got {name!r} twice")
        path = name.replace(".", "/").encode()
        found[name] = Leaf(name, zlib.crc32(path), tensor, rate)
        known[id(tensor)] = name
    if not any(leaf.tensor.numel() for leaf in found.values()):
        raise ValueError(
            "parameters must have numbers that require a gradient: it says what is "
            "tuned; got none"
        )
    return list(found.values())


def _named(parameters: Iterable[Any]) -> Iterable[tuple[str, torch.Tensor, Any]]:
    """Yields name, tensor and learning rate."""
    for item in parameters:
        if isinstance(item, Mapping):
            if unknown := item.keys() - {"params", "learning_rate"}:
                raise ValueError(
                    "a group of parameters must have 'params' and 'learning_rate'; "
                    f"got {sorted(map(str, unknown))}"
                )
            rate = item.get("learning_rate")
            if rate is not None:
                checks.non_negative("learning_rate", rate)
            inner = item["params"]
            if isinstance(inner, torch.nn.Module):
                inner = inner.named_parameters()
            yield from ((name, tensor, rate) for name, tensor, _ in _named(inner))
        elif (
            isinstance(item, tuple)
            and len(item) == 2
            and isinstance(item[0], str)
            and isinstance(item[1], torch.Tensor)
        ):
            yield (*item, None)
        else:
            raise TypeError(
                f"parameters must be {_KIND}: names select the noise, so pass "
                f"named_parameters(); got {checks.shown(type(item))}"
            )


def nested(leaves: Mapping[str, Any]) -> PyTree:
    """Returns the nested dict that dotted names spell.

    Example:
        >>> nested({"0.weight": 1, "0.bias": 2})
        {'0': {'weight': 1, 'bias': 2}}
    """
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return tree


def forms(leaves: Iterable[Leaf]) -> PyTree:
    """Returns the tree of leaves as shapes and dtypes."""
    return nested(
        {
            leaf.name: jax.ShapeDtypeStruct(
                tuple(leaf.tensor.shape), str(leaf.tensor.dtype).removeprefix("torch.")
            )
            for leaf in leaves
        }
    )


def logged(leaves: list[Leaf]) -> PyTree:
    """Returns the form of what a log is of.

    Raises:
        ValueError: where groups have learning rates of their own.
    """
    own = [leaf.name for leaf in leaves if leaf.learning_rate is not None]
    if own:
        raise ValueError(
            "parameters must have the method's learning rate to be logged; these have "
            f"their own: {checks.shown(own)}"
        )
    return forms(leaves)


def to_tree(parameters: Any) -> PyTree:
    """Returns the tuned weights as the tree that a JAX run starts from.

    Args:
        parameters: as of ``Tuner``.

    Returns:
        Nested dicts of JAX arrays, in the parameters' types.

    Example:
        >>> tree = to_tree(torch.nn.Sequential(torch.nn.Linear(3, 2)))
        >>> jax.tree.map(lambda leaf: leaf.shape, tree)
        {'0': {'bias': (2,), 'weight': (2, 3)}}
    """
    arrays = {leaf.name: _array(leaf.tensor) for leaf in leaves_of(parameters)}
    with trees.precision(arrays):
        return nested(jax.tree.map(jnp.array, arrays))


def from_tree(parameters: Any, tree: PyTree) -> None:
    """Writes the weights of a tree of ``to_tree`` into the parameters.

    Args:
        parameters: as of ``Tuner``.
        tree: arrays of the same names and shapes.

    Raises:
        ValueError: where names, shapes or types differ; nothing is written then.

    Example:
        >>> layer = torch.nn.Linear(1, 1)
        >>> from_tree(layer, {"weight": np.float32([[2]]), "bias": np.float32([1])})
        >>> layer(torch.tensor([3.0])).item()
        7.0
    """
    leaves = leaves_of(parameters)
    expected, found = forms(leaves), jax.tree.map(np.asarray, tree)
    described = [
        {
            jax.tree_util.keystr(path, simple=True, separator="."): (
                f"{leaf.dtype}{list(leaf.shape)}",
                leaf,
            )
            for path, leaf in jax.tree_util.tree_leaves_with_path(one)
        }
        for one in (expected, found)
    ]
    lines = [
        f"{name}: {texts[0]} here, {texts[1]} in the tree"
        for name in {**described[0], **described[1]}
        if len(set(texts := [one.get(name, ("nothing",))[0] for one in described])) > 1
    ]
    if lines:
        raise ValueError("\n  ".join(["tree must be like the parameters", *lines]))
    for leaf in leaves:
        leaf.tensor.detach().copy_(_tensor(described[1][leaf.name][1]))


def _array(tensor: torch.Tensor) -> np.ndarray:
    dense = tensor.detach().cpu().contiguous()
    if dense.dtype == torch.bfloat16:
        return dense.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return dense.numpy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
