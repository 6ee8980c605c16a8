"""A search of few numbers that stand for many: ``x = x0 + A z``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import cheap_jit

import gfopt

KEY = jax.random.key(5)
X0 = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2)}
FLAT = np.concatenate([np.ones(2), np.arange(6.0)])  # leaves in the order of their keys


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def columns(state: Any) -> np.ndarray:
    """The transpose of A, ``[d, D]``."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state.basis)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def started(**words: Any) -> tuple[Any, Any]:
    method = gfopt.Subspace(gfopt.CMAES(sigma=0.5, population_size=6), **words)
    return method, cheap_jit(lambda: method.init(KEY, X0))()


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_candidates_are_x0_plus_a_z(kind: str) -> None:
    method, state = started(dimension=4, kind=kind)
    basis = columns(state)
    population = method.ask(KEY, state)
    for row in range(6):
        member = jax.tree.map(lambda leaf, row=row: leaf[row], population.members)
        z = np.asarray(method.inner.decode(state.inner, member))
        x = flat(method.decode(state, member))
        np.testing.assert_allclose(x, FLAT + z @ basis, rtol=1e-5)
    np.testing.assert_array_equal(flat(method.recommend(state)), FLAT)
    std = flat(method.standard_deviations(state))
    np.testing.assert_allclose(std, 0.5 * np.sqrt((basis**2).sum(0)), rtol=1e-5)


def test_a_step_of_sigma_moves_each_number_by_about_sigma() -> None:
    x0 = jnp.zeros(400)
    for kind in ("gaussian", "orthogonal"):
        method = gfopt.Subspace(gfopt.CMAES(sigma=0.5), dimension=50, kind=kind)
        state = cheap_jit(lambda method=method: method.init(KEY, x0))()
        mean = float(jnp.mean(method.standard_deviations(state) ** 2)) ** 0.5
        assert mean == pytest.approx(0.5, rel=0.1)


def test_orthogonal_columns_are_at_right_angles() -> None:
    _, state = started(dimension=4, kind="orthogonal")
    basis = columns(state)
    np.testing.assert_allclose(basis @ basis.T, 2 * np.eye(4), atol=1e-5)


def test_in_the_whole_space_it_is_the_method_itself() -> None:
    x0 = jnp.array([1.0, -0.5, 0.25])
    inner = gfopt.CMAES(sigma=0.5, population_size=6)
    whole = gfopt.Subspace(inner, basis=jnp.eye(3))

    def fun(x: Any) -> Any:
        return jnp.sum((x - 0.3) ** 2)

    found = gfopt.run(whole, fun, x0, key=KEY, generations=60)
    plain = gfopt.run(
        inner, lambda z: fun(x0 + z), jnp.zeros(3), key=KEY, generations=60
    )
    assert fun(found.recommended) < 1e-6
    assert fun(x0 + plain.recommended) < 1e-6


def test_an_injected_solution_is_the_nearest_of_the_subspace() -> None:
    basis = jnp.array([[1.0, 0, 0], [0, 2.0, 0]])
    method = gfopt.Subspace(gfopt.CMAES(sigma=1.0), basis=basis)
    state = cheap_jit(lambda: method.init(KEY, jnp.zeros(3)))()
    member = method.encode(state, jnp.array([0.5, 0.4, 9.0]))
    np.testing.assert_allclose(method.decode(state, member), [0.5, 0.4, 0], atol=1e-5)


def test_minimize_searches_a_numpy_function_in_it() -> None:
    def far(x: np.ndarray) -> float:
        return float((x[:50].mean() - 1) ** 2 + (x[50:].mean() + 2) ** 2)

    method = gfopt.Subspace(gfopt.CMAES(sigma=0.5), dimension=6)
    found = gfopt.minimize(far, np.zeros(100), method=method, budget=600, seed=1)
    assert found.fun < 1e-4 and found.x.shape == (100,)
    assert found.state.inner.mean.shape == (6,)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({}, "dimension must be given where basis is not"),
        ({"dimension": 0}, "dimension must be an integer, 1 or above"),
        ({"dimension": 2, "basis": np.eye(3)}, "dimension must be None where basis"),
        ({"dimension": 2, "kind": "sparse"}, "kind must be one of 'gaussian'"),
        ({"dimension": 9, "kind": "orthogonal"}, "dimension must be at most 8"),
        ({"basis": np.eye(3)}, "basis must be like x0 with a leading axis"),
    ],
)
def test_wrong_arguments(words: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        gfopt.Subspace(gfopt.CMAES(), **words).init(KEY, X0)
