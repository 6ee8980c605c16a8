"""Keeps the compiler from making large arrays too early, or several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


@jax.custom_batching.custom_vmap
def zero_after(*arrays: jax.Array) -> jax.Array:
    """Returns the ``int32`` 0, though the compiler can't know it before ``arrays``.

    XLA makes whatever does not depend on the data as early as it likes: noise for all
    layers at once, the zeros of a sum while the candidates are still there (measured
    on CPU, where it drops optimization barriers: twice the memory of the weights).
    Noise for rows from *this* 0 on waits for its layer. It is one number also for a
    batch of arrays, or each member would index for itself.
    """
    firsts = (a[(0,) * a.ndim].astype(jnp.float32) for a in arrays if a.size)
    return (sum(firsts, jnp.float32(0)) > jnp.inf).astype(jnp.int32)


@zero_after.def_vmap
def _zero_after_batch(
    size: int, is_batched: Sequence[bool], *arrays: jax.Array
) -> tuple[jax.Array, bool]:
    del size
    pairs = zip(arrays, is_batched, strict=True)
    return zero_after(
        *(array[0] if batched else array for array, batched in pairs)
    ), False


def made_once(fun: Callable[[jax.Array], T], seeds: jax.Array) -> T:
    """Returns ``fun(seeds)``, arrays that are in memory whoever uses them.

    XLA would fuse the draw into each of its users, and draw as often. What a loop
    returns it cannot fuse; that it has one turn, it can't know.
    """
    fun = jax.jit(fun, inline=True)  # is traced once for both uses
    empty = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(fun, seeds)
    )
    return loop(
        1 + zero_after(seeds),
        lambda turn, _: fun(seeds + turn.astype(seeds.dtype)),
        empty,
    )


def loop(turns: jax.Array | int, body: Callable[[jax.Array, T], T], start: T) -> T:
    """Returns ``fori_loop(0, turns, body, start)``, compiled as all else is.

    XLA on CPU, since jax 0.12, takes a loop that updates parts of an array in place for
    a small one, and leaves it to an older code generator, which computes a value anew
    for each of its uses: a sum of normals took 27 times as long. It never does so with
    a loop that has a sort in it.
    """

    def turn(index: jax.Array, carry: T) -> T:
        if jax.default_backend() == "cpu":
            last = jnp.asarray(turns, index.dtype)
            index = jax.lax.sort(jnp.stack([index, last]))[0]
        return body(index, carry)

    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(turns), turn, start)
