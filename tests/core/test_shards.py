"""Weights that no device holds whole: each makes the noise of its own part."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from programs import cheap_jit, peak, travelling

import gfopt

L, D, B = 2, 128, 4  # layers, width, rows of data
DRAWN = np.random.default_rng(0)
WEIGHTS = {"layers": DRAWN.standard_normal((L, D, D)).astype(np.float32) / 16}
DATA = DRAWN.standard_normal((B, D)).astype(np.float32)
METHODS = {
    "mezo": gfopt.MeZO(),
    "qzo": gfopt.QZO(),
    "low_rank": gfopt.OpenES(8, sigma=0.05, noise=gfopt.low_rank()),
}
AUTO = AxisType.Auto
MODEL = jax.make_mesh((4,), ("model",), axis_types=(AUTO,))
BOTH = jax.make_mesh((2, 2), ("population", "model"), axis_types=(AUTO, AUTO))


def model(weights: Any) -> jax.Array:
    def layer(x: jax.Array, w: Any) -> tuple[jax.Array, None]:
        return jnp.tanh(x @ w), None

    x, _ = jax.lax.scan(layer, jnp.asarray(DATA), weights["layers"])
    return jnp.mean((x - 0.3) ** 2)


def quadratic(weights: Any) -> jax.Array:
    return jnp.mean((gfopt.lazy.materialise(weights)["layers"] - 0.3) ** 2)


def halves(name: str) -> tuple[Any, Any]:
    """Returns what is searched, and what is frozen."""
    if name != "qzo":
        return WEIGHTS, None
    # the columns of codes and scales stand last, as those of the matrix do
    quantized = gfopt.quantization.quantize(WEIGHTS, bits=4, group_size=32, axis=-2)
    return gfopt.partition(quantized)


def compiled(name: str, fun: Any, evaluator: Any, trees: Any) -> jax.stages.Compiled:
    def search(x0: Any, frozen: Any) -> Any:
        words: dict[str, Any] = {"key": jax.random.key(0), "generations": 2}
        result = gfopt.run(
            METHODS[name], fun, x0, frozen=frozen, evaluator=evaluator, **words
        )
        return result.recommended, result.history["fitness"]

    return cheap_jit(search, donate_argnums=0).lower(*trees).compile()


def over(mesh: jax.sharding.Mesh, trees: Any) -> Any:
    return jax.device_put(
        trees, NamedSharding(mesh, PartitionSpec(None, None, "model"))
    )


@pytest.fixture(scope="module", params=METHODS)
def whole(request: pytest.FixtureRequest) -> tuple[str, Any, jax.stages.Compiled]:
    """A method, what it searches, and its program on one device."""
    trees = halves(request.param)
    program = compiled(request.param, model, gfopt.chunked(1), trees)
    return request.param, trees, program


def test_four_devices_search_a_model_that_one_could_not_hold(whole: Any) -> None:
    name, trees, program = whole
    spread = over(MODEL, trees)
    parts = compiled(name, model, gfopt.chunked(1), spread)
    assert peak(parts) < 0.3 * peak(program)
    # activations of the model, factors of low-rank noise; no part of a matrix
    assert max(travelling(parts)) <= max(B, L) * D
    found, expected = parts(*spread), program(*jax.device_put(trees))
    for leaf, wanted in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6)
    (leaf,) = jax.tree.leaves(found[0])
    assert leaf.sharding.spec[-1] == "model"


@pytest.mark.parametrize("name", ["mezo", "qzo"])
def test_only_single_numbers_travel_beside_what_the_model_sends(name: str) -> None:
    spread = over(MODEL, halves(name))
    sizes = travelling(compiled(name, quadratic, gfopt.chunked(1), spread))
    assert sizes and max(sizes) == 1


def test_a_population_and_a_model_over_two_axes() -> None:
    name, trees = "low_rank", halves("low_rank")
    evaluator = gfopt.sharded(BOTH, gfopt.chunked(1), axis="population")
    spread = over(BOTH, trees)
    parts = compiled(name, model, evaluator, spread)
    assert max(travelling(parts)) <= max(B, L) * D
    weights, fitness = parts(*spread)
    program = compiled(name, model, gfopt.chunked(1), trees)
    expected = program(*jax.device_put(trees))
    np.testing.assert_allclose(fitness, expected[1], rtol=1e-5)
    np.testing.assert_allclose(weights["layers"], expected[0]["layers"], atol=1e-6)


def test_explicit_axes_are_for_the_population() -> None:
    explicit = jax.make_mesh((4,), ("model",))
    x0 = over(explicit, WEIGHTS)
    with pytest.raises(ValueError, match="x0 must be sharded over Auto axes"):
        gfopt.run(gfopt.MeZO(), model, x0, key=jax.random.key(0), generations=1)
    with pytest.raises(ValueError, match="x0 must be sharded over Auto axes"):
        gfopt.minimize(model, x0, method="mezo", budget=2)


@pytest.mark.parametrize("name", ["mezo", "hizoo", "open_es", "snes"])
def test_matrices_of_several_blocks_go_with_explicit_axes(name: str) -> None:
    """Types alone: fitness that bears the mesh is added to weights that don't."""
    x0 = {"a": jnp.ones((1024, 256)), "b": jnp.ones(256)}
    mesh = jax.make_mesh((4,), ("population",))  # explicit, as they are by default

    def search(x0: Any) -> Any:
        words: dict[str, Any] = {"key": jax.random.key(0), "generations": 2}
        evaluator = gfopt.sharded(mesh, gfopt.chunked(1))
        return gfopt.run(
            gfopt.method(name), total, x0, evaluator=evaluator, **words
        ).recommended

    def total(x: Any) -> jax.Array:
        return jnp.sum(gfopt.lazy.materialise(x)["a"])

    found = jax.eval_shape(search, x0)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, x0)
