"""Perturbed lazy leaves: the noise is made in the layer that uses it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core import trees
from gfopt.lazy.lazy import RowBlocks
from gfopt.lazy.views import Index, View, rows_view, slice_axis
from gfopt.noise import law, threefry
from gfopt.pytree import pytree, static
from gfopt.types import PyTree


@pytree(eq=False, repr=False)
class Perturbed(RowBlocks):
    """Weights plus noise that is made a block of rows at a time, where it is used.

        value = w + scale * units * z(seed, path, row, column)    where |w| <= largest

    and ``w`` itself elsewhere. Equal, bit for bit in float32, to
    ``noise.Noise(kind).add`` of ``scale * units`` on the whole leaf, whether it is
    multiplied, scanned over, indexed or looked up. The noise is made anew at each use:
    in a loop that uses the same weights in every turn (a recurrent policy), a dense
    solution is faster.

    Args:
        w: ``float[...]``, the base, shared by all members.
        seed: ``uint32[]``.
        scale: ``float[]``.
        path_hash: crc32 of the leaf's path, ``trees.path_hash``.
        kind: ``"gaussian"`` or ``"rademacher"``.
        largest: ``float[]``, weights above it have no noise; None: all have it.
        units: ``float[...]`` of the shape of ``w``, such as ``w`` itself; None: 1. The
            product with ``scale`` is never whole in memory.
        gain: ``float[]``, multiplies the whole value; set by ``times``.
        offset: the first row that is seen; set by slicing.
        view: set by the operations on the leaf.

    Example:
        >>> leaf = Perturbed(jnp.ones((3, 2)), jnp.uint32(1), 0.5, kind="rademacher")
        >>> leaf, leaf.materialise().shape
        (Perturbed(float32[3,2]), (3, 2))
    """

    w: jax.Array
    seed: jax.Array
    scale: jax.Array | float
    path_hash: int = static(default=0)
    kind: str = static(default="gaussian")
    largest: jax.Array | None = None
    units: jax.Array | None = None
    gain: jax.Array | None = None
    offset: Index | None = None
    view: View | None = static(default=None)

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, law.KINDS)

    def storage_view(self) -> View:
        """Returns the view of the whole leaf."""
        return rows_view(jnp.shape(self.w), self.w.dtype)

    def block(self, start: Index, num_rows: int) -> jax.Array:
        """Returns rows of ``(w + scale * units * z) * gain``, in float32 or wider."""
        w, scale = jnp.asarray(self.w), jnp.asarray(self.scale)
        wide = jnp.promote_types(w.dtype, jnp.float32)
        if w.ndim < 2:  # a vector has a layout of its own, and is drawn whole
            z = law.noise_leaf(self.kind, self.seed, self.path_hash, w.shape)
            columns = z.size
            z = z.reshape(1, columns)
        else:
            columns = w.shape[-1]
            z = law.noise_rows(
                self.kind, self.seed, self.path_hash, start, num_rows, columns
            )
        base = slice_axis(w.reshape(-1, columns), 0, start, num_rows).astype(wide)
        if scale.ndim:
            raise ValueError(
                "scale must be one number, and units a number for each weight; "
                f"got a scale of shape {scale.shape}"
            )
        scale = scale.astype(wide)
        if self.units is not None:
            if self.units.shape != w.shape:
                raise ValueError(
                    f"units must be of the shape of w, {w.shape}; "
                    f"got shape {self.units.shape}"
                )
            units = self.units.reshape(-1, columns)
            scale = scale * slice_axis(units, 0, start, num_rows).astype(wide)
        step = threefry.round_significant(scale) * z.astype(wide)
        if self.largest is not None:
            step = jnp.where(jnp.abs(base) <= self.largest, step, 0)
        value = base + step
        return value if self.gain is None else value * self.gain.astype(wide)

    def times(self, factor: jax.Array) -> Perturbed:
        """Multiplies each block once it is made."""
        gain = factor if self.gain is None else factor * self.gain
        return dataclasses.replace(self, gain=gain)


def perturbed(
    tree: PyTree,
    seed: jax.Array,
    scale: jax.Array,
    kind: str,
    *,
    largest: PyTree | None = None,
    units: PyTree | None = None,
) -> PyTree:
    """Returns ``tree + scale * units * z`` as ``Perturbed`` leaves.

    Args:
        tree: the weights.
        seed: ``uint32[]``.
        scale: a number.
        kind: of the noise.
        largest: a number for each leaf, above which its weights stay; None: all move.
        units: a tree like ``tree``, None for 1 or for leaves whose units are 1.
    """
    paths, leaves, structure = trees.flatten_with_hash(tree)
    nothing = [None] * len(leaves)
    most = nothing if largest is None else structure.flatten_up_to(largest)
    own = nothing if units is None else structure.flatten_up_to(units)
    found = [
        # a leaf without numbers has no rows to draw
        Perturbed(w, seed, scale, path, kind, largest=h, units=u) if w.size else w
        for path, w, h, u in zip(paths, leaves, most, own, strict=True)
    ]
    return jax.tree.unflatten(structure, found)
