"""QES beside its oracle, its members as lazy leaves, and its memory."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from conformance.cases import same_bits

import gfopt
from gfopt.core import trees
from gfopt.core.evaluate import decode_rows, judged
from gfopt.lazy.lazy import materialise
from gfopt.noise import law, threefry
from gfopt.quantization import code_updates
from gfopt.quantization.stepped import Packing

CODES = jax.tree_util.GetAttrKey("codes")
X = jax.random.normal(jax.random.key(5), (12, 16))
Y = jax.random.normal(jax.random.key(6), (12, 3))


def network(bits: int = 4, **options: Any) -> Any:
    """Returns a quantized network of two layers, ``[in, out]`` and ``[out, in]``."""
    k = jax.random.split(jax.random.key(3), 3)
    dense = {
        "hidden": jax.random.normal(k[0], (16, 24)) / 4,
        "out": jax.random.normal(k[1], (3, 24)) / 5,
        "bias": 0.1 * jax.random.normal(k[2], (24,)),
    }
    options = {"group_size": 8, "min_size": 0} | options
    return gfopt.quantization.quantize(dense, bits=bits, **options)


def loss(p: Any) -> jax.Array:
    """The loss of an unmodified model."""
    return jnp.mean((jnp.tanh(X @ p["hidden"] + p["bias"]) @ p["out"].T - Y) ** 2)


def halves(bits: int = 4) -> Any:
    return gfopt.partition(network(bits), codes=True)


def one_matrix() -> Any:
    """Returns the halves of a model of one matrix, which compiles in less time."""
    return gfopt.partition({"out": network()["out"]}, codes=True)


def fit(p: Any) -> jax.Array:
    """The loss of that model."""
    features = jax.random.normal(jax.random.key(7), (12, 24))
    return jnp.mean((features @ p["out"].T - Y) ** 2)


def flat(leaf: Any) -> np.ndarray:
    """Returns the codes of a leaf, in the order of storage."""
    rows = leaf.codes.reshape(-1, leaf.codes.shape[-1])
    return np.asarray(Packing(leaf.group_size, leaf.bits).unpack(rows)).ravel()


@functools.partial(jax.jit, static_argnames=("path", "shape", "kind"))
def drawn(seed: jax.Array, path: int, shape: tuple[int, int], kind: str) -> Any:
    """Returns the noise of a leaf's codes, and the numbers that round it."""
    z = law.noise_rows(kind, seed, path, 0, *shape)
    words = threefry.words(seed, path, jnp.int32(0), *shape, 1)
    return z.ravel(), words.ravel() // 512


@jax.jit
def told(optimizer: Any, state: Any, fitness: Any, seed: Any = 1) -> Any:
    """Returns the population, the state after a tell, and its info."""
    population = optimizer.ask(jax.random.key(seed), state)
    found = judged(jnp.asarray(fitness), population.active, ())
    return population, *optimizer.tell(state, population, found)


@jax.jit
def seen(optimizer: Any, state: Any, members: Any) -> Any:
    """Returns the candidates, ``[P, ...]``."""
    return decode_rows(optimizer, state, members)


SHAPES = {"hidden": (16, 24), "out": (3, 24)}


@pytest.mark.parametrize(
    ("bits", "window", "kind"),
    [
        (4, 2, "rademacher"),
        (2, 0, "gaussian"),
        (8, None, "gaussian"),
    ],
)
def test_steps_as_its_oracle(bits: int, window: int | None, kind: str) -> None:
    sigma, rate = (1.25, 1.0) if kind == "gaussian" else (0.25, 0.5)
    x0, _ = halves(bits)
    noise = gfopt.noise.Noise(kind)
    optimizer = gfopt.QES(6, sigma, rate, 0.75, window, noise=noise)
    state = optimizer.init(jax.random.key(0), x0)
    oracle = {name: oracles.QES(rate, 0.75, 2**bits - 1, window) for name in SHAPES}
    rng, moved, blocked = np.random.default_rng(0), 0, 0
    for count in range(5):
        fitness = rng.normal(size=6).astype(np.float32)
        population, new, info = told(optimizer, state, fitness, count)
        candidates = seen(optimizer, state, population.members)
        kept = 0
        for place, (name, shape) in enumerate(SHAPES.items()):
            own, old = oracle[name], flat(state.mean[name])
            path = trees.path_hash((jax.tree_util.DictKey(name), CODES))
            deltas = []
            for seed in population.members.seed[::2]:
                z, words = map(np.asarray, drawn(seed, path, shape, kind))
                deltas.append(own.rounded(z.astype(float), words / 2**23, sigma))
            for row in range(6):
                found = jax.tree.map(lambda x, row=row: x[row], candidates[name])
                expected = own.candidate(old, deltas[row // 2], 1 - row % 2 * 2)
                np.testing.assert_array_equal(flat(found), expected)
            expected, stopped = own.step(old, sigma, np.array(deltas), fitness)
            np.testing.assert_array_equal(flat(new.mean[name]), expected)
            if window is None:  # int8 is rounded at random: less than a count away
                stored = np.asarray(new.residual[place], float).ravel() / 254
                assert np.max(np.abs(stored - own.residual)) < 1.001 / 254
                own.residual = stored
            moved, kept = moved + np.sum(expected != old), kept + stopped
        np.testing.assert_allclose(info.blocked_share, kept / (19 * 24), rtol=1e-6)
        state, blocked = new, blocked + kept
    assert moved > 20 and (blocked > 0 or bits == 8)


def test_a_tell_has_the_same_bits_compiled_or_not() -> None:
    x0, _ = one_matrix()
    optimizer = gfopt.QES(4, 0.25, 0.5, window=None)
    state = optimizer.init(jax.random.key(0), x0)
    state = told(optimizer, state, np.float32([0.3, 0.1, 0.7, 0.2]))[1]
    given = optimizer, state, np.float32([0.4, 0.9, 0.1, 0.5]), 2
    same_bits(told.__wrapped__(*given)[1], told(*given)[1])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of three blocks of rows is moved back over the one before it."""
    codes = jax.random.bits(jax.random.key(0), (5, 40), jnp.uint8)
    x0 = {"w": gfopt.quantization.Quantized(codes, None, columns=80, group_size=8)}
    found = []
    for block in (1 << 16, 160):
        monkeypatch.setattr(code_updates, "BLOCK", block)
        optimizer = gfopt.QES(4, 0.25, 0.5, window=None)
        state = optimizer.init(jax.random.key(0), x0)
        population = optimizer.ask(jax.random.key(1), state)
        losses = judged(jnp.float32([0, 1, 5, 2]), population.active, ())
        found.append(jax.jit(optimizer.tell)(state, population, losses))
    same_bits(*found)
    assert found[0][1].moved_share > 0.1


def test_failures_weigh_nothing() -> None:
    x0, _ = one_matrix()
    optimizer = gfopt.QES(4, 0.5, 1.0, window=1)
    state = optimizer.init(jax.random.key(0), x0)
    state = told(optimizer, state, np.float32([1, 2, 3, 5]))[1]
    none = np.float32([1, np.nan, np.inf, 3])
    _, after, info = told(optimizer, state, none, 2)
    same_bits(after._replace(step=state.step), state)
    assert after.step == 2 and info.moved_share == 0 and info.num_valid == 2
    half = told(optimizer, state, np.float32([1, np.nan, 2, 3]), 3)[1]
    weights = half.generations.weights[-1]
    assert np.all(weights[:2] == 0) and np.all(weights[2:] != 0)


def test_small_steps_arrive_by_their_residual_alone() -> None:
    """A step is of 0.2 codes at most: two generations are too few to cross 1/2."""
    x0, scales = one_matrix()
    before = fit(materialise(gfopt.merge(x0, scales)))
    changed = []
    for window in (None, 1):
        method = gfopt.QES(2, 0.25, 0.05, 1.0, window)
        options = {"frozen": scales, "key": jax.random.key(0), "generations": 300}
        found = gfopt.run(method, fit, x0, **options)
        tuned = gfopt.merge(found.recommended, scales)
        changed.append(np.mean(flat(tuned["out"]) != flat(x0["out"])))
        same_bits(tuned["out"].scales, scales["out"].scales)
        if window is None:
            assert fit(materialise(tuned)) < 0.5 * before
    assert changed[1] == 0 < changed[0]


@pytest.mark.parametrize("drive", ["run", "minimize"])
def test_other_methods_refuse_codes(drive: str) -> None:
    x0, scales = one_matrix()
    with pytest.raises(ValueError, match="solution must not have the integer codes"):
        if drive == "run":
            method = gfopt.MeZO()
            gfopt.run(
                method, fit, x0, key=jax.random.key(0), generations=1, frozen=scales
            )
        else:
            gfopt.minimize(fit, x0, method="qzo", budget=4, frozen=scales)


def test_codes_pass_through_every_driver(tmp_path: Any) -> None:
    x0, scales = one_matrix()
    options: dict[str, Any] = {"method": gfopt.QES(4), "frozen": scales}
    straight = gfopt.minimize(fit, x0, budget=40, **options)
    saved = {"checkpoint": tmp_path / "run"}
    gfopt.minimize(fit, x0, budget=16, **options, **saved)
    resumed = gfopt.minimize(fit, x0, budget=40, **options, **saved)
    same_bits(resumed.state, straight.state)
    assert {leaf.dtype for leaf in jax.tree.leaves(straight.x)} == {np.dtype(np.uint8)}
    found = fit(materialise(gfopt.merge(straight.x, scales)))
    np.testing.assert_allclose(found, straight.fun, rtol=1e-5)
    # a Python objective and a person see what the members are
    kinds = set()

    def hosted(p: Any) -> float:
        kinds.add(p["out"].codes.dtype)
        return float(fit(materialise(p)))

    objective = gfopt.Objective(hosted, traceable=False)
    host = gfopt.minimize(objective, x0, budget=40, **options)
    np.testing.assert_allclose(host.fun, straight.fun, rtol=1e-4)
    assert kinds == {np.dtype(np.uint8)}
    search = gfopt.AskTell(gfopt.QES(4, 0.25), x0)
    trials = search.ask()  # the start, and two pairs
    assert all(t.solution["out"].codes.dtype == np.uint8 for t in trials)
    start = flat(x0["out"])
    moves = [np.sum(flat(t.solution["out"]) != start) for t in trials]
    assert len(trials) == 5 and np.all(np.array(moves[1:]) > 0)
    search.tell(trials, np.arange(float(len(trials))))


def test_partition_takes_codes_and_what_else_is_chosen() -> None:
    whole = network()
    x0, scales = gfopt.partition(whole, codes=True)
    assert x0["bias"] is None and x0["hidden"].scales is None
    assert scales["hidden"].codes is None and scales["bias"] is not None
    names = ("hidden/codes", "bias")
    x0, rest = gfopt.partition(whole, lambda path, _: path in names, codes=True)
    assert rest["hidden"].codes is None and rest["out"].codes is not None
    options = {"frozen": rest, "key": jax.random.key(0), "generations": 30}
    found = gfopt.run(gfopt.QES(8, 0.02, 0.1), loss, x0, **options).recommended
    assert found["bias"].dtype == jnp.float32 and np.all(found["bias"] != x0["bias"])
    assert np.any(flat(found["hidden"]) != flat(x0["hidden"]))
    with pytest.raises(ValueError, match="tree must have quantized leaves"):
        gfopt.partition({"w": jnp.ones(3)}, codes=True)
    with pytest.raises(TypeError, match="codes must be True or False"):
        gfopt.partition(whole, codes=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"window": -1}, ValueError, "window must be an integer, 0 or above"),
        ({"decay": 1.5}, ValueError, "decay must be a number from 0 to 1"),
        ({"noise": gfopt.low_rank()}, TypeError, r"noise must be gaussian\(\)"),
        ({"population_size": 3}, ValueError, "population_size must be an even integer"),
    ],
)
def test_bad_arguments_are_refused(options: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        gfopt.QES(**options)
