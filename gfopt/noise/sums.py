"""Streamed sums of noise: drawn again a block at a time, added in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

from gfopt.fusion import loop
from gfopt.noise import rounding

# Elements drawn at a time: 256 kB of float32 stays in cache.
BLOCK = 1 << 16


Added: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]


class Draw(Protocol):
    """Draws rows of one leaf's noise: ``(seed, first row, count) -> [count, C]``."""

    def __call__(self, seed: jax.Array, start: jax.Array, num_rows: int) -> jax.Array:
        """Returns ``float32[num_rows, C]``."""


def add(
    draw: Draw,
    rows: int,
    columns: int,
    leaves: tuple[jax.Array, ...],
    seeds: jax.Array,
    weights: jax.Array,
    bits: Callable[[jax.Array, int], jax.Array] | None = None,
    added: Added | None = None,
) -> tuple[jax.Array, ...]:
    """Returns ``leaves[k] + sum_p weights[p, k] * z_p ** (k + 1)``, block by block.

    Args:
        draw: the noise of this leaf.
        rows: how many rows it has; the last one of a vector may be cut short.
        columns: how many columns.
        leaves: ``float[...]``, one for the sum of the noise, and perhaps one for that
            of its squares.
        seeds: ``uint32[P]``.
        weights: ``float[P, K]``, the sums' dtype.
        bits: ``(first row, count) -> uint32[count, C]``, random words by which narrow
            leaves are rounded up or down; None for rounding to the nearest.
        added: ``(old, sum, words) -> new`` for each block, in place of ``added_to``.
    """
    added_in = added_to if added is None else added
    shape, size = leaves[0].shape, leaves[0].size
    if size == 0 or seeds.shape[0] == 0:
        return leaves
    turns = -(-rows // max(1, min(rows, BLOCK // columns)))
    block_rows = -(-rows // turns)
    seeds, weights = _grouped(seeds, weights, block_rows * columns)

    def block_sums(start: jax.Array, count: int) -> list[jax.Array]:
        """sum_p w_p z_p ** k over the rows of one block, each ``[count, columns]``."""

        def noise(index: jax.Array) -> jax.Array:
            z = jax.vmap(lambda seed: draw(seed, start, count))(seeds[index])
            return z.astype(weights.dtype)

        def added(
            index: jax.Array, z: jax.Array, totals: list[jax.Array]
        ) -> list[jax.Array]:
            found = []
            for k, total in enumerate(totals):
                weight, power = weights[index, :, k], z if k == 0 else z * z
                if z.shape[0] == 1:  # fuses with the draw: it is never in memory
                    found.append(total + weight[0] * power[0])
                else:
                    found.append(total + jnp.tensordot(weight, power, 1))
            return found

        num_groups = seeds.shape[0]
        totals = [jnp.zeros((count, columns), weights.dtype) for _ in leaves]
        if num_groups == 1:
            return added(jnp.int32(0), noise(jnp.int32(0)), totals)
        if len(leaves) == 1:
            return loop(num_groups, lambda i, t: added(i, noise(i), t), totals)

        # XLA would draw once for each of two sums. What a loop carries is made once:
        # a turn draws for the next one.
        def turn(
            index: jax.Array, carry: tuple[jax.Array, list[jax.Array]]
        ) -> tuple[jax.Array, list[jax.Array]]:
            z, totals = carry
            return noise(index), added(index - 1, z, totals)

        z = jnp.zeros((seeds.shape[1], count, columns), weights.dtype)
        z, totals = loop(num_groups, turn, (z, totals))
        return added(jnp.int32(num_groups - 1), z, totals)

    def added_part(
        old: jax.Array,
        total: jax.Array,
        start: jax.Array,
        count: int,
        cut: Callable[[jax.Array], jax.Array],
    ) -> jax.Array:
        """Returns ``old`` plus its part of a block's sum."""
        is_random = bits is not None and rounding.is_narrow(old.dtype)
        words = cut(bits(start, count)) if bits is not None and is_random else None
        return added_in(old, cut(total), words)

    if turns == 1:
        start = jnp.int32(0)

        def cut(block: jax.Array) -> jax.Array:
            return block.reshape(-1)[:size].reshape(shape)

        return tuple(
            added_part(leaf, total, start, rows, cut)
            for leaf, total in zip(leaves, block_sums(start, rows), strict=True)
        )

    # The last block is moved back to be as large as the others; what the block before
    # did is done. One block alone, and nothing after the loop, keeps the sum in place.
    def add_rows(turn: jax.Array, wholes: list[jax.Array]) -> list[jax.Array]:
        start = jnp.minimum(turn * block_rows, rows - block_rows)
        found = []
        for whole, total in zip(wholes, block_sums(start, block_rows), strict=True):
            old = lax.dynamic_slice_in_dim(whole, start, block_rows)
            row = start + lax.broadcasted_iota(jnp.int32, old.shape, 0)
            new = added_part(old, total, start, block_rows, lambda block: block)
            new = jnp.where(row >= turn * block_rows, new, old)
            found.append(_put(whole, new, start))
        return found

    def add_elements(turn: jax.Array, wholes: list[jax.Array]) -> list[jax.Array]:
        block = block_rows * columns
        start = jnp.minimum(turn * block, size - block)
        row = start // columns
        element = start + lax.iota(jnp.int32, block)

        def cut(whole: jax.Array) -> jax.Array:
            first = start - row * columns
            return lax.dynamic_slice_in_dim(whole.reshape(-1), first, block)

        found = []
        for whole, total in zip(wholes, block_sums(row, block_rows + 1), strict=True):
            old = lax.dynamic_slice_in_dim(whole, start, block)
            new = added_part(old, total, row, block_rows + 1, cut)
            new = jnp.where(element >= turn * block, new, old)
            found.append(_put(whole, new, start))
        return found

    if rows * columns != size:  # a vector, whose last row is cut short
        wholes = loop(turns, add_elements, list(leaves))
        return tuple(wholes)
    folded = [leaf.reshape(rows, columns) for leaf in leaves]
    folded = loop(turns, add_rows, folded)
    return tuple(leaf.reshape(shape) for leaf in folded)


def _put(whole: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    """Puts a part into its place in the whole.

    Where the weights come from a mesh with explicit axes, that stands in the type of
    the part, and first of all must in that of the whole.
    """
    mesh = jax.typeof(part).sharding.mesh
    if AxisType.Explicit in mesh.axis_types and jax.typeof(whole).sharding.mesh.empty:
        whole = reshard(whole, NamedSharding(mesh, PartitionSpec()))
    return lax.dynamic_update_slice_in_dim(whole, part, start, 0)


def added_to(
    old: jax.Array, change: jax.Array, words: jax.Array | None = None
) -> jax.Array:
    """Returns ``old + change`` in the dtype of ``old``.

    Args:
        old: ``float[...]``.
        change: an array of its shape, in float32 or wider.
        words: ``uint32[...]``, round up or down by these; None for to the nearest.
    """
    new = old + change
    if words is None:
        new = new.astype(old.dtype)
    else:
        new = rounding.stochastic(new, words, old.dtype)
    return jnp.where(change == 0, old, new)  # -0 + 0 would be another 0


def _grouped(
    seeds: jax.Array, weights: jax.Array, block: int
) -> tuple[jax.Array, jax.Array]:
    """Returns ``[groups, members]`` seeds and as many weights, padded with 0.

    Members of a small leaf are drawn together, since a loop's turn costs as much as a
    few thousand draws; those of a large one alone, so that the draw fuses.
    """
    group = 1 if block >= 4096 else min(seeds.shape[0], BLOCK // block)
    pad = -seeds.shape[0] % group
    seeds, weights = jnp.pad(seeds, (0, pad)), jnp.pad(weights, ((0, pad), (0, 0)))
    return seeds.reshape(-1, group), weights.reshape(-1, group, weights.shape[1])
