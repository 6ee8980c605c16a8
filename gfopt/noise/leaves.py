"""Noise of a whole tree: which leaves are drawn together, and the sums over members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import trees
from gfopt.noise import law, threefry
from gfopt.noise import sums as noise_sums
from gfopt.types import PyTree

# Leaves of at most this many numbers are drawn together: each use of the cipher takes
# a tenth of a second to compile, and each loop over members some microseconds.
SMALL = 1 << 14


def groups(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Returns which leaves are drawn together: small ones, up to a block of them."""
    found: list[list[int]] = []
    small: list[int] = []
    room = -1
    for index, size in enumerate(map(math.prod, shapes)):
        if size > SMALL:
            found.append([index])
        elif size > room:
            small, room = [index], noise_sums.BLOCK - size
            found.append(small)
        else:
            small.append(index)
            room -= size
    return found


def add_weighted_leaf(
    kind: str,
    path_hash: int | jax.Array,
    leaf: jax.Array,
    seeds: jax.Array,
    weights: jax.Array,
    rounding_seed: jax.Array | None = None,
    added: noise_sums.Added | None = None,
) -> jax.Array:
    """Returns one leaf of ``Noise(kind).add_weighted``."""
    by = seeds, weights[:, None], rounding_seed, added
    return _add_leaves(kind, path_hash, (leaf,), *by)[0]


def _add_leaves(
    kind: str,
    path_hash: int | jax.Array,
    leaves: tuple[jax.Array, ...],
    seeds: jax.Array,
    weights: jax.Array,
    rounding_seed: jax.Array | None = None,
    added: noise_sums.Added | None = None,
) -> tuple[jax.Array, ...]:
    leaf = leaves[0]
    wide = weights.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    rows, columns = law.layout(leaf.shape)

    def draw(seed: jax.Array, start: jax.Array, num_rows: int) -> jax.Array:
        return law.noise_rows(kind, seed, path_hash, start, num_rows, columns)

    bits = None
    if rounding_seed is not None:
        # the cipher's second words, which no noise is made of
        bits = partial(
            threefry.words, rounding_seed, path_hash, columns=columns, which=1
        )
    by = seeds, wide, bits, added
    return noise_sums.add(draw, rows, columns, leaves, *by)


def add_weighted_trees(
    kind: str,
    powers: tuple[PyTree, ...],
    seeds: jax.Array,
    weights: jax.Array,
    added: noise_sums.Added | None = None,
) -> list[PyTree]:
    """Returns ``powers[k] + sum_p weights[p, k] z_p ** (k + 1)``, tree by tree."""
    paths, leaves, structure = trees.flatten_with_hash(powers[0])
    rows = list(zip(leaves, *map(jax.tree.leaves, powers[1:]), strict=True))
    shapes = [leaf.shape for leaf in leaves]
    found: dict[int, Sequence[jax.Array]] = {}
    for group in groups(shapes):
        if len(group) == 1:
            (i,) = group
            found[i] = _add_leaves(kind, paths[i], rows[i], seeds, weights, added=added)
            continue
        here = [paths[i] for i in group], [rows[i] for i in group]
        sums = _add_together(kind, *here, seeds, weights, added)
        found.update(zip(group, sums, strict=True))
    columns = [*zip(*(found[i] for i in range(len(leaves))), strict=True)]
    columns = columns or [()] * len(powers)  # a tree without leaves
    return [jax.tree.unflatten(structure, column) for column in columns]


def _add_together(
    kind: str,
    path_hashes: Sequence[int],
    rows: Sequence[tuple[jax.Array, ...]],
    seeds: jax.Array,
    weights: jax.Array,
    added: noise_sums.Added | None = None,
) -> list[list[jax.Array]]:
    """Returns the sums of several small leaves, which are one row of numbers."""
    added_in = noise_sums.added_to if added is None else added
    shapes = [row[0].shape for row in rows]
    wide = jnp.result_type(jnp.float32, *(row[0].dtype for row in rows))
    sizes = list(map(math.prod, shapes))

    def draw(seed: jax.Array, start: jax.Array, num_rows: int) -> jax.Array:
        del start, num_rows
        z = law.noise_leaves(kind, seed, path_hashes, shapes)
        return jnp.concatenate([leaf.reshape(-1) for leaf in z])[None]

    zeros = (jnp.zeros(sum(sizes), wide),) * len(rows[0])
    totals = noise_sums.add(draw, 1, sum(sizes), zeros, seeds, weights.astype(wide))
    parts = zip(*(jnp.split(t, np.cumsum(sizes)[:-1]) for t in totals), strict=True)
    return [
        [
            added_in(leaf, total.reshape(leaf.shape), None)
            for leaf, total in zip(row, part, strict=True)
        ]
        for row, part in zip(rows, parts, strict=True)
    ]
