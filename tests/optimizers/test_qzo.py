"""QZO beside its oracle; the reference checks R1 to R8 of quantized training."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.scipy.special import erf

import gfopt
from gfopt.core.evaluate import Request, judged, vmapped
from gfopt.core.objective import Inputs, Objective
from gfopt.lazy.lazy import materialise

GROUP = 8


@pytest.fixture
def x64() -> Any:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


def network(bits: int = 4, **options: Any) -> Any:
    """Returns a quantized network of two layers, ``[in, out]`` and ``[out, in]``."""
    k = jax.random.split(jax.random.key(3), 3)
    dense = {
        "hidden": jax.random.normal(k[0], (16, 24)) / 4,
        "out": jax.random.normal(k[1], (3, 24)) / 5,
        "bias": 0.1 * jax.random.normal(k[2], (24,)),
    }
    return gfopt.quantization.quantize(
        dense, bits=bits, group_size=GROUP, min_size=0, **options
    )


def output(p: Any, x: jax.Array) -> jax.Array:
    """An unmodified model."""
    return jnp.tanh(x @ p["hidden"] + p["bias"]) @ p["out"].T


X = jax.random.normal(jax.random.key(5), (12, 16))
Y = jax.random.normal(jax.random.key(6), (12, 3))


def loss(p: Any) -> jax.Array:
    return jnp.mean((output(p, X) - Y) ** 2)


@partial(jax.jit, static_argnames="fun")
def step(optimizer: Any, key: jax.Array, state: Any, frozen: Any, fun: Any) -> Any:
    """Returns population, evaluation, new state and info of one step."""
    population = optimizer.ask(key, state)
    inputs = Inputs(frozen)
    evaluation = vmapped()(
        Request(key, Objective(fun), optimizer, state, population, inputs)
    )
    return population, evaluation, *optimizer.tell(state, population, evaluation)


def told(optimizer: Any, x0: Any, losses: Any, seed: int = 1) -> Any:
    """Returns the noise, the state before and after one tell, and its info."""
    state = optimizer.init(jax.random.key(0), x0)
    population = optimizer.ask(jax.random.key(seed), state)
    z = optimizer.noise.sample(state.mean, population.members.seed[0])
    found = judged(jnp.asarray(losses), population.active, ())
    return z, state, *optimizer.tell(state, population, found)


def digest(tree: Any) -> str:
    """Returns a hash of all bits of a tree."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def test_steps_as_its_oracle() -> None:
    x0, codes = gfopt.partition(network())
    rate, eps, clip, least = 0.001, 2.0**-8, 6.0, 0.02
    optimizer = gfopt.QZO(rate, eps, clip, least)
    state = optimizer.init(jax.random.key(0), x0)
    clipped = 0
    for count in range(12):
        old = state
        key = jax.random.key(count)
        population, evaluation, state, info = step(optimizer, key, old, codes, loss)
        z = optimizer.noise.sample(old.mean, population.members.seed[0])
        losses = tuple(
            loss(materialise(gfopt.merge(moved(old.mean, z, sign * eps), codes)))
            for sign in (1, -1)
        )
        np.testing.assert_allclose(evaluation.fitness, losses, rtol=1e-5)
        losses = tuple(map(float, evaluation.fitness))
        by = losses, eps, rate, clip, least
        for name in ("hidden", "out"):
            scales, u = (np.asarray(t[name].scales, float) for t in (old.mean, z))
            expected = oracles.qzo_step(scales.ravel(), u.ravel(), *by)
            found = np.asarray(state.mean[name].scales).ravel()
            np.testing.assert_allclose(found, expected, rtol=2e-4)
        clipped += abs(losses[0] - losses[1]) / (2 * eps) > clip
        np.testing.assert_allclose(info.clipped_share, clipped / (count + 1), rtol=1e-6)
    assert 0 < clipped < 12


def moved(mean: Any, z: Any, by: float) -> Any:
    return jax.tree.map(lambda m, u: m + by * u, mean, z)


@pytest.mark.parametrize(
    ("shapes", "count"),
    [
        ([(4096, 4096)] * 4 + [(16384, 4096), (4096, 16384)], 50_331_648),
        ([(4096, 4096)] * 4 + [(11008, 4096)] * 3, 50_593_792),
        (
            [(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)]
            + [(14336, 4096)] * 3,
            54_525_952,
        ),
    ],
    ids=["OPT-6.7B", "Llama-2-7B", "Llama-3.1-8B"],
)
def test_r1_scales_of_published_models(shapes: Any, count: int) -> None:
    """Counted from the shapes of 32 layers; nothing is allocated."""
    stacks = [jax.ShapeDtypeStruct((32, *shape), jnp.bfloat16) for shape in shapes]
    made = jax.eval_shape(partial(gfopt.quantization.quantize, group_size=128), stacks)
    scales, codes = gfopt.partition(made)
    assert sum(leaf.size for leaf in jax.tree.leaves(scales)) == count
    num_bytes = sum(leaf.size for leaf in jax.tree.leaves(codes))
    assert num_bytes == 128 * count / 2


@pytest.mark.parametrize("symmetric", [True, False])
def test_r2_the_slope_of_a_scale(x64: None, symmetric: bool) -> None:
    """dL/dDelta of a group is the sum of code times dL/dw; by finite differences."""
    scales, codes = gfopt.partition(network(symmetric=symmetric))
    scales = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), scales)

    def value(scales: Any) -> jax.Array:
        p = gfopt.merge(scales, codes)
        return Objective(loss).value(p, None, Inputs())[0]

    dense = materialise(gfopt.merge(scales, codes))
    slopes = jax.grad(loss)(dense)
    for name in ("hidden", "out"):
        leaf = gfopt.merge(scales, codes)[name]
        w, g = np.asarray(dense[name]), np.asarray(slopes[name])
        delta = np.repeat(np.asarray(leaf.scales), GROUP, axis=1)
        expected = (w / delta * g).reshape(*leaf.scales.shape, GROUP).sum(axis=-1)
        for place in [(0, 0), (2, 1), (1, 2)]:
            sides = []
            for h in (1e-5, -1e-5):
                bumped = leaf.scales.at[place].add(h)
                other = {name: dataclasses.replace(scales[name], scales=bumped)}
                sides.append(float(value({**scales, **other})))
            found = (sides[0] - sides[1]) / 2e-5
            np.testing.assert_allclose(found, expected[place], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("ratio", [math.inf, 2.0, 0.5])
def test_r3_clipping_keeps_the_direction_and_shrinks(ratio: float) -> None:
    """E[clip(g'z) z] is g erf(C / (sqrt 2 |g|)): no unbiased estimate."""
    count, g = 400_000, jnp.array([3.0, -1.0, 0.5, 2.0])
    norm = float(jnp.linalg.norm(g))
    clip = None if ratio == math.inf else ratio * norm
    optimizer = gfopt.QZO(1.0, 2.0**-6, clip)
    x0 = {"x": jnp.zeros(4)}  # as good as scales: a loss that is linear in them
    state = optimizer.init(jax.random.key(0), x0)

    @jax.jit
    @jax.vmap
    def estimate(seed: jax.Array) -> jax.Array:
        population = optimizer.ask(jax.random.key(seed), state)
        z = optimizer.noise.sample(x0, population.members.seed[0])["x"]
        losses = jnp.stack([g @ z, -g @ z]) * optimizer.eps
        found = judged(losses, population.active, ())
        new, _ = optimizer.tell(state, population, found)
        return state.mean["x"] - new.mean["x"]

    found = np.asarray(estimate(jnp.arange(count)), np.float64).mean(axis=0)
    expected = np.asarray(g) * float(erf(ratio / math.sqrt(2)))
    assert np.linalg.norm(found - expected) < 0.01 * norm


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("relative", [False, True])
def test_r4_codes_stay_and_scales_have_a_least(bits: int, relative: bool) -> None:
    x0, codes = gfopt.partition(network(bits))
    before, least = digest(codes), 0.05
    optimizer = gfopt.QZO(0.05, 1e-2, min_scale=least, relative=relative)
    made = gfopt.run(
        optimizer, loss, x0, key=jax.random.key(1), generations=60, frozen=codes
    )
    assert digest(codes) == before
    scales = np.concatenate(
        [leaf.ravel() for leaf in jax.tree.leaves(made.recommended)]
    )
    first = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(x0)])
    assert np.all(scales[scales != first] >= np.float32(least)) and scales.min() > 0
    assert relative or np.any(scales == np.float32(least))


def test_r5_the_clip_bounds_a_step() -> None:
    x0, _ = gfopt.partition(network())
    rate, clip = 2.0**-12, 4.0
    optimizer = gfopt.QZO(rate, 2.0**-10, clip)
    huge = 2e9 * 2.0**-10
    z, state, new, info = told(optimizer, x0, [huge, -huge])
    expected = jax.tree.map(lambda s, u: s - rate * clip * u, state.mean, z)
    jax.tree.map(np.testing.assert_array_equal, new.mean, expected)
    assert info.projected_gradient == clip and info.clipped_share == 1
    assert info.largest_slope > 1e9
    none = gfopt.QZO(rate, 2.0**-10, 0.0)
    _, state, new, _ = told(none, x0, [huge, -huge])
    jax.tree.map(np.testing.assert_array_equal, new.mean, state.mean)


def test_r6_a_loss_that_is_no_number_skips_the_step() -> None:
    x0, codes = gfopt.partition(network())
    optimizer = gfopt.QZO(1e-3)
    for losses in ([1.0, jnp.nan], [jnp.inf, 1.0], [3e38, -3e38]):
        _, state, new, info = told(optimizer, x0, losses)
        jax.tree.map(np.testing.assert_array_equal, new.mean, state.mean)
        assert info.skipped and info.num_skipped == 1 and new.step == 1
        assert info.median_slope == 0 and jnp.isnan(info.loss)

    def sometimes(p: Any, step: jax.Array) -> jax.Array:
        return jnp.where(step % 5 == 2, jnp.nan, loss(p))

    made = gfopt.run(
        optimizer,
        sometimes,
        x0,
        key=jax.random.key(1),
        generations=23,
        frozen=codes,
        batches=lambda step, key: step,
    )
    assert made.history["num_skipped"][-1] == 5
    assert np.all(made.history["skipped"] == (np.arange(23) % 5 == 2))


def test_r7_nothing_is_added_and_taken_away() -> None:
    x0, codes = gfopt.partition(network())
    optimizer = gfopt.QZO(0.0, 0.05)
    made = gfopt.run(
        optimizer, loss, x0, key=jax.random.key(1), generations=30, frozen=codes
    )
    jax.tree.map(np.testing.assert_array_equal, made.recommended, x0)
    assert np.all(made.history["projected_gradient"] != 0)


def test_r8_groups_of_one_are_mezo_in_other_units(x64: None) -> None:
    """With a scale for each weight, z becomes code * z: that of MeZO, stretched."""
    w = jax.random.normal(jax.random.key(0), (3, 4))
    leaf = gfopt.quantization.quantize(
        {"w": w}, bits=8, group_size=1, min_size=0, scale_dtype=jnp.float64
    )
    scales, codes = gfopt.partition(leaf)
    sign = np.asarray(codes["w"].codes, float).reshape(3, 4) - 128
    assert set(np.abs(sign).ravel()) == {127.0}  # a group of one is all of its absmax
    eps, rate = 2.0**-9, 1e-9
    optimizer = gfopt.QZO(rate, eps, None)
    state = optimizer.init(jax.random.key(0), scales)
    theta = np.asarray(scales["w"].scales).ravel()

    def fun(p: Any) -> jax.Array:
        return jnp.sum((p["w"] - 0.1) ** 2)

    for count in range(5):
        old, key = state, jax.random.key(count)
        population, evaluation, state, _ = step(optimizer, key, old, codes, fun)
        z = optimizer.noise.sample(old.mean, population.members.seed[0])
        z = np.asarray(z["w"].scales, float).ravel()
        sides = [sign.ravel() * (theta + s * eps * z) for s in (1, -1)]
        losses = [float(fun({"w": side})) for side in sides]
        np.testing.assert_allclose(evaluation.fitness, losses, rtol=1e-6)
        theta = oracles.mezo_step(theta, z, losses, eps, rate)
        np.testing.assert_allclose(state.mean["w"].scales.ravel(), theta, rtol=1e-7)


def test_relative_noise_is_in_units_of_the_scale() -> None:
    x0, codes = gfopt.partition(network(), lambda path, _: not path.endswith("minima"))
    assert "bias" in x0 and x0["bias"] is not None  # trained with them, in its units
    rate = 2.0**-4
    optimizer = gfopt.QZO(rate, 2.0**-10, relative=True)
    z, state, new, _ = told(optimizer, x0, [2.0**-10, -(2.0**-10)])
    for name in ("hidden", "out"):
        old = state.mean[name].scales
        expected = old * (1 - rate * z[name].scales)
        np.testing.assert_allclose(new.mean[name].scales, expected, rtol=1e-6)
    expected = state.mean["bias"] - rate * z["bias"]
    np.testing.assert_allclose(new.mean["bias"], expected, rtol=1e-6)
    member = jax.tree.map(
        lambda leaf: leaf[0], optimizer.ask(jax.random.key(1), state).members
    )
    seen = materialise(optimizer.decode(state, member))
    expected = state.mean["out"].scales * (1 + 2.0**-10 * z["out"].scales)
    np.testing.assert_allclose(seen["out"].scales, expected, rtol=1e-6)


def test_scales_below_zero_stay_below() -> None:
    """Q4_0 files have such scales."""
    leaf = gfopt.quantization.Quantized(
        jnp.zeros((1, 8), jnp.uint8),
        jnp.array([[-0.01, 0.01, -1.0, 1.0]]),
        columns=16,
        group_size=4,
    )
    x0, _ = gfopt.partition({"w": leaf})
    optimizer = gfopt.QZO(10.0, 1e-3, min_scale=1e-3)
    for losses in ([1e-3, -1e-3], [-1e-3, 1e-3]):
        _, state, new, _ = told(optimizer, x0, losses)
        old, found = state.mean["w"].scales, new.mean["w"].scales
        assert np.all(np.sign(found) == np.sign(old))
        assert np.all(np.abs(found) >= np.float32(1e-3))


def test_narrow_scales_take_small_steps_on_average() -> None:
    leaf = network(scale_dtype=jnp.float16)
    x0, _ = gfopt.partition(leaf)
    assert x0["hidden"].scales.dtype == jnp.float16
    for how, share in (("nearest", 0.0), ("stochastic", 1.0)):
        optimizer = gfopt.QZO(
            1e-6, 2.0**-10, rounding=how, noise=gfopt.rademacher(), clip=None
        )

        @jax.jit
        @jax.vmap
        def change(seed: jax.Array, optimizer: Any = optimizer) -> jax.Array:
            state = optimizer.init(jax.random.key(0), x0)
            population = optimizer.ask(jax.random.key(seed), state)
            z = optimizer.noise.sample(state.mean, population.members.seed[0])
            found = judged(jnp.array([2.0**-10, -(2.0**-10)]), population.active, ())
            new, _ = optimizer.tell(state, population, found)
            parts = jax.tree.map(
                lambda a, b, u: jnp.mean((a.astype(float) - b.astype(float)) * u),
                new.mean,
                state.mean,
                z,
            )
            return parts["hidden"].scales

        found = float(change(jnp.arange(3000)).mean()) / -1e-6
        assert abs(found - share) < 0.05


def test_strategies_and_cma_es_work_on_scales() -> None:
    """Scales are ordinary leaves: no method needs to know of them."""
    x0, codes = gfopt.partition(network())
    start = loss(materialise(gfopt.merge(x0, codes)))
    methods = [
        gfopt.OpenES(population_size=16, sigma=0.02, learning_rate=0.02),
        gfopt.CMAES(sigma=0.02),
    ]
    for method in methods:
        made = gfopt.run(
            method, loss, x0, key=jax.random.key(0), generations=60, frozen=codes
        )
        assert loss(materialise(gfopt.merge(made.recommended, codes))) < 0.9 * start


def test_percentiles_of_the_slopes() -> None:
    optimizer = gfopt.QZO(0.0, 0.5, 50.0)
    state = optimizer.init(jax.random.key(0), jnp.zeros(2))
    for size in range(1, 101):
        population = optimizer.ask(jax.random.key(size), state)
        found = judged(jnp.array([0.0, size]), population.active, ())
        state, info = optimizer.tell(state, population, found)
    seen = info.median_slope, info.slope_90, info.slope_99, info.largest_slope
    assert tuple(map(float, seen)) == (50, 90, 99, 100)
    assert info.clipped_share == 0.5


def test_no_run_of_many_ends_in_nan() -> None:
    """A learning rate far too large; the clip holds."""
    x0, codes = gfopt.partition(network())

    @jax.jit
    @jax.vmap
    def final(seed: jax.Array) -> Any:
        made = gfopt.run(
            gfopt.QZO(0.01, 1e-3, 1.0),
            loss,
            x0,
            key=jax.random.key(seed),
            generations=200,
            frozen=codes,
        )
        return made.recommended, made.history["loss"]

    x, losses = final(jnp.arange(20))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((x, losses)))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"clip": -1.0}, ValueError, "clip must be a finite number, 0 or above"),
        ({"min_scale": 0.0}, ValueError, "min_scale must be a finite number above 0"),
        ({"relative": 1}, TypeError, "relative must be True or False"),
        ({"noise": gfopt.low_rank()}, TypeError, r"noise must be gaussian\(\)"),
        ({"population_size": 3}, ValueError, "population_size must be an even integer"),
    ],
)
def test_bad_arguments_are_refused(options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        gfopt.QZO(**options)


def test_a_log_of_scalars_replays_a_run(tmp_path: Any) -> None:
    """Through a checkpoint, with clipped steps and scales at their least."""
    x0, codes = gfopt.partition(network())
    method = gfopt.QZO(0.02, 1e-2, 0.5, 0.05, relative=True)
    options = {"method": method, "frozen": codes, "log": tmp_path / "run.log"}
    options |= {"checkpoint": tmp_path / "run.checkpoint"}
    gfopt.minimize(loss, x0, budget=60, **options)
    made = gfopt.minimize(loss, x0, budget=120, **options)
    again = gfopt.replay(x0, tmp_path / "run.log")
    jax.tree.map(np.testing.assert_array_equal, again, made.recommended)
    assert made.history["clipped_share"][-1] > 0
    scales = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(again)])
    assert np.any(scales == np.float32(0.05))


def test_an_optax_transform_keeps_the_scales_above_their_least() -> None:
    x0, codes = gfopt.partition(network())
    method = gfopt.QZO(0.05, 1e-2, None, 0.05, relative=True, transform=optax.adam(1.0))
    made = gfopt.run(
        method, loss, x0, key=jax.random.key(1), generations=60, frozen=codes
    )
    old, new = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (x0, made.recommended)
    )
    assert np.all(new[new != old] >= np.float32(0.05)) and np.any(new == new.min())
    assert np.mean(made.history["loss"][-10:]) < np.mean(made.history["loss"][:10])
    # a step without a finite loss leaves the moments, too
    _, state, after, _ = told(method, x0, [1.0, jnp.nan])
    jax.tree.map(np.testing.assert_array_equal, after.transform, state.transform)


@pytest.mark.parametrize("drive", [gfopt.minimize, gfopt.run])
def test_codes_are_not_searched(drive: Any) -> None:
    options: Any = {"method": "qzo"}
    if drive is gfopt.run:
        options = {"key": jax.random.key(0), "generations": 1}
    with pytest.raises(ValueError, match=r"x0, frozen = gfopt.partition\(x0\)"):
        args = (loss, network())
        drive(*((gfopt.QZO(), *args) if drive is gfopt.run else args), **options)


def test_float64_data_leave_float32_scales_what_they_are(x64: None) -> None:
    scales, codes = gfopt.partition(network())
    x = np.linspace(-1, 1, 3 * 16).reshape(3, 16)
    run = gfopt.run(
        gfopt.QZO(1e-4),
        lambda model: jnp.mean((x @ model["hidden"]) ** 2),
        scales,
        frozen=codes,
        key=jax.random.key(0),
        generations=2,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(run.recommended)} == {
        np.dtype(np.float32)
    }
    assert run.history["loss"].dtype == np.float64
