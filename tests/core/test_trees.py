"""Pytrees of parameters: paths, halves, precision."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gfopt
from gfopt.core import trees
from gfopt.lazy import lazy

leaves = st.integers(0, 99).map(float)
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


class Pair(NamedTuple):
    """A node with names."""

    w: object
    b: object


@jax.tree_util.register_dataclass
@dataclass
class Layer:
    """Another one."""

    w: object
    b: object


@given(nested, st.sets(st.integers(0, 99)))
def test_the_halves_make_the_whole(tree, wanted):
    chosen, frozen = gfopt.partition(tree, lambda path, leaf: int(leaf) in wanted)
    assert all(int(leaf) in wanted for leaf in jax.tree.leaves(chosen))
    assert not any(int(leaf) in wanted for leaf in jax.tree.leaves(frozen))
    assert gfopt.merge(chosen, frozen) == tree


def test_a_lazy_leaf_is_merged_whole():
    leaf = gfopt.noise.Perturbed(jnp.ones((2, 3)), jnp.uint32(1), 0.5)
    tree = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3), "none": None}
    chosen, frozen = gfopt.partition(tree, lambda path, _: path == "w")
    merged = gfopt.merge({**chosen, "w": leaf}, frozen)
    assert merged["w"] is leaf and merged["b"] is tree["b"] and merged["none"] is None
    assert lazy.has_lazy(merged)


def test_the_rule_sees_paths_and_leaves():
    seen = []
    tree = {"layers": [Pair(1.0, 2.0), Layer(3.0, 4.0)], "scale": 5.0}
    gfopt.partition(tree, lambda path, leaf: seen.append((path, leaf)))
    paths = ["layers/0/w", "layers/0/b", "layers/1/w", "layers/1/b", "scale"]
    assert seen == [*zip(paths, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True)]
    with pytest.raises(TypeError, match="trainable must be callable; got 'w'"):
        gfopt.partition(tree, "w")


def test_a_leaf_has_one_hash_in_every_kind_of_node():
    hashes = [
        trees.map_with_hash(lambda path, leaf: path, {"layer": node})
        for node in ({"w": 0, "b": 0}, Pair(0, 0), Layer(0, 0))
    ]
    expected = [zlib.crc32(b"layer/b"), zlib.crc32(b"layer/w")]
    for tree in hashes:
        assert sorted(jax.tree.leaves(tree)) == sorted(expected)
    moved = trees.map_with_hash(lambda path, a, b: (path, a + b), {"w": 1}, {"w": 2})
    assert moved == {"w": (zlib.crc32(b"w"), 3)}


def test_counts_numbers():
    tree = {"a": np.zeros((2, 3)), "b": [1.0, jnp.zeros(())], "c": np.zeros((0, 5))}
    assert trees.num_parameters(tree) == 8
    assert trees.num_parameters(jax.eval_shape(lambda: jnp.zeros((4, 5)))) == 20


def test_a_starting_point_is_floating_and_strongly_typed():
    point = trees.starting_point({"n": 3, "x": 0.5, "h": jnp.ones(2, jnp.bfloat16)})
    assert [leaf.dtype for leaf in jax.tree.leaves(point)] == [
        jnp.bfloat16,
        jnp.float32,
        jnp.float32,
    ]
    assert not any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(point))
    with jax.enable_x64(True):
        assert trees.starting_point(np.arange(3)).dtype == jnp.float64


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({}, ValueError, "solution must hold at least one array"),
        ({"w": np.zeros((0, 3))}, ValueError, "solution must hold at least one number"),
        ({"w": [1.0, np.nan]}, ValueError, r"solution\['w'\]\[1\] must be finite"),
        ([np.array([1.0, np.inf])], ValueError, r"solution\[0\] must be finite"),
        ({"w": "a"}, TypeError, r"solution\['w'\] must hold real numbers; got 'a'"),
        (np.array([1j]), TypeError, "solution must hold real numbers"),
        (np.array([True]), TypeError, "solution must hold real numbers"),
    ],
)
def test_what_cannot_be_started_from_is_named(tree, error, message):
    with pytest.raises(error, match=message):
        trees.starting_point(tree)


def test_dtypes_beside_a_tree():
    half = {"w": jnp.ones(2, jnp.bfloat16)}
    assert trees.wide_dtype(half) == jnp.float32
    assert trees.wide_dtype({}) == jnp.float32
    cast = trees.cast_like({"w": jnp.full(2, 1.5)}, half)
    assert cast["w"].dtype == jnp.bfloat16
    with jax.enable_x64(True):
        assert trees.wide_dtype([half, jnp.ones(1, jnp.float64)]) == jnp.float64


def test_weak_types_are_made_strong():
    weak = {"a": jnp.asarray(1.0), "b": jnp.zeros(2)}
    assert jax.typeof(weak["a"]).weak_type
    strong = trees.strongly_typed(weak)
    assert not any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(strong))
    assert strong["a"] == 1 and strong["a"].dtype == jnp.float32


def test_a_choice_has_the_types_of_the_old_and_may_hold_keys() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    new = {"x": jnp.float32(1.5), "key": keys[0]}
    old = {"x": jnp.bfloat16(2), "key": keys[1]}
    for condition, expected in ((True, new), (False, old)):
        found = jax.jit(trees.select)(condition, new, old)
        assert found["x"].dtype == jnp.bfloat16 and found["x"] == expected["x"]
        assert found["key"] == expected["key"]
