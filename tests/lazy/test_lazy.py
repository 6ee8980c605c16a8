"""Lazy leaves by themselves: views, blocks, and the noise at its place in each."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import gfopt
from gfopt.lazy import lazy
from gfopt.lazy.interpreter import interpret
from gfopt.lazy.views import View, rows_view, slice_axis
from gfopt.noise import law, noise, threefry

SEED = jnp.uint32(11)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Stored(lazy.RowBlocks):
    """The least that a leaf with rows must be: a window on an array."""

    w: jax.Array
    offset: object = None
    view: View | None = dataclasses.field(default=None, metadata={"static": True})

    def storage_view(self):
        return rows_view(self.w.shape, self.w.dtype)

    def block(self, start, num_rows):
        return slice_axis(self.w.reshape(-1, self.w.shape[-1]), 0, start, num_rows)


def integers(shape, seed=0):
    """Whole numbers, so that sums are exact in whatever order they are taken."""
    values = np.random.default_rng(seed).integers(-4, 5, shape)
    return jnp.asarray(values, jnp.float32)


def stored(shape):
    return Stored(integers(shape))


def low_rank(shape, stacked=0, rows=1):
    rows += stacked
    a, b = (*shape[:rows], 2), (*shape[:stacked], *shape[rows:], 2)
    return gfopt.lazy.LowRank(integers(shape), integers(a, 1), integers(b, 2))


def same(leaf, expected):
    assert leaf.shape == expected.shape
    assert leaf.ndim == expected.ndim and leaf.size == expected.size
    np.testing.assert_array_equal(leaf.materialise(), expected)


# -- views


def factorizations(size):
    """Shapes of up to four axes with ``size`` elements."""
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    return st.lists(st.sampled_from(divisors), max_size=3).map(
        lambda dims: (
            (*dims, size // math.prod(dims)) if size % math.prod(dims) == 0 else (size,)
        )
    )


@pytest.mark.parametrize("make", [stored, low_rank])
@settings(max_examples=60)
@given(data=st.data())
def test_any_chain_of_views_shows_what_an_array_would(make, data):
    leaf = make(data.draw(st.sampled_from([(4, 6), (2, 3), (1, 6), (6, 1)])))
    dense = np.asarray(leaf.materialise())
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(["transpose", "reshape", "slice", "index"]))
        if kind == "transpose":
            order = data.draw(st.permutations(range(dense.ndim)))
            new, dense_new = leaf.transpose(order), dense.transpose(order)
        elif kind == "reshape":
            shape = data.draw(factorizations(dense.size))
            new, dense_new = leaf.reshape(shape), dense.reshape(shape)
        else:
            axis = data.draw(st.integers(0, dense.ndim - 1))
            size = data.draw(st.integers(1, dense.shape[axis]))
            start = data.draw(st.integers(0, dense.shape[axis] - size))
            at = start if kind == "slice" else jnp.int32(start)
            new = leaf.slice(axis, at, size)
            dense_new = dense.take(range(start, start + size), axis)
        if new is not None:  # where a view says None, the caller makes it dense
            leaf, dense = new, dense_new
            same(leaf, dense)


@pytest.mark.parametrize("make", [stored, low_rank])
def test_what_ordinary_models_do_needs_no_dense_leaf(make):
    leaf = make((6, 8))
    dense = np.asarray(leaf.materialise())
    same(leaf.reshape((6, 2, 4)), dense.reshape(6, 2, 4))
    same(leaf.reshape((2, 3, 8)), dense.reshape(2, 3, 8))
    same(leaf.transpose((1, 0)).reshape((2, 4, 6)), dense.T.reshape(2, 4, 6))
    same(leaf.slice(0, jnp.int32(2), 3).slice(1, 4, 4), dense[2:5, 4:])
    same(leaf.slice(0, 1, 1).reshape((8,)), dense[1])


@pytest.mark.parametrize("make", [stored, low_rank])
def test_a_view_that_mixes_rows_and_columns_is_none(make):
    leaf = make((6, 8))
    assert leaf.reshape((48,)) is None
    assert leaf.reshape((4, 12)) is None
    assert leaf.transpose((1, 0)).reshape((48,)) is None


def test_columns_of_rows_are_cut_by_known_indices_only():
    leaf = stored((6, 8))
    assert leaf.slice(1, jnp.int32(1), 3) is None
    # a part of an inner axis of the rows does not lie side by side
    assert leaf.reshape((2, 3, 8)).slice(1, 0, 2) is None


# -- products, a block at a time

EINSUMS = [
    ("bi,ij->bj", (3, 7), (7, 5)),
    ("bj,ij->bi", (3, 5), (7, 5)),
    ("i,ij->j", (7,), (7, 5)),
    ("bij,ij->b", (2, 7, 5), (7, 5)),
    ("b,ij->bij", (2,), (7, 5)),
    ("bi,ijk->bjk", (3, 7), (7, 2, 3)),
    ("bjk,ijk->bi", (3, 2, 3), (7, 2, 3)),
    ("sbi,sij->sbj", (4, 3, 7), (4, 7, 5)),
    ("sbj,sij->bsi", (4, 3, 5), (4, 7, 5)),
    ("bi,sij->sbj", (3, 7), (4, 7, 5)),
]


@pytest.mark.parametrize("block", [1, 11, 60, 10_000])
@pytest.mark.parametrize("case", EINSUMS, ids=lambda case: case[0])
def test_products_are_exact_for_blocks_of_any_size(case, block, monkeypatch):
    monkeypatch.setattr(lazy, "BLOCK", block)
    subscripts, x_shape, shape = case
    x, leaf = integers(x_shape, 3), stored(shape)

    def product(w, x):
        return jnp.einsum(subscripts, x, w)

    with gfopt.lazy.count_materialisations() as made:
        found = interpret(product)(leaf, x)
    assert made.list == []
    np.testing.assert_array_equal(found, product(leaf.w, x))


@pytest.mark.parametrize("case", EINSUMS, ids=lambda case: case[0])
def test_products_of_low_rank_leaves_are_exact(case):
    subscripts, x_shape, shape = case
    x = integers(x_shape, 3)
    leaf = low_rank(shape, stacked=int(subscripts.partition(",")[2][0] == "s"))

    def product(w, x):
        return jnp.einsum(subscripts, x, w)

    with gfopt.lazy.count_materialisations() as made:
        found = interpret(product)(leaf, x)
    assert made.list == []
    np.testing.assert_array_equal(found, product(leaf.materialise(), x))


def test_a_product_in_low_precision_sums_in_high():
    w = gfopt.noise.Perturbed(jnp.ones((512, 2), jnp.bfloat16), SEED, 0.0)
    x = jnp.concatenate([jnp.full((1, 256), 1.0), jnp.full((1, 256), 0.0078125)], 1)

    def product(w, x):
        return x @ w

    found = interpret(product)(w, x.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, np.full((1, 2), 258, jnp.bfloat16))


# -- perturbed leaves: the noise of the whole leaf, to the last bit

PATH = 1234


def perturbed(shape, kind="gaussian", dtype=jnp.float32, scale=0.3):
    """A leaf, and what ``noise.add_scaled`` makes of the same seed."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    z = law.noise_leaf(kind, SEED, PATH, shape)
    leaf = gfopt.noise.Perturbed(w, SEED, jnp.float32(scale), path_hash=PATH, kind=kind)
    return leaf, np.asarray(noise.add_scaled(w, z, scale))


@pytest.mark.parametrize("kind", law.KINDS)
@pytest.mark.parametrize("shape", [(), (5,), (5000,), (6, 40), (3, 4, 10), (1, 7)])
def test_is_what_the_noise_adds(kind, shape):
    leaf, dense = perturbed(shape, kind)
    same(leaf, dense)
    np.testing.assert_array_equal(jax.jit(lambda w: w.materialise())(leaf), dense)


@pytest.fixture(scope="module", params=sorted(law.KINDS))
def stack(request):
    """A stack of three matrices."""
    return perturbed((3, 4, 10), request.param)


READS = {
    "transposed": lambda w: jnp.swapaxes(w, 1, 2),
    "unrolled": lambda w: [w[0], w[1], w[-1]],
    "indexed": lambda w: lax.dynamic_index_in_dim(w, jnp.argmax(jnp.arange(3)), 0),
    "scanned": lambda w: lax.scan(lambda carry, w: (carry, w), 0, w)[1],
    "mapped": lambda w: lax.map(lambda w: w[1:3], w),
    "columns": lambda w: jnp.split(w, 2, axis=2),
    "rows": lambda w: w.reshape(12, 10)[5:9, 2:],
    "looked up": lambda w: w.reshape(12, 10)[jnp.array([[3, 11], [0, -2]])],
    "in a branch": lambda w: lax.cond(w.shape[0] > 2, lambda: w[1], lambda: w[2]),
}


@pytest.mark.parametrize("name", READS)
def test_its_parts_have_the_bits_of_the_whole(stack, name):
    leaf, dense = stack
    found = jax.jit(interpret(READS[name]))(leaf)
    expected = READS[name](jnp.asarray(dense))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_members_of_a_population_have_their_own_noise():
    seeds = jnp.arange(4, dtype=jnp.uint32)
    w = jnp.ones((5, 8))

    def member(seed, sign):
        leaf = gfopt.noise.Perturbed(w, seed, sign * 0.5, path_hash=PATH)
        return interpret(lambda w: w[1:3])(leaf)

    signs = jnp.array([1.0, -1.0, 1.0, -1.0])
    found = jax.jit(jax.vmap(member))(seeds, signs)
    for seed, sign, part in zip(seeds, signs, found, strict=True):
        z = law.noise_leaf("gaussian", seed, PATH, w.shape)
        expected = noise.add_scaled(w, z, sign * 0.5)
        np.testing.assert_array_equal(part, expected[1:3])


def test_units_for_every_element():
    w = jnp.ones((4, 6))
    units = jnp.linspace(0, 1, 24).reshape(4, 6)
    leaf = gfopt.noise.Perturbed(w, SEED, 0.5, path_hash=PATH, units=units)
    z = law.noise_leaf("gaussian", SEED, PATH, w.shape)
    scale = 0.5 * units
    same(leaf, np.asarray(noise.add_scaled({"w": w}, {"w": z}, {"w": scale})["w"]))
    same(leaf.slice(0, jnp.int32(1), 2), leaf.materialise()[1:3])


def test_low_precision_weights_are_perturbed_in_high():
    """A step of 1e-4 is lost in bfloat16 weights near 1, and kept in the product."""
    w, x = jnp.ones((64, 8), jnp.bfloat16), jnp.ones((1, 64))
    leaf = gfopt.noise.Perturbed(w, SEED, jnp.float32(1e-4), path_hash=PATH)
    z = np.float64(law.noise_leaf("gaussian", SEED, PATH, (64, 8)))
    scale = np.float64(threefry.round_significant(jnp.float32(1e-4)))
    found = interpret(lambda w, x: x @ w)(leaf, x)
    np.testing.assert_allclose(found[0], 64 + scale * z.sum(axis=0), rtol=2e-7)
    assert np.all(np.asarray(leaf.materialise(), np.float32) == 1)
    assert leaf.dtype == jnp.bfloat16 and leaf.materialise().dtype == jnp.bfloat16


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        w = jnp.linspace(0, 1, 12, dtype=jnp.float64).reshape(3, 4)
        leaf = gfopt.noise.Perturbed(w, SEED, jnp.float64(1e-9), path_hash=PATH)
        z = np.float64(law.noise_leaf("gaussian", SEED, PATH, (3, 4)))
        step = np.float64(threefry.round_significant(jnp.float64(1e-9))) * z
        assert leaf.materialise().dtype == jnp.float64
        np.testing.assert_array_equal(leaf.materialise(), np.float64(w) + step)
        low = gfopt.lazy.LowRank(w, jnp.ones((3, 1)) / 3, jnp.ones((4, 1)))
        np.testing.assert_allclose(low.materialise(), w + 1 / 3, rtol=1e-15)


# -- trees of leaves


def test_materialises_trees_and_nothing_else():
    leaf = stored((2, 3))
    tree = {"w": leaf, "b": jnp.ones(3), "act": jnp.tanh, "none": None}
    assert lazy.has_lazy(tree) and lazy.is_lazy(leaf) and not lazy.is_lazy(leaf.w)
    dense = lazy.materialise(tree)
    assert not lazy.has_lazy(dense)
    assert (
        dense["act"] is jnp.tanh and dense["none"] is None and dense["b"] is tree["b"]
    )
    np.testing.assert_array_equal(dense["w"], leaf.w)


def test_names_itself():
    assert repr(perturbed((3, 4, 10))[0]) == "Perturbed(float32[3,4,10])"
    assert repr(low_rank((2, 6)).transpose((1, 0))) == "LowRank(float32[6,2])"


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="kind must be one of.*'gaussian'"):
        gfopt.noise.Perturbed(jnp.ones(3), SEED, 1.0, kind="cauchy")
    with pytest.raises(ValueError, match=r"scale must be one number.*shape \(3,\)"):
        gfopt.noise.Perturbed(jnp.ones((2, 3)), SEED, jnp.ones(3)).materialise()
    with pytest.raises(
        ValueError, match=r"units must be of the shape of w, .*got shape \(3,\)"
    ):
        gfopt.noise.Perturbed(
            jnp.ones((2, 3)), SEED, 1.0, units=jnp.ones(3)
        ).materialise()


@pytest.mark.parametrize(
    ("a", "b"), [((4, 2), (3, 2)), ((3, 2), (4, 1)), ((4,), (3,)), ((2, 2, 2), (4, 2))]
)
def test_refuses_factors_of_another_matrix(a, b):
    leaf = gfopt.lazy.LowRank(jnp.ones((3, 4)), jnp.ones(a), jnp.ones(b))
    message = r"a and b must be the factors of w: .*got shapes w \(3, 4\), a"
    with pytest.raises(ValueError, match=message):
        leaf.materialise()
    with pytest.raises(ValueError, match=message):
        interpret(lambda w, x: x @ w)(leaf, jnp.ones((2, 3)))
