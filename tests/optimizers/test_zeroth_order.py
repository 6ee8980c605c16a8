"""MeZO, SPSA, FZOO beside their oracles; the reference checks of their gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import gfopt
from gfopt import shaping
from gfopt.core.evaluate import Request, judged, vmapped
from gfopt.core.objective import Inputs, Objective
from gfopt.optimizers.zeroth_order.fzoo import FZOO
from gfopt.optimizers.zeroth_order.mezo import MeZO
from gfopt.optimizers.zeroth_order.spsa import SPSA

X0 = np.array([1.0, -2.0, 0.5, 0.25])
GAUSSIAN, SIGNS = gfopt.gaussian(), gfopt.rademacher()


@pytest.fixture
def x64() -> Any:
    """Runs a test in double precision."""
    with jax.enable_x64(True):
        yield


def draw(optimizer: MeZO, population: Any, size: int = len(X0)) -> np.ndarray:
    """Returns the step's noise, drawn from its seed alone."""
    like = jnp.zeros(size)
    return np.asarray(optimizer.noise.sample(like, population.members.seed[0]))


@partial(jax.jit, static_argnames="fun")
def step(optimizer: MeZO, key: jax.Array, state: Any, fun: Any) -> Any:
    """Returns population, evaluation, new state and info of one step."""
    population = optimizer.ask(key, state)
    evaluation = vmapped()(
        Request(key, Objective(fun), optimizer, state, population, Inputs())
    )
    return population, evaluation, *optimizer.tell(state, population, evaluation)


def quadratic(x: jax.Array) -> jax.Array:
    """An uneven quadratic."""
    return jnp.sum(jnp.arange(1, x.size + 1) * (x - 0.3) ** 2)


@pytest.mark.parametrize("noise", [GAUSSIAN, SIGNS], ids=["gaussian", "rademacher"])
def test_steps_as_its_oracle(x64: None, noise: gfopt.noise.Noise) -> None:
    rate, eps = 0.01, 2.0**-10
    optimizer = MeZO(learning_rate=rate, eps=eps, noise=noise)
    state, theta = optimizer.init(jax.random.key(0), jnp.asarray(X0)), X0
    for count in range(8):
        key = jax.random.key(count)
        population, evaluation, state, info = step(optimizer, key, state, quadratic)
        z = np.asarray(draw(optimizer, population), np.float64)
        losses = tuple(quadratic(theta + sign * eps * z).item() for sign in (1, -1))
        # 1e-10: the oracle's theta has gone there and back, ours has not
        np.testing.assert_allclose(evaluation.fitness, losses, rtol=1e-10)
        theta = oracles.mezo_step(theta, z, losses, eps, rate)
        np.testing.assert_allclose(state.mean, theta, rtol=1e-7)
        np.testing.assert_allclose(info.loss, np.mean(losses), rtol=1e-9)
        assert not info.skipped
    assert quadratic(theta) < quadratic(X0)


def test_a_quadratic_has_one_slope_whatever_eps(x64: None) -> None:
    # Z3: the two-sided difference of a quadratic is its derivative along z, exactly
    found = []
    for eps in (2.0**-1, 2.0**-6, 2.0**-10):
        optimizer = MeZO(eps=eps)
        state = optimizer.init(jax.random.key(0), jnp.asarray(X0))
        population, _, _, info = step(optimizer, jax.random.key(1), state, quadratic)
        found.append(info.projected_gradient)
    z = draw(optimizer, population)
    np.testing.assert_allclose(found, jax.grad(quadratic)(X0) @ z, rtol=1e-8)


def test_a_linear_objective_moves_along_the_noise(x64: None) -> None:
    # Z4: p = c'z, and the step is a multiple of z
    c = np.array([1.0, -3.0, 0.5, 2.0])
    optimizer = MeZO(learning_rate=0.1)
    state = optimizer.init(jax.random.key(0), jnp.asarray(X0))
    key = jax.random.key(1)
    population, _, new, info = step(optimizer, key, state, lambda x: c @ x)
    z = draw(optimizer, population)
    np.testing.assert_allclose(info.projected_gradient, c @ z, rtol=1e-6)
    np.testing.assert_allclose(new.mean - state.mean, -0.1 * (c @ z) * z, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nothing_drifts(dtype: Any) -> None:
    # Z5: nothing is added to the weights and taken away: rate 0 leaves every bit
    optimizer = MeZO(learning_rate=0.0, eps=0.1)
    x0 = jnp.linspace(-3, 3, 1001).astype(dtype)
    result = gfopt.run(
        optimizer,
        lambda x: jnp.sum(x.astype(jnp.float32) ** 2),
        x0,
        key=jax.random.key(0),
        generations=20,
    )
    np.testing.assert_array_equal(result.recommended, x0)
    assert np.all(result.history["projected_gradient"] != 0)


def test_a_log_of_scalars_replays_a_run() -> None:
    # Z6: the weights follow from (seed, p, rate) alone, to the last bit
    optimizer = MeZO(learning_rate=0.02)
    x0 = {"w": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    state = replayed = optimizer.init(jax.random.key(0), x0)

    def fun(x: Any) -> jax.Array:
        return jnp.sum((x["w"] - 0.3) ** 2) + jnp.sum((x["b"] - 0.1) ** 2)

    @jax.jit
    def evaluated(key: jax.Array, state: Any) -> Any:
        population = optimizer.ask(key, state)
        return population, vmapped()(
            Request(key, Objective(fun), optimizer, state, population, Inputs())
        )

    tell, log = jax.jit(optimizer.tell), []
    for count in range(200):
        population, evaluation = evaluated(jax.random.key(count), state)
        state, _ = tell(state, population, evaluation)
        log.append((population.members.seed[0], np.asarray(evaluation.fitness)))
    for seed, fitness in log:
        members = population.members._replace(seed=jnp.stack([seed, seed]))
        logged = population._replace(members=members)
        replayed, _ = tell(replayed, logged, judged(fitness, logged.active, ()))
    jax.tree.map(np.testing.assert_array_equal, replayed, state)
    assert fun(state.mean) < 0.1 * fun(x0)


def test_is_one_antithetic_pair_of_an_evolution_strategy(x64: None) -> None:
    # Z8: SPSA's step is OpenES's with N = 2, raw fitness and the same noise
    eps, rate = 2.0**-7, 0.05
    optimizer = MeZO(learning_rate=rate, eps=eps)
    strategy = gfopt.OpenES(
        population_size=2, sigma=eps, shaping=shaping.raw, transform=optax.sgd(rate)
    )
    key, x0 = jax.random.key(4), jnp.asarray(X0)
    state, other = (each.init(key, x0) for each in (optimizer, strategy))
    for count in range(3):
        key = jax.random.key(count)
        _, _, state, _ = step(optimizer, key, state, quadratic)
        _, _, other, _ = step(strategy, key, other, quadratic)
        np.testing.assert_allclose(state.mean, other.mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("noise", "factor"), [(GAUSSIAN, 22), (SIGNS, 20)], ids=["gaussian", "rademacher"]
)
def test_the_estimate_is_unbiased_and_as_noisy_as_known(
    noise: gfopt.noise.Noise, factor: float
) -> None:
    # Z1, Z2: on a quadratic E[p z] is the gradient; E|p z|^2 / |gradient|^2 is d + 2
    # for normal noise and d for signs
    d, count = 20, 40_000
    x0 = jnp.linspace(-1, 1, d)
    optimizer = MeZO(learning_rate=1.0, eps=2.0**-4, noise=noise)
    state = optimizer.init(jax.random.key(0), x0)

    @jax.jit
    @jax.vmap
    def estimate(key: jax.Array) -> jax.Array:
        population = optimizer.ask(key, state)
        z = optimizer.noise.sample(x0, population.members.seed[0])
        losses = [jnp.sum((x0 + s * optimizer.eps * z) ** 2) for s in (1, -1)]
        found = judged(jnp.stack(losses), population.active, ())
        new, _ = optimizer.tell(state, population, found)
        return state.mean - new.mean

    g = np.asarray(estimate(jax.random.split(jax.random.key(1), count)), np.float64)
    true = np.asarray(2 * x0, np.float64)
    error = np.linalg.norm(g.mean(axis=0) - true) / np.linalg.norm(true)
    assert error < 4 * np.sqrt((d + 2) / count)
    ratio = np.sum(g**2, axis=1) / np.sum(true**2)
    # its mean to four standard errors of what was drawn
    spread = 4 * ratio.std() / np.sqrt(count)
    assert abs(ratio.mean() - factor) < spread < 0.05 * factor


def test_an_invalid_loss_skips_the_step() -> None:
    optimizer = MeZO(learning_rate=0.1)
    state = optimizer.init(jax.random.key(0), jnp.asarray(X0, jnp.float32))
    population = optimizer.ask(jax.random.key(1), state)
    for losses in ([1.0, jnp.nan], [-jnp.inf, 1.0], [3e38, -3e38]):
        found = judged(jnp.asarray(losses), population.active, ())
        new, info = optimizer.tell(state, population, found)
        np.testing.assert_array_equal(new.mean, state.mean)
        assert new.step == 1 and info.skipped and jnp.isnan(info.loss)
        assert info.projected_gradient == 0


def told(optimizer: Any, losses: Any, x0: Any = X0, seed: int = 1) -> Any:
    """Returns state, new state and info after one step with these losses."""
    state = optimizer.init(jax.random.key(0), jnp.asarray(x0, jnp.float32))
    population = optimizer.ask(jax.random.key(seed), state)
    found = judged(jnp.asarray(losses), population.active, ())
    return state, *optimizer.tell(state, population, found)


def test_spsa_has_the_gains_of_spall(x64: None) -> None:
    # Z9: a_0 = a / (A + 1)^0.602, c_0 = c; then beside the loop
    gains = {"a": 0.3, "c": 2.0**-8, "stability": 10.0, "alpha": 0.602, "gamma": 0.101}
    optimizer = SPSA(learning_rate=0.3, eps=2.0**-8, stability=10.0)
    assert optimizer.noise == SIGNS
    state, theta = optimizer.init(jax.random.key(0), jnp.asarray(X0)), X0
    for count in range(5):
        key = jax.random.key(count)
        population, evaluation, state, info = step(optimizer, key, state, quadratic)
        rate, eps = oracles.spsa_gains(count, **gains)
        if count == 0:
            assert (rate, eps) == (0.3 / 11**0.602, 2.0**-8)
        np.testing.assert_allclose(info.learning_rate, rate, rtol=1e-12)
        # a radius has 12 significant bits
        np.testing.assert_allclose(population.members.scale, eps, rtol=2.0**-12)
        z = np.asarray(optimizer.noise.sample(jnp.zeros(4), population.members.seed[0]))
        losses = tuple(map(float, evaluation.fitness))
        eps = float(population.members.scale[0])
        theta = oracles.mezo_step(theta, z.astype(float), losses, eps, rate)
        np.testing.assert_allclose(state.mean, theta, rtol=1e-9)


def test_fzoo_steps_as_its_oracle(x64: None) -> None:
    optimizer = FZOO(learning_rate=0.05, eps=2.0**-10, population_size=6)
    state, theta = optimizer.init(jax.random.key(0), jnp.asarray(X0)), X0
    for count in range(5):
        key = jax.random.key(count)
        population, evaluation, state, info = step(optimizer, key, state, quadratic)
        seeds = population.members.seed[1:]
        u = [np.asarray(SIGNS.sample(jnp.zeros(4), seed), float) for seed in seeds]
        losses = [float(quadratic(theta + 2.0**-10 * each)) for each in u]
        np.testing.assert_allclose(evaluation.fitness[1:], losses, rtol=1e-9)
        center = float(quadratic(theta))
        np.testing.assert_allclose(info.loss_std, np.std(losses, ddof=1), rtol=1e-6)
        slopes = np.abs(np.array(losses) - center) * 2.0**10
        np.testing.assert_allclose(info.median_slope, np.median(slopes), rtol=1e-6)
        np.testing.assert_allclose(info.largest_slope, slopes.max(), rtol=1e-6)
        theta = oracles.fzoo_step(theta, np.array(u), center, np.array(losses), 0.05)
        np.testing.assert_allclose(state.mean, theta, rtol=1e-7)


def test_fzoo_does_not_see_the_scale_of_the_objective(x64: None) -> None:
    # Z8: f -> a f + b with a > 0 changes nothing
    optimizer = FZOO(learning_rate=0.05)
    state = optimizer.init(jax.random.key(0), jnp.asarray(X0))
    key = jax.random.key(3)
    _, _, one, _ = step(optimizer, key, state, quadratic)
    _, _, other, _ = step(optimizer, key, state, lambda x: 300 * quadratic(x) - 7)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-5)
    assert np.all(one.mean != state.mean)


def test_fzoo_leaves_failures_out_and_skips_what_says_nothing() -> None:
    optimizer = FZOO(learning_rate=0.1, population_size=5)
    losses = [1.0, 1.5, jnp.nan, 0.5, jnp.inf]
    state, new, info = told(optimizer, losses)
    u = [
        np.asarray(SIGNS.sample(state.mean, seed))
        for seed in optimizer.ask(jax.random.key(1), state).members.seed[1:]
    ]
    kept = np.array([u[0], u[2]], float)
    expected = oracles.fzoo_step(X0, kept, 1.0, np.array([1.5, 0.5]), 0.1)
    np.testing.assert_allclose(new.mean, expected, rtol=1e-5)
    assert info.num_valid == 3 and not info.skipped
    np.testing.assert_allclose(info.median_slope, 500, rtol=1e-3)
    for losses in (
        [jnp.nan, 1.0, 2.0, 3.0, 4.0],  # not at the weights
        [1.0, 2.0, jnp.nan, jnp.nan, jnp.nan],  # one has no spread
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [1.0, 2.0, 2.0, 2.0, 2.0],
        [-3e38, 3e38, 1.0, 2.0, 3.0],  # the difference is too large a number
    ):
        _, new, info = told(optimizer, losses)
        np.testing.assert_array_equal(new.mean, state.mean)
        assert info.skipped and jnp.isnan(info.loss) and info.loss_std == 0


def test_several_pairs_are_averaged_and_a_failed_one_is_left_out() -> None:
    optimizer = MeZO(learning_rate=0.1, population_size=6)
    state, new, info = told(optimizer, [1.0, 0.5, 0.2, jnp.nan, 3.0, 4.0])
    seeds = optimizer.ask(jax.random.key(1), state).members.seed[::2]
    assert len(set(map(int, seeds))) == 3
    z = [np.asarray(GAUSSIAN.sample(state.mean, seed)) for seed in seeds]
    p = (
        np.array([0.25, -0.5])
        / optimizer.ask(jax.random.key(1), state).members.scale[0]
    )
    expected = X0 - 0.1 / 2 * (p[0] * z[0] + p[1] * z[2])
    np.testing.assert_allclose(new.mean, expected, rtol=1e-4)
    np.testing.assert_allclose(info.median_slope, np.abs(p).mean(), rtol=1e-5)
    np.testing.assert_allclose(info.largest_slope, np.abs(p).max(), rtol=1e-5)
    np.testing.assert_allclose(info.projected_gradient, p[0], rtol=1e-5)
    np.testing.assert_allclose(info.loss, (0.75 + 3.5) / 2, rtol=1e-6)
    assert not info.skipped and info.seed == seeds[0]


@pytest.mark.parametrize(
    ("kind", "transform"),
    [
        (MeZO, optax.sgd(0.01, 0.9)),
        (MeZO, optax.sign_sgd(0.01)),
        (MeZO, optax.amsgrad(0.02)),
        (FZOO, optax.lion(0.01)),
    ],
    ids=["momentum", "sign", "adamm", "lion"],
)
def test_any_transform_takes_the_estimate(kind: Any, transform: Any) -> None:
    optimizer = kind(transform=transform)
    x0 = {"w": jnp.ones((3, 2)), "b": jnp.zeros(3)}
    state = optimizer.init(jax.random.key(0), x0)
    key = jax.random.key(1)
    _, _, new, _ = step(optimizer, key, state, tree_quadratic)
    # the estimate is what a plain step of rate 1 takes away
    plain = kind(learning_rate=1.0)
    _, _, moved, _ = step(plain, key, plain.init(key, x0), tree_quadratic)
    gradient = jax.tree.map(jnp.subtract, x0, moved.mean)
    updates, _ = transform.update(gradient, state.transform, x0)
    expected = optax.apply_updates(x0, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        new.mean,
        expected,
    )
    _, skipped, _ = told(optimizer, [jnp.nan] * optimizer.population_size)
    np.testing.assert_array_equal(skipped.mean, jnp.asarray(X0, jnp.float32))


def tree_quadratic(x: Any) -> jax.Array:
    """A quadratic over two leaves."""
    return jnp.sum((x["w"] - 0.3) ** 2) + jnp.sum((x["b"] - 0.1) ** 2)


def test_directions_of_low_rank() -> None:
    optimizer = MeZO(learning_rate=1.0, noise=gfopt.low_rank(1, kind="rademacher"))
    x0 = {"w": jnp.zeros((8, 6)), "b": jnp.zeros(3)}
    state = optimizer.init(jax.random.key(0), x0)
    _, _, new, info = step(optimizer, jax.random.key(1), state, tree_quadratic)
    assert np.linalg.matrix_rank(new.mean["w"]) == 1 and not info.skipped
    assert np.all(new.mean["b"] != 0)


# -- narrow weights


def narrow_loss(x: Any) -> jax.Array:
    """A quadratic of narrow numbers, computed in float32."""
    wide = x.astype(jnp.float32)
    return jnp.sum((wide - 0.05) ** 2)


@pytest.mark.parametrize("kind", [MeZO, FZOO, SPSA])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_rate_0_leaves_every_bit_of_narrow_weights(kind: Any, dtype: Any) -> None:
    optimizer = kind(learning_rate=0.0, eps=0.01, rounding="stochastic")
    x0 = jnp.linspace(-3, 3, 5000).astype(dtype).at[:2].set(-0.0)
    key = jax.random.key(0)
    result = gfopt.run(optimizer, narrow_loss, x0, key=key, generations=100)
    assert np.asarray(result.recommended).tobytes() == np.asarray(x0).tobytes()
    assert not np.any(result.history["skipped"])


@pytest.mark.parametrize(
    ("dtype", "rate"), [(jnp.bfloat16, 2e-5), (jnp.float16, 2e-6)], ids=["bf16", "f16"]
)
def test_narrow_weights_learn_by_stochastic_rounding(dtype: Any, rate: float) -> None:
    # a step is below half the spacing of the weights
    x0, found = jnp.full(300, 0.499, dtype), {}
    for name, start, how in (
        ("wide", x0.astype(jnp.float32), "nearest"),
        ("nearest", x0, "nearest"),
        ("stochastic", x0, "stochastic"),
    ):
        method = MeZO(learning_rate=rate, eps=1e-2, noise=SIGNS, rounding=how)
        key = jax.random.key(0)
        result = gfopt.run(method, narrow_loss, start, key=key, generations=600)
        found[name] = 1 - float(narrow_loss(result.recommended) / narrow_loss(start))
    assert found["wide"] > 1e-3
    assert abs(found["stochastic"] / found["wide"] - 1) < 0.3
    assert found["nearest"] < 0.2 * found["wide"]


def test_rounding_is_refused_where_it_does_nothing() -> None:
    for options in ({"transform": optax.adam(0.1)}, {"noise": gfopt.low_rank()}):
        with pytest.raises(ValueError, match="^rounding must be 'nearest'"):
            MeZO(rounding="stochastic", **options)
    with pytest.raises(ValueError, match="rounding.*did you mean 'stochastic'"):
        MeZO(rounding="stochastics")
