"""Spaces: the fold keeps inside and touches nothing there; bounds in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import gfopt
from gfopt.spaces.axis import fold
from gfopt.spaces.bounds import space_of

SIDES = [(-1.0, 2.0), (-np.inf, 2.0), (-1.0, np.inf), (-np.inf, np.inf), (0.0, 1e-3)]
# XLA takes subnormal numbers for 0
points = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


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
        gfopt.spaces.Space(np.array([0, -np.inf]), np.array([1.0, 2.0]), np.ones(2)),
    ],
    ids=["pairs", "array", "scipy", "space"],
)
def test_every_form_says_the_same(bounds):
    space = space_of(bounds, np.full(2, 0.5))
    np.testing.assert_array_equal(space.lower, [0, -np.inf])
    np.testing.assert_array_equal(space.upper, [1, 2])


def test_one_pair_serves_all_numbers_of_a_tree():
    x0 = {"a": np.zeros(2), "b": (np.zeros((2, 1)), np.zeros(()))}
    space = space_of((-1, 3), x0)
    assert jax.tree.structure(space.lower) == jax.tree.structure(x0)
    assert all(np.all(leaf == -1) for leaf in jax.tree.leaves(space.lower))
    assert [leaf.shape for leaf in jax.tree.leaves(space.upper)] == [(2,), (2, 1), ()]


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ([(0, 1)], ValueError, "2 .low, high. pairs"),
        ([(0, 1), (2, 1)], ValueError, "no lower number above"),
        ([(0, 1), (np.inf, np.inf)], ValueError, "no lower number above"),
        ([(0, 1), (np.nan, 1)], ValueError, "no NaN"),
        ("ab", (TypeError, ValueError), "bounds must"),
        (3, TypeError, "bounds must be .low, high. pairs"),
    ],
)
def test_bad_bounds_are_named(bounds, error, message):
    with pytest.raises(error, match=message):
        space_of(bounds, np.zeros(2))


def test_a_space_maps_there_and_back():
    space = gfopt.spaces.Space(np.zeros(2), np.full(2, np.inf), np.array([2.0, 0.5]))
    x = jnp.array([3.0, 0.25])
    np.testing.assert_array_equal(space.solution(space.search(x)), x)
    assert space.contains(x) and not space.contains(-x)


numbers = st.floats(-1e3, 1e3, width=32, allow_subnormal=False)


@given(numbers, st.floats(2**-10, 1e3, width=32), points)
def test_the_fold_keeps_inside_whatever_the_bounds(low, width, x):
    low, high, x = np.float32(low), np.float32(low) + np.float32(width), np.float32(x)
    if low < high:  # the width may be lost beside a large bound
        found = np.asarray(fold(jnp.asarray(x), low, high))
        assert found.dtype == np.float32 and low <= found <= high
        # a triangle wave: as far from the nearest even bound as the reflection says
        phase = (np.float64(x) - low) % (2 * np.float64(high - low))
        expected = low + min(phase, 2 * np.float64(high - low) - phase)
        assert abs(found - expected) <= 4e-7 * (abs(x) + abs(low) + width)


def test_bounds_are_per_leaf_and_broadcast():
    x0 = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    lower = {"a": np.array([-1.0, -2.0, -3.0]), "b": -np.inf}
    upper = {"a": 1.0, "b": np.array([4.0, 5.0])}
    space = gfopt.spaces.Space(lower, upper, {"a": 1.0, "b": 2.0})
    spread = space_of(space, x0)
    np.testing.assert_array_equal(spread.lower["a"], np.tile([-1, -2, -3], (2, 1)))
    np.testing.assert_array_equal(spread.upper["b"], [4, 5])
    space.check(x0)
    x = space.solution({"a": jnp.full((2, 3), -9.0), "b": jnp.full(2, 3.0)})
    assert space.contains(x)
    np.testing.assert_allclose(x["b"], [2 * 4 - 2 * 3, 2 * 5 - 2 * 3])
    folded = jax.jit(jax.vmap(space.solution))(
        {"a": jnp.zeros((4, 2, 3)), "b": jnp.ones((4, 2))}
    )
    np.testing.assert_array_equal(folded["b"], np.full((4, 2), 2.0))


@pytest.mark.parametrize(
    ("lower", "upper", "scale", "error", "message"),
    [
        (0.1, 0.0, 1.0, ValueError, "lower must be below or equal to upper everyw"),
        (
            np.nan,
            1.0,
            1.0,
            ValueError,
            "lower must be .* upper .*not NaN",
        ),
        (0.0, np.nan, 1.0, ValueError, "upper must be numbers that are not NaN"),
        (0.0, 1.0, 0.0, ValueError, "scale must be a finite number above 0; got 0.0"),
        (0.0, 1.0, np.inf, ValueError, "scale must be a finite number above 0"),
        ("a", 1.0, 1.0, TypeError, "lower must be .*got 'a'"),
        ([0.0], 1.0, 1.0, ValueError, "upper must have the structure of lower"),
        (0.0, 1.0, [1.0], ValueError, "scale must have the structure of lower"),
    ],
)
def test_a_bad_space_is_named(lower, upper, scale, error, message):
    with pytest.raises(error, match=message):
        gfopt.spaces.Space(lower, upper, scale)


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        (jnp.zeros(3), r"space.lower must broadcast to a leaf of shape \(3,\); got"),
        ({"a": jnp.zeros(2)}, "space must have the structure of the solution"),
        (jnp.array([0.5, 1.5]), "solution must lie within the bounds"),
        (jnp.array([0.5, jnp.nan]), "solution must lie within the bounds"),
    ],
)
def test_a_solution_that_does_not_fit_is_named(solution, message):
    space = gfopt.spaces.Space(np.zeros(2), np.ones(2), 1.0)
    with pytest.raises(ValueError, match=message):
        space.check(solution)
    jax.eval_shape(space.check, jnp.ones(2))  # what is traced may be anywhere


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (gfopt.spaces.Space([0.0], [1.0], [1.0]), None),
        (gfopt.spaces.Space([0.0, 0.0], [1.0, 1.0], [1.0, 1.0]), "structure of x0"),
        (
            gfopt.spaces.Space(np.zeros(3), np.ones(3), 1.0),
            "broadcast to a leaf of shape",
        ),
        (scipy.optimize.Bounds([0, 0, 0], [1, 1, 1]), "broadcast to a leaf of shape"),
        (scipy.optimize.Bounds([0, 2], [1, 1]), "no lower number above its upper"),
        (scipy.optimize.Bounds([0, np.nan], [1, 1]), "and no NaN"),
        ([(0, 1), (0, "b")], "2 .low, high. pairs"),
        ([(0, 1, 2), (0, 1, 2)], "2 .low, high. pairs"),
        ((1, 0), "no lower number above its upper"),
    ],
)
def test_bounds_that_do_not_fit_are_named(bounds, message):
    if message is None:
        space_of(bounds, [0.5])
        return
    with pytest.raises(ValueError, match=message):
        space_of(bounds, np.zeros(2))
