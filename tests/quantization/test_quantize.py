"""Quantizers beside a plain loop: codes, errors, choices, refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import gfopt
from gfopt.lazy.lazy import is_lazy, materialise
from gfopt.quantization.quantized import packed, unpacked

W = np.random.default_rng(1).normal(size=(5, 26)).astype(np.float32)


def codes_of(leaf: Any) -> np.ndarray:
    """Returns the codes of a leaf, unpacked, without padding."""
    groups = leaf.codes.reshape(*leaf.scales.shape, -1)
    found = unpacked(groups, leaf.bits)
    return np.asarray(found.reshape(*leaf.codes.shape[:-1], -1))[..., : leaf.columns]


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize("group_size", [4, 8, None])
def test_symmetric_as_a_loop(bits: int, group_size: int | None) -> None:
    options = {"bits": bits, "group_size": group_size, "min_size": 0}
    leaf = gfopt.quantization.quantize({"w": W}, **options)["w"]
    zero, scales, codes = 2 ** (bits - 1), np.asarray(leaf.scales), codes_of(leaf)
    size = leaf.group_size
    for row in range(5):
        for group in range(scales.shape[1]):
            part = W[row, group * size : (group + 1) * size]
            scale = np.abs(part).max() / (zero - 1)
            np.testing.assert_allclose(scales[row, group], scale, rtol=1e-6)
    dense = oracles.dequantized(codes.astype(float), scales, size, zero)
    np.testing.assert_allclose(leaf.materialise(), dense, rtol=1e-5, atol=1e-7)
    # |w - Delta code| <= Delta / 2
    delta = np.repeat(scales, size, axis=1)[:, : W.shape[1]]
    assert np.all(np.abs(W - dense) <= delta / 2 * (1 + 1e-4))


@pytest.mark.parametrize("bits", [2, 4, 5, 6, 8])
def test_a_zero_point_keeps_zero_and_halves_the_error(bits: int) -> None:
    w = np.abs(W)
    w[:, 3] = 0
    options = {"bits": bits, "group_size": 8, "min_size": 0}
    found = [
        gfopt.quantization.quantize({"w": w}, symmetric=symmetric, **options)["w"]
        for symmetric in (True, False)
    ]
    errors = [np.abs(np.asarray(leaf.materialise()) - w).mean() for leaf in found]
    assert errors[1] < 0.7 * errors[0]
    assert np.all(found[1].materialise()[:, 3] == 0)
    zeros = np.asarray(found[1].zeros, float)
    scales = np.asarray(found[1].scales)
    for row in range(5):
        for column in range(W.shape[1]):
            group = column // 8
            code = float(codes_of(found[1])[row, column]) - zeros[row, group]
            delta = scales[row, group]
            assert abs(code * delta - w[row, column]) <= delta / 2 * (1 + 1e-4)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_any_axis_is_cut_into_groups(axis: int) -> None:
    w = np.random.default_rng(2).normal(size=(8, 6, 12)).astype(np.float32)
    leaf = gfopt.quantization.quantize(
        {"w": w}, bits=8, axis=axis, group_size=4, min_size=0
    )["w"]
    assert leaf.shape == w.shape
    np.testing.assert_allclose(leaf.materialise(), w, atol=0.02)


def test_a_codebook_is_nearest_and_a_fitted_one_is_better() -> None:
    w = np.random.default_rng(3).standard_t(4, size=(16, 64)).astype(np.float32)
    even = np.linspace(-1, 1, 16)
    options = {"group_size": None, "min_size": 0}
    plain = gfopt.quantization.quantize({"w": w}, codebook=even, **options)["w"]
    share = w / np.abs(w).max(axis=1, keepdims=True)
    nearest = even[np.abs(share[..., None] - even).argmin(axis=-1)]
    expected = nearest * np.abs(w).max(axis=1, keepdims=True)
    np.testing.assert_allclose(plain.materialise(), expected, rtol=1e-5, atol=1e-6)
    fitted = gfopt.quantization.quantize({"w": w}, codebook="fitted", **options)["w"]
    assert fitted.scales.shape == (16, 1)
    errors = [
        np.mean((np.asarray(leaf.materialise()) - w) ** 2) for leaf in (plain, fitted)
    ]
    assert errors[1] < 0.7 * errors[0]
    trained, frozen = gfopt.partition({"w": fitted}, lambda path, leaf: True)
    assert trained["w"].codebook is None and trained["w"].scales is not None
    assert frozen["w"].codebook is not None and frozen["w"].codes is not None


@pytest.mark.parametrize("bits", [2, 4, 5, 6, 8])
def test_packing_and_back(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, 5, 16)).astype(np.uint8)
    made = packed(jnp.asarray(codes), bits)
    assert made.shape == (3, 5, 16 * bits // 8)
    np.testing.assert_array_equal(unpacked(made, bits), codes)


def test_which_leaves_are_quantized() -> None:
    params = {
        "w": jnp.ones((64, 64)),
        "final_norm": jnp.ones((64, 64)),
        "small": jnp.ones((4, 4)),
        "vector": jnp.ones(4096),
        "count": jnp.ones((64, 64), jnp.int32),
    }
    made = gfopt.quantization.quantize(params)
    assert [name for name, leaf in made.items() if is_lazy(leaf)] == ["w"]
    # another width for the rest; what is quantized stays
    more = gfopt.quantization.quantize(
        made, bits=8, where=lambda path, _: path == "final_norm"
    )
    assert (more["w"].bits, more["final_norm"].bits) == (4, 8)
    zeros = gfopt.quantization.quantize({"w": jnp.zeros((64, 64))})
    np.testing.assert_array_equal(materialise(zeros)["w"], 0)


def test_dtypes() -> None:
    w = jnp.asarray(W, jnp.bfloat16)
    leaf = gfopt.quantization.quantize({"w": w}, min_size=0, scale_dtype=jnp.float16)[
        "w"
    ]
    assert (leaf.dtype, leaf.scales.dtype) == (jnp.bfloat16, jnp.float16)
    assert leaf.materialise().dtype == jnp.bfloat16
    whole = jax.jit(lambda p: gfopt.quantization.quantize(p, min_size=0))({"w": W})["w"]
    again = gfopt.quantization.quantize({"w": W}, min_size=0)["w"]
    np.testing.assert_array_equal(whole.codes, again.codes)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bits": 3}, ValueError, "bits must be one of 2, 4, 5, 6, 8"),
        ({"group_size": 3}, ValueError, "group_size must be a multiple of 2"),
        ({"group_size": 1}, ValueError, "group_size must be an integer, 2 or above"),
        ({"symmetric": 1}, TypeError, "symmetric must be True or False"),
        ({"codebook": "nf4"}, ValueError, "codebook must be one of 'fitted'"),
        ({"codebook": np.ones(4)}, ValueError, r"codebook must have shape \(16,\)"),
        ({"where": 1}, TypeError, "where must be callable"),
        ({"scale_dtype": jnp.int8}, TypeError, "scale_dtype must be floating-point"),
    ],
)
def test_bad_arguments_are_refused(options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        gfopt.quantization.quantize({"w": W}, **options)
