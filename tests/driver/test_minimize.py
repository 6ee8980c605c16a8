"""``minimize``: what goes in, and which path runs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from driver.shared import (
    SMALL,
    X0,
    Recorded,
    compilations,
    host_plateau,
    minimize,
    plateau,
    same,
    same_result,
)

import gfopt

# ---- the two paths


@pytest.mark.parametrize(
    ("method", "x0", "size"),
    [("mezo", X0, 2), ("random_search", jnp.array(X0), 4)],
    ids=["float64", "float32"],
)
def test_both_paths_make_the_same_search(method, x0, size):
    """Bit for bit where members are seeds; see the equalities in the documentation."""
    options = {"population_size": 4} if size == 4 else {"learning_rate": 0.05}
    words = {"method": method, "options": options}
    a = minimize(x0=x0, budget=6 * size, **words)
    b = minimize(host_plateau, x0, budget=6 * size, **words)
    assert (a.path, b.path) == ("compiled", "host")
    assert (a.nfev, b.nfev, a.nit, b.nit) == (6 * size, 6 * size, 5, 5)
    same((a.x, a.recommended, a.state), (b.x, b.recommended, b.state))
    assert a.fun == b.fun
    for name in b.history:  # the sixth is cut short
        np.testing.assert_array_equal(a.history[name][:5], b.history[name][:5])


def test_the_result_says_which_path_ran_and_why(compiled, hosted):
    assert (compiled.path, compiled.reason) == ("compiled", "a JAX function")
    assert hosted.path == "host" and "TracerArrayConversionError" in hosted.reason
    asked = minimize(evaluator=gfopt.host())
    assert asked.path == "host" and "were asked for" in asked.reason
    said = minimize(gfopt.Objective(plateau, traceable=False))
    assert (said.path, said.reason) == ("host", "said not to be traceable")
    same(said.x, asked.x)


def test_the_same_call_gives_the_same_result(compiled, hosted):
    with compilations() as names:
        same_result(minimize(), compiled)
        same_result(minimize(host_plateau, budget=20), hosted)
        sigma = SMALL["options"] | {"sigma": 0.2}
        other = minimize(seed=1, options=sigma)
    assert names == []
    assert other.fun != compiled.fun
    assert minimize(seed=2**64 - 1).fun != minimize(seed=2**32).fun


# ---- what goes in


def first_sizes(x: Any) -> float:
    return float(sum(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(x)))


@pytest.mark.parametrize(
    ("x0", "inside", "outside"),
    [
        (1.5, "float64", "float64"),
        ([1, 2], "float64", "float64"),
        (np.float32([1, 2]), "float64", "float64"),
        (jnp.array([1.5, 2.5]), "float32", "float32"),
    ],
    ids=["number", "list", "numpy", "jax"],
)
def test_precision(x0, inside, outside):
    fun = Recorded(first_sizes)
    found = minimize(fun, x0, budget=4)
    assert {leaf.dtype for leaf in fun.seen} == {np.dtype(inside)}
    assert found.x.dtype == found.recommended.dtype == outside
    assert found.x.shape == np.shape(x0) and isinstance(found.x, np.ndarray)
    assert not jax.config.jax_enable_x64


def test_a_tree_keeps_its_form():
    x0 = {"a": np.float32([1, 2]), "b": (jnp.float32(0.5), 3.0)}
    fun = Recorded(first_sizes)
    found = minimize(fun, x0, budget=4)
    for tree in (found.x, found.recommended, *fun.seen):
        assert jax.tree.structure(tree) == jax.tree.structure(x0)
        dtypes = [str(leaf.dtype) for leaf in jax.tree.leaves(tree)]
        assert dtypes == ["float64", "float32", "float64"]
    traced = minimize(
        lambda x: jnp.sum(x["a"] ** 2) + x["b"][0] * x["b"][1], x0, budget=5
    )
    assert traced.path == "compiled"
    assert jax.tree.structure(traced.x) == jax.tree.structure(x0)


def test_arguments():
    table = np.array([0.5, 0.25])
    by_array = minimize(lambda x, t, k: jnp.max(jnp.abs(x - t)) * k, args=(table, 2))
    assert by_array.path == "compiled"
    words = {"square": 2.0, "cube": 3.0}

    def by_name(x: Any, name: Any, table: Any) -> Any:
        return jnp.max(jnp.abs(x)) * words[name] + len(table)

    named = minimize(by_name, args=("cube", {"some", "set"}))
    assert named.path == "compiled"
    host = minimize(lambda x, name: host_plateau(x) * words[name], args=("cube",))
    np.testing.assert_allclose(
        named.history["fitness"][:5] - 2, host.history["fitness"][:5]
    )


def test_all_that_an_objective_can_say_on_both_paths():
    """Keys, batches, aux, frozen leaves, context, rows at once: one search."""
    x0, frozen = {"w": np.array(X0), "b": None}, {"w": None, "b": np.array(0.5)}

    def fun(key: Any, x: Any, batch: Any, scale: Any, context: Any) -> Any:
        noise = jax.random.uniform(key) if jnp.ndim(x["w"]) == 1 else 0.0
        value = jnp.max(jnp.abs(x["w"]), axis=-1) + x["b"] + batch * scale
        return value + context + noise, {"descriptor": x["w"]}

    def update(context: Any, evaluation: Any) -> Any:
        assert evaluation.aux["descriptor"].shape == (4, 2)
        return context + jnp.max(evaluation.aux["descriptor"])

    def batches(step: Any, key: Any) -> Any:
        return np.float64(step) + jax.random.bits(key) % 2

    found = []
    for evaluator in (None, gfopt.host()):
        objective = gfopt.Objective(
            fun, takes_key=True, has_aux=True, context=np.float64(0.25), update=update
        )
        words = {"frozen": frozen, "args": (4.0,), "batches": batches, "budget": 13}
        found.append(minimize(objective, x0, evaluator=evaluator, **words))
    a, b = found
    assert (a.path, b.path, a.nit, b.nit) == ("compiled", "host", 3, 3)
    np.testing.assert_allclose(
        a.history["fitness"], b.history["fitness"][:3], rtol=1e-12
    )
    np.testing.assert_allclose(a.recommended["w"], b.recommended["w"], rtol=1e-9)
    assert a.x["b"] is None


def test_rows_at_once_on_both_paths():
    def fun(x: Any) -> Any:
        assert x.ndim == 2
        return abs(x).max(axis=1)

    sizes = []

    def host_fun(x: Any) -> Any:
        sizes.append(len(np.asarray(x)))
        return np.max(np.abs(x), axis=1)

    a = minimize(gfopt.Objective(fun, batched=True))
    b = minimize(gfopt.Objective(host_fun, batched=True), budget=24, target=-1.0)
    assert (a.path, b.path) == ("compiled", "host")
    np.testing.assert_array_equal(a.history["fitness"], b.history["fitness"][:5])
    assert sizes == [1] + [4] * 5 + [3] and b.nfev == 24
    target = float(b.history["fitness"][1])
    c = minimize(gfopt.Objective(host_fun, batched=True), target=target)
    assert c.nfev == 9  # all rows of a call were paid for


# ---- bounds and scale

LOW, HIGH = [1.0, -1.0], [1.75, 0.0]


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [
        (list(zip(LOW, HIGH, strict=True)), LOW, HIGH),
        (np.stack([LOW, HIGH], axis=1), LOW, HIGH),
        ([(1.0, None), (None, 0.0)], [1.0, -np.inf], [np.inf, 0.0]),
        ([(1.0, np.inf), (-np.inf, 0.0)], [1.0, -np.inf], [np.inf, 0.0]),
        ((-0.5, 1.5), [-0.5] * 2, [1.5] * 2),  # x0 lies on both
        (scipy.optimize.Bounds(LOW, HIGH), LOW, HIGH),
        (scipy.optimize.Bounds(-0.5), [-0.5] * 2, [np.inf] * 2),
        (gfopt.spaces.Space(np.array(LOW), np.array(HIGH), np.ones(2)), LOW, HIGH),
    ],
    ids=["pairs", "array", "open", "inf", "one", "scipy", "scipy half", "space"],
)
def test_every_point_lies_inside_the_bounds(bounds, low, high):
    fun = Recorded()
    found = minimize(fun, bounds=bounds, options={"population_size": 4}, sigma0=5.0)
    for x in (*fun.seen, found.x, found.recommended):
        assert (x >= low).all() and (x <= high).all()
    assert len({x.tobytes() for x in fun.seen}) > 10  # they do not stick to a corner


def test_compiled_points_lie_inside_too():
    def fun(x: Any) -> Any:
        inside = (x >= jnp.array(LOW)) & (x <= jnp.array(HIGH))
        return jnp.where(inside.all(), jnp.max(jnp.abs(x)), jnp.nan)

    bounds = list(zip(LOW, HIGH, strict=True))
    found = minimize(fun, bounds=bounds, options={"population_size": 4}, sigma0=5.0)
    assert found.path == "compiled" and found.failures == {}


def test_sigma0_scales_each_coordinate():
    fun = Recorded()
    minimize(fun, sigma0=[1e-6, 100.0], options={"population_size": 4}, budget=5)
    moved = np.abs(np.array(fun.seen[1:]) - X0)
    assert (moved[:, 0] < 1e-4).all() and (moved[:, 1] > 1e-2).all()
