"""Low-rank noise: which leaf gets what, its law, its statistics, its streamed sum."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core.models import MODELS

import gfopt
from gfopt.lazy import lazy
from gfopt.lazy.interpreter import interpret
from gfopt.lazy.lazy import is_lazy, materialise
from gfopt.lazy.views import View, rows_view, slice_axis
from gfopt.noise.perturbation import low_rank_sums

SEED = jnp.uint32(11)
TREE = {
    "w": jnp.zeros((8, 6)),
    "layers": {"w": jnp.zeros((3, 8, 6)), "b": jnp.zeros((3, 6))},
    "kernel": jnp.zeros((3, 2, 4, 8)),
    "b": jnp.zeros(6),
    "number": jnp.zeros(()),
}


def added(noise, tree=TREE, seed=SEED, scale=1.0):
    return jax.jit(noise.add)(tree, seed, scale)


def close(found, expected, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance)


# -- which leaf gets what


def factors(leaf):
    return (leaf.a.shape, leaf.b.shape) if is_lazy(leaf) else "dense"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 6), ((8, 2), (6, 2))),
        ((3, 8, 6), ((3, 8, 2), (3, 6, 2))),
        ((3, 2, 4, 8), ((3, 2, 4, 2), (8, 2))),
        ((5,), "dense"),
        ((), "dense"),
        # factors of 2 (2 + 9) numbers for a matrix of 18
        ((2, 9), "dense"),
        ((3, 1, 9), "dense"),
    ],
)
def test_axes_are_told_apart_by_their_number(shape, expected):
    leaf = added(gfopt.low_rank(2), {"w": jnp.zeros(shape)})["w"]
    assert factors(leaf) == expected
    assert leaf.shape == shape


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("RCC", (8, 2, 3), ((8, 1), (2, 3, 1))),
        ("RRC", (2, 3, 8), ((2, 3, 1), (8, 1))),
        ("SRCC", (3, 8, 2, 3), ((3, 8, 1), (3, 2, 3, 1))),
        ("SSRC", (2, 2, 8, 6), ((2, 2, 8, 1), (2, 2, 6, 1))),
        ("RCCC", (8, 4, 3, 3), ((8, 1), (4, 3, 3, 1))),
        ("RC", (2, 2), ((2, 1), (2, 1))),
    ],
)
def test_axes_may_be_named(axes, shape, expected):
    noise = gfopt.low_rank(axes={"layers/*/w": axes, "*/b": "RC"})
    tree = {"layers": [{"w": jnp.zeros(shape), "b": jnp.zeros((3, 4))}]}
    leaf = added(noise, tree)["layers"][0]["w"]
    assert factors(leaf) == expected and leaf.shape == shape


def test_patterns_choose_dense_and_excluded_leaves():
    noise = gfopt.low_rank(dense="layers/b", exclude=["kernel", "num*"])
    found = added(noise)
    lazy_ones = {"w": True, "layers": {"w": True, "b": False}, "kernel": False}
    lazy_ones |= {"b": False, "number": False}
    assert jax.tree.map(is_lazy, found, is_leaf=is_lazy) == lazy_ones
    np.testing.assert_array_equal(found["kernel"], 0)
    np.testing.assert_array_equal(found["number"], 0)
    # dense noise is that of the family, bit for bit
    like = {"layers": {"b": TREE["layers"]["b"]}}
    dense = jax.jit(gfopt.gaussian().sample)(like, SEED)
    np.testing.assert_array_equal(found["layers"]["b"], dense["layers"]["b"])
    some = {name: TREE[name] for name in ("kernel", "number", "layers")}
    sums = jax.jit(noise.weighted_sum)(some, SEED[None], jnp.ones(1))
    np.testing.assert_array_equal(sums["kernel"], 0)
    assert np.all(sums["layers"]["w"] != 0)


def test_refuses_what_says_nothing():
    with pytest.raises(ValueError, match="rank must be .*got 0"):
        gfopt.low_rank(0)
    with pytest.raises(ValueError, match="kind must be one of.*'cauchy'"):
        gfopt.low_rank(kind="cauchy")
    with pytest.raises(TypeError, match="dense must be a pattern or several; got 3"):
        gfopt.low_rank(dense=3)
    with pytest.raises(TypeError, match="a pattern must be text.*got 3"):
        gfopt.low_rank(exclude=[3])
    for letters in ("CR", "RS", "R", "SC", "", "rc", 2):
        with pytest.raises(ValueError, match=r"axes must be a letter .*got .* 'w'"):
            gfopt.low_rank(axes={"w": letters})
    with pytest.raises(ValueError, match=r"'w', of shape \(8, 6\); got 'SRC'"):
        gfopt.low_rank(axes={"w": "SRC"}).add({"w": TREE["w"]}, SEED, 1.0)
    with pytest.raises(ValueError, match="no leaf's path matches the pattern 'lay'"):
        gfopt.low_rank(dense="lay").add(TREE, SEED, 1.0)
    with pytest.raises(TypeError, match="noise must be a gfopt noise family"):
        gfopt.ARS(noise=gfopt.low_rank())


# -- the law


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_a_leaf_is_its_seed_and_its_path(kind):
    noise = gfopt.low_rank(2, kind=kind)
    found = added(noise, {"w": TREE["w"], "x": TREE["layers"]["w"]})["w"]
    eager = noise.add({"w": TREE["w"]}, SEED, 1.0)["w"]
    np.testing.assert_array_equal(eager.b, found.b)
    # other leaves change nothing, and leaves of one shape differ
    pair = {"w": TREE["w"], "v": TREE["w"]}
    other = added(noise, pair)
    np.testing.assert_array_equal(other["w"].b, found.b)
    assert np.mean(np.asarray(other["w"].b == other["v"].b)) < 0.9
    # other seeds give other noise, the same under vmap
    seeds = jnp.array([3, 11], jnp.uint32)
    several = jax.jit(jax.vmap(lambda seed: noise.add(pair, seed, 1.0)["w"].b))(seeds)
    np.testing.assert_array_equal(several[1], found.b)
    assert np.mean(np.asarray(several[0] == several[1])) < 0.9


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_a_layer_can_draw_its_own_factors(kind):
    noise = gfopt.low_rank(3, kind=kind)
    whole = noise._factors(5, SEED, 0, (4, 7, 6))
    assert [f.shape for f in whole] == [(4, 3, 7), (4, 3, 6)]
    for part, all_of_it in zip(
        noise._factors(5, SEED, jnp.int32(2), (1, 7, 6)), whole, strict=True
    ):
        np.testing.assert_array_equal(part[0], all_of_it[2])


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_leaves_drawn_together_have_the_bits_of_each_alone(kind):
    noise, seeds = gfopt.low_rank(kind=kind), jnp.array([4, 11], jnp.uint32)
    tree = {name: {"w": jnp.zeros((8, 6)), "b": jnp.zeros(6)} for name in "xyz"}
    together, total = jax.jit(
        lambda t: (noise.add(t, SEED, 1.0), noise.weighted_sum(t, seeds, jnp.ones(2)))
    )(tree)
    alone, part = jax.jit(
        lambda t: (noise.add(t, SEED, 1.0), noise.weighted_sum(t, seeds, jnp.ones(2)))
    )({"y": tree["y"]})
    np.testing.assert_array_equal(together["y"]["w"].b, alone["y"]["w"].b)
    np.testing.assert_array_equal(together["y"]["b"], alone["y"]["b"])
    close(total["y"], part["y"])
    assert not np.array_equal(together["x"]["b"], together["y"]["b"])


def test_a_sample_is_the_product_of_its_factors():
    noise = gfopt.low_rank(3)
    tree = {"w": TREE["layers"]["w"]}
    sample, leaf = jax.jit(noise.sample)(tree, SEED), added(noise, tree, scale=0.5)["w"]
    expected = np.einsum("lik,ljk->lij", np.float64(leaf.a), np.float64(leaf.b))
    np.testing.assert_allclose(sample["w"], expected / 0.5, 1e-5, 1e-6)
    each = jax.jit(noise.add_each)(tree, SEED, jnp.array([0.5, -0.5]))
    np.testing.assert_allclose(each["w"][0], leaf.materialise(), 1e-6, 1e-6)
    np.testing.assert_allclose(each["w"][1], -each["w"][0], 1e-6)


def test_low_precision_weights_keep_factors_in_high():
    tree = {"w": jnp.ones((8, 6), jnp.bfloat16)}
    leaf = added(gfopt.low_rank(), tree, scale=1e-3)["w"]
    assert leaf.dtype == jnp.bfloat16 and leaf.w.dtype == jnp.bfloat16
    assert leaf.a.dtype == leaf.b.dtype == jnp.float32
    x = jnp.ones((2, 8), jnp.bfloat16)
    found = interpret(lambda w, x: jnp.matmul(x, w, preferred_element_type=jnp.float32))
    change = np.float64(leaf.a).T @ np.ones((8, 1)) * np.float64(leaf.b).T
    np.testing.assert_allclose(found(leaf, x)[0], 8 + change[0], rtol=1e-6)


# -- statistics


def draws(noise, shape, count):
    seeds = jnp.arange(count, dtype=jnp.uint32)
    sample = jax.jit(jax.vmap(lambda seed: noise.sample({"w": jnp.zeros(shape)}, seed)))
    return np.asarray(sample(seeds)["w"], np.float64)


# E11: an entry is a mean of r products of two normals, so its kurtosis is 3 + 6 / r
@pytest.mark.parametrize(("rank", "kurtosis"), [(1, 9.0), (4, 4.5), (16, 3.375)])
def test_entries_have_mean_0_and_variance_1(rank, kurtosis):
    z = draws(gfopt.low_rank(rank, axes={"w": "RC"}), (20, 30), 1000)
    assert abs(z.mean()) < 0.01
    np.testing.assert_allclose(z.var(), 1, atol=0.02)
    np.testing.assert_allclose(np.mean(z**4), kurtosis, rtol=0.06)


@pytest.mark.parametrize("kind", ["gaussian", "rademacher"])
def test_entries_are_uncorrelated(kind):
    z = draws(gfopt.low_rank(kind=kind), (6, 5), 20_000).reshape(-1, 30)
    # a product of two entries of one row has variance 3 at most: 5 standard errors
    covariance = z.T @ z / len(z)
    bound = 5 * np.sqrt(3 / len(z))
    np.testing.assert_allclose(covariance[~np.eye(30, dtype=bool)], 0, atol=bound)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.12)


def test_seeds_share_no_component():
    """Z12: 1'z / sqrt(D) over 400 keys has mean 0, for the factors and the whole."""
    noise, seeds = gfopt.low_rank(), jnp.arange(400, dtype=jnp.uint32)
    tree = {"w": jnp.zeros((300, 500))}
    leaves = jax.jit(jax.vmap(lambda seed: noise.add(tree, seed, 1.0)["w"]))(seeds)
    values = []
    for factor in (leaves.a, leaves.b):
        factor = np.asarray(factor, np.float64)[..., 0]
        sums = factor.sum(axis=1) / np.sqrt(factor.shape[1])
        assert abs(sums.mean()) < 0.2 and abs(sums.std() - 1) < 0.15
        np.testing.assert_allclose(np.mean(factor**4), 3, atol=0.06)
        values.append(sums)
    assert abs(np.mean(values[0] * values[1])) < 0.2


# -- the streamed sum


@pytest.mark.parametrize(("kind", "block"), [("gaussian", 40), ("rademacher", 1 << 22)])
def test_the_sum_is_that_of_all_members(kind, block, monkeypatch):
    monkeypatch.setattr(low_rank_sums, "BLOCK", block)
    noise = gfopt.low_rank(2, kind=kind, dense="b")
    tree = {"w": jnp.ones((7, 6)), "v": jnp.ones((3, 8, 6)), "b": jnp.ones(6)}
    seeds, weights = jnp.arange(7, dtype=jnp.uint32), jnp.linspace(-1, 2, 7)

    @jax.jit
    def both(tree):
        members = jax.vmap(lambda seed: noise.sample(tree, seed))(seeds)
        expected = jax.tree.map(
            lambda w, z: w + jnp.tensordot(weights, z, 1), tree, members
        )
        return noise.add_weighted(tree, seeds, weights), expected

    close(*both(tree), 3e-6)


def test_the_sum_holds_no_member_and_one_copy():
    """Temporaries are the factors and one layer, whatever the population."""
    tree = {"w": jnp.zeros((16, 256, 256)), "v": jnp.zeros((512, 512))}
    noise, count = gfopt.low_rank(), 64
    program = (
        jax.jit(noise.add_weighted, donate_argnums=0)
        .lower(tree, jnp.zeros(count, jnp.uint32), jnp.zeros(count))
        .compile()
    )
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= sum(w.nbytes for w in tree.values())
    factors_of_v, result_of_v = 4 * count * 2 * 512, tree["v"].nbytes
    assert memory.temp_size_in_bytes < 2 * factors_of_v + 2 * result_of_v


# -- over a base that is lazy itself


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Codes(lazy.RowBlocks):
    """The least of a quantized leaf: whole numbers and a scale for each column."""

    codes: jax.Array
    scale: jax.Array
    offset: object = None
    view: View | None = dataclasses.field(default=None, metadata={"static": True})

    def storage_view(self):
        return rows_view(self.codes.shape, jnp.float32)

    def block(self, start, num_rows):
        codes = self.codes.reshape(-1, self.codes.shape[-1])
        return slice_axis(codes, 0, start, num_rows) * self.scale


def quantized(w):
    scale = jnp.max(jnp.abs(w), axis=range(w.ndim - 1)) / 127
    return Codes(jnp.round(w / scale).astype(jnp.int8), scale)


def perturbed(w):
    return gfopt.noise.Perturbed(w, jnp.uint32(5), jnp.float32(0.1))


COMPOSED = ["transposed", "scanned_stack", "split", "mixed_precision", "decoder"]


@pytest.mark.parametrize(
    ("name", "base"),
    [(name, quantized) for name in COMPOSED] + [("scanned_stack", perturbed)],
)
def test_composes_with_a_lazy_base(name, base):
    model, random = MODELS[name], np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal(model.x or (3, 4)), jnp.float32)
    x = x if model.x else jnp.arange(12).reshape(3, 4) % 11
    tree = {
        key: jnp.asarray(random.standard_normal(shape) / 2, jnp.float32)
        for key, shape in model.weights.items()
    }
    tree = {key: base(w) if w.ndim > 1 else w for key, w in tree.items()}
    noise, seeds = gfopt.low_rank(2), jnp.arange(3, dtype=jnp.uint32)

    def member(run, seed):
        return run(model.fun, noise.add(tree, seed, 0.1))

    def lazily(fun, p):
        return interpret(fun)(p, x)

    def densely(fun, p):
        return fun(materialise(p), x)

    with gfopt.lazy.count_materialisations() as made:
        found = jax.jit(jax.vmap(partial(member, lazily)))(seeds)
    assert made.list == []
    expected = jax.jit(jax.vmap(partial(member, densely)))(seeds)
    found, expected = jax.tree.map(np.float32, (found, expected))
    close(found, expected, max(model.tolerance, 2e-5))
