"""Streamed sums of noise: drawn again a block at a time, added in place."""

from __future__ import annotations

from typing import Any, Protocol

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
    block_rows = max(1, min(rows, BLOCK // columns))
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

    if rows == block_rows:
        total = block_sum(jnp.int32(0), rows).reshape(-1)[: leaf.size]
        return (leaf + total.reshape(leaf.shape)).astype(leaf.dtype)

    is_ragged = rows * columns != leaf.size  # a vector's last row is cut short
    whole = leaf if is_ragged else leaf.reshape(rows, columns)

    def add_block(start: jax.Array, count: int, whole: jax.Array) -> jax.Array:
        change = block_sum(start, count)
        at: tuple[Any, ...] = (start, jnp.int32(0))
        if is_ragged:
            at, change = (start * columns,), change.reshape(-1)
        old = lax.dynamic_slice(whole, at, change.shape)
        return lax.dynamic_update_slice(whole, (old + change).astype(whole.dtype), at)

    # whole blocks in a loop, what is left in a last, smaller one
    num_blocks = leaf.size // columns // block_rows
    whole = lax.fori_loop(
        0,
        num_blocks,
        lambda i, whole: add_block(i * block_rows, block_rows, whole),
        whole,
    )
    done = num_blocks * block_rows
    if is_ragged:
        change = block_sum(jnp.int32(done), rows - done).reshape(-1)
        tail = whole[done * columns :]
        tail = (tail + change[: tail.size]).astype(whole.dtype)
        whole = lax.dynamic_update_slice(whole, tail, (done * columns,))
    elif done < rows:
        whole = add_block(jnp.int32(done), rows - done, whole)
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
