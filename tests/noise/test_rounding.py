"""Stochastic rounding: neighbours only, the right one on average."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.noise import rounding

NARROW = [jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize("dtype", NARROW)
def test_goes_to_a_neighbour_and_arrives_on_average(dtype: Any) -> None:
    # normal and subnormal numbers (of float16) of both signs, and 0
    values = [0.3, -0.3, 1.00001, -1.99999, 3.1e-5, -2.7e-7, 6e-8, 1e-3, 0.0, 1000.3]
    x = jnp.asarray(values, jnp.float32)
    bits = jax.random.bits(jax.random.key(0), (20_000, x.size))
    found = np.asarray(jax.jit(lambda b: rounding.stochastic(x, b, dtype))(bits))
    wide = found.astype(np.float64)
    for column, value in zip(wide.T, np.asarray(x, np.float64), strict=True):
        near = np.unique(column)
        assert near.size <= 2 and near[0] <= value <= near[-1]
        spread = np.ptp(near)
        if near.size == 2:  # neighbours: nothing of the type lies between
            middle = np.asarray(near.mean(), np.float32).astype(found.dtype)
            assert middle.astype(np.float64) in near
        assert abs(column.mean() - value) <= 4 * spread / 2 / np.sqrt(len(column))


@pytest.mark.parametrize("dtype", NARROW)
def test_what_needs_no_rounding_stays(dtype: Any) -> None:
    words = np.arange(2**16, dtype=np.uint16)
    exact = jax.lax.bitcast_convert_type(jnp.asarray(words), dtype)
    # numbers of bfloat16 below 2**-119 have a spacing that float32 has not
    with np.errstate(invalid="ignore"):
        wide = np.asarray(exact).astype(np.float64)
    keep = np.isfinite(wide) & ((np.abs(wide) >= 2.0**-119) | (wide == 0))
    exact = exact[keep]
    bits = jax.random.bits(jax.random.key(0), exact.shape)
    found = rounding.stochastic(exact.astype(jnp.float32), bits, dtype)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(exact))
    for wrong in (jnp.inf, -jnp.inf, jnp.nan):
        x = jnp.full(3, wrong, jnp.float32)
        found = rounding.stochastic(x, bits[:3], dtype).astype(jnp.float32)
        np.testing.assert_array_equal(found, x)


SHAPES = [(7,), (70_001,), (300, 411), ()]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_small_steps_arrive(shape: Any, dtype: Any) -> None:
    """In every layout of a leaf: small, a vector in blocks, a matrix in blocks."""
    noise = gfopt.rademacher()
    x, weight = {"w": jnp.full(shape, 0.02, dtype)}, jnp.array([1e-6], jnp.float32)
    z = noise.sample(x, jnp.uint32(3))["w"]

    @jax.jit
    def step(rounding_seed: Any) -> Any:
        seeds = jnp.array([3], jnp.uint32)
        return noise.add_weighted(x, seeds, weight, rounding_seed)["w"]

    count, moved = 60, 0.0
    start = np.asarray(x["w"], np.float64)
    spacing = float(jnp.finfo(dtype).eps) * 2.0**-6  # at 0.02
    for seed in range(count):
        new = step(jnp.uint32(seed))
        assert new.dtype == dtype and new.shape == shape
        moved = moved + (np.asarray(new, np.float64) - start) * np.asarray(z)
    total = np.mean(moved) / count
    error = np.sqrt(spacing * 1e-6 / (count * max(start.size, 1)))
    assert abs(total - 1e-6) < 4 * error
    if dtype == jnp.bfloat16:
        nearest = noise.add_weighted(x, jnp.array([3], jnp.uint32), weight)["w"]
        np.testing.assert_array_equal(nearest, x["w"])


def test_words_of_blocks_are_those_of_the_whole() -> None:
    """The bits belong to the elements: another rounding seed gives others."""
    noise, seeds = gfopt.gaussian(), jnp.array([1], jnp.uint32)
    x = jnp.full((300, 411), 0.02, jnp.bfloat16)
    one, same, other = (
        np.asarray(noise.add_weighted(x, seeds, jnp.ones(1) * 1e-4, jnp.uint32(s)))
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.mean(one != other) > 0.1
