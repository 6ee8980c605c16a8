"""Bounds as a wrapper: scales, folds, and what passes through."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gfopt
from gfopt.core.evaluate import decode_rows


def test_scales_are_a_change_of_units() -> None:
    """Steps in units of the scale are the plain steps, coordinate by coordinate."""
    scale = jnp.array([0.5, 1.0, 4.0])  # powers of two: exact
    free = jnp.full(3, jnp.inf)
    bounded = gfopt.Bounded(gfopt.OpenES(), gfopt.spaces.Space(-free, free, scale))
    x0 = jnp.array([1.0, -2.0, 3.0])
    seen = solutions(bounded, x0)
    np.testing.assert_array_equal(seen, solutions(bounded.inner, x0 / scale) * scale)


def solutions(optimizer: Any, x0: jax.Array) -> np.ndarray:
    """Returns the candidates of the first generation, ``[P, D]``."""

    @jax.jit
    def first(key: jax.Array) -> jax.Array:
        state = optimizer.init(key, x0)
        return decode_rows(optimizer, state, optimizer.ask(key, state).members)

    return np.asarray(first(jax.random.key(1)))


def test_candidates_are_folded() -> None:
    """Outside lies the mirror image of inside: no candidate sticks to a bound."""
    space = gfopt.spaces.Space(jnp.zeros(4), jnp.ones(4), jnp.ones(4))
    optimizer = gfopt.Bounded(gfopt.OpenES(population_size=64, sigma=3.0), space)
    x0 = jnp.full(4, 0.5)
    x, raw = solutions(optimizer, x0), solutions(optimizer.inner, x0)
    assert np.any(raw < 0) and np.any(raw > 1)
    assert np.all((x > 0) & (x < 1))
    # the triangle wave of period 2: |y - 2 round(y / 2)|
    np.testing.assert_allclose(x, np.abs(raw - 2 * np.round(raw / 2)), atol=1e-5)
    inside = (raw >= 0) & (raw <= 1)
    np.testing.assert_array_equal(x[inside], raw[inside])


def test_a_wide_step_fills_the_box_evenly() -> None:
    """Folding a wide normal distribution gives the uniform one, by quartiles."""
    space = gfopt.spaces.Space(jnp.zeros(500), jnp.ones(500), jnp.ones(500))
    optimizer = gfopt.Bounded(gfopt.RandomSearch(population_size=8, sigma=50.0), space)
    x = solutions(optimizer, jnp.full(500, 0.1))
    counts, _ = np.histogram(x, bins=4, range=(0, 1))
    # 4000 draws: a quarter is 1000, its standard error 27
    assert np.all(np.abs(counts - 1000) < 4 * 27.4)


def test_reasons_to_stop_pass_through() -> None:
    space = gfopt.spaces.Space(-jnp.ones(2), jnp.ones(2), jnp.ones(2))
    for inner, names in (
        (gfopt.SNES(), {"tol_x", "tol_fun", "diverged"}),
        (gfopt.OpenES(), set()),
    ):
        optimizer = gfopt.Bounded(inner, space)
        state = optimizer.init(jax.random.key(0), jnp.zeros(2))
        assert set(optimizer.stop(state)) == names
