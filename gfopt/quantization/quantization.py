"""Group-wise quantization: absmax, with a zero point, or by a codebook.

    symmetric    scale = max |w| / (2^(bits - 1) - 1),    code = round(w / scale)
    asymmetric   scale = (max w - min w) / (2^bits - 1),  code = round(w / scale) + zero
    codebook     scale = max |w|,                         code = nearest(w / scale)

each over a group of weights along one axis; 0 is always one of the values with a zero
point. A fitted codebook is Lloyd's.

Sources: Shang et al. (2025), arXiv 2505.13430, section 3; Lloyd (1982), "Least squares
quantization in PCM", IEEE Trans. Information Theory 28(2).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from gfopt import checks
from gfopt.core import trees
from gfopt.lazy.lazy import is_lazy
from gfopt.quantization.quantized import BITS, Quantized, packed, whole_bytes
from gfopt.types import PyTree

LLOYD_TURNS = 20


def quantize(
    params: PyTree,
    *,
    bits: int = 4,
    group_size: int | None = 32,
    symmetric: bool = True,
    axis: int = -1,
    codebook: ArrayLike | None = None,
    where: Callable[[str, PyTree], bool] | None = None,
    min_size: int = 1024,
    scale_dtype: DTypeLike = jnp.float32,
) -> PyTree:
    """Returns a tree whose matrices are ``Quantized`` leaves, for an unmodified model.

    Leaves that are quantized already stay as they are: call it again with another
    ``where`` for a model of several widths.

    Args:
        params: pytree of arrays.
        bits: of a code, 2, 4, 5, 6 or 8.
        group_size: weights that share a scale; None for a whole axis (channel-wise).
        symmetric: False for groups with a zero point of their own.
        axis: the axis that is cut into groups, usually the one that is summed over: -2
            of ``[in, out]``, -1 of ``[out, in]``.
        codebook: what the codes mean, ``float[2**bits]`` from -1 to 1, or
            ``"fitted"`` for one that is fitted to each leaf; None for integers.
        where: ``(path, leaf) -> bool``, which leaves; None for those with two axes or
            more and no ``norm`` or ``bias`` in their path.
        min_size: leaves with fewer numbers are left alone.
        scale_dtype: of the scales; float32 for masters that small steps don't miss.

    Returns:
        The tree. Works under ``jit`` and ``jax.eval_shape``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> params = {"w": jax.random.normal(jax.random.key(0), (64, 64))}
        >>> q = gfopt.quantization.quantize(params, bits=8)
        >>> q, q["w"].scales.shape
        ({'w': Quantized(float32[64,64])}, (64, 2))
        >>> bool(jnp.abs(q["w"].materialise() - params["w"]).max() < 0.02)
        True

    Source: Shang et al. (2025), arXiv 2505.13430.
    """
    checks.one_of("bits", bits, BITS)
    if group_size is not None:
        least = whole_bytes(bits)
        checks.integer("group_size", group_size, least)
        if group_size % least:
            raise ValueError(
                f"group_size must be a multiple of {least}, which fill whole bytes; "
                f"got {group_size}"
            )
    checks.instance("symmetric", symmetric, bool, "True or False")
    checks.integer("axis", axis, -(1 << 30))
    checks.integer("min_size", min_size, 0)
    if not jnp.issubdtype(scale_dtype, jnp.floating):
        raise TypeError(f"scale_dtype must be floating-point; got {scale_dtype!r}")
    table = _checked_codebook(codebook, bits)
    wanted = _is_matrix if where is None else where
    checks.is_callable("where", wanted)

    def leaf(path: tuple[object, ...], w: PyTree) -> PyTree:
        is_float = not is_lazy(w) and jnp.issubdtype(jnp.result_type(w), jnp.floating)
        if not is_float or jnp.size(w) < min_size or jnp.ndim(w) < 2:
            return w
        if not wanted(trees.path_name(path), w):
            return w
        last = jnp.moveaxis(jnp.asarray(w), axis, -1)
        groups = _grouped(last.astype(jnp.float32), group_size, bits)
        if codebook is not None:
            codes, scales, zeros, meaning = _by_codebook(
                groups, table, 2**bits, scale_dtype
            )
        else:
            make = _symmetric if symmetric else _asymmetric
            codes, scales, zeros = make(groups, bits, scale_dtype)
            meaning = None
        return Quantized(
            packed(codes, bits).reshape(*last.shape[:-1], -1),
            scales,
            zeros,
            codebook=meaning,
            columns=last.shape[-1],
            group_size=groups.shape[-1],
            bits=bits,
            axis=axis,
            type=jnp.dtype(last.dtype).name,
        )

    return jax.tree_util.tree_map_with_path(leaf, params, is_leaf=is_lazy)


def _is_matrix(path: str, leaf: PyTree) -> bool:
    return not any(word in path.lower() for word in ("norm", "bias"))


def _checked_codebook(codebook: ArrayLike | None, bits: int) -> jax.Array | None:
    if codebook is None or isinstance(codebook, str):
        if codebook is not None:
            checks.one_of("codebook", codebook, ["fitted"])
        return None
    checks.finite("codebook", codebook)
    if np.shape(codebook) != (2**bits,):
        raise ValueError(
            f"codebook must have shape ({2**bits},) for {bits} bits; "
            f"got {np.shape(codebook)}"
        )
    return jnp.sort(jnp.asarray(codebook, jnp.float32))


def _grouped(w: jax.Array, group_size: int | None, bits: int) -> jax.Array:
    """Returns ``[..., G, group]``; the last group is padded with zeros."""
    columns, least = w.shape[-1], whole_bytes(bits)
    whole = -(-columns // least) * least
    size = whole if group_size is None else min(group_size, whole)
    w = jnp.pad(w, [(0, 0)] * (w.ndim - 1) + [(0, -columns % size)])
    return w.reshape(*w.shape[:-1], -1, size)


def _scales(size: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Returns the scales in their dtype and in float32; 1 for a group of zeros."""
    scales = jnp.where(size > 0, size, 1).astype(dtype)
    wide = scales.astype(jnp.float32)[..., None]
    return scales, jnp.where(wide > 0, wide, 1)


def _symmetric(
    groups: jax.Array, bits: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, None]:
    # Delta = max |w| / (2^(k - 1) - 1),   code = round(w / Delta)
    most = 2 ** (bits - 1) - 1
    scales, wide = _scales(jnp.max(jnp.abs(groups), axis=-1) / most, dtype)
    codes = jnp.clip(jnp.round(groups / wide), -most, most) + (most + 1)
    return codes.astype(jnp.uint8), scales, None


def _asymmetric(
    groups: jax.Array, bits: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Delta = (max w - min w) / (2^k - 1),   code = round(w / Delta) + zero
    most = 2**bits - 1
    low = jnp.minimum(jnp.min(groups, axis=-1), 0)
    high = jnp.maximum(jnp.max(groups, axis=-1), 0)
    scales, wide = _scales((high - low) / most, dtype)
    zeros = jnp.clip(jnp.round(-low[..., None] / wide), 0, most)
    codes = jnp.clip(jnp.round(groups / wide) + zeros, 0, most)
    return codes.astype(jnp.uint8), scales, zeros[..., 0].astype(jnp.uint8)


def _by_codebook(
    groups: jax.Array, table: jax.Array | None, size: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array, None, jax.Array]:
    scales, wide = _scales(jnp.max(jnp.abs(groups), axis=-1), dtype)
    shares = groups / wide
    if table is None:
        table = _fitted(shares.reshape(-1), size)
    return _nearest(shares, table).astype(jnp.uint8), scales, None, table


def _nearest(x: jax.Array, table: jax.Array) -> jax.Array:
    """Returns the index of the nearest entry of a sorted table."""
    return jnp.searchsorted(_middles(table), x, method="compare_all")


def _middles(table: jax.Array) -> jax.Array:
    return (table[1:] + table[:-1]) / 2


def _fitted(x: jax.Array, size: int) -> jax.Array:
    """Returns the codebook of least squared error that Lloyd's turns lead to."""
    start = jnp.quantile(x, (jnp.arange(size) + 0.5) / size)

    def turn(_: jax.Array, table: jax.Array) -> jax.Array:
        nearest = _nearest(x, table)
        sums = jnp.zeros(size).at[nearest].add(x)
        counts = jnp.zeros(size).at[nearest].add(1)
        return jnp.sort(jnp.where(counts > 0, sums / jnp.maximum(counts, 1), table))

    return jax.lax.fori_loop(0, LLOYD_TURNS, turn, start)
