"""Rollouts, the environments of our own, and normalised observations."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.evaluate import Request
from gfopt.core.objective import Inputs
from gfopt.driver.step import step_keys
from gfopt.problems import (
    CartPole,
    GymnasiumRollout,
    Pendulum,
    Rollout,
    brax,
    continuous_action,
    discrete_action,
    gymnax,
    mlp,
)
from gfopt.problems.environments import normalisation

KEY = jax.random.key(0)
RANDOM_SEARCH = gfopt.RandomSearch(population_size=6, sigma=0.3)


@dataclasses.dataclass(frozen=True)
class Countdown:
    """Ends after a number of steps and begins again by itself; a reward is 1."""

    def reset(self, key):
        left = jax.random.randint(key, (), 1, 9)
        return (left, key), jnp.array([left], jnp.float32)

    def step(self, key, state, action):
        left = state[0] - 1
        done = left == 0
        left = jnp.where(done, 5, left)
        return (left, key), jnp.array([left], jnp.float32), 1.0, done


def linear(parameters, observation):
    return jnp.tanh(observation @ parameters)


def first(parameters, observation):
    return parameters[0] + 0 * observation[0]


def test_an_episode_ends_with_done_though_the_environment_goes_on():
    task = Rollout(Countdown(), first, num_episodes=5, max_steps=7, normalise=True)
    keys = task.episodes(0, KEY)
    lengths = [
        min(7, int(Countdown().reset(jax.random.fold_in(key, 0))[0][0])) for key in keys
    ]
    assert len(set(lengths)) > 1
    value, aux = jax.jit(task)(KEY, jnp.zeros(1), context=task.first_context())
    assert value == pytest.approx(np.mean(lengths))
    assert aux.num_steps == sum(lengths)
    # what is shown after the last step is not acted on, and not counted
    seen = np.concatenate([np.arange(8, 0, -1)[8 - n :] for n in lengths if n < 7])
    assert aux.observations.num_observations == sum(lengths)
    if all(n < 7 for n in lengths):
        assert aux.observations.mean[0] == pytest.approx(seen.mean())


def test_an_environment_need_not_be_a_pytree():
    """It is then a part of the program; its state may hold a key."""
    task = Rollout(Countdown(), first, max_steps=7)
    run = gfopt.run(
        RANDOM_SEARCH, task.objective(), jnp.zeros(1), key=KEY, generations=1
    )
    assert 1 < run.history["fitness"][0] <= 7 and run.context is None


def test_cart_pole_rollout_against_a_loop():
    network = mlp(jax.random.key(3), (4, 5, 2))
    task = Rollout(CartPole(), discrete_action, num_episodes=3, max_steps=60)
    keys = jax.random.split(jax.random.key(1), 3)
    found = task.returns(jax.random.key(1), network, 3)
    plain = jax.tree.map(np.asarray, network)
    for key, value in zip(keys, found, strict=True):
        state, observation = CartPole().reset(jax.random.fold_in(key, 0))
        total, done = 0.0, False
        while not done and total < 60:
            action = int(discrete_action(plain, np.asarray(observation)))
            state, observation, reward, done = CartPole().step(key, state, action)
            total += float(reward)
        assert value == total


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_dynamics_against_gymnasium(name):
    gymnasium = pytest.importorskip(
        "gymnasium", reason="pip install 'gfopt[gymnasium]'"
    )
    theirs = gymnasium.make(name).unwrapped
    ours = CartPole() if name == "CartPole-v1" else Pendulum()
    step = jax.jit(ours.step)
    draw = np.random.default_rng(0)
    for episode in range(5):
        theirs.reset(seed=episode)
        state = jnp.asarray(theirs.state, jnp.float32)
        for _ in range(40):
            theirs.state = np.asarray(state, np.float64)  # errors do not add up
            if name == "CartPole-v1":
                action = given = int(draw.integers(2))
            else:
                given = draw.uniform(-1, 1)
                action = np.array([2 * given])
            expected = theirs.step(action)[:3]
            state, *found = step(KEY, state, given)
            for ours_now, theirs_now in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours_now, theirs_now, atol=2e-5)
            if expected[2]:
                break
    assert name != "CartPole-v1" or expected[2]


def test_starts_are_where_the_docstrings_say():
    keys = jax.random.split(KEY, 500)
    state, observation = jax.vmap(CartPole().reset)(keys)
    assert 0.045 < jnp.abs(state).max() <= 0.05 and (state == observation).all()
    state, observation = jax.vmap(Pendulum().reset)(keys)
    assert jnp.abs(state[:, 0]).max() > 3 and jnp.abs(state[:, 1]).max() <= 1
    np.testing.assert_allclose(observation[:, 0], jnp.cos(state[:, 0]))


def test_numbers_of_an_environment_may_be_traced():
    def value(gravity):
        task = Rollout(Pendulum(gravity=gravity), linear, max_steps=20)
        return task(KEY, jnp.ones(3))[0]

    gravities = jnp.array([1.0, 5.0, 10.0])
    found = jax.vmap(value)(gravities)
    np.testing.assert_allclose(found, [value(g) for g in gravities], rtol=1e-5)
    assert len(set(found.tolist())) == 3


def test_common_episodes_and_fresh_ones():
    task = Rollout(Pendulum(), linear, max_steps=10)
    still = gfopt.RandomSearch(population_size=6, sigma=1e-12)

    def evaluation(inputs):
        state = still.init(KEY, jnp.ones(3))
        population = still.ask(KEY, state)
        return gfopt.vmapped()(
            Request(KEY, task.objective(), still, state, population, inputs)
        )

    common = evaluation(Inputs(batch=task.episodes(0, KEY))).fitness
    fresh = evaluation(Inputs()).fitness
    assert np.ptp(common) < 1e-3 * np.ptp(fresh)
    runs = [
        gfopt.run(
            still,
            task.objective(),
            jnp.ones(3),
            key=KEY,
            generations=4,
            batches=task.episodes,
        ).history["fitness"]
        for _ in range(2)
    ]
    assert (runs[0] == runs[1]).all()
    assert len(set(runs[0].tolist())) == 4  # other episodes in every generation


# --- normalised observations -------------------------------------------------


def welford(rows):
    """Welford's recursion, one row at a time."""
    count, mean, deviations = 0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    for row in rows:
        count += 1
        away = row - mean
        mean = mean + away / count
        deviations = deviations + away * (row - mean)
    return count, mean, deviations


def test_moments_against_a_loop():
    draw = np.random.default_rng(0)
    rows = (1000 + draw.normal(size=(60, 3)) * [1, 0.1, 30]).astype(np.float32)
    count, mean, deviations = welford(rows.astype(np.float64))
    moments = normalisation.no_moments((3,))
    for row in rows:
        moments = normalisation.with_observation(moments, row)
    parts = []
    for part in np.split(rows, [5, 30]):
        one = normalisation.no_moments((3,))
        for row in part:
            one = normalisation.with_observation(one, row)
        parts.append(one)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, parts[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts, broken)
    keep = jnp.array([True, True, True, False])
    for found in (moments, normalisation.joined(stacked, keep)):
        assert found.num_observations == count
        np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(found.deviations, deviations, rtol=2e-3)
    nothing = normalisation.joined(stacked, keep & False)
    assert nothing.num_observations == 0 and (nothing.deviations == 0).all()


def test_normalised_is_clipped_and_starts_as_the_identity():
    prior = normalisation.prior_moments((2,))
    np.testing.assert_allclose(
        normalisation.normalised(jnp.array([0.5, -9.0]), prior), [0.5, -5.0]
    )
    known = normalisation.Moments(np.float32(4), np.ones(2), np.array([16.0, 0.0]))
    shown = normalisation.normalised(np.array([5.0, 1.2]), known)
    # the second has no variance so far: the floor of its deviation is 0.1
    np.testing.assert_allclose(shown, [2.0, 2.0])
    assert isinstance(shown, np.ndarray)


def observed(parameters, episodes, context, steps):
    """The observations of some episodes, in a loop of NumPy's normalisation."""
    rows = []
    std = np.sqrt(np.maximum(context[2] / context[0], 1e-2))
    for key in episodes:
        state, observation = Pendulum().reset(jax.random.fold_in(key, 0))
        for _ in range(steps):
            rows.append(np.asarray(observation, np.float64))
            shown = np.clip((rows[-1] - context[1]) / std, -5, 5)
            action = np.tanh(shown @ np.asarray(parameters))
            state, observation, _, _ = Pendulum().step(key, state, action)
    return np.stack(rows)


def test_context_of_a_run_against_a_loop():
    task = Rollout(Pendulum(), linear, num_episodes=2, max_steps=3, normalise=True)
    method, x0 = RANDOM_SEARCH, jnp.zeros(3)
    run = gfopt.run(method, task.objective(), x0, key=KEY, generations=2)
    init_key, run_key = jax.random.split(KEY)
    state = method.init(init_key, x0)
    context = 1e-2, np.zeros(3), np.full(3, 1e-2)
    rows = []
    for step in range(2):
        keys = step_keys(run_key, jnp.int32(step))
        population = method.ask(keys.ask, state)
        for row in range(6):
            member = jax.tree.map(lambda leaf, row=row: leaf[row], population.members)
            key = jax.random.fold_in(keys.evaluate, row)
            solution = method.decode(state, member)
            rows.append(observed(solution, task.episodes(0, key), context, 3))
        evaluation = gfopt.Evaluation(
            -jnp.arange(6.0), jnp.ones(6, bool), ()
        )  # the mean of the random search stays, whatever it is told
        state, _ = method.tell(state, population, evaluation)
        seen = np.concatenate(rows)
        mean = seen.sum(axis=0) / (len(seen) + 1e-2)
        spread = (seen**2).sum(axis=0) + 1e-2 - (len(seen) + 1e-2) * mean**2
        context = len(seen) + 1e-2, mean, spread
    for found, expected in zip(run.context, context, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "evaluator",
    [gfopt.chunked(1), gfopt.chunked(4), gfopt.sharded(inner=gfopt.chunked(2))],
    ids=str,
)
def test_context_is_the_same_however_it_is_evaluated(evaluator):
    task = Rollout(Pendulum(), linear, num_episodes=2, max_steps=4, normalise=True)
    settings = dict(key=KEY, generations=3)
    x0 = jnp.zeros(3)
    plain = gfopt.run(RANDOM_SEARCH, task.objective(), x0, **settings).context
    other = gfopt.run(
        RANDOM_SEARCH, task.objective(), x0, evaluator=evaluator, **settings
    ).context
    assert plain.num_observations == pytest.approx(3 * 6 * 2 * 4 + 0.01)
    for found, expected in zip(other, plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_minimize_returns_the_context_that_evaluation_needs():
    task = Rollout(Pendulum(), linear, max_steps=5, normalise=True)
    # the start, whose observations the context does not count, and 18 members
    settings = dict(method=RANDOM_SEARCH, budget=19, seed=1, batches=task.episodes)
    result = gfopt.minimize(task.objective(), np.zeros(3), **settings)  # in float64
    assert result.path == "compiled" and result.x.dtype == np.float64
    assert result.context.num_observations == pytest.approx(18 * 5 + 0.01)
    again = gfopt.minimize(task.objective(), np.zeros(3), **settings)
    assert (again.context.mean == result.context.mean).all()
    x = result.recommended
    values = task.returns(KEY, x, 7, result.context)
    assert values.shape == (7,) and values.dtype == jnp.float32
    assert (task.returns(KEY, x, 7, result.context) == values).all()  # frozen
    moved = result.context._replace(mean=result.context.mean + 1)
    assert (task.returns(KEY, x + 1, 7, moved) != values).any()
    with pytest.raises(ValueError, match=r"context must be .*result\.context"):
        task.returns(KEY, x)


def test_a_failed_member_leaves_the_moments_alone():
    def policy(parameters, observation):
        return jnp.where(parameters[0] > 0, jnp.nan, 0.0) + 0 * observation[0]

    task = Rollout(Pendulum(), policy, max_steps=4, normalise=True)
    run = gfopt.run(
        RANDOM_SEARCH, task.objective(), jnp.zeros(3), key=KEY, generations=1
    )
    valid = int(run.history["num_valid"][0])
    assert 0 < valid < 6
    assert run.context.num_observations == pytest.approx(4 * valid + 0.01)
    assert np.isfinite(run.context.mean).all()


# --- policies ----------------------------------------------------------------


def test_policies_are_the_same_in_numpy():
    network = mlp(KEY, (3, 4, 2))
    plain = jax.tree.map(np.asarray, network)
    observation = np.array([0.3, -2.0, 1.0], np.float32)
    action = continuous_action(plain, observation)
    assert isinstance(action, np.ndarray) and np.abs(action).max() < 1
    np.testing.assert_allclose(
        action, continuous_action(network, jnp.asarray(observation)), rtol=1e-5
    )
    h = np.tanh(observation @ plain[0]["w"] + plain[0]["b"])
    outputs = h @ plain[1]["w"] + plain[1]["b"]
    np.testing.assert_allclose(action, np.tanh(outputs), rtol=1e-5)
    assert discrete_action(plain, observation) == np.argmax(outputs)


# --- other libraries ---------------------------------------------------------


def test_gymnasium_on_the_host():
    pytest.importorskip("gymnasium", reason="pip install 'gfopt[gymnasium]'")
    task = GymnasiumRollout(
        "CartPole-v1", discrete_action, num_episodes=2, max_steps=30, normalise=True
    )
    lengths = []

    def counted(*args, **words):
        value, aux = task(*args, **words)
        lengths.append(int(aux.num_steps))
        return value, aux

    objective = dataclasses.replace(task.objective(), fun=counted)
    network = mlp(KEY, (4, 2))
    settings = dict(method=RANDOM_SEARCH, seed=2, batches=task.episodes)
    result = gfopt.minimize(objective, network, budget=13, **settings)
    assert result.path == "host" and result.nfev == 13 and not result.failures
    total = sum(lengths[1:])  # the start comes first, and is not counted
    assert result.context.num_observations == pytest.approx(total + 0.01)
    values = task.returns([1, 2, 3], result.recommended, result.context)
    assert (task.returns([1, 2, 3], result.recommended, result.context) == values).all()
    assert len(set(values)) > 1 or (values == 30).all()
    two = [task(np.array([1, 2], np.uint32), network)[0] for _ in range(2)]
    assert two[0] == two[1]


def test_gymnasium_in_processes_is_the_same():
    pytest.importorskip("gymnasium", reason="pip install 'gfopt[gymnasium]'")
    task = GymnasiumRollout("CartPole-v1", discrete_action, normalise=True)
    network = mlp(KEY, (4, 2))
    here, there = (
        gfopt.minimize(
            task.objective(),
            network,
            method=RANDOM_SEARCH,
            budget=12,
            seed=2,
            workers=workers,
        )
        for workers in (1, 2)
    )
    assert here.fun == there.fun
    for found, expected in zip(there.context, here.context, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_gymnax_has_the_same_cart_pole():
    pytest.importorskip("gymnax", reason="pip install 'gfopt[gymnax]'")
    environment, ours = gymnax("CartPole-v1"), CartPole()
    theirs, observation = environment.reset(KEY)
    state = observation
    for action in (0, 1, 1):
        theirs, observation, reward, done = environment.step(KEY, theirs, action)
        state, expected, _, _ = ours.step(KEY, state, action)
        np.testing.assert_allclose(observation, expected, rtol=1e-4, atol=1e-6)
        assert reward == 1 and not done
    task = Rollout(environment, discrete_action, max_steps=100)
    network = jax.tree.map(jnp.zeros_like, mlp(KEY, (4, 2)))  # always to the left
    values = task.returns(KEY, network, 8)
    assert ((values > 6) & (values < 12)).all()


@pytest.mark.parametrize(
    ("make", "missing", "line"),
    [
        (lambda: gymnax("CartPole-v1"), "gymnax", "gfopt[gymnax]"),
        (lambda: brax("hopper"), "brax", "gfopt[brax]"),
        (
            lambda: GymnasiumRollout("Nothing-v0", first)(
                np.zeros(2, np.uint32), np.zeros(1)
            ),
            "gymnasium",
            "gfopt[gymnasium]",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_install_line(
    monkeypatch, make, missing, line
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as caught:
        make()
    assert f"pip install '{line}'" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"policy": 3}, TypeError, "policy must be callable"),
        ({"num_episodes": 0}, ValueError, "num_episodes must be .* 1 or above; got 0"),
        ({"max_steps": 1.5}, TypeError, "max_steps must be an integer"),
        ({"normalise": 1}, TypeError, "normalise must be True or False"),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        lambda **options: Rollout(CartPole(), **options),
        lambda **options: GymnasiumRollout("CartPole-v1", **options),
    ],
)
def test_bad_arguments_are_refused(kind, options, error, match):
    with pytest.raises(error, match=match):
        kind(**({"policy": first} | options))
