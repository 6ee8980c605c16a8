"""Genomes: what a deep GA's network is made of, in a few kilobytes.

A genome is the list of mutations from the starting solution to a network: a seed and a
scale for each. Whoever has the starting solution makes the network from it again, bit
for bit: on the same kind of machine with Gaussian noise, on any with random signs.

    genome.save("elite.genome", result.optimizer, result.state)
    network = genome.load("elite.genome", x0)
"""

from __future__ import annotations

import os
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core import trees
from gfopt.driver.storage.records import Record
from gfopt.driver.storage.storage import read_records, write_snapshot
from gfopt.driver.storage.tree_records import leaf_types
from gfopt.noise.noise import Noise
from gfopt.noise.table import NoiseTable
from gfopt.optimizers.deep_ga import DeepGA, DeepGAState, mutated
from gfopt.optimizers.wrappers.bounded import Bounded
from gfopt.protocol import Optimizer, Wrapper
from gfopt.types import JsonObject, Solution, State

__all__ = ["Genome", "decode", "lineage", "load", "save"]

KIND = "genome"
MOST_OF_A_TABLE = 2**28  # numbers, 1 GB, that a file may ask for


class Genome(NamedTuple):
    """The mutations of one solution, the first one first.

    Attributes:
        seeds: ``uint32[g]``.
        sigmas: ``float32[g]``, or ``float32[]`` where all are the same; a negative one
            is the first draw of a network's matrices (see ``DeepGA``).
        noise: what the seeds mean: ``{"kind": "gaussian"}``, or ``"table"`` with
            ``size`` and ``seed``.

    Example:
        >>> import gfopt
        >>> noise = {"kind": "gaussian"}
        >>> genome = Genome(np.array([7, 9], np.uint32), np.float32([0.1, 0.2]), noise)
        >>> genome.nbytes, decode(genome, jnp.zeros(1000)).shape
        (16, (1000,))
    """

    seeds: np.ndarray
    sigmas: np.ndarray
    noise: JsonObject

    @property
    def nbytes(self) -> int:
        """Bytes of the seeds and the scales."""
        return self.seeds.nbytes + self.sigmas.nbytes


def lineage(optimizer: Optimizer, state: State, slot: int = 0) -> Genome:
    """Returns the genome of a parent.

    Args:
        optimizer: a ``DeepGA``, or ``Novelty`` around one.
        state: its state.
        slot: which of the parents; 0 is the elite.

    Raises:
        TypeError: for another method.
        ValueError: where there is no such parent.

    Example:
        >>> import gfopt
        >>> optimizer = gfopt.DeepGA(population_size=8, num_parents=2)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=10)
        >>> found = lineage(optimizer, result.state)
        >>> bool((decode(found, jnp.ones(3)) == result.recommended).all())
        True
    """
    method, state = _deep_ga(optimizer, state)
    checks.integer("slot", slot, 0)
    if slot >= method.num_parents:
        raise ValueError(
            f"slot must be below num_parents = {method.num_parents}; got {slot}"
        )
    seeds, scales = method.chain_of_parent(state, slot)
    scales = scales.astype(np.float32)
    if scales.size and (scales == scales[0]).all():
        scales = scales[0, ...]
    return Genome(seeds, scales, _described(method.noise))


def decode(genome: Genome, template: Solution) -> Solution:
    """Makes the solution of a genome.

    Args:
        genome: of ``lineage``.
        template: the solution that the run started from.

    Raises:
        TypeError, ValueError: for a template that is no solution.

    Example:
        >>> noise = {"kind": "gaussian"}
        >>> genome = Genome(np.array([7], np.uint32), np.float32(0.1), noise)
        >>> decode(genome, {"w": jnp.zeros((2, 3))})["w"].shape
        (2, 3)
    """
    with trees.precision(template):
        start = trees.starting_point(template)
        sigmas = np.broadcast_to(genome.sigmas, genome.seeds.shape)
        scales = jnp.asarray(sigmas, trees.wide_dtype(start))
        return _decoded(_noise(genome.noise), start, jnp.asarray(genome.seeds), scales)


@jax.jit
def _decoded(
    noise: Noise | NoiseTable, start: Solution, seeds: jax.Array, sigmas: jax.Array
) -> Solution:
    def apply(
        tree: Solution, mutation: tuple[jax.Array, jax.Array]
    ) -> tuple[Solution, None]:
        return mutated(noise, tree, *mutation), None

    return lax.scan(apply, start, (seeds, sigmas))[0]


def save(
    path: str | os.PathLike[str], optimizer: Optimizer, state: State, slot: int = 0
) -> None:
    """Writes the genome of a parent: 4 bytes a mutation, 8 where sigma changes.

    Args:
        path: the file, replaced if it exists.
        optimizer: a ``DeepGA``, or ``Novelty`` around one.
        state: its state.
        slot: which of the parents; 0 is the elite.

    Raises:
        TypeError: for another method.
        ValueError: where there is no such parent.

    Example:
        >>> import gfopt
        >>> path = getfixture("tmp_path") / "elite"
        >>> optimizer = gfopt.DeepGA(population_size=8, num_parents=2)
        >>> result = gfopt.run(optimizer, lambda x: jnp.sum(x**2), jnp.ones(3),
        ...                    key=jax.random.key(0), generations=3)
        >>> save(path, optimizer, result.state)
        >>> bool((load(path, jnp.ones(3)) == result.recommended).all())
        True
    """
    method, state = _deep_ga(optimizer, state)
    seeds, sigmas, noise = lineage(optimizer, state, slot)
    shapes = leaf_types(optimizer.recommend(state))
    meta = {**noise, "tree": zlib.crc32(repr(shapes).encode())}
    record = Record("", meta, {"seed": seeds, "sigma": sigmas})
    write_snapshot(path, {"kind": KIND}, [record])


def load(path: str | os.PathLike[str], template: Solution) -> Solution:
    """Reads a genome and makes its solution.

    Args:
        path: a file of ``save``.
        template: the solution that the run started from. Where the matrices were drawn
            anew (``initial_std``), theirs may be any numbers.

    Raises:
        ValueError: for another kind of file, a damaged one, or a template of another
            structure.

    Example:
        >>> import gfopt
        >>> path = getfixture("tmp_path") / "elite"
        >>> optimizer = gfopt.DeepGA(population_size=8, num_parents=2)
        >>> state = optimizer.init(jax.random.key(0), jnp.ones(3))
        >>> save(path, optimizer, state)
        >>> load(path, jnp.ones(3))  # before the first generation: no mutation
        Array([1., 1., 1.], dtype=float32)
    """
    contents = read_records(path)
    if contents.lost:
        raise ValueError(f"{os.fspath(path)} is damaged: {'; '.join(contents.lost)}")
    if contents.header.get("kind") != KIND or len(contents.records) != 1:
        raise ValueError(
            f"{os.fspath(path)} must hold a genome; got {contents.header!r}"
        )
    with checks.whole_file("genome", path):
        genome, expected = _read(contents.records[0])
    with trees.precision(template):
        shapes = leaf_types(trees.as_inexact(template))
    if zlib.crc32(repr(shapes).encode()) != expected:
        raise ValueError(
            "template must have the paths, shapes and dtypes of the solution that the "
            f"genome was made for; got {shapes}"
        )
    with checks.whole_file("genome", path):
        return decode(genome, template)


def _read(record: Record) -> tuple[Genome, int]:
    """Returns a genome, and the checksum of the tree that it is for."""
    noise = dict(record.meta)
    expected = noise.pop("tree")
    seeds, sigmas = record.arrays["seed"], record.arrays["sigma"]
    types = seeds.dtype == np.uint32 and sigmas.dtype == np.float32
    if not types or seeds.ndim != 1 or sigmas.shape not in ((), seeds.shape):
        raise ValueError("seeds must be uint32[g], sigmas float32[g] or float32[]")
    if noise.get("size", 0) > MOST_OF_A_TABLE:
        raise ValueError(f"its table would have {noise['size']} numbers")
    return Genome(seeds, sigmas, noise), expected


def _deep_ga(optimizer: Any, state: State) -> tuple[DeepGA, DeepGAState]:
    """Returns the deep GA inside, and its state."""
    while isinstance(optimizer, Wrapper) and not isinstance(optimizer, Bounded):
        optimizer, state = optimizer.inner, optimizer.inner_state(state)
    checks.instance("optimizer", optimizer, DeepGA, "a DeepGA, without bounds")
    return optimizer, state


def _described(noise: Noise | NoiseTable) -> JsonObject:
    if isinstance(noise, Noise):
        return {"kind": noise.kind}
    return {"kind": "table", "size": noise.size, "seed": noise.seed}


def _noise(described: JsonObject) -> Noise | NoiseTable:
    options = dict(described)
    kind = options.pop("kind")
    return NoiseTable(**options) if kind == "table" else Noise(kind)
