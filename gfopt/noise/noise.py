"""Families of noise on parameter trees, never ``[P, D]``.

``sample``, ``add`` and the streamed sums draw leaf by leaf, or small leaves together
(``noise_trees``), by the law of ``noise_law``.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.tree_util import PyTreeDef

from gfopt import checks
from gfopt.core import trees
from gfopt.fusion import made_once, zero_after
from gfopt.noise import law as noise_law
from gfopt.noise import leaves as noise_trees
from gfopt.noise import sums as noise_sums
from gfopt.noise import threefry
from gfopt.pytree import pytree, static
from gfopt.types import PyTree

# Populations of at most this many numbers keep their Gaussian noise, 64 MB of float32:
# the default evaluator holds their candidates all at once, too.
CACHED_ELEMENTS = 1 << 24
# Signs are cheap to draw again: only what stays in cache, 4 MB, is worth keeping.
CACHED_SIGNS = 1 << 20


@pytree
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
        >>> Noise("rademacher").sample(tree, jnp.uint32(1))["b"].shape
        (2,)
    """

    kind: str = static(default="gaussian")
    cached: bool | None = static(default=None)

    is_lazy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, noise_law.KINDS)
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
        for group in noise_trees.groups(shapes):
            draw = partial(
                noise_law.noise_leaves,
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
        first, second = noise_trees.add_weighted_trees(
            self.kind, (zeros, zeros), seeds, both
        )
        return first, second

    def add_weighted(
        self,
        tree: PyTree,
        seeds: jax.Array,
        weights: jax.Array,
        rounding_seed: jax.Array | None = None,
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
            added: ``(old, sum, words) -> new`` for each block, where it is not
                ``noise_sums.added_to``.
        """
        if rounding_seed is None:
            return noise_trees.add_weighted_trees(
                self.kind, (tree,), seeds, weights[:, None], added
            )[0]
        return trees.map_with_hash(
            lambda path, leaf: noise_trees.add_weighted_leaf(
                self.kind, path, leaf, seeds, weights, rounding_seed, added
            ),
            tree,
        )


def zeros_after(like: PyTree, weights: jax.Array) -> PyTree:
    """Returns zeros in float32 or wider, which are not made before the weights."""
    return trees.filled(like, zero_after(weights))


def add_scaled(tree: PyTree, z: PyTree, scale: jax.Array | PyTree) -> PyTree:
    """Returns ``tree + scale * z`` for noise that was drawn already."""

    def add_leaf(leaf: jax.Array, z: jax.Array, scale: jax.Array) -> jax.Array:
        wide = jnp.promote_types(leaf.dtype, jnp.float32)
        step = threefry.round_significant(jnp.asarray(scale, wide)) * z.astype(wide)
        return (leaf.astype(wide) + step).astype(leaf.dtype)

    return jax.tree.map(add_leaf, tree, z, as_tree(scale, tree))


def as_tree(scale: jax.Array | PyTree, tree: PyTree) -> PyTree:
    """Spreads one number over the leaves of ``tree``; a tree stays as it is."""
    structure: PyTreeDef = jax.tree.structure(tree)
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
        >>> z = rademacher().sample(jnp.zeros(100), jnp.uint32(1))
        >>> sorted(set(z.tolist()))
        [-1.0, 1.0]
    """
    return Noise("rademacher", cached)
