"""Streamed sums of noise: drawn again a block at a time, added in place."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

# Elements drawn at a time: 256 kB of float32 stays in cache.
BLOCK = 1 << 16


class Draw(Protocol):
    """Draws rows of one leaf's noise: ``(seed, first row, count) -> [count, C]``."""

    def __call__(self, seed: jax.Array, start: jax.Array, num_rows: int) -> jax.Array:
        """Returns ``float32[num_rows, C]``."""


def add(
    draw: Draw,
    rows: int,
    columns: int,
    leaf: jax.Array,
    seeds: jax.Array,
    weights: jax.Array,
    power: int,
) -> jax.Array:
    """Returns ``leaf + sum_p weights[p] * z_p ** power``, block by block in place.

    Args:
        draw: the noise of this leaf.
        rows: how many rows it has; the last one of a vector may be cut short.
        columns: how many columns.
        leaf: ``float[...]``.
        seeds: ``uint32[P]``.
        weights: ``float[P]``, the sum's dtype.
        power: 1 or 2.
    """
    if leaf.size == 0 or seeds.shape[0] == 0:
        return leaf
    turns = -(-rows // max(1, min(rows, BLOCK // columns)))
    block_rows = -(-rows // turns)
    seeds, weights = _grouped(seeds, weights, block_rows * columns)

    def block_sum(start: jax.Array, count: int) -> jax.Array:
        """sum_p w_p z_p ** power over the rows of one block, ``[count, columns]``."""

        def power_of(seed: jax.Array) -> jax.Array:
            z = draw(seed, start, count)
            return z if power == 1 else z**power

        def add_group(index: jax.Array, total: jax.Array) -> jax.Array:
            z = jax.vmap(power_of)(seeds[index]).astype(weights.dtype)
            if z.shape[0] == 1:  # fuses with the draw: the noise is never in memory
                return total + weights[index, 0] * z[0]
            return total + jnp.tensordot(weights[index], z, 1)

        zero = jnp.zeros((count, columns), weights.dtype)
        if seeds.shape[0] == 1:
            return add_group(jnp.int32(0), zero)
        return lax.fori_loop(0, seeds.shape[0], add_group, zero)

    if turns == 1:
        total = block_sum(jnp.int32(0), rows).reshape(-1)[: leaf.size]
        return (leaf + total.reshape(leaf.shape)).astype(leaf.dtype)

    # The last block is moved back to be as large as the others; what the block before
    # did is done. One block alone, and nothing after the loop, keeps the sum in place.
    def add_rows(turn: jax.Array, whole: jax.Array) -> jax.Array:
        start = jnp.minimum(turn * block_rows, rows - block_rows)
        old = lax.dynamic_slice_in_dim(whole, start, block_rows)
        new = (old + block_sum(start, block_rows)).astype(whole.dtype)
        row = start + lax.broadcasted_iota(jnp.int32, old.shape, 0)
        new = jnp.where(row >= turn * block_rows, new, old)
        return lax.dynamic_update_slice_in_dim(whole, new, start, 0)

    def add_elements(turn: jax.Array, whole: jax.Array) -> jax.Array:
        size = block_rows * columns
        start = jnp.minimum(turn * size, whole.size - size)
        row = start // columns
        change = block_sum(row, block_rows + 1).reshape(-1)
        change = lax.dynamic_slice_in_dim(change, start - row * columns, size)
        old = lax.dynamic_slice_in_dim(whole, start, size)
        element = start + lax.iota(jnp.int32, size)
        new = jnp.where(element >= turn * size, (old + change).astype(old.dtype), old)
        return lax.dynamic_update_slice_in_dim(whole, new, start, 0)

    if rows * columns != leaf.size:  # a vector, whose last row is cut short
        return lax.fori_loop(0, turns, add_elements, leaf)
    whole = lax.fori_loop(0, turns, add_rows, leaf.reshape(rows, columns))
    return whole.reshape(leaf.shape)


def _grouped(
    seeds: jax.Array, weights: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
    """Returns seeds and weights as ``[groups, members]``, padded with weights of 0.

    Members of a small leaf are drawn together, since a loop's turn costs as much as a
    few thousand draws; those of a large one alone, so that the draw fuses.
    """
    group = 1 if block >= 4096 else min(seeds.shape[0], BLOCK // block)
    pad = -seeds.shape[0] % group
    seeds, weights = jnp.pad(seeds, (0, pad)), jnp.pad(weights, (0, pad))
    return seeds.reshape(-1, group), weights.reshape(-1, group)
