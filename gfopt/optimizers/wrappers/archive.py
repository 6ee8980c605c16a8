"""An archive of behaviours, a ring buffer, and the novelty of others.

The novelty of a behaviour is its mean distance to its ``k`` nearest neighbours among
the archive and the present population, excluding itself:

    novelty(b) = 1/k sum_{i=1..k} |b - b_(i)|

Source: Lehman, Stanley (2011), "Abandoning objectives", Evolutionary Computation 19,
equation 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 1 << 22  # distances that are held at a time


class Archive(NamedTuple):
    """The latest archived behaviours.

    Attributes:
        descriptors: ``float[A, K]``.
        num_kept: ``i32[]``, all ever archived; ``num_kept mod A`` is the next place.
    """

    descriptors: jax.Array
    num_kept: jax.Array


def empty(size: int, num_descriptors: int) -> Archive:
    """Returns an archive of ``size`` places."""
    return Archive(jnp.zeros((size, num_descriptors), jnp.float32), jnp.int32(0))


def novelty(
    descriptors: jax.Array,
    valid: jax.Array,
    archive: Archive,
    k: int,
    *,
    among_rows: bool = True,
) -> jax.Array:
    """Returns the novelty of each row: ``float[P]``, 0 for rows that are not valid.

    With fewer than ``k`` neighbours the mean is over those; without any the novelty is
    the largest finite number.

    Args:
        descriptors: ``float[P, K]``.
        valid: ``bool[P]``; the other rows are not neighbours.
        archive: before this step.
        k: number of neighbours.
        among_rows: whether rows are also neighbours of each other; False for the
            archive alone.

    Example:
        >>> points = jnp.arange(5.0)[:, None]
        >>> novelty(points, jnp.ones(5, bool), empty(3, 1), 2)
        Array([1.5, 1. , 1. , 1. , 1.5], dtype=float32)
    """
    size, places = descriptors.shape[0], archive.descriptors.shape[0]
    others = jnp.concatenate([archive.descriptors, descriptors])
    is_neighbour = jnp.concatenate([jnp.arange(places) < archive.num_kept, valid])
    is_neighbour &= among_rows | (jnp.arange(is_neighbour.size) < places)
    nearest = min(k, places + size - 1)

    def one(row: jax.Array) -> jax.Array:
        square = jnp.sum((others - descriptors[row]) ** 2, axis=1)
        counts = is_neighbour & (jnp.arange(is_neighbour.size) != places + row)
        values, _ = lax.top_k(jnp.where(counts, -square, -jnp.inf), nearest)
        is_found = jnp.isfinite(values)
        total = jnp.sum(jnp.where(is_found, jnp.sqrt(-values), 0))
        mean = total / jnp.maximum(jnp.sum(is_found), 1)
        alone = jnp.finfo(mean.dtype).max
        return jnp.where(is_found[0], mean, alone)

    rows = max(1, BLOCK // (others.shape[0] * max(1, others.shape[1])))
    values = lax.map(one, jnp.arange(size), batch_size=min(rows, size))
    return jnp.where(valid, values, 0)


def insert(archive: Archive, descriptors: jax.Array, chosen: jax.Array) -> Archive:
    """Adds the chosen rows; in a full archive they replace the oldest ones.

    Args:
        archive: before this step.
        descriptors: ``float[P, K]``.
        chosen: ``bool[P]``.

    Example:
        >>> archive = insert(empty(2, 1), jnp.arange(3.0)[:, None], jnp.ones(3, bool))
        >>> archive.descriptors.ravel(), archive.num_kept
        (Array([2., 1.], dtype=float32), Array(3, dtype=int32))
    """
    places = archive.descriptors.shape[0]
    number = jnp.cumsum(chosen) - 1
    total = jnp.sum(chosen, dtype=jnp.int32)
    # of more than A chosen rows the last A stay; the others go out of bounds
    stays = chosen & (number >= total - places)
    place = jnp.where(stays, (archive.num_kept + number) % places, places)
    stored = archive.descriptors.at[place].set(
        descriptors.astype(archive.descriptors.dtype), mode="drop"
    )
    return Archive(stored, archive.num_kept + total)
