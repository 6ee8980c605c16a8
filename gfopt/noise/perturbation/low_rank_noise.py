"""Low-rank noise: a thin change of each matrix, never made in full.

    E = A B^T / sqrt(rank),   A [R, rank], B [C, rank] standard noise

Every entry of ``E`` has mean 0 and variance 1, and two different entries are
uncorrelated, so a search gradient is unbiased for any rank. ``add`` returns ``LowRank``
leaves over the weights, which all members share, and the streamed sum is one product
for each leaf: ``sum_p w_p A_p B_p^T``, of full rank again.

The law: the factors of layer ``l`` are the rows ``l * rank, ...`` of a matrix of noise
with ``R + C`` columns under a path of their own, so a layer's can be drawn alone.

Source: Sarkar et al. (2025), arXiv 2511.16652 (EGGROLL).
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.fusion import zero_after
from gfopt.lazy.lazy import is_lazy, materialise
from gfopt.lazy.low_rank import LowRank
from gfopt.noise import law as noise_law
from gfopt.noise import leaves as noise_trees
from gfopt.noise import noise, threefry
from gfopt.noise.perturbation import low_rank_sums
from gfopt.noise.perturbation.plans import (
    DENSE,
    EXCLUDED,
    Matrices,
    Plan,
    drawn_together,
    plans_of,
)
from gfopt.pytree import pytree, static
from gfopt.types import PyTree


@pytree
class LowRankNoise:
    """Noise of low rank on the matrices of a tree, made by ``gfopt.low_rank``.

    Args:
        rank: columns of the two factors.
        kind: ``"gaussian"`` or ``"rademacher"`` factors.
        dense: patterns of the leaves that get dense noise.
        exclude: patterns of the leaves that get none.
        axes: pairs of a pattern and its axes.

    Raises:
        TypeError: for patterns that are not text.
        ValueError: for a rank below 1, an unknown kind, or axes that say nothing.

    Example:
        >>> import numpy as np
        >>> noise = LowRankNoise(rank=2, dense=("head",))
        >>> z = noise.sample({"w": jnp.ones((9, 9)), "head": jnp.ones((9, 9))}, 7)
        >>> [int(np.linalg.matrix_rank(z[name])) for name in ("w", "head")]
        [2, 9]
    """

    rank: int = static(default=1)
    kind: str = static(default="gaussian")
    dense: tuple[str, ...] = static(default=())
    exclude: tuple[str, ...] = static(default=())
    axes: tuple[tuple[str, str], ...] = static(default=())

    is_lazy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.integer("rank", self.rank, 1)
        checks.one_of("kind", self.kind, noise_law.KINDS)
        for pattern in (*self.dense, *self.exclude, *(text for text, _ in self.axes)):
            checks.instance("a pattern", pattern, str, "text, such as '*/bias'")
        for pattern, letters in self.axes:
            if not isinstance(letters, str) or not re.fullmatch("S*R+C+", letters):
                raise ValueError(
                    "axes must be a letter for each axis of a leaf, S stacked, then R "
                    f"rows, then C columns, such as 'SRC'; got {letters!r} for "
                    f"{pattern!r}"
                )

    def is_cached(self, size: int, like: PyTree) -> bool:
        """Says that no population keeps its noise: the factors are cheap."""
        return False

    def sample(self, like: PyTree, seed: jax.Array) -> PyTree:
        """Draws ``E`` in full: float32 leaves with the shapes of ``like``."""
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.float32), like, is_leaf=is_lazy
        )
        return materialise(self.add(zeros, seed, jnp.float32(1)))

    def add(self, tree: PyTree, seed: jax.Array, scale: jax.Array) -> PyTree:
        """Returns ``tree + scale * E`` with a ``LowRank`` leaf for every matrix.

        Args:
            tree: pytree of floating-point leaves; a lazy leaf is a base like another.
            seed: ``uint32[]``.
            scale: ``float[]``.
        """
        plans, leaves, structure = plans_of(self, tree)

        def draw(plan: Plan, path: int | jax.Array) -> PyTree:
            if plan.choice == EXCLUDED:
                return ()
            if plan.choice == DENSE:
                return noise_law.noise_leaf(self.kind, seed, path, plan.shape)
            return self._factors(path, seed, 0, plan.sizes)

        def add_leaf(leaf: jax.Array, plan: Plan, drawn: PyTree) -> PyTree:
            if plan.choice == EXCLUDED:
                return leaf
            if plan.choice == DENSE:
                return noise.add_scaled(leaf, drawn, scale)
            return self._perturbed(leaf, plan.choice, drawn, scale)

        drawn = drawn_together(plans, draw, [plan.key for plan in plans])
        return jax.tree.unflatten(structure, map(add_leaf, leaves, plans, drawn))

    def add_each(self, tree: PyTree, seed: jax.Array, scales: jax.Array) -> PyTree:
        """Returns ``tree + scales[i] * E`` for each ``i``: dense ``[g, ...]``."""
        return jax.vmap(lambda scale: materialise(self.add(tree, seed, scale)))(scales)

    def weighted_sum(
        self, like: PyTree, seeds: jax.Array, weights: jax.Array
    ) -> PyTree:
        """Returns ``sum_p weights[p] * E_p``, streamed, in float32 or wider.

        Args:
            like: pytree with the shapes of one solution.
            seeds: ``uint32[P]``.
            weights: ``float[P]``.
        """
        zero = zero_after(weights)
        zeros = jax.tree.map(
            lambda leaf: jnp.full(leaf.shape, zero, _wide(leaf)), like, is_leaf=is_lazy
        )
        return self.add_weighted(zeros, seeds, weights)

    def add_weighted(
        self, tree: PyTree, seeds: jax.Array, weights: jax.Array
    ) -> PyTree:
        """Returns ``tree + sum_p weights[p] * E_p``, in place if donated.

        The factors are drawn again, and a matrix gets its sum by one product over the
        members and the rank: no member's matrix is ever made.
        """
        plans, leaves, structure = plans_of(self, tree)

        def elements(plan: Plan) -> int:
            """Numbers that are held if a leaf's noise is drawn for all members."""
            if plan.choice == DENSE:
                return math.prod(plan.shape)
            layers, rows, columns = plan.sizes
            return seeds.shape[0] * layers * self.rank * (rows + columns)

        # small leaves of a kind are drawn together, up to a number of them at a time
        keys: list[Hashable] = []
        for number, plan in enumerate(plans):
            if plan.choice == EXCLUDED or elements(plan) > low_rank_sums.BLOCK // 16:
                keys.append(number)
                continue
            alike = sum(other.key == plan.key for other in plans[:number])
            keys.append((plan.key, alike * elements(plan) // low_rank_sums.BLOCK))
        is_small = [isinstance(key, tuple) for key in keys]

        def draw(plan: Plan, path: int | jax.Array) -> PyTree:
            if not is_small[plans.index(plan)]:
                return None
            if plan.choice == DENSE:
                zeros = jnp.zeros(plan.shape, weights.dtype)
                return noise_trees.add_weighted_leaf(
                    self.kind, path, zeros, seeds, weights
                )
            first, sizes = jnp.int32(0), plan.sizes
            return jax.vmap(lambda s: self._factors(path, s, first, sizes))(seeds)

        def add_leaf(leaf: jax.Array, plan: Plan, drawn: PyTree) -> PyTree:
            if plan.choice == EXCLUDED:
                return leaf
            wide = weights.astype(_wide(leaf))
            if plan.choice != DENSE:

                def draw_layer(
                    seed: jax.Array, layer: jax.Array
                ) -> low_rank_sums.Factors:
                    sizes = (1, *plan.sizes[1:])
                    return self._factors(plan.path, seed, layer, sizes)

                by = seeds, wide, drawn
                return low_rank_sums.add(draw_layer, self.rank, plan.sizes, leaf, *by)
            if drawn is not None:
                return (leaf + drawn).astype(leaf.dtype)
            return noise_trees.add_weighted_leaf(
                self.kind, plan.path, leaf, seeds, wide
            )

        drawn = drawn_together(plans, draw, keys)
        return jax.tree.unflatten(structure, map(add_leaf, leaves, plans, drawn))

    def _factors(
        self,
        path: int | jax.Array,
        seed: jax.Array,
        first: jax.Array | int,
        sizes: tuple[int, int, int],
    ) -> tuple[jax.Array, jax.Array]:
        """Draws ``A^T [count, rank, R]`` and ``B^T [count, rank, C]`` from layer on."""
        count, rows, columns = sizes
        z = noise_law.noise_rows(
            self.kind, seed, path, first * self.rank, count * self.rank, rows + columns
        )
        z = threefry.drawn_once(z, seed).reshape(count, self.rank, rows + columns)
        return z[..., :rows], z[..., rows:]

    def _perturbed(
        self,
        leaf: jax.Array,
        split: Matrices,
        factors: low_rank_sums.Factors,
        scale: jax.Array,
    ) -> LowRank:
        """Returns ``leaf + scale * A B^T / sqrt(rank)``."""
        shape, wide = leaf.shape, _wide(leaf)
        a, b = (jnp.swapaxes(f, 1, 2).astype(wide) for f in factors)
        a = a * (jnp.asarray(scale, wide) / math.sqrt(self.rank))
        first, second = split.stacked, split.stacked + split.rows
        return LowRank(
            leaf,
            a.reshape(*shape[:second], self.rank),
            b.reshape(*shape[:first], *shape[second:], self.rank),
        )


def _wide(leaf: jax.Array) -> np.dtype:
    return jnp.promote_types(leaf.dtype, jnp.float32)


def low_rank(
    rank: int = 1,
    *,
    kind: str = "gaussian",
    dense: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    axes: Mapping[str, str] | None = None,
) -> LowRankNoise:
    """Returns noise of low rank for ``OpenES``: ``E = A B^T / sqrt(rank)``.

    A leaf with two axes is a matrix; one with three is a stack of matrices, one for
    each layer; of one with four or more, the last axis is the columns and all others
    are the rows, as in a convolution's kernel. ``axes`` says otherwise. Vectors,
    numbers, and matrices with no more elements than their factors get dense noise.

    Patterns are matched against a leaf's path, written ``"layers/0/bias"``, as a shell
    matches file names: ``*`` is any text, slashes too.

    Args:
        rank: columns of the two factors.
        kind: ``"gaussian"``, or ``"rademacher"`` for factors of packed signs.
        dense: a pattern, or several, of the leaves that get dense noise.
        exclude: a pattern, or several, of the leaves that get no noise.
        axes: for a pattern, a letter for each axis of its leaves: S for stacked, then
            R for rows, then C for columns. ``{"*/query": "RCC"}`` is a matrix with
            one row axis and heads in its columns. The first pattern that matches
            counts.

    Raises:
        TypeError: for patterns that are not text.
        ValueError: for a rank below 1, an unknown kind, axes that say nothing, or, once
            there is a tree, a pattern that matches none of its leaves.

    Example:
        >>> weights = {"w": jnp.zeros((8, 6)), "b": jnp.zeros(6)}
        >>> low_rank(rank=1).add(weights, jnp.uint32(7), 0.1)["w"]
        LowRank(float32[8,6])

    Source: Sarkar et al. (2025), arXiv 2511.16652.
    """
    pairs = tuple((axes or {}).items())
    return LowRankNoise(
        rank, kind, _several("dense", dense), _several("exclude", exclude), pairs
    )


def _several(name: str, patterns: str | Iterable[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        return (patterns,)
    checks.instance(name, patterns, Iterable, "a pattern or several")
    return tuple(patterns)
