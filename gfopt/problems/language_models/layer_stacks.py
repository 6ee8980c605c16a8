"""Layers' weights as stacks, for a scan: one for each kind of layer.

Layers are of one kind if their leaves have the same names, shapes and types; files
whose layers are quantized in different ways have several.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.problems.language_models.llama import Layer, Llama, stacks_of
from gfopt.problems.language_models.rotary import Rotary
from gfopt.quantization.quantized import Quantized
from gfopt.types import PyTree


def numbered(kinds: Sequence[Hashable]) -> tuple[int, ...]:
    """Returns the number of each kind, counted from 0 as they come."""
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return tuple(numbers[kind] for kind in kinds)


def stacked(layers: list[dict[str, PyTree]]) -> tuple[PyTree, tuple[int, ...]]:
    """Stacks layers, which lose their leaves on the way: there is no second copy.

    Returns:
        A dict of stacked leaves, or a tuple of them where layers are of several kinds;
        and the number of each layer's kind.
    """
    kinds = numbered([_kind(layer) for layer in layers])
    stacks = []
    for kind in range(max(kinds) + 1):
        own = [layer for layer, k in zip(layers, kinds, strict=True) if k == kind]
        names = list(own[0])
        stacks.append({n: _stack([layer.pop(n) for layer in own]) for n in names})
    return (stacks[0] if len(stacks) == 1 else tuple(stacks)), kinds


def unstacked(weights: PyTree, kinds: tuple[int, ...]) -> list[dict[str, PyTree]]:
    """Returns the layers of ``stacked`` again, as NumPy arrays.

    Raises:
        ValueError: for another number of stacks than there are kinds.
    """
    stacks = [jax.tree.map(np.asarray, stack) for stack in stacks_of(weights)]
    if len(stacks) != max(kinds) + 1:
        raise ValueError(
            f"weights must have {max(kinds) + 1} stacks of layers, one for each kind; "
            f"got {len(stacks)}"
        )
    layers = []
    for number, kind in enumerate(kinds):
        place = kinds[:number].count(kind)
        layers.append(jax.tree.map(lambda leaf, i=place: leaf[i], stacks[kind]))
    return layers


def with_stacks(model: Llama, kinds: tuple[int, ...]) -> Llama:
    """Returns the model that takes each layer from its stack."""
    if max(kinds) == 0:
        return model
    layers = model.layers or (Layer(Rotary(model.rope_base)),) * len(kinds)
    own = tuple(
        layer._replace(stack=kind) for layer, kind in zip(layers, kinds, strict=True)
    )
    return dataclasses.replace(model, layers=own)


def _kind(layer: dict[str, PyTree]) -> tuple[object, ...]:
    def type_of(leaf: PyTree) -> tuple[object, ...]:
        parts = [(part.shape, part.dtype.name) for part in jax.tree.leaves(leaf)]
        return (jax.tree.structure(leaf), *parts)

    return tuple((name, *type_of(leaf)) for name, leaf in sorted(layer.items()))


def _stack(leaves: list[PyTree]) -> PyTree:
    def stack(*parts: jax.Array) -> jax.Array:
        return jnp.asarray(np.stack(parts))

    first = leaves[0]
    whole = jax.tree.map(stack, *leaves)
    if isinstance(first, Quantized) and first.codebook is not None:
        # one codebook serves all layers
        return dataclasses.replace(whole, codebook=jnp.asarray(first.codebook))
    return whole
