"""Noise handling: what is repeated, what is told, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import cheap_jit

import gfopt
from gfopt.core.evaluate import decode_rows, judged
from gfopt.optimizers.wrappers.rank_agreement import rank_agreement
from gfopt.research.statistics import bootstrap_interval

X0 = jnp.full(5, 2.0)
KEY = jax.random.key(0)
Noise = Callable[[jax.Array, jax.Array], jax.Array]


def sphere(x: jax.Array) -> jax.Array:
    return jnp.sum(x**2, axis=-1)


def exact(value: jax.Array, key: jax.Array) -> jax.Array:
    return value


def additive(value: jax.Array, key: jax.Array) -> jax.Array:
    return value + jax.random.normal(key, value.shape)


def multiplicative(value: jax.Array, key: jax.Array) -> jax.Array:
    return value * jnp.exp(jax.random.normal(key, value.shape))


@partial(cheap_jit, static_argnames=("noise", "budget"))
def outcome(method: Any, keys: jax.Array, noise: Noise, budget: int) -> Any:
    """Returns the true values of the recommended points after so many evaluations."""

    def one(key: jax.Array) -> Any:
        def turn(loop: Any) -> Any:
            state, num_evaluations, effort = loop
            ask, evaluate = jax.random.split(jax.random.fold_in(key, state.step))
            population = method.ask(ask, state)
            x = decode_rows(method, state, population.members)
            evaluation = judged(noise(sphere(x), evaluate), population.active, ())
            state, info = method.tell(state, population, evaluation)
            effort = getattr(info, "effort", effort)
            return state, num_evaluations + jnp.sum(population.active), effort

        first = (method.init(key, X0), jnp.int32(0), jnp.float32(1))
        state, _, effort = jax.lax.while_loop(lambda s: s[1] < budget, turn, first)
        return sphere(method.recommend(state)), effort

    return jax.lax.map(one, keys)


def gain(plain: Any, noise: Noise, budget: int, runs: int = 24) -> Any:
    """Returns the decades by which noise handling is nearer, with their interval."""
    wrapped = gfopt.Reevaluated(plain, grows=isinstance(plain, gfopt.CMAES))
    keys = jax.random.split(KEY, runs)
    found = [outcome(m, keys, noise, budget)[0] for m in (plain, wrapped)]
    decades = np.log10(np.maximum(found, 1e-6))  # nearer than that is there
    return bootstrap_interval(decades[0] - decades[1], np.mean, seed=1)


@pytest.mark.parametrize("noise", [additive, multiplicative])
def test_it_comes_nearer_for_the_same_evaluations(noise):
    assert gain(gfopt.CMAES(sigma=1.0), noise, 3000).low > 0


def test_means_of_repeated_values_help_a_method_that_does_not_grow():
    assert gain(gfopt.CrossEntropy(16), additive, 3000).low > 0


def test_without_noise_it_costs_little():
    keys = jax.random.split(KEY, 24)
    plain = gfopt.CMAES(sigma=1.0)
    alone, _ = outcome(plain, keys, exact, 600)
    wrapped = gfopt.Reevaluated(plain, grows=True)
    within, effort = outcome(wrapped, keys, exact, 690)
    assert (effort == 1).all()
    # 15 % more evaluations, and as near
    assert np.mean(np.log10(within)) < np.mean(np.log10(alone)) + 0.3


def ranks_of(values: list[float]) -> np.ndarray:
    """Ranks from 0, ties at their mean, by counting."""
    return np.array(
        [sum(w < v for w in values) + (values.count(v) - 1) / 2 for v in values]
    )


def test_agreement_is_the_scaled_change_of_ranks():
    first, second = [3.0, 1.0, 2.0, 5.0], [2.5, 1.0, 7.0, np.nan]
    ranks = ranks_of(first + second[:3])
    changes = [max(abs(ranks[i] - ranks[4 + i]) - 1, 0) for i in range(3)]
    expected = 1 - 3 / (7 - 2) * sum(changes) / 3
    found, is_known = rank_agreement(jnp.array(first), jnp.array(second))
    assert is_known and float(found) == pytest.approx(expected)


def test_agreement_is_zero_on_average_for_nothing_but_noise():
    values = jax.random.normal(KEY, (2, 4000, 10))
    found = jax.vmap(rank_agreement)(*values)[0]
    assert abs(float(found.mean())) < 4 * float(found.std()) / np.sqrt(4000)


@pytest.mark.parametrize("second", [[np.nan] * 3, [2.0, 2.0, 2.0]])
def test_agreement_of_nothing_and_of_a_plateau(second):
    found, is_known = rank_agreement(jnp.full(3, 2.0), jnp.array(second))
    assert float(found) == 1 and bool(is_known) == np.isfinite(second[0])


@cheap_jit
def asked(method: Any, state: Any) -> Any:
    return method.ask(KEY, state)


@cheap_jit
def told(method: Any, state: Any, population: Any, values: jax.Array) -> Any:
    return method.tell(state, population, judged(values, population.active, ()))


def at(method: Any, agreement: float) -> Any:
    """Returns the method's state where the agreement is this."""
    state = cheap_jit(type(method).init)(method, KEY, X0)
    return state._replace(step=jnp.int32(7), agreement=jnp.float32(agreement))


@pytest.mark.parametrize(
    "agreement, count, rows",
    [(1.0, 8, 8), (0.89, 8, 10), (0.3, 32, 36), (0.0, 128, 144)],
)
def test_growth(agreement, count, rows):
    method = gfopt.Reevaluated(gfopt.CMAES(), grows=True)
    population = asked(method, at(method, agreement))
    assert int(population.active.sum()) == rows and population.active[:rows].all()
    candidates = np.asarray(population.members.candidate[:rows])
    assert candidates.tolist() == [*range(count), *range(rows - count)]


@pytest.mark.parametrize("agreement, rows", [(1.0, 8), (0.5, 10), (0.3, 24), (0, 128)])
def test_repeats_and_their_means(agreement, rows):
    method = gfopt.Reevaluated(gfopt.CMAES())
    state = at(method, agreement)
    population = asked(method, state)
    assert int(population.active.sum()) == rows
    values = jax.random.normal(KEY, population.active.shape)
    found, _ = told(method, state, population, values)
    means = [values[:rows][row::8].mean() for row in range(8)]
    population = asked(method.inner, state.inner)
    expected, _ = told(method.inner, state.inner, population, jnp.array(means))
    np.testing.assert_allclose(found.inner.mean, expected.mean, rtol=1e-5, atol=1e-6)


def test_a_failed_value_is_left_out_of_the_mean():
    method = gfopt.Reevaluated(gfopt.CrossEntropy(4))
    state = at(method, 0.3)
    population = asked(method, state)
    values = jnp.where(jnp.arange(64) % 4 == 3, jnp.nan, 1.0 + jnp.arange(64) % 4)
    values = values.at[0].set(jnp.inf)  # its other values are there
    found, info = told(method, state, population, values)
    population = asked(method.inner, state.inner)
    means = jnp.array([1.0, 2.0, 3.0, jnp.nan])
    expected, _ = told(method.inner, state.inner, population, means)
    np.testing.assert_allclose(found.inner.mean, expected.mean)
    assert float(info.agreement) > 0.3


MIXED = gfopt.spaces.Space(
    np.full(5, -5.0), np.full(5, 5.0), np.ones(5), integer=np.arange(5) == 0
)


@pytest.mark.parametrize(
    "inner",
    [
        gfopt.CMAES(),
        gfopt.Bounded(gfopt.Margin(gfopt.CMAES(), MIXED), MIXED),
        gfopt.Bounded(gfopt.LQCMAES(), MIXED),
    ],
    ids=["alone", "with integers", "with a model"],
)
def test_sigma_is_raised_where_nothing_agrees(inner):
    method = gfopt.Reevaluated(inner)
    sigma = {}
    for agreement in (0.0, 0.9):
        state = at(method, agreement)
        population = asked(method, state)
        failed = jnp.full(population.active.shape, jnp.nan)
        state = told(method, state, population, failed)[0].inner
        state = getattr(state, "inner", state)  # of the margin
        sigma[agreement] = float(getattr(state, "cma", state).sigma)
    assert sigma[0.9] == pytest.approx(0.3)
    assert sigma[0.0] == pytest.approx(0.3 * np.exp(0.3 * 0.3))


@pytest.mark.parametrize("name", ["nelder_mead", "one_plus_one", "lq_cma_es"])
def test_noise_is_noticed_where_a_step_is_a_single_candidate(name):
    """A step of one candidate has no ranks to compare.

    Nelder-Mead drew its simplex into one point; (1+1)-ES took all values to be exact;
    CMA-ES with a model never moved its mean.
    """
    method = gfopt.Reevaluated(gfopt.method(name, {"sigma": 0.5}))
    noisy = gfopt.Objective(
        lambda key, x: jnp.sum((x - 1) ** 2) + jax.random.normal(key), takes_key=True
    )

    @cheap_jit
    @jax.vmap
    def study(key: jax.Array) -> Any:
        found = gfopt.run(method, noisy, jnp.full(2, 3.0), key=key, generations=200)
        size = found.state.inner
        size = size.simplex.std(axis=0) if name == "nelder_mead" else jnp.ones(1)
        return found.recommended, found.state.agreement, jnp.max(size)

    x, agreement, size = study(jax.random.split(KEY, 8))
    assert np.median(agreement) < 0.4 and np.min(size) > 1e-3
    assert np.median(np.linalg.norm(x - 1, axis=1)) < 1.0  # from 2.8


def test_rows_that_are_not_asked_for_stay_out():
    method = gfopt.Reevaluated(gfopt.NelderMead())
    state = at(method, 0.0)
    for expected in (6 * 16, 16):  # a simplex, then a point
        population = asked(method, state)
        assert int(population.active.sum()) == expected
        values = sphere(decode_rows(method, state, population.members))
        state = state._replace(agreement=jnp.float32(1))  # drowned, it would start anew
        state, _ = told(method, state, population, values)
        state = state._replace(agreement=jnp.float32(0))


@pytest.mark.parametrize("grows", [False, True])
def test_a_batch_of_runs_equals_a_loop(grows):
    method = gfopt.Reevaluated(gfopt.CrossEntropy(8), max_effort=4, grows=grows)
    objective = gfopt.Objective(lambda key, x: additive(sphere(x), key), takes_key=True)

    def one(key: jax.Array) -> Any:
        run = gfopt.run(method, objective, X0, key=key, generations=12)
        return run.recommended, run.history["nfev"], run.history["effort"]

    keys = jax.random.split(KEY, 3)
    batch, loop = cheap_jit(jax.vmap(one))(keys), jax.lax.map(one, keys)
    for a, b in zip(batch, loop, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert batch[2].max() > 1


@pytest.mark.parametrize(
    "words, name",
    [({"inner": 1}, "inner"), ({"max_effort": 1}, "max_effort"), ({"grows": 1}, "gro")],
)
def test_wrong_arguments(words, name):
    with pytest.raises((TypeError, ValueError), match=name):
        gfopt.Reevaluated(**{"inner": gfopt.CMAES()} | words)
