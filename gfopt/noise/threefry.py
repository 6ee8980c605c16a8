"""Counter-based random numbers: a key and a counter in, a word out, no state.

    word = threefry2x32(key=(k0, k1), counter=(c0, c1))[0]

Threefry is written out here in fused integer operations, because XLA then keeps the
whole chain in registers: on CPU a normal costs a third to a quarter of what
``jax.random.normal`` takes, which loops over rounds in memory.

Sources: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3"
(SC 2011), section 3 (Threefry-2x32, 20 rounds).
"""

from __future__ import annotations

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from gfopt.fusion import made_once
from gfopt.types import Key

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


# traced once for each shape; outside of a program one call and not a hundred. Its name
# stays in the program: where NumPy runs that, one function takes its place.
@jax.jit
def encrypt(
    key: tuple[ArrayLike, ArrayLike],
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
    shape = jnp.shape(counter[0])

    # all of one shape: operators would look at shapes and dtypes 110 times
    @functools.cache
    def const(number: int) -> jax.Array:
        return lax.full(shape, np.uint32(number))

    k0, k1 = (jnp.broadcast_to(word, shape) for word in key)
    keys = (k0, k1, lax.bitwise_xor(lax.bitwise_xor(k0, k1), const(0x1BD11BDA)))
    x, y = lax.add(counter[0], k0), lax.add(counter[1], k1)
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            x = lax.add(x, y)
            left = lax.shift_left(y, const(distance))
            right = lax.shift_right_logical(y, const(32 - distance))
            y = lax.bitwise_xor(lax.bitwise_or(left, right), x)
        x = lax.add(x, keys[(group + 1) % 3])
        y = lax.add(lax.add(y, keys[(group + 2) % 3]), const(group + 1))
    return x, y


def round_significant(x: jax.Array | float) -> jax.Array:
    """Rounds to 12 significant bits, so that a product of two such is exact.

    With ``z`` and ``sigma`` both rounded, ``theta + sigma * z`` has one rounding with
    or without a fused multiply-add: eager and compiled programs agree bit for bit.
    """
    x = jnp.asarray(x)
    return lax.reduce_precision(x, jnp.finfo(x.dtype).nexp, 11)


def words(
    seed: jax.Array,
    path_hash: int | jax.Array,
    row_start: jax.Array,
    num_rows: int,
    columns: int,
    which: int = 0,
) -> jax.Array:
    """Returns the words of a block of rows: ``uint32[num_rows, columns]``.

    Args:
        seed: ``uint32[]``.
        path_hash: the other word of the key.
        row_start: first row, may be traced.
        num_rows: number of rows, static.
        columns: number of columns, static.
        which: of the two words of a counter, 0 or 1.
    """
    row = lax.broadcasted_iota(jnp.uint32, (num_rows, columns), 0)
    row = row + jnp.asarray(row_start).astype(jnp.uint32)
    column = lax.broadcasted_iota(jnp.uint32, (num_rows, columns), 1)
    key = (jnp.asarray(seed, jnp.uint32), jnp.asarray(path_hash, jnp.uint32))
    return encrypt(key, (row, column))[which]


def uniform(bits: jax.Array) -> jax.Array:
    """Returns numbers in [0, 1) from words, multiples of ``2**-23``."""
    # 23 random bits in [1, 2), then u in [0, 1): every step is exact in float32
    one_to_two = (bits >> np.uint32(9)) | np.uint32(0x3F800000)
    return lax.bitcast_convert_type(one_to_two, jnp.float32) - np.float32(1)


def normal(bits: jax.Array) -> jax.Array:
    """Returns standard normals from words, in float32."""
    # z = sqrt(2) erfinv(u), u in (-1, 1)
    u = uniform(bits) * np.float32(2) - np.float32(1 - 2**-23)
    return np.float32(math.sqrt(2)) * lax.erf_inv(u)


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
        words = jnp.stack(encrypt((words[0], words[1]), (data[1, 0], data[1, 1])))
    return draw_seeds(words, count)


# a program of its own: a key that is known while another program is traced would else
# compile it anew at every call; its name stays, as that of encrypt
@partial(jax.jit, static_argnums=1)
def draw_seeds(words: jax.Array, count: int) -> jax.Array:
    """Draws ``uint32[count]`` from the two words of a key."""
    zero = jnp.zeros(count, jnp.uint32)

    def draw(words: jax.Array) -> jax.Array:
        return encrypt((words[0], words[1]), (lax.iota(jnp.uint32, count), zero))[0]

    # else XLA compiles this cipher into the ones that use the seeds, for up to 2 s
    return made_once(draw, words)


def standard_normal(key: Key, shape: tuple[int, int], dtype: DTypeLike) -> jax.Array:
    """Draws ``[P, D]`` standard normals for the methods that hold dense matrices."""
    (seed,) = seeds(key, 1)
    return normal(words(seed, 0, jnp.int32(0), *shape)).astype(dtype)


def standard_uniform(key: Key, shape: tuple[int, int]) -> jax.Array:
    """Draws ``float32[P, D]`` in [0, 1), multiples of ``2**-23``."""
    (seed,) = seeds(key, 1)
    return uniform(words(seed, 0, jnp.int32(0), *shape))


def normal_and_uniform(
    key: Key, size: int, normals: int, uniforms: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """Draws for the rows of a population, each with a word of its own.

    Returns:
        ``[size, normals]`` standard normals and ``[size, uniforms]`` numbers in
        [0, 1), multiples of ``2**-23``.
    """
    (seed,) = seeds(key, 1)
    found = words(seed, 0, jnp.int32(0), size, normals + uniforms)
    z, u = normal(found[:, :normals]), uniform(found[:, normals:])
    return z.astype(dtype), u.astype(dtype)
