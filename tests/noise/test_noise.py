"""The laws of the noise: what an element depends on, which equalities are bitwise."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.random import threefry_2x32
from scipy.special import erfinv

import gfopt
from gfopt.noise import law as noise_law
from gfopt.noise import noise, threefry

KINDS = ("gaussian", "rademacher")
SEED = np.uint32(20240611)
each_kind = pytest.mark.parametrize("kind", KINDS)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes(), np.flatnonzero(a.ravel() != b.ravel())


def slow_threefry(key, counter):
    """Threefry-2x32-20 on Python integers, from the paper."""
    mask, rotations = 2**32 - 1, (13, 15, 26, 6, 17, 29, 16, 24)
    words = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
    x, y = ((c + k) & mask for c, k in zip(counter, key, strict=True))
    for number in range(20):
        x, distance = (x + y) & mask, rotations[number % 8]
        y = (((y << distance) | (y >> (32 - distance))) & mask) ^ x
        if number % 4 == 3:
            turn = number // 4 + 1
            x = (x + words[turn % 3]) & mask
            y = (y + words[(turn + 1) % 3] + turn) & mask
    return x, y


def slow_noise(kind, seed, path, rows, columns):
    """The law of the module's docstring, element by element."""
    width = columns if kind == "gaussian" else -(-columns // 32)
    words = np.array(
        [
            [slow_threefry((int(seed), path), (row, i))[0] for i in range(width)]
            for row in range(rows)
        ],
        np.uint64,
    )
    if kind == "gaussian":
        u = ((words >> np.uint64(9)).astype(float) + 0.5) / 2**22 - 1
        return np.sqrt(2) * erfinv(u)
    column = np.arange(columns)
    shift = (31 - column // width).astype(np.uint64)
    return 1 - 2.0 * ((words[:, column % width] >> shift) & np.uint64(1))


# known answers of the Random123 library, in its order: counter, key, result
KNOWN = [
    (0x00000000, 0x00000000, 0x00000000, 0x00000000, 0x6B200159, 0x99BA4EFE),
    (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0x1CB996FC, 0xBB002BE7),
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xC4923A9C, 0x483DF7A0),
]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known[0]:08x}")
def test_threefry_gives_the_known_answers(known):
    *counter, first, second, x, y = known
    words = [np.array([word], np.uint32) for word in counter]
    found = threefry.encrypt((np.uint32(first), np.uint32(second)), tuple(words))
    assert [int(word[0]) for word in found] == [x, y]
    assert slow_threefry((first, second), counter) == (x, y)


def test_threefry_is_that_of_jax():
    words = np.random.default_rng(0).integers(0, 2**32, (2, 500), np.uint32)
    key = np.array([123456789, 4294967291], np.uint32)
    found = threefry.encrypt((key[0], key[1]), (words[0], words[1]))
    same_bits(np.concatenate(found), threefry_2x32(key, words.reshape(-1)))


@each_kind
@pytest.mark.parametrize("shape", [(3, 5), (2, 70)])
def test_an_element_is_what_the_law_says(kind, shape):
    path = zlib.crc32(b"layers/0/w")
    found = noise.Noise(kind).sample({"layers": [{"w": np.zeros(shape)}]}, SEED)
    expected = slow_noise(kind, SEED, path, *shape)
    found = np.asarray(found["layers"][0]["w"])
    assert found.dtype == np.float32
    # 12 significant bits are kept, erf_inv in float32 is good to a few units more
    np.testing.assert_allclose(found, expected, rtol=2.0**-12 + 2.0**-20)


@each_kind
def test_small_leaves_drawn_together_are_what_each_is_alone(kind):
    shapes = [(), (7,), (5000,), (3, 40), (0, 3), (200, 200), (2, 3, 33), (130, 100)]
    tree = {str(i): np.zeros(shape) for i, shape in enumerate(shapes)}
    drawn = noise.Noise(kind).sample(tree, SEED)
    for i, shape in enumerate(shapes):
        alone = noise_law.noise_leaf(kind, SEED, zlib.crc32(str(i).encode()), shape)
        same_bits(drawn[str(i)], alone)


@each_kind
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sums_over_several_leaves_equal_those_of_each(kind, dtype):
    shapes = [(7,), (3, 40), (150, 150), (2, 3, 33), (10, 1)]
    tree = {str(i): jnp.full(shape, 0.5, dtype) for i, shape in enumerate(shapes)}
    seeds, weights = np.arange(5, dtype=np.uint32), jnp.linspace(-0.7, 0.4, 5)
    family = noise.Noise(kind)
    added = family.add_weighted(tree, seeds, weights)
    moments = family.weighted_moments(tree, seeds, weights, weights**2)
    for name in tree:
        alone = {name: tree[name]}
        expected = family.add_weighted(alone, seeds, weights)[name]
        assert added[name].dtype == dtype
        unit = 2 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(
            np.float64(added[name]), np.float64(expected), unit, unit
        )
        pairs = zip(
            moments,
            family.weighted_moments(alone, seeds, weights, weights**2),
            strict=True,
        )
        for found, one in pairs:
            np.testing.assert_allclose(found[name], one[name], 1e-6, 1e-6)


@each_kind
@pytest.mark.parametrize("shape", [(), (1,), (7,), (4096,), (5000,), (8192,)])
def test_vectors_are_drawn_in_rows(kind, shape):
    whole = noise_law.noise_leaf(kind, SEED, 5, shape)
    assert whole.shape == shape
    size = max(1, *shape, 1)
    rows, columns = noise_law.layout(shape)
    assert columns == min(size, noise_law.VECTOR_COLUMNS)
    last = noise_law.noise_rows(kind, SEED, 5, rows - 1, 1, columns).reshape(-1)
    tail = size - (rows - 1) * columns
    same_bits(whole.reshape(-1)[-tail:], last[:tail])


# -- which equalities are bitwise

ROWS, COLUMNS = 301, 1030  # 310,000 elements, divisible by nothing


@pytest.fixture(scope="module", params=KINDS)
def drawn(request):
    """A kind of noise, a function that draws rows, and all of them, drawn eagerly."""

    def rows(seed, start, count):
        return noise_law.noise_rows(request.param, seed, 99, start, count, COLUMNS)

    return rows, np.asarray(rows(SEED, 0, ROWS))


def test_jit_and_vmap_draw_the_same_bits(drawn):
    rows, whole = drawn
    same_bits(jax.jit(lambda seed: rows(seed, 0, ROWS))(SEED), whole)
    seeds = np.array([1, SEED, 2], np.uint32)
    batch = jax.jit(jax.vmap(lambda seed: rows(seed, 0, ROWS)))(seeds)
    same_bits(batch[1], whole)
    assert np.mean(batch[0] == batch[1]) < 0.6
    same_bits(jax.vmap(lambda seed: rows(seed, 0, ROWS))(seeds)[1], whole)


def test_map_and_scan_draw_the_same_bits(drawn):
    rows, whole = drawn
    seeds = np.array([1, SEED], np.uint32)
    mapped = jax.jit(lambda s: lax.map(lambda seed: rows(seed, 0, ROWS), s))(seeds)
    same_bits(mapped[1], whole)

    def one_row(seed, row):
        return seed, rows(seed, row, 1)[0]

    same_bits(lax.scan(one_row, SEED, jnp.arange(ROWS))[1], whole)


@pytest.mark.parametrize("count", [1, 8, 13, ROWS])
def test_any_block_of_rows_is_drawn_alone(drawn, count):
    rows, whole = drawn
    block = jax.jit(rows, static_argnums=2)
    for start in {0, 1, ROWS // 2, ROWS - count}:
        if start + count <= ROWS:
            same_bits(block(SEED, start, count), whole[start : start + count])


def test_fused_with_what_uses_it_the_bits_are_the_same(drawn):
    rows, whole = drawn
    theta = jnp.asarray(np.random.default_rng(1).normal(size=whole.shape), jnp.float32)
    sigma = jnp.float32(0.0123456)  # more than 12 significant bits

    def step(theta, seed):
        z = rows(seed, 0, ROWS)
        return noise.add_scaled(theta, z, sigma), jnp.sum(z**2), jnp.ones(ROWS) @ z

    eager = noise.add_scaled(theta, whole, sigma)
    same_bits(jax.jit(step)(theta, SEED)[0], eager)
    # and with one rounding: as if computed exactly, then rounded
    exact = np.float64(theta) + np.float64(threefry.round_significant(sigma)) * whole
    same_bits(eager, exact.astype(np.float32))


@each_kind
def test_add_is_bitwise_under_every_transformation(kind):
    family = noise.Noise(kind)
    tree = {"w": jnp.full((33, 65), 0.3), "b": jnp.linspace(-1, 1, 17)}
    scale = jnp.float32(0.1)

    def add(seed):
        return family.add(tree, seed, scale)

    seeds = np.array([5, SEED], np.uint32)
    eager = add(SEED)
    jitted, batch = jax.jit(add)(SEED), jax.jit(jax.vmap(add))(seeds)
    mapped = jax.jit(lambda s: lax.map(add, s))(seeds)
    for name in tree:
        same_bits(jitted[name], eager[name])
        same_bits(batch[name][1], eager[name])
        same_bits(mapped[name][1], eager[name])
    by_leaf = family.add(tree, SEED, {"w": scale, "b": 2 * scale})
    same_bits(by_leaf["w"], eager["w"])
    z = np.float64(family.sample(tree, SEED)["b"])
    expected = np.float64(tree["b"]) + np.float64(threefry.round_significant(0.2)) * z
    same_bits(by_leaf["b"], expected.astype(np.float32))


@each_kind
def test_the_default_generator_changes_nothing(kind):
    like = {"w": np.zeros((4, 9))}
    expected = noise.Noise(kind).sample(like, SEED)["w"]
    with jax.default_prng_impl("rbg"):
        same_bits(noise.Noise(kind).sample(like, SEED)["w"], expected)
        key = jax.random.key(0)
        batch = jax.vmap(lambda k: threefry.seeds(k, 3))(jax.random.split(key, 4))
        alone = [threefry.seeds(k, 3) for k in jax.random.split(key, 4)]
    same_bits(batch, np.stack(alone))
    assert len(np.unique(batch)) == 12


# -- what the elements depend on


@each_kind
def test_leaves_differ_and_do_not_reshuffle_each_other(kind):
    family = noise.Noise(kind)
    w = np.zeros((8, 40))
    z = family.sample({"a": w, "b": w, "c": [w, w]}, SEED)
    leaves = np.stack(jax.tree.leaves(z)).reshape(4, -1)
    same = (leaves[:, None] == leaves[None]).mean(axis=2)[~np.eye(4, dtype=bool)]
    assert np.all(same < 0.7)
    # without "a", and with a leaf that stands first, the others are as they were
    fewer = family.sample({"b": w, "c": [w, w]}, SEED)
    more = family.sample({"0": w, "b": w, "c": [w, w], "d": w}, SEED)
    for tree in (fewer, more):
        same_bits(tree["b"], z["b"])
        same_bits(tree["c"][1], z["c"][1])


def test_seeds_are_distinct_words():
    key = jax.random.key(3)
    seeds = threefry.seeds(key, 1000)
    assert seeds.dtype == jnp.uint32 and seeds.shape == (1000,)
    assert len(np.unique(seeds)) == 1000
    same_bits(threefry.seeds(key, 3), seeds[:3])
    same_bits(jax.jit(threefry.seeds, static_argnums=1)(key, 1000), seeds)
    same_bits(threefry.seeds(jax.random.PRNGKey(3), 3), seeds[:3])
    assert not np.intersect1d(seeds, threefry.seeds(jax.random.key(4), 1000)).size


@each_kind
def test_queries_use_distinct_directions(kind):
    size = 4096
    seeds = threefry.seeds(jax.random.key(0), 24)
    z = jax.vmap(lambda seed: noise_law.noise_leaf(kind, seed, 1, (size,)))(seeds)
    z = np.asarray(z) / np.linalg.norm(z, axis=1, keepdims=True)
    cosines = (z @ z.T)[~np.eye(24, dtype=bool)]
    assert np.abs(cosines).max() < 5 / np.sqrt(size)


def test_rounds_to_twelve_significant_bits():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    rounded = np.float64(threefry.round_significant(x))
    mantissa, _ = np.frexp(rounded)
    assert np.all(mantissa * 2**12 == np.round(mantissa * 2**12))
    np.testing.assert_allclose(rounded, x, rtol=2.0**-12)
    product = np.float32(rounded[:500]) * np.float32(rounded[500:])
    assert np.all(product == rounded[:500] * rounded[500:])  # exact


# -- statistics


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@each_kind
def test_projections_are_standard_in_every_precision(kind, dtype):
    """The sum of a perturbation over sqrt(D), over 400 of them (bf16 draws: -3.9)."""
    size, zeros = 100_000, jnp.zeros((100, 1000), dtype)

    @jax.jit
    def moments(seeds):
        def one(seed):
            z = noise.Noise(kind).add(zeros, seed, 1.0).astype(jnp.float32)
            return jnp.sum(z) / np.sqrt(size), jnp.mean(z**2), jnp.mean(z**4)

        return lax.map(one, seeds)

    sums, second, fourth = moments(threefry.seeds(jax.random.key(1), 400))
    assert abs(np.mean(sums)) < 0.2
    assert abs(np.var(sums) - 1) < 0.3
    assert abs(np.mean(second) - 1) < 1e-3
    kurtosis = np.mean(fourth) / np.mean(second) ** 2
    assert abs(kurtosis - (3 if kind == "gaussian" else 1)) < 0.02


def test_packed_signs_are_balanced_and_uncorrelated():
    rows, columns = 2000, 320  # ten words a row
    z = np.asarray(noise_law.noise_rows("rademacher", SEED, 7, 0, rows, columns))
    assert set(np.unique(z)) == {-1.0, 1.0}
    bound = 5 / np.sqrt(z.size)
    assert abs(z.mean()) < bound
    assert np.abs(z.mean(axis=0)).max() < 5 / np.sqrt(rows)
    # bits of one word stand ten columns apart, words beside each other, rows below
    for lag in (1, 9, 10, 11, 32, 160, 310):
        assert abs(np.mean(z[:, lag:] * z[:, :-lag])) < 5 / np.sqrt(z[:, lag:].size)
        assert abs(np.mean(z[lag:] * z[:-lag])) < 5 / np.sqrt(z[lag:].size)
    gram = z.T @ z / rows  # every pair of columns
    assert np.abs(gram[~np.eye(columns, dtype=bool)]).max() < 6 / np.sqrt(rows)
    # all three at once: no bit is the product of two others
    triple = z[:, :-20] * z[:, 10:-10] * z[:, 20:]
    assert abs(triple.mean()) < 5 / np.sqrt(triple.size)
    for other in (
        noise_law.noise_rows("rademacher", SEED + np.uint32(1), 7, 0, rows, columns),
        noise_law.noise_rows("rademacher", SEED, 8, 0, rows, columns),
    ):
        assert abs(np.mean(z * np.asarray(other))) < bound


def test_matrices_for_dense_methods():
    z = threefry.standard_normal(jax.random.key(0), (50, 400), jnp.float32)
    assert z.shape == (50, 400) and z.dtype == jnp.float32
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.02
    other = threefry.standard_normal(jax.random.key(1), (50, 400), jnp.float32)
    assert not np.any(z == other)


# -- streamed sums

SHAPES = [(), (1,), (5,), (4096,), (5000,), (70_000,), (3, 4), (2, 3, 7), (1, 70_000)]
SHAPES += [(130, 600), (17, 4100), (0, 3)]


@each_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_equal_a_loop_over_members(kind, shape):
    family, path = noise.Noise(kind), zlib.crc32(b"w")
    rng = np.random.default_rng(len(shape))
    count = 1 if shape in ((5,), (5000,), (130, 600)) else 7
    seeds = rng.integers(0, 2**32, count, np.uint32)
    weights = jnp.asarray(rng.normal(size=count), jnp.float32)
    squares = weights**2
    tree = {"w": jnp.asarray(rng.normal(size=shape), jnp.float32)}

    @jax.jit
    def streamed(tree):
        added = family.add_weighted(tree, seeds, weights)
        moments = family.weighted_moments(tree, seeds, weights, squares)
        return [found["w"] for found in (added, *moments)]

    draw = jax.jit(lambda seed: noise_law.noise_leaf(kind, seed, path, shape))
    loop = [np.float64(tree["w"]), np.zeros(shape), np.zeros(shape)]
    for seed, weight in zip(seeds, np.float64(weights), strict=True):
        z = np.float64(draw(seed))
        loop = [loop[0] + weight * z, loop[1] + weight * z, loop[2] + (weight * z) ** 2]
    for found, expected in zip(streamed(tree), loop, strict=True):
        assert found.dtype == jnp.float32 and found.shape == shape
        np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


@each_kind
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_sums_are_added_in_the_leaf_s_precision(kind, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        family, shape = noise.Noise(kind), (40, 30)
        leaf = jnp.linspace(-2, 2, 1200, dtype=dtype).reshape(shape)
        seeds = np.arange(5, dtype=np.uint32)
        weights = np.linspace(-0.7, 0.4, 5)
        added = family.add_weighted({"w": leaf}, seeds, jnp.asarray(weights))["w"]
        total = family.weighted_sum({"w": leaf}, seeds, jnp.asarray(weights))["w"]
        wide = jnp.promote_types(dtype, jnp.float32)
        assert added.dtype == dtype and total.dtype == wide
        path = zlib.crc32(b"w")
        z = jax.vmap(lambda s: noise_law.noise_leaf(kind, s, path, shape))(seeds)
        expected = np.tensordot(weights, np.float64(z), 1)
        precision = 1e-12 if dtype == jnp.float64 else 1e-6
        np.testing.assert_allclose(np.float64(total), expected, precision, precision)
        # one rounding, after the whole sum: now and then to the other neighbour
        expected = np.float64(leaf) + expected
        found, unit = np.float64(added), float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(found, expected, unit, 1e-14)
        if dtype == jnp.bfloat16:
            assert np.mean(found != np.float64(expected.astype(dtype))) < 0.01


@each_kind
def test_sums_of_a_large_leaf_stay_in_place(kind):
    leaf = {"w": jax.ShapeDtypeStruct((2000, 1000), jnp.float32)}
    seeds = jax.ShapeDtypeStruct((8,), jnp.uint32)
    weights = jax.ShapeDtypeStruct((8,), jnp.float32)
    add = jax.jit(noise.Noise(kind).add_weighted, donate_argnums=0)
    memory = add.lower(leaf, seeds, weights).compile().memory_analysis()
    assert memory.alias_size_in_bytes == 8_000_000
    assert memory.temp_size_in_bytes < 0.15 * 8_000_000


def test_sums_of_no_members_change_nothing():
    tree = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    none = noise.gaussian().add_weighted(tree, np.zeros(0, np.uint32), jnp.zeros(0))
    same_bits(none["w"], tree["w"])


def test_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="kind must be one of.*did you mean 'gaussian"):
        gfopt.noise.Noise("gausian")
    assert gfopt.gaussian() == noise.Noise() and gfopt.rademacher().kind == "rademacher"


@pytest.mark.parametrize("family", [gfopt.gaussian(), gfopt.low_rank(1)])
def test_sums_of_noise_are_not_left_to_the_old_code_generator(family):
    """It would draw a normal anew for each of its uses: 27 times the time."""
    weights = {"w": jnp.zeros((4, 256, 512)), "v": jnp.zeros(100_000)}

    def add(weights, seeds, scales):
        return family.add_weighted(weights, seeds, scales)

    program = jax.jit(add).lower(weights, jnp.zeros(3, jnp.uint32), jnp.ones(3))
    assert "xla_cpu_small_call" not in program.compile().as_text()
