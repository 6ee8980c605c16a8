"""Updates of packed integer codes, in place, with the residual of their rounding.

    u_k = sum_p weights[k, p] s_p delta_p + decay e_{k-1}
    Delta_k = round(u_k), 0 where it would leave the range of the codes
    e_k = u_k - Delta_k, at most 1/2 where the range stops it

Of the generations ``k`` that are given the last one moves codes; those before it give
``e``, as though the codes had been then what they are now.

Source: Xu, Miikkulainen, Qiu (2026), arXiv 2602.03120: error feedback, and stateless
seed replay.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gfopt.fusion import loop, zero_after
from gfopt.noise import threefry
from gfopt.noise.sums import BLOCK
from gfopt.quantization.stepped import Packing, steps, within

COUNTS = 254  # what int8 stores of a residual, from -1/2 to 1/2 of a code


class Generations(NamedTuple):
    """Seeds and scores of the latest generations ``K``, the oldest first.

    Attributes:
        seeds: ``uint32[K, q]``, of antithetic pairs.
        weights: ``float32[K, 2 q]``, of each row's step, with 12 significant bits.
        scales: ``float32[K]``, sigma.
    """

    seeds: jax.Array
    weights: jax.Array
    scales: jax.Array


class Stepping(NamedTuple):
    """What all codes of a step have in common.

    Attributes:
        kind: of the noise.
        generations: the latest is the last.
        decay: of the residual, ``float[]``.
        counts: ``bool[]``, whether the last generation says anything.
    """

    kind: str
    generations: Generations
    decay: jax.Array
    counts: jax.Array


class Moved(NamedTuple):
    """Codes after a step.

    Attributes:
        codes: packed as before.
        residual: ``int8[R..., codes]``, or None.
        num_moved: ``int32[]``, codes that are others now.
        num_blocked: ``int32[]``, those that the end of the range kept.
    """

    codes: jax.Array
    residual: jax.Array | None
    num_moved: jax.Array
    num_blocked: jax.Array


class _Rows(NamedTuple):
    """What a loop over blocks carries: ``Moved``, row by row."""

    codes: jax.Array
    residual: jax.Array
    num_moved: jax.Array
    num_blocked: jax.Array


def moved(
    by: Stepping,
    codes: jax.Array,
    packing: Packing,
    path_hash: int,
    residual: jax.Array | None = None,
) -> Moved:
    """Returns codes after the last of some generations, in place if donated.

    Args:
        by: the generations, and what is the same for all leaves.
        codes: ``uint8[R..., bytes]``.
        packing: of the codes.
        path_hash: of their path.
        residual: ``int8[R..., codes]``, ``e`` before the first of the generations in
            units of 1/254; None for 0, and not to return it.
    """
    rows, zero = codes.reshape(-1, codes.shape[-1]), zero_after(by.generations.seeds)
    num_rows, width = rows.shape[0], packing.num_codes(rows.shape[1])
    if rows.size == 0:
        return Moved(codes, residual, zero, zero)
    turns = -(-num_rows // max(1, min(num_rows, BLOCK // width)))
    block_rows = -(-num_rows // turns)
    is_stored = residual is not None
    kept = jnp.zeros(0, jnp.int8) if residual is None else residual
    rounding = zlib.crc32(b" residual", path_hash)

    def turn(index: jax.Array, found: _Rows) -> _Rows:
        start = jnp.minimum(index * block_rows, num_rows - block_rows)
        old = packing.unpack(lax.dynamic_slice_in_dim(found.codes, start, block_rows))
        # the last block is moved back to be as large as the others
        row = start + lax.broadcasted_iota(jnp.int32, old.shape, 0)
        is_new = by.counts & (row >= index * block_rows)
        e = jnp.zeros(old.shape, jnp.float32)
        if is_stored:
            before = lax.dynamic_slice_in_dim(found.residual, start, block_rows)
            e = before.astype(jnp.float32) / COUNTS

        def replay(k: jax.Array, last: _Generation) -> _Generation:
            return _generation(by, k, old, last.e, packing.bits, (path_hash, start))

        # what a loop of unknown length returns is made before it is put in its place:
        # fused with the old codes there, it would cost a copy of all codes
        first = _Generation(old, jnp.zeros_like(old), jnp.zeros(old.shape, bool), e)
        made = loop(by.generations.seeds.shape[0] + zero, replay, first)
        delta, stored = jnp.where(is_new, made.delta, 0), found.residual
        if is_stored:
            seed = by.generations.seeds[-1, 0]
            words = threefry.words(seed, rounding, start, *old.shape)
            counted = jnp.floor(made.e * COUNTS + threefry.uniform(words))
            counted = jnp.where(is_new, counted.astype(jnp.int8), before)
            stored = lax.dynamic_update_slice_in_dim(stored, counted, start, 0)
        new = packing.pack(made.codes + delta)
        return _Rows(
            lax.dynamic_update_slice_in_dim(found.codes, new, start, 0),
            stored,
            found.num_moved + jnp.sum(delta != 0, dtype=jnp.int32),
            found.num_blocked + jnp.sum(made.blocked & is_new, dtype=jnp.int32),
        )

    flat = kept.reshape(num_rows, width) if is_stored else kept
    found = loop(turns, turn, _Rows(rows, flat, zero, zero))
    return Moved(
        found.codes.reshape(codes.shape),
        found.residual.reshape(kept.shape) if is_stored else None,
        found.num_moved,
        found.num_blocked,
    )


class _Generation(NamedTuple):
    """The old codes, ``Delta_k``, where the range stops it, and ``e_k``."""

    codes: jax.Array
    delta: jax.Array
    blocked: jax.Array
    e: jax.Array


def _generation(
    by: Stepping,
    k: jax.Array,
    codes: jax.Array,
    e: jax.Array,
    bits: int,
    place: tuple[int, jax.Array],
) -> _Generation:
    """Returns what a generation wants of the codes."""
    seeds, weights, scales = by.generations

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        delta = steps(by.kind, seeds[k, i], scales[k], *place, codes.shape)
        # weights of 12 significant bits times small integers: exact, fused or not
        for row, sign in ((2 * i, 1), (2 * i + 1, -1)):
            total = total + weights[k, row] * within(codes, sign * delta, bits)
        return total

    decay = threefry.round_significant(by.decay.astype(jnp.float32))
    u = loop(seeds.shape[1], add, decay * threefry.round_significant(e))
    wanted = jnp.round(u).astype(jnp.int32)
    delta = within(codes, wanted, bits)
    return _Generation(codes, delta, wanted != delta, jnp.clip(u - delta, -0.5, 0.5))
