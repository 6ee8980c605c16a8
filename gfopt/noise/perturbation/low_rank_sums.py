"""Streamed sums of low-rank noise: products of factors, added in place in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gfopt.fusion import loop

# A sum holds the factors of as many members as fit into this (16 MB of float32), and
# adds to this many elements of a leaf at a time.
BLOCK = 1 << 22

Factors: TypeAlias = tuple[jax.Array, jax.Array]


def add(
    draw: Callable[[jax.Array, jax.Array], Factors],
    rank: int,
    sizes: tuple[int, int, int],
    leaf: jax.Array,
    seeds: jax.Array,
    weights: jax.Array,
    drawn: Factors | None,
) -> jax.Array:
    """Returns ``leaf + sum_p weights[p] A_p B_p^T / sqrt(rank)``, in blocks.

    Args:
        draw: ``(seed, layer) -> (A^T [1, rank, R], B^T [1, rank, C])``.
        rank: columns of the factors.
        sizes: the number of matrices, of their rows and of their columns.
        leaf: ``float[...]`` of as many elements.
        seeds: ``uint32[P]``.
        weights: ``float[P]``, the sums' dtype.
        drawn: ``[P, layers, rank, R]`` and ``[P, layers, rank, C]``, the factors of all
            members; None to draw them in the loop.
    """
    if leaf.size == 0 or seeds.shape[0] == 0:
        return leaf
    layers, rows, columns = sizes
    weights = weights / math.sqrt(rank)
    members = max(1, BLOCK // (rank * (rows + columns)))
    members = min(members, seeds.shape[0])
    pad = -seeds.shape[0] % members
    seeds = jnp.pad(seeds, (0, pad)).reshape(-1, members)
    weights = jnp.pad(weights, (0, pad)).reshape(-1, members)
    turns = -(-rows // max(1, min(rows, BLOCK // columns)))
    block = -(-rows // turns)

    def add_members(layer: jax.Array, turn: jax.Array, whole: jax.Array) -> jax.Array:
        if drawn is None:
            a, b = jax.vmap(lambda seed: draw(seed, layer))(seeds[turn])
        else:  # for all members in one turn
            a, b = (lax.dynamic_slice_in_dim(f, layer, 1, 1) for f in drawn)
        a = a.reshape(-1, rows).astype(weights.dtype)
        b = (b * weights[turn][:, None, None, None]).reshape(-1, columns)

        def add_rows(index: jax.Array, whole: jax.Array) -> jax.Array:
            # the last block is moved back; what the block before did counts once
            start = jnp.minimum(index * block, rows - block)
            some = lax.dynamic_slice_in_dim(a, start, block, 1)
            row = start + lax.broadcasted_iota(jnp.int32, some.shape, 1)
            some = jnp.where(row >= index * block, some, 0)
            at = (layer, start, jnp.int32(0))
            old = lax.dynamic_slice(whole, at, (1, block, columns))
            new = (old + (some.T @ b)[None]).astype(whole.dtype)
            return lax.dynamic_update_slice(whole, new, at)

        return _repeat(turns, add_rows, whole)

    def add_layer(layer: jax.Array, whole: jax.Array) -> jax.Array:
        return _repeat(seeds.shape[0], partial(add_members, layer), whole)

    whole = _repeat(layers, add_layer, leaf.reshape(layers, rows, columns))
    return whole.reshape(leaf.shape)


def _repeat(
    turns: int, body: Callable[[jax.Array, jax.Array], jax.Array], whole: jax.Array
) -> jax.Array:
    """Returns a ``loop``, without the loop where there is one turn."""
    if turns == 1:
        return body(jnp.int32(0), whole)
    return loop(turns, body, whole)
