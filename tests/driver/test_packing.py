"""Packed trees: what goes in comes out, in few buffers, compiled once."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
from driver.shared import same
from hypothesis import strategies as st

import gfopt
from gfopt.driver.engine.packing import LARGE, Layout, pack

DTYPES = ["float32", "int32", "uint32", "bool", "float64", "uint8", "bfloat16"]


class Pair(NamedTuple):
    left: Any
    right: Any


@st.composite
def arrays(draw: Any) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    if draw(st.integers(0, 9)) == 0:
        shape = (LARGE + draw(st.integers(-1, 1)),)
    seed = draw(st.integers(0, 100))
    return (np.random.default_rng(seed).normal(size=shape) * 3).astype(dtype)


trees = st.recursive(
    arrays(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.builds(Pair, inner, st.none() | inner),
    ),
    max_leaves=8,
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(trees)
def test_a_round_trip_keeps_every_bit(tree):
    packed = pack(tree)
    same(packed.fetched(), tree)
    small = [leaf for leaf in jax.tree.leaves(tree) if leaf.size < LARGE]
    assert len(packed.small) == len({leaf.dtype for leaf in small})
    assert len(packed.large) == len(jax.tree.leaves(tree)) - len(small)
    again = pack(jax.tree.map(np.copy, tree))
    assert again.layout == packed.layout and hash(again.layout) == hash(packed.layout)
    same(pickle.loads(pickle.dumps(packed)).fetched(), tree)


def test_in_and_out_of_a_program():
    tree = {
        "weights": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
        "number": 0.5,
        "step": np.int32(3),
        "flag": True,
        "none": np.zeros((0, 4), np.float32),
        "large": jnp.arange(LARGE, dtype=jnp.float32),
        "pair": Pair(np.uint32(7), None),
    }
    traces = []

    @jax.jit
    def twice(packed: Any) -> Any:
        traces.append(1)
        inner = packed.tree()
        assert inner["weights"].dtype == jnp.bfloat16
        return pack(
            inner | {"number": 2 * inner["number"], "weak": inner["number"] * 1}
        )

    out = twice(pack(tree)).fetched()
    assert out["number"] == 1 and out["step"].dtype == np.int32 and out["flag"]
    same(out["weights"], tree["weights"])
    same(out["large"], tree["large"])
    twice(pack(tree | {"number": 0.25}))
    twice(pack(tree | {"number": np.float64(0.25)}))
    assert len(traces) == 1


def test_double_precision_stays():
    with jax.enable_x64(True):
        found = jax.jit(lambda packed: pack(packed.tree()))(
            pack({"x": np.array([0.1])})
        )
    same(found.fetched(), {"x": np.array([0.1])})


def test_what_differs_has_another_layout():
    one = pack({"x": np.zeros(2), "y": np.zeros(3)}).layout
    for other in (
        {"x": np.zeros(3), "y": np.zeros(2)},
        {"x": np.zeros(2), "y": np.zeros(3, np.float32)},
        {"x": np.zeros(2), "z": np.zeros(3)},
        {"x": np.zeros(2), "y": np.zeros((3, 1))},
    ):
        assert pack(other).layout != one
    assert one != "layout"


def test_a_layout_from_another_process_is_equal(tmp_path):
    tree = "{'alpha': np.zeros(2), 'beta': [np.ones(3, np.int32)]}"
    program = (
        "import pickle, sys, numpy as np\n"
        "from gfopt.driver.engine.packing import pack\n"
        f"pickle.dump(pack({tree}).layout, open(sys.argv[1], 'wb'))"
    )
    path = tmp_path / "layout"
    subprocess.run([sys.executable, "-c", program, path], check=True)
    found = pickle.loads(path.read_bytes())
    ours = pack(eval(tree)).layout
    assert isinstance(found, Layout) and found == ours and hash(found) == hash(ours)


def test_methods_with_the_same_fields_have_layouts_of_their_own():
    """Up to jax 0.12 the structures of two such dataclasses are equal."""
    swarm = gfopt.ParticleSwarm(population_size=16)
    entropy = gfopt.CrossEntropy(population_size=16)
    assert pack(swarm).layout != pack(entropy).layout
    same = gfopt.ParticleSwarm(population_size=16, sigma=0.3)
    assert pack(swarm).layout == pack(same).layout
