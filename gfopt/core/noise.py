"""Noise on parameter trees: counter-based, addressable, never ``[P, D]``.

The law: element ``(row, column)`` of a leaf's noise is a function of the seed, the
crc32 of the leaf's **path**, the row and the column, and of nothing else,

    word(row, column) = threefry2x32(key=(seed, path), counter=(row, column))[0],

so equal-shaped leaves differ, adding a leaf does not reshuffle the rest, any block of
rows can be drawn alone, and eager, jit, vmap, map and scan agree bit for bit. A leaf
of shape ``[..., C]`` has ``C`` columns and the product of the rest as rows.

Threefry is written out here in fused integer operations, because XLA then keeps the
whole chain in registers: on CPU a normal costs a third to a quarter of what
``jax.random.normal`` takes, which loops over rounds in memory.

Sources: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3"
(SC 2011), section 3 (Threefry-2x32, 20 rounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry_2x32

from gfopt import checks
from gfopt.core import noise_sums, trees
from gfopt.core.late import made_once, zero_after
from gfopt.types import Key, PyTree

# A long vector is laid out in rows of this width, so that it has blocks too.
VECTOR_COLUMNS = 4096

# Populations of at most this many numbers keep their Gaussian noise, 64 MB of float32:
# the default evaluator holds their candidates all at once, too.
CACHED_ELEMENTS = 1 << 24
# Signs are cheap to draw again: only what stays in cache, 4 MB, is worth keeping.
CACHED_SIGNS = 1 << 20

# Leaves of at most this many numbers are drawn together: each use of the cipher takes
# a tenth of a second to compile, and each loop over members some microseconds.
SMALL = 1 << 14

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(
    key: tuple[Any, Any],
    counter: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Encrypts a counter of two uint32 words: Threefry-2x32 with 20 rounds.

    Args:
        key: two uint32 words.
        counter: two uint32 arrays of equal shape.

    Returns:
        Two uint32 arrays of the same shape.

    Source: Salmon et al. (SC 2011), section 3.
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x, y = counter[0] + schedule[0], counter[1] + schedule[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << np.uint32(distance)) | (y >> np.uint32(32 - distance))
            y = y ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


# traced once for each shape; outside of a program one call and not a hundred
_threefry = jax.jit(threefry, inline=True)


def round_significant(x: jax.Array | float) -> jax.Array:
    """Rounds to 12 significant bits, so that a product of two such is exact.

    With ``z`` and ``sigma`` both rounded, ``theta + sigma * z`` has one rounding with
    or without a fused multiply-add: eager and compiled programs agree bit for bit.
    """
    x = jnp.asarray(x)
    return lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, 11)


def _words(
    seed: jax.Array,
    path_hash: int | jax.Array,
    row_start: jax.Array,
    num_rows: int,
    columns: int,
    which: int = 0,
) -> jax.Array:
    row = lax.broadcasted_iota(jnp.uint32, (num_rows, columns), 0)
    row = row + jnp.asarray(row_start).astype(jnp.uint32)
    column = lax.broadcasted_iota(jnp.uint32, (num_rows, columns), 1)
    key = (jnp.asarray(seed, jnp.uint32), jnp.asarray(path_hash, jnp.uint32))
    return _threefry(key, (row, column))[which]


def _uniform(bits: jax.Array) -> jax.Array:
    # 23 random bits in [1, 2), then u in [0, 1): every step is exact in float32
    one_to_two = (bits >> np.uint32(9)) | np.uint32(0x3F800000)
    return lax.bitcast_convert_type(one_to_two, jnp.float32) - np.float32(1)


def _normal(bits: jax.Array) -> jax.Array:
    # z = sqrt(2) erfinv(u), u in (-1, 1)
    u = _uniform(bits) * np.float32(2) - np.float32(1 - 2**-23)
    return np.float32(math.sqrt(2)) * lax.erf_inv(u)


def _gaussian(words: jax.Array, columns: int) -> jax.Array:
    del columns  # a word to each
    return round_significant(_normal(words))


def _rademacher(words: jax.Array, columns: int) -> jax.Array:
    # 32 signs to a draw: bit b of word w is the sign of column b * num_words + w
    rows, num_words = words.shape
    shift = lax.broadcasted_iota(jnp.uint32, (rows, 32, num_words), 1)
    sign = (words[:, None, :] << shift) & np.uint32(0x80000000)
    signs = lax.bitcast_convert_type(sign | np.uint32(0x3F800000), jnp.float32)
    return signs.reshape(rows, 32 * num_words)[:, :columns]


def drawn_once(z: jax.Array, seed: jax.Array) -> jax.Array:
    """Returns ``z`` unchanged, made once for all its uses.

    XLA would fuse the cipher into its consumers and redo it for each (of 32 bits, of
    many slices), and drops an optimization barrier on CPU; it does not fuse a division
    of integers, here by 1.

    Args:
        z: ``uint32[...]`` or ``float32[...]``.
        seed: ``uint32[]``, any number that the compiler does not know.
    """
    zero = lax.population_count(jnp.asarray(seed, jnp.uint32)) >> np.uint32(6)
    one = zero + np.uint32(1)
    bits = lax.bitcast_convert_type(z, jnp.uint32)
    return lax.bitcast_convert_type(bits // one, z.dtype)


def seeds(key: Key, count: int) -> jax.Array:
    """Draws ``uint32[count]`` seeds from a key of any implementation.

    Example:
        >>> seeds(jax.random.key(0), 3).shape
        (3,)
    """
    data = jax.random.key_data(key).reshape(-1, 2)
    words = data[0]
    if data.shape[0] == 2:  # an rbg key has four words, as a rule two equal pairs
        words = threefry_2x32(words, data[1])
    return _seeds(words, count)


# a program of its own: a key that is known while another program is traced would else
# compile it anew at every call
@partial(jax.jit, static_argnums=1, inline=True)
def _seeds(words: jax.Array, count: int) -> jax.Array:
    zero = jnp.zeros(count, jnp.uint32)

    def draw(words: jax.Array) -> jax.Array:
        return _threefry((words[0], words[1]), (lax.iota(jnp.uint32, count), zero))[0]

    # else XLA compiles this cipher into the ones that use the seeds, for up to 2 s
    return made_once(draw, words)


def standard_normal(key: Key, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """Draws ``[P, D]`` standard normals for the methods that hold dense matrices."""
    (seed,) = seeds(key, 1)
    return _normal(_words(seed, 0, jnp.int32(0), *shape)).astype(dtype)


def standard_uniform(key: Key, shape: tuple[int, int]) -> jax.Array:
    """Draws ``float32[P, D]`` in [0, 1), multiples of ``2**-23``."""
    (seed,) = seeds(key, 1)
    return _uniform(_words(seed, 0, jnp.int32(0), *shape))


def normal_and_uniform(
    key: Key, size: int, normals: int, uniforms: int, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Draws for the rows of a population, each with a word of its own.

    Returns:
        ``[size, normals]`` standard normals and ``[size, uniforms]`` numbers in
        [0, 1), multiples of ``2**-23``.
    """
    (seed,) = seeds(key, 1)
    words = _words(seed, 0, jnp.int32(0), size, normals + uniforms)
    z, u = _normal(words[:, :normals]), _uniform(words[:, normals:])
    return z.astype(dtype), u.astype(dtype)


class _Kind(NamedTuple):
    """How many columns share a word, and what ``[rows, words]`` become."""

    columns_per_word: int
    values: Callable[[jax.Array, int], jax.Array]

    def num_words(self, columns: int) -> int:
        """Returns the words of a row."""
        return -(-columns // self.columns_per_word)


KINDS = {"gaussian": _Kind(1, _gaussian), "rademacher": _Kind(32, _rademacher)}


def layout(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the rows and columns in which a leaf of ``shape`` draws its noise."""
    if len(shape) >= 2:
        return int(np.prod(shape[:-1])), shape[-1]
    size = shape[0] if shape else 1
    columns = max(1, min(size, VECTOR_COLUMNS))
    return -(-size // columns), columns


def noise_rows(
    kind: str,
    seed: jax.Array,
    path_hash: int | jax.Array,
    row_start: jax.Array | int,
    num_rows: int,
    columns: int,
) -> jax.Array:
    """Draws the standard noise of a block of rows.

    Args:
        kind: ``"gaussian"`` or ``"rademacher"``.
        seed: ``uint32[]``.
        path_hash: crc32 of the leaf's path.
        row_start: first row, may be traced.
        num_rows: number of rows, static.
        columns: number of columns of the leaf, static.

    Returns:
        ``float32[num_rows, columns]``, rounded to 12 significant bits.

    Example:
        >>> seed = np.uint32(7)
        >>> whole = noise_rows("gaussian", seed, 99, 0, 8, 5)
        >>> bool((noise_rows("gaussian", seed, 99, 6, 2, 5) == whole[6:]).all())
        True
    """
    family, start = KINDS[kind], jnp.asarray(row_start, jnp.int32)
    words = _words(seed, path_hash, start, num_rows, family.num_words(columns))
    if family.columns_per_word > 1:
        words = drawn_once(words, seed)
    return family.values(words, columns)


def noise_leaf(
    kind: str, seed: jax.Array, path_hash: int | jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """Draws the noise of a whole leaf: ``float32[shape]``."""
    rows, columns = layout(shape)
    if kind == "gaussian" and len(shape) == 1:
        # the same, element by element: a slice of rows would be ten times slower
        index = lax.iota(jnp.uint32, shape[0])
        counter = index // np.uint32(columns), index % np.uint32(columns)
        key = (jnp.asarray(seed, jnp.uint32), jnp.asarray(path_hash, jnp.uint32))
        return round_significant(_normal(_threefry(key, counter)[0]))
    noise = noise_rows(kind, seed, path_hash, 0, rows, columns)
    return noise.reshape(-1)[: math.prod(shape)].reshape(shape)


def noise_leaves(
    kind: str,
    seed: jax.Array,
    path_hashes: Sequence[int],
    shapes: Sequence[tuple[int, ...]],
) -> list[jax.Array]:
    """Draws the noise of several small leaves with one use of the cipher.

    The bits are those of ``noise_leaf``; one program is compiled and run for all.
    """
    if len(shapes) == 1:
        return [noise_leaf(kind, seed, path_hashes[0], shapes[0])]
    family = KINDS[kind]
    sizes = [(rows, family.num_words(columns)) for rows, columns in map(layout, shapes)]
    counts = list(map(math.prod, sizes))
    ends = np.cumsum([rows * columns for rows, columns in map(layout, shapes)])[:-1]
    path = np.repeat(np.array(path_hashes, np.uint32), counts)
    row, column = np.concatenate(
        [np.indices(size, np.uint32).reshape(2, -1) for size in sizes], axis=1
    )

    def draw(seed: jax.Array) -> jax.Array:
        words = _threefry((seed, path), (row, column))[0]
        if family.columns_per_word == 1:
            return family.values(words[None], 1)[0]
        parts = jnp.split(drawn_once(words, seed), np.cumsum(counts)[:-1])
        z = [
            family.values(part.reshape(size), layout(shape)[1]).reshape(-1)
            for part, size, shape in zip(parts, sizes, shapes, strict=True)
        ]
        return jnp.concatenate(z)

    # else XLA would compile the cipher into every slice
    z = jnp.split(made_once(draw, jnp.asarray(seed, jnp.uint32)), ends)
    return [
        part[: math.prod(shape)].reshape(shape)
        for part, shape in zip(z, shapes, strict=True)
    ]


def _groups(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Returns which leaves are drawn together: small ones, up to a block of them."""
    groups: list[list[int]] = []
    small: list[int] = []
    room = -1
    for index, size in enumerate(map(math.prod, shapes)):
        if size > SMALL:
            groups.append([index])
        elif size > room:
            small, room = [index], noise_sums.BLOCK - size
            groups.append(small)
        else:
            small.append(index)
            room -= size
    return groups


@partial(
    jax.tree_util.register_dataclass, data_fields=[], meta_fields=["kind", "cached"]
)
@dataclass(frozen=True)
class Noise:
    """A family of standard noise on parameter trees: zero mean, unit variance.

    Args:
        kind: ``"gaussian"``, or ``"rademacher"`` for signs packed 32 to a draw.
        cached: whether a population keeps its noise from ask to tell, True or False;
            None for populations of ``P * D <= 2**24`` normals or ``2**20`` signs.

    Raises:
        TypeError: where ``cached`` is not True, False or None.
        ValueError: for an unknown kind.

    Example:
        >>> tree = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
        >>> Noise("rademacher").sample(tree, np.uint32(1))["b"].shape
        (2,)
    """

    kind: str = "gaussian"
    cached: bool | None = None

    is_lazy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, KINDS)
        kinds = (bool, type(None))
        checks.instance("cached", self.cached, kinds, "True, False or None")

    def is_cached(self, size: int, like: PyTree) -> bool:
        """Tells whether a population of ``size`` keeps its noise from ask to tell."""
        if self.cached is not None:
            return self.cached
        most = CACHED_ELEMENTS if self.kind == "gaussian" else CACHED_SIGNS
        return size * trees.num_parameters(like) <= most

    def sample(self, like: PyTree, seed: jax.Array, kept: bool = False) -> PyTree:
        """Draws ``z``: float32 leaves with the shapes of ``like``.

        Args:
            like: pytree with the shapes of one solution.
            seed: ``uint32[]``.
            kept: whether all of it is in memory, made once for all its uses.
        """
        paths, leaves, structure = trees.flatten_with_hash(like)
        shapes = [jnp.shape(leaf) for leaf in leaves]
        found: dict[int, jax.Array] = {}
        for group in _groups(shapes):
            draw = partial(
                noise_leaves,
                self.kind,
                path_hashes=[paths[i] for i in group],
                shapes=[shapes[i] for i in group],
            )
            once = kept and len(group) == 1  # several are kept anyway
            drawn = made_once(draw, seed) if once else draw(seed)
            found.update(zip(group, drawn, strict=True))
        return jax.tree.unflatten(structure, [found[i] for i in range(len(leaves))])

    def add(self, tree: PyTree, seed: jax.Array, scale: jax.Array | PyTree) -> PyTree:
        """Returns ``tree + scale * z`` with one rounding, in each leaf's dtype.

        Args:
            tree: pytree of floating-point leaves.
            seed: ``uint32[]``.
            scale: a number, or a tree like ``tree``.
        """
        return add_scaled(tree, self.sample(tree, seed), scale)

    def add_each(self, tree: PyTree, seed: jax.Array, scales: PyTree) -> PyTree:
        """Returns ``tree + scales[i] * z`` for each ``i``, with one draw of ``z``.

        Args:
            tree: pytree of floating-point leaves.
            seed: ``uint32[]``.
            scales: ``float[g]``, or a tree like ``tree`` with leaves ``[g, ...]``.

        Returns:
            A tree with leaves ``[g, ...]``.
        """
        z = self.sample(tree, seed)
        return jax.vmap(lambda scale: add_scaled(tree, z, scale))(scales)

    def weighted_sum(
        self, like: PyTree, seeds: jax.Array, weights: jax.Array
    ) -> PyTree:
        """Returns ``sum_p weights[p] * z_p``, streamed.

        Args:
            like: pytree with the shapes of one solution.
            seeds: ``uint32[P]``.
            weights: ``float[P]``.

        Returns:
            A tree like ``like`` in float32 (float64 for float64 leaves).
        """
        return self.add_weighted(zeros_after(like, weights), seeds, weights)

    def weighted_moments(
        self,
        like: PyTree,
        seeds: jax.Array,
        weights: jax.Array,
        square_weights: jax.Array,
    ) -> tuple[PyTree, PyTree]:
        """Returns ``(sum_p weights[p] z_p, sum_p square_weights[p] z_p**2)``.

        Each ``z`` is drawn once for both.
        """
        both = jnp.stack([weights, square_weights], axis=1)
        zeros = zeros_after(like, weights)
        first, second = _add_trees(self.kind, (zeros, zeros), seeds, both)
        return first, second

    def add_weighted(
        self,
        tree: PyTree,
        seeds: jax.Array,
        weights: jax.Array,
        rounding_seed: jax.Array | None = None,
        largest: PyTree | None = None,
        added: noise_sums.Added | None = None,
    ) -> PyTree:
        """Returns ``tree + sum_p weights[p] * z_p``, in place if donated.

        The noise is drawn again in cache-sized blocks and added to one block of the
        leaf at a time: inside a compiled program no second copy of the tree is made.

        Args:
            tree: pytree of floating-point leaves.
            seeds: ``uint32[P]``.
            weights: ``float[P]``.
            rounding_seed: ``uint32[]``: round bfloat16 and float16 leaves up or down
                at random; None for rounding to the nearest.
            largest: a number for each leaf, above which its numbers stay; None: none.
            added: ``(old, sum, words) -> new`` for each block, where it is not
                ``noise_sums.added_to``.
        """
        if rounding_seed is None and largest is None:
            return _add_trees(self.kind, (tree,), seeds, weights[:, None], added)[0]
        return trees.map_with_hash(
            lambda path, leaf, most=None: add_weighted_leaf(
                self.kind, path, leaf, seeds, weights, rounding_seed, most, added
            ),
            tree,
            *(() if largest is None else (largest,)),
        )


def add_weighted_leaf(
    kind: str,
    path_hash: int | jax.Array,
    leaf: jax.Array,
    seeds: jax.Array,
    weights: jax.Array,
    rounding_seed: jax.Array | None = None,
    largest: jax.Array | None = None,
    added: noise_sums.Added | None = None,
) -> jax.Array:
    """Returns one leaf of ``Noise(kind).add_weighted``."""
    by = seeds, weights[:, None], rounding_seed, largest, added
    return _add_leaves(kind, path_hash, (leaf,), *by)[0]


def _add_leaves(
    kind: str,
    path_hash: int | jax.Array,
    leaves: tuple[jax.Array, ...],
    seeds: jax.Array,
    weights: jax.Array,
    rounding_seed: jax.Array | None = None,
    largest: jax.Array | None = None,
    added: noise_sums.Added | None = None,
) -> tuple[jax.Array, ...]:
    leaf = leaves[0]
    wide = weights.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    rows, columns = layout(leaf.shape)

    def draw(seed: jax.Array, start: jax.Array, num_rows: int) -> jax.Array:
        return noise_rows(kind, seed, path_hash, start, num_rows, columns)

    bits = None
    if rounding_seed is not None:
        # the cipher's second words, which no noise is made of
        bits = partial(_words, rounding_seed, path_hash, columns=columns, which=1)
    by = seeds, wide, bits, largest, added
    return noise_sums.add(draw, rows, columns, leaves, *by)


def _add_trees(
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
    for group in _groups(shapes):
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
        z = noise_leaves(kind, seed, path_hashes, shapes)
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


def zeros_after(like: PyTree, weights: jax.Array) -> PyTree:
    """Returns zeros in float32 or wider, which are not made before the weights."""
    return trees.filled(like, zero_after(weights))


def add_scaled(tree: PyTree, z: PyTree, scale: jax.Array | PyTree) -> PyTree:
    """Returns ``tree + scale * z`` for noise that was drawn already."""

    def add_leaf(leaf: jax.Array, z: jax.Array, scale: jax.Array) -> jax.Array:
        wide = jnp.promote_types(leaf.dtype, jnp.float32)
        step = round_significant(jnp.asarray(scale, wide)) * z.astype(wide)
        return (leaf.astype(wide) + step).astype(leaf.dtype)

    return jax.tree.map(add_leaf, tree, z, as_tree(scale, tree))


def as_tree(scale: jax.Array | PyTree, tree: PyTree) -> PyTree:
    """Spreads one number over the leaves of ``tree``; a tree stays as it is."""
    structure: Any = jax.tree.structure(tree)
    if jax.tree.structure(scale) == structure:
        return scale
    return jax.tree.map(lambda _: scale, tree)


def gaussian(cached: bool | None = None) -> Noise:
    """Returns standard normal noise.

    Args:
        cached: whether a population keeps its noise from ask to tell, which is faster
            and takes its memory; None for those of ``P * D <= 2**24`` numbers.

    Example:
        >>> gaussian()
        Noise(kind='gaussian', cached=None)
    """
    return Noise("gaussian", cached)


def rademacher(cached: bool | None = None) -> Noise:
    """Returns random signs, packed 32 to a draw: the cheapest noise there is.

    Args:
        cached: whether a population keeps its noise from ask to tell; None for those
            of ``P * D <= 2**20`` numbers.

    Example:
        >>> z = rademacher().sample(jnp.zeros(100), np.uint32(1))
        >>> sorted(set(z.tolist()))
        [-1.0, 1.0]
    """
    return Noise("rademacher", cached)
