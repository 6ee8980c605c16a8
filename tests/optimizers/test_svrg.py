"""SVRG beside its oracle, and past the noise of mini-batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import gfopt
from gfopt.core.evaluate import judged
from gfopt.lazy import lazy

ROWS, SIZE, BATCH = 64, 6, 4
KEYS = jax.random.split(jax.random.key(0), 3)
X = jax.random.normal(KEYS[0], (ROWS, SIZE))
Y = X @ jnp.arange(1.0, SIZE + 1) + jax.random.normal(KEYS[1], (ROWS,))
PERIOD, ANCHOR = 64, ROWS // BATCH


def loss(theta: Any, rows: Any) -> Any:
    """Least squares: no theta fits all rows."""
    return jnp.mean((X[rows] @ theta - Y[rows]) ** 2) / 2


def batches(step: Any, key: Any) -> Any:
    """The parts of the data in turn for the anchor, random rows after it."""
    part = BATCH * (step % PERIOD) + jnp.arange(BATCH)
    random = jax.random.choice(key, ROWS, (BATCH,))
    return jnp.where(step % PERIOD < ANCHOR, part, random)


@pytest.mark.parametrize("noise", [gfopt.gaussian(), gfopt.rademacher()])
def test_periods_are_those_of_its_oracle(noise: gfopt.noise.Noise) -> None:
    rate, eps, period, num_anchor, num = 0.02, 2.0**-6, 7, 3, 2
    method = gfopt.SVRG(
        rate,
        eps,
        num_directions=num,
        period=period,
        anchor_batches=num_anchor,
        noise=noise,
    )
    with jax.enable_x64(True):
        theta = np.linspace(-1, 1, SIZE)
        state = method.init(jax.random.key(0), jnp.asarray(theta))
        ask, tell = jax.jit(method.ask), jax.jit(method.tell)
        decode = jax.jit(lambda *given: lazy.materialise(method.decode(*given)))
        drawn = np.random.default_rng(0)
        for _ in range(2):
            rows, orders = [], []
            for turn in range(period):
                population = ask(jax.random.key(int(state.step)), state)
                rows.append(drawn.integers(0, ROWS, BATCH))
                members = population.members
                if turn == 0:
                    seeds = members.seed[::2]
                    pool = [np.asarray(noise.sample(state.mean, s)) for s in seeds]
                if turn >= num_anchor:
                    orders.append(np.asarray(members.place[: 2 * num : 2]))
                fitness = [
                    loss(
                        decode(state, jax.tree.map(lambda a, i=i: a[i], members)),
                        rows[-1],
                    )
                    for i in range(method.population_size)
                ]
                found = judged(jnp.asarray(fitness), population.active, ())
                before = state
                state, info = tell(state, population, found)
                assert not info.skipped
                if turn < num_anchor:
                    assert info.learning_rate == 0
                    np.testing.assert_array_equal(state.mean, before.mean)
            assert len({tuple(order) for order in orders}) == 2  # halves take turns
            theta = oracles.svrg_steps(
                theta,
                lambda x, rows: float(loss(x, rows)),
                rows,
                np.asarray(pool, float),
                orders,
                eps,
                rate,
            )
            np.testing.assert_allclose(state.mean, theta, rtol=1e-7)


def test_gets_past_the_noise_of_its_batches() -> None:
    """At equal forward passes, and each with its best rate, where MeZO stops."""
    best = loss(jnp.linalg.lstsq(X, Y)[0], jnp.arange(ROWS))

    def excess(make: Any, generations: int) -> float:
        def one(rate: Any, key: Any) -> Any:
            run = gfopt.run(
                make(rate),
                loss,
                jnp.zeros(SIZE),
                key=key,
                generations=generations,
                batches=batches,
            )
            return loss(run.recommended, jnp.arange(ROWS)) - best

        rates = jnp.geomspace(3e-3, 0.1, 4)
        each = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
        found = jax.jit(each)(rates, jax.random.split(KEYS[2], 4))
        return float(np.nanmin(np.asarray(found).mean(axis=1)))

    plain = excess(lambda rate: gfopt.MeZO(rate, noise=gfopt.rademacher()), 16_000)
    corrected = excess(
        lambda rate: gfopt.SVRG(rate, period=PERIOD, anchor_batches=ANCHOR), 4_000
    )
    assert abs(corrected) < 1e-3 * plain


def test_a_step_that_fails_is_lost() -> None:
    method = gfopt.SVRG(0.01, num_directions=1, period=6, anchor_batches=1)
    state = method.init(jax.random.key(0), jnp.ones(SIZE))
    wholly, partly = jnp.full(4, jnp.nan), jnp.array([1.0, 0.0, 2.0, jnp.nan])
    good, moves, anchors = jnp.array([1.0, 0.5, 0.25, 0.5]), [], []
    tell, told = jax.jit(method.tell), [wholly, partly, wholly, partly, good, good]
    for count, fitness in enumerate([*told, wholly, good, good]):
        population = method.ask(jax.random.key(count), state)
        old, found = state, judged(fitness, population.active, ())
        state, info = tell(state, population, found)
        moves.append(bool(jnp.any(state.mean != old.mean)))
        anchors.append(int(state.measured))
    # the second step takes the anchor, of which one direction is measured: in every
    # second step there is one to move along; the next period begins late as well
    assert moves == [False, False, False, False, True, False, False, False, True]
    assert anchors == [-1, 1, 1, 1, 1, 1, 1, 7, 7]


def test_a_failure_does_not_keep_it_from_converging() -> None:
    # the anchor goes on seeing the parts of the data that its steps stand for
    fails = jnp.array([0, 30, 70, PERIOD])

    def with_failures(theta: Any, batch: Any) -> Any:
        step, rows = batch
        return jnp.where(jnp.any(step == fails), jnp.nan, loss(theta, rows))

    run = gfopt.run(
        gfopt.SVRG(0.02, period=PERIOD, anchor_batches=ANCHOR),
        with_failures,
        jnp.zeros(SIZE),
        key=KEYS[2],
        generations=4000,
        batches=lambda step, key: (step, batches(step, key)),
    )
    assert int(run.history["skipped"].sum()) == 4
    best = jnp.linalg.lstsq(X, Y)[0]
    np.testing.assert_allclose(run.recommended, best, atol=1e-3)


def test_stochastic_rounding_draws_anew_in_each_step() -> None:
    """A direction comes back many times in a period; its errors must not add up."""
    slope = jax.random.normal(KEYS[1], (2000,))

    def moved(dtype: Any, rounding: str) -> Any:
        method = gfopt.SVRG(
            1e-5, 0.05, num_directions=1, period=65, anchor_batches=1, rounding=rounding
        )
        run = gfopt.run(
            method,
            lambda w: jnp.sum(slope * w.astype(jnp.float32)),
            jnp.full(2000, 0.5, dtype),
            key=KEYS[2],
            generations=65,
        )
        return run.recommended.astype(jnp.float32) - 0.5

    wanted = moved(jnp.float32, "nearest")
    found = moved(jnp.bfloat16, "stochastic")
    error = jnp.sqrt(jnp.mean((found - wanted) ** 2))
    assert error < jnp.sqrt(jnp.mean(wanted**2))


def test_refuses_what_it_cannot_do(tmp_path: Any) -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"num_directions must be .*got {wrong}"):
            gfopt.SVRG(num_directions=wrong)
    with pytest.raises(ValueError, match="anchor_batches must be .*below period"):
        gfopt.SVRG(period=8, anchor_batches=8)
    with pytest.raises(ValueError, match="one direction a step"):
        gfopt.minimize(
            lambda x: jnp.sum(x**2),
            jnp.ones(3),
            method="svrg",
            budget=10,
            log=tmp_path / "run.log",
        )
