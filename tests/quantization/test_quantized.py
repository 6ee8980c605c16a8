"""Quantized leaves in unmodified models: nothing is made dense, equal to dense ones."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core.models import MODELS, B, T, V
from flax import nnx

import gfopt
from gfopt.lazy.interpreter import interpret
from gfopt.lazy.lazy import has_lazy, is_lazy, materialise

SMALL = {"group_size": 4, "min_size": 0}
KINDS: dict[str, dict[str, Any]] = {
    "int4": {},
    "int8": {"bits": 8},
    "int2": {"bits": 2},
    "zeros": {"symmetric": False},
    "inputs": {"axis": -2},
    "codebook": {"codebook": "fitted", "group_size": None},
}


def normal(name: str, shape: tuple[int, ...]) -> jax.Array:
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return jnp.asarray(draw / np.sqrt(shape[-1]), jnp.float32)


def weights(model: Any, **options: Any) -> Any:
    params = {name: normal(name, shape) for name, shape in model.weights.items()}
    return gfopt.quantization.quantize(params, **SMALL | options)


def inputs(model: Any) -> jax.Array:
    if model.x is None:
        return jnp.asarray(np.arange(B * T).reshape(B, T) * 7 % V)
    return normal("x", model.x)


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, tolerance, max(tolerance, 1e-6))


def same_as_dense(fun: Any, p: Any, x: Any, tolerance: float = 1e-5) -> None:
    """Asserts that nothing is made dense, and that it makes no difference."""
    assert has_lazy(p)
    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(interpret(fun))(p, x)
    assert made.list == []
    close(found, jax.jit(lambda p, x: fun(materialise(p), x))(p, x), tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_stays_lazy(name: str) -> None:
    model = MODELS[name]
    same_as_dense(model.fun, weights(model), inputs(model), model.tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stays_lazy_in_a_decoder(kind: str) -> None:
    model = MODELS["decoder"]
    p = {name: normal(name, shape) for name, shape in model.weights.items()}
    # rows of the table are looked up: its last axis is cut into groups
    p = gfopt.quantization.quantize(p, where=lambda path, _: path == "table", **SMALL)
    p = gfopt.quantization.quantize(p, **SMALL | KINDS[kind])
    assert "norm" in p and has_lazy(p["table"]) and not has_lazy(p["norm"])
    same_as_dense(model.fun, p, inputs(model))


class Network(nnx.Module):
    """A Flax network."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.second = (
            nnx.Linear(6, 16, rngs=rngs),
            nnx.Linear(16, 3, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jnp.tanh(self.first(x)))


def test_flax_nnx() -> None:
    structure, params = nnx.split(Network())
    params = nnx.to_pure_dict(params)
    p = gfopt.quantization.quantize(params, axis=-2, **SMALL)
    assert sum(map(is_lazy, flat(p))) == 2
    same_as_dense(lambda p, x: nnx.merge(structure, p)(x), p, normal("x", (5, 6)))


def test_equinox() -> None:
    model = eqx.nn.MLP(6, 3, 16, 1, key=jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_array)
    p = gfopt.quantization.quantize(arrays, **SMALL)
    assert sum(map(is_lazy, flat(p))) == 2
    same_as_dense(
        lambda p, x: jax.vmap(eqx.combine(p, rest))(x), p, normal("x", (5, 6))
    )


def flat(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=is_lazy)


def test_perturbed_scales_are_drawn_where_they_are_used() -> None:
    """A lazy leaf of lazy scales: equal to the dense sum, in every block."""
    leaf = weights(MODELS["scanned_stack"])["w"]
    scales = gfopt.noise.Perturbed(
        leaf.scales, jnp.uint32(3), 0.1, 77, units=leaf.scales
    )
    perturbed = dataclasses.replace(leaf, scales=scales)
    plain = dataclasses.replace(leaf, scales=scales.materialise())
    p = {"w": perturbed, "b": jnp.zeros(leaf.shape[:2])}
    model = MODELS["scanned_stack"]
    same_as_dense(model.fun, p, inputs(model))
    np.testing.assert_array_equal(perturbed.materialise(), plain.materialise())
    assert np.any(plain.materialise() != leaf.materialise())
