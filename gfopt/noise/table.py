"""A table of noise, slices of which stand for draws: large, but cheap to read."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core import trees
from gfopt.noise import law, noise
from gfopt.pytree import pytree, static
from gfopt.types import PyTree

_COLUMNS = 4096


@pytree(eq=False)
class NoiseTable:
    """Noise read from a table of normals: ``z(seed) = table[start : start + D]``.

    ``start = seed mod (size - D + 1)``, and the leaves take their parts in the order of
    the tree. Two slices may overlap: for two draws, with a chance of about
    ``2 D / size``.

    Args:
        size: numbers in the table; the paper's has 250 million (1 GB).
        seed: of the table; its last 32 bits count.
        table: made from the seed where it is None.

    Raises:
        ValueError: for an argument out of range.

    Source: Such et al. (2017), arXiv 1712.06567, section 3, after Salimans et al.
    (2017). Deviation: entries have 12 significant bits, as all noise here, so that a
    product with a scale is exact.

    Example:
        >>> table = NoiseTable(size=1000, seed=1)
        >>> z = table.sample(jnp.zeros(10), jnp.uint32(5))
        >>> bool((z == table.table[5:15]).all())
        True
    """

    size: int = static(default=25_000_000)
    seed: int = static(default=0)
    table: jax.Array | None = None

    def __post_init__(self) -> None:
        checks.integer("size", self.size, 1)
        checks.integer("seed", self.seed, 0)
        if self.table is None:
            object.__setattr__(
                self, "table", _made(np.uint32(self.seed % 2**32), self.size)
            )

    def sample(self, like: PyTree, seed: jax.Array) -> PyTree:
        """Reads ``z``: float32 leaves with the shapes of ``like``.

        Raises:
            ValueError: where the table has fewer numbers than ``like``.
        """
        leaves, structure = jax.tree.flatten(like)
        table = jnp.asarray(self.table)
        dimension = trees.num_parameters(like)
        if dimension > self.size:
            raise ValueError(
                f"size must be at least the {dimension} parameters of a solution; "
                f"got {self.size}"
            )
        places = np.uint32(self.size - dimension + 1)
        start = (jnp.asarray(seed, jnp.uint32) % places).astype(jnp.int32)
        parts, offset = [], 0
        for leaf in leaves:
            count = math.prod(jnp.shape(leaf))
            part = lax.dynamic_slice(table, (start + offset,), (count,))
            parts.append(part.reshape(jnp.shape(leaf)))
            offset += count
        return jax.tree.unflatten(structure, parts)

    def add(self, tree: PyTree, seed: jax.Array, scale: jax.Array | PyTree) -> PyTree:
        """Returns ``tree + scale * z`` with one rounding, in each leaf's dtype."""
        return noise.add_scaled(tree, self.sample(tree, seed), scale)


@partial(jax.jit, static_argnums=1)
def _made(seed: jax.Array, size: int) -> jax.Array:
    rows = -(-size // _COLUMNS)
    drawn = law.noise_rows("gaussian", seed, 0, 0, rows, _COLUMNS)
    return drawn.reshape(-1)[:size]
