"""Recursive ridge regression is one fit of the rows that are there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gfopt

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 7)), RNG.normal(size=(60, 2))
RIDGE = 0.1


def fitted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The oracle: one fit, in NumPy."""
    return np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)


@settings(max_examples=20, deadline=None)
@given(
    order=st.permutations(range(6)),
    first=st.integers(1, 5),
    gone=st.sets(st.integers(0, 5), max_size=4),
)
def test_any_order_and_any_rows_taken_back_is_one_fit(order, first, gone):
    blocks = np.arange(60).reshape(6, 10)
    with jax.enable_x64(True):
        model = gfopt.analytic.recursive_ridge(7, 2, RIDGE)
        for number, block in enumerate(order):
            model = model.add(X[blocks[block]], Y[blocks[block]])
            if number == first:
                model = model.remove(X[blocks[block]], Y[blocks[block]])
                model = model.add(X[blocks[block]], Y[blocks[block]])
        for block in gone:
            model = model.remove(X[blocks[block]], Y[blocks[block]])
    kept = blocks[sorted(set(range(6)) - gone)].ravel()
    np.testing.assert_allclose(model.weights, fitted(X[kept], Y[kept]), atol=1e-12)
    inverse = np.linalg.inv(X[kept].T @ X[kept] + RIDGE * np.eye(7))
    np.testing.assert_allclose(model.inverse, inverse, atol=1e-12)


def test_a_class_that_comes_later_was_zero_before():
    late = Y.copy()
    late[:30, 1] = 0
    with jax.enable_x64(True):
        model = gfopt.analytic.recursive_ridge(7, 1, RIDGE).add(X[:30], late[:30, :1])
        model = model.widened(2).add(X[30:], late[30:])
        outputs = model.predict(X)
    np.testing.assert_allclose(outputs, X @ fitted(X, late), atol=1e-12)


def test_runs_in_a_batch_of_ridges_in_one_program():
    def weights(ridge):
        return gfopt.analytic.recursive_ridge(7, 2, ridge).add(X, Y).weights

    ridges = jnp.array([RIDGE, 10.0])
    found = jax.jit(jax.vmap(weights))(ridges)
    np.testing.assert_allclose(found[0], fitted(X, Y), atol=1e-4)


def test_rows_that_were_never_there_are_refused():
    model = gfopt.analytic.recursive_ridge(7, 2, RIDGE).add(X[:5], Y[:5])
    with pytest.raises(ValueError, match="x must hold rows that were added"):
        model.remove(X[10:20], Y[10:20])
    lost = jax.jit(lambda model: model.remove(X[10:20], Y[10:20]))(model)
    assert jnp.isnan(lost.weights).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.add(X[:, :3], Y), r"x must be \[B, 7\]; got \[60, 3\]"),
        (lambda m: m.add(X, Y[:, :1]), r"y must be \[B, 2\]; got \[60, 1\]"),
        (lambda m: m.add(X, Y[:9]), "y must have a row for each of the 60 of x; got 9"),
        (lambda m: m.widened(1), "num_outputs must be"),
        (lambda m: gfopt.analytic.recursive_ridge(7, 2, -1.0), "ridge must be"),
        (lambda m: gfopt.analytic.recursive_ridge(0, 2), "num_features must be"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    model = gfopt.analytic.recursive_ridge(7, 2, RIDGE)
    with pytest.raises((TypeError, ValueError), match=message):
        call(model)
