"""Spaces: the fold keeps inside and touches nothing there; bounds in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import gfopt
from gfopt.core.spaces import bounds_of, fold

SIDES = [(-1.0, 2.0), (-np.inf, 2.0), (-1.0, np.inf), (-np.inf, np.inf), (0.0, 1e-3)]
points = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize(("low", "high"), SIDES)
@given(points)
def test_the_fold_is_inside_and_the_identity_there(low, high, x):
    x = np.float32(x)
    found = np.asarray(fold(jnp.asarray(x), low, high))
    low, high = np.float32(low), np.float32(high)
    assert low <= found <= high
    if low <= x <= high:
        assert found == x
    np.testing.assert_array_equal(fold(jnp.asarray(found), low, high), found)


@pytest.mark.parametrize("x", [np.inf, -np.inf, np.nan])
def test_the_fold_of_no_number_is_no_better(x):
    found = float(fold(jnp.float32(x), 0.0, 1.0))
    assert np.isnan(found) or 0 <= found <= 1


def test_the_fold_reflects():
    x = jnp.array([-0.25, 1.25, 2.25, -1.75])
    np.testing.assert_allclose(fold(x, 0.0, 1.0), [0.25, 0.75, 0.25, 0.25])


@pytest.mark.parametrize(
    "bounds",
    [
        [(0, 1), (None, 2)],
        np.array([[0, 1], [-np.inf, 2]]),
        scipy.optimize.Bounds([0, -np.inf], [1, 2]),
        gfopt.Space(np.array([0, -np.inf]), np.array([1.0, 2.0]), np.ones(2)),
    ],
    ids=["pairs", "array", "scipy", "space"],
)
def test_every_form_says_the_same(bounds):
    lower, upper = bounds_of(bounds, np.full(2, 0.5))
    np.testing.assert_array_equal(lower, [0, -np.inf])
    np.testing.assert_array_equal(upper, [1, 2])


def test_one_pair_serves_all_numbers_of_a_tree():
    x0 = {"a": np.zeros(2), "b": (np.zeros((2, 1)), np.zeros(()))}
    lower, upper = bounds_of((-1, 3), x0)
    assert jax.tree.structure(lower) == jax.tree.structure(x0)
    assert all(np.all(leaf == -1) for leaf in jax.tree.leaves(lower))
    assert [leaf.shape for leaf in jax.tree.leaves(upper)] == [(2,), (2, 1), ()]


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ([(0, 1)], ValueError, "2 .low, high. pairs"),
        ([(0, 1), (2, 1)], ValueError, "lower number below"),
        ([(0, 1), (1, 1)], ValueError, "lower number below"),
        ([(0, 1), (np.nan, 1)], ValueError, "no NaN"),
        ("ab", (TypeError, ValueError), "bounds must"),
        (3, TypeError, "bounds must be .low, high. pairs"),
    ],
)
def test_bad_bounds_are_named(bounds, error, message):
    with pytest.raises(error, match=message):
        bounds_of(bounds, np.zeros(2))


def test_a_space_maps_there_and_back():
    space = gfopt.Space(np.zeros(2), np.full(2, np.inf), np.array([2.0, 0.5]))
    x = jnp.array([3.0, 0.25])
    np.testing.assert_array_equal(space.solution(space.search(x)), x)
    assert space.contains(x) and not space.contains(-x)
