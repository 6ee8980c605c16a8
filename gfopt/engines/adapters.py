"""Adapters of low rank as trees: made, found in members, applied, joined.

    W_adapted = W + B A,    A [rank, in], B [out, rank]

for every matrix ``W [out, in]`` that an adapter has. It is a dict of the leaves of a
model's layers, ``{"query": {"a": [N, rank, in], "b": [N, out, rank]}, ...}``, with a
leading axis of layers, so that it is a solution like any other.

Source: Hu et al. (2022), arXiv 2106.09685, equation 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.lazy.lazy import materialise
from gfopt.lazy.low_rank import LowRank
from gfopt.types import PyTree

Adapter: TypeAlias = dict[str, dict[str, jax.Array]]

MATRICES = ("query", "key", "value", "output", "gate", "up", "down")


def new_adapter(
    weights: PyTree,
    rank: int = 1,
    *,
    targets: Sequence[str] = ("query", "value"),
    seed: int = 0,
) -> Adapter:
    """Returns an adapter that changes nothing yet: ``A`` is drawn, ``B`` is 0.

    Args:
        weights: of a Llama-type model, such as ``load_gguf`` returns.
        rank: of each matrix' change.
        targets: the matrices of the layers, of query, key, value, output, gate, up and
            down.
        seed: of ``A``, whose entries have the variance ``1 / in``.

    Raises:
        TypeError: for a rank or a seed that is not an integer.
        ValueError: for a rank or a seed out of range, matrices that the model lacks, or
            weights of another form.

    Example:
        >>> import jax.numpy as jnp
        >>> weights = {"layers": {"query": jnp.ones((2, 6, 4))}}
        >>> jax.tree.map(jnp.shape, new_adapter(weights, targets=["query"]))
        {'query': {'a': (2, 1, 4), 'b': (2, 6, 1)}}
    """
    checks.integer("rank", rank, 1)
    checks.integer("seed", seed, 0)
    layers = _layers(weights)
    known = [name for name in MATRICES if name in layers]
    if isinstance(targets, str) or not targets or not {*targets} <= {*known}:
        raise ValueError(
            f"targets must be some of the model's matrices, {', '.join(known)}; "
            f"got {checks.shown(targets)}"
        )
    draw = np.random.default_rng(seed)
    made = {}
    for name in targets:
        number, rows, columns = layers[name].shape
        a = draw.normal(size=(number, rank, columns)) / np.sqrt(columns)
        b = jnp.zeros((number, rows, rank), jnp.float32)
        made[name] = {"a": jnp.asarray(a, jnp.float32), "b": b}
    return made


def adapter_of(member: PyTree) -> Adapter:
    """Returns what low-rank noise has added, as an adapter of the same rank.

    Args:
        member: what a method with ``low_rank()`` noise decodes to: weights, or the part
            of them that is searched, with ``LowRank`` leaves.

    Raises:
        ValueError: for noise on anything but matrices of the layers (``low_rank`` takes
            ``exclude``), or none at all.

    Example:
        >>> import gfopt
        >>> searched = {"layers": {"query": jnp.ones((2, 6, 4))}}
        >>> member = gfopt.low_rank(rank=1).add(searched, jnp.uint32(7), 0.1)
        >>> jax.tree.map(jnp.shape, adapter_of(member))
        {'query': {'a': (2, 1, 4), 'b': (2, 6, 1)}}
    """
    layers = _layers(member)
    for name, leaf in {**member, **layers}.items():
        if isinstance(leaf, LowRank) and name not in MATRICES:
            raise ValueError(
                "member must have noise on matrices of the layers alone, "
                f"{', '.join(MATRICES)}; got some on {name!r} (exclude it)"
            )
    found = {}
    for name, leaf in layers.items():
        if isinstance(leaf, LowRank):
            found[name] = {"a": jnp.swapaxes(leaf.b, 1, 2), "b": leaf.a}
    if not found:
        raise ValueError("member must have LowRank leaves in its layers; got none")
    return found


def with_adapter(weights: PyTree, adapter: Adapter, scale: float = 1.0) -> PyTree:
    """Returns weights with a lazy leaf, ``LowRank``, in place of each adapted matrix.

    Args:
        weights: of the model; quantized leaves stay as they are.
        adapter: the change.
        scale: of the change.

    Raises:
        ValueError: for an adapter of another model, or weights of another form.

    Example:
        >>> weights = {"layers": {"query": jnp.ones((2, 6, 4))}}
        >>> adapter = new_adapter(weights, targets=["query"])
        >>> with_adapter(weights, adapter)["layers"]["query"]
        LowRank(float32[2,6,4])
    """
    layers = dict(_layers(weights))
    for name, (a, b) in _factors(adapter).items():
        if name not in layers:
            raise ValueError(f"adapter must change matrices of weights; got {name!r}")
        shape = (*b.shape[:2], a.shape[2])
        if tuple(layers[name].shape) != shape:
            raise ValueError(
                f"adapter must fit {name}, {tuple(layers[name].shape)}; got {shape}"
            )
        layers[name] = LowRank(layers[name], b * scale, jnp.swapaxes(a, 1, 2))
    return weights | {"layers": layers}


def merged(weights: PyTree, adapter: Adapter, scale: float = 1.0) -> PyTree:
    """Returns dense weights with the change added, ``W + scale B A``.

    Args:
        weights: of the model; quantized leaves are made dense.
        adapter: the change.
        scale: of the change.

    Raises:
        ValueError: for an adapter of another model, or weights of another form.

    Example:
        >>> weights = {"layers": {"query": jnp.ones((2, 6, 4))}}
        >>> adapter = new_adapter(weights, targets=["query"])
        >>> bool((merged(weights, adapter)["layers"]["query"] == 1).all())
        True
    """
    return materialise(with_adapter(weights, adapter, scale))


def joined(adapters: Sequence[Adapter]) -> Adapter:
    """Returns the sum of adapters as one, whose rank is the sum of theirs.

    Args:
        adapters: one or more, which change the same matrices.

    Raises:
        ValueError: for none, or different matrices.

    Example:
        >>> weights = {"layers": {"query": jnp.ones((2, 6, 4))}}
        >>> first, other = (new_adapter(weights, r, targets=["query"]) for r in (1, 2))
        >>> joined([first, other])["query"]["a"].shape
        (2, 3, 4)
    """
    if not adapters or len({frozenset(adapter) for adapter in adapters}) > 1:
        names = [sorted(adapter) for adapter in adapters]
        raise ValueError(f"adapters must change the same matrices; got {names}")
    parts = [_factors(adapter) for adapter in adapters]
    return {
        name: {
            "a": jnp.concatenate([part[name][0] for part in parts], axis=1),
            "b": jnp.concatenate([part[name][1] for part in parts], axis=2),
        }
        for name in adapters[0]
    }


def adapter_between(base: PyTree, changed: PyTree, rank: int) -> Adapter:
    """Returns the adapter of a rank that leads closest from weights to others.

    The part of each matrix' change with the largest singular values, by Eckart and
    Young (1936); changes of matrices alone, not of norms or embeddings.

    Args:
        base: weights.
        changed: weights, or the part of them that was searched.
        rank: of the adapter; of a smaller change the rest is 0.

    Raises:
        TypeError: for a rank that is not an integer.
        ValueError: for a rank below 1, or weights of another form.

    Example:
        >>> old = {"layers": {"query": jnp.ones((2, 6, 4))}}
        >>> new = {"layers": {"query": jnp.full((2, 6, 4), 1.5)}}
        >>> found = adapter_between(old, new, rank=1)
        >>> bool(jnp.allclose(merged(old, found)["layers"]["query"], 1.5))
        True
    """
    checks.integer("rank", rank, 1)
    old, new, found = _layers(base), _layers(changed), {}
    for name in MATRICES:
        if new.get(name) is None:
            continue
        change = np.asarray(materialise(new[name]), np.float64)
        change = change - np.asarray(materialise(old[name]), np.float64)
        u, s, v = np.linalg.svd(change, full_matrices=False)
        root = np.sqrt(s[:, :rank])
        a, b = root[..., None] * v[:, :rank], u[..., :rank] * root[:, None]
        missing = max(0, rank - s.shape[1])
        a = np.pad(a, [(0, 0), (0, missing), (0, 0)])
        b = np.pad(b, [(0, 0), (0, 0), (0, missing)])
        found[name] = {"a": jnp.float32(a), "b": jnp.float32(b)}
    return found


def by_layer(adapter: Adapter) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yields the pairs of all layers: name, layer, ``A`` and ``B`` in float32."""
    for name, pair in adapter.items():
        factors = (np.asarray(pair[part], np.float32) for part in "ab")
        for number, (a, b) in enumerate(zip(*factors, strict=True)):
            yield name, number, a, b


def rank_of(adapter: Adapter) -> int:
    """Returns the rank that the matrices of an adapter have in common.

    Raises:
        TypeError, ValueError: for anything but an adapter.
    """
    ranks = {a.shape[1] for a, _ in _factors(adapter).values()}
    if len(ranks) > 1:
        raise ValueError(f"adapter must have one rank; got {sorted(ranks)}")
    return int(ranks.pop())


def _factors(adapter: Adapter) -> dict[str, tuple[PyTree, PyTree]]:
    """Returns ``(a, b)`` by matrix; refuses what is not an adapter."""
    checks.instance("adapter", adapter, dict, "a dict of factors by matrix")
    found = {}
    for name, pair in adapter.items():
        parts = pair if isinstance(pair, dict) else {}
        a, b = parts.get("a"), parts.get("b")
        shapes: list[tuple[int, ...]] = [getattr(part, "shape", ()) for part in (a, b)]
        fits = [len(shape) for shape in shapes] == [3, 3]
        if not fits or shapes[0][:2] != (shapes[1][0], shapes[1][2]):
            raise ValueError(
                "adapter must have a [N, rank, in] and b [N, out, rank] for each "
                f"matrix; got {checks.shown(shapes)} for {name!r}"
            )
        found[name] = (a, b)
    if not found:
        raise ValueError("adapter must have a matrix; got none")
    return found


def _layers(weights: PyTree) -> dict[str, PyTree]:
    layers = weights.get("layers") if isinstance(weights, dict) else None
    if not isinstance(layers, dict):
        raise ValueError(
            'weights must be a dict with the leaves of all layers as weights["layers"],'
            f" stacked; got {checks.shown(type(weights if layers is None else layers))}"
        )
    return layers
