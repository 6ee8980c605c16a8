"""Host searches begin in NumPy and go on compiled: when, and with what results."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gfopt
from gfopt import registry
from gfopt.driver.engine import turns

X0 = [1.0, -0.5, 2.0]


def sphere(x):
    return float(np.sum((x - 1) ** 2 * np.arange(1, x.size + 1)))


@pytest.fixture
def early(monkeypatch):
    """Hands over after four steps, compiled from the second on."""
    monkeypatch.setattr(turns, "HAND_OVER", 4)
    monkeypatch.setattr(turns, "AHEAD", 2)


@pytest.fixture
def compilations():
    """The names of what is compiled while the test runs."""
    names = []

    def seen(event, duration, **info):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(info.get("fun_name", "?"))

    jax.monitoring.register_event_duration_secs_listener(seen)
    yield names
    jax.monitoring.unregister_event_duration_listener(seen)


VECTORS = [
    name
    for name in registry.names(tokens=False)
    if "seeds" not in registry.METHODS[name].flags
]


@pytest.mark.parametrize("method", VECTORS)
def test_a_short_search_compiles_nothing(method, compilations):
    result = gfopt.minimize(sphere, X0, method=method, budget=60, seed=3)
    assert result.path == "host" and result.nfev >= 40
    assert compilations == []


def test_auto_with_bounds_and_restarts_compiles_nothing(compilations):
    def many_minima(x):
        x = np.array([[0.8, -0.6], [0.6, 0.8]]) @ x  # not a sum
        return float(np.sum(x**2 - 10 * np.cos(2 * np.pi * x) + 10))

    results = [
        gfopt.minimize(
            many_minima, [2.2, -1.7], bounds=[(-5, 5)] * 2, budget=900, seed=seed
        )
        for seed in (2, 4)
    ]
    assert all(result.state.inner.num_restarts > 0 for result in results)
    # whether a run's restarts are large ones, too, is chance
    assert any(result.optimizer.tier > 0 for result in results)
    assert compilations == []


@pytest.mark.parametrize("method", ["cma_es", "nelder_mead"])
def test_the_path_does_not_depend_on_who_runs_the_programs(method, monkeypatch):
    """NumPy and the compiler differ in the last bits of a step."""
    search = gfopt.minimize(sphere, X0, method=method, budget=60, seed=3)
    monkeypatch.setattr(turns, "HAND_OVER", 0)
    compiled = gfopt.minimize(sphere, X0, method=method, budget=60, seed=3)
    np.testing.assert_allclose(
        search.history["fitness"], compiled.history["fitness"], rtol=1e-5
    )


@pytest.mark.usefixtures("early")
def test_a_hand_over_depends_on_the_step_alone():
    runs = [
        gfopt.minimize(sphere, X0, method="cma_es", budget=70, seed=3) for _ in range(2)
    ]
    for name, column in runs[0].history.items():
        np.testing.assert_array_equal(column, runs[1].history[name])


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("budget", [21, 28, 35])  # before the hand-over, at it, after
def test_a_resumed_search_hands_over_at_the_same_step(tmp_path, budget):
    arguments = dict(method="cma_es", seed=3)
    straight = gfopt.minimize(sphere, X0, budget=70, **arguments)
    path = tmp_path / "run"
    gfopt.minimize(sphere, X0, budget=budget, checkpoint=path, **arguments)
    resumed = gfopt.minimize(sphere, X0, budget=70, checkpoint=path, **arguments)
    for name, column in straight.history.items():
        np.testing.assert_array_equal(column, resumed.history[name])


@pytest.mark.usefixtures("early")
def test_turns_are_counted_for_each_number_of_rows(tmp_path):
    """Restarts come back to a number of rows; a resumed search knows its counts."""

    def many_minima(x):
        return float(np.sum(x**2 - 10 * np.cos(2 * np.pi * x) + 10))

    inner = gfopt.CMAES(sigma=1.0, tol_x=1.0)
    arguments = dict(method=gfopt.Restarts(inner, first_size=4), seed=3)
    straight = gfopt.minimize(many_minima, [2.2, -1.7], budget=200, **arguments)
    assert straight.state.num_restarts > 3
    for budget in (50, 90):
        path = tmp_path / str(budget)
        gfopt.minimize(
            many_minima, [2.2, -1.7], budget=budget, checkpoint=path, **arguments
        )
        resumed = gfopt.minimize(
            many_minima, [2.2, -1.7], budget=200, checkpoint=path, **arguments
        )
        for name, column in straight.history.items():
            np.testing.assert_array_equal(column, resumed.history[name])


@pytest.mark.usefixtures("early")
def test_a_pickled_session_hands_over_at_the_same_step():
    def told(search, generations):
        for _ in range(generations):
            trials = search.ask()
            search.tell(trials, [sphere(trial.solution) for trial in trials])
        return search

    straight = told(gfopt.AskTell("cma_es", X0, seed=3), 7)
    search = told(gfopt.AskTell("cma_es", X0, seed=3), 3)
    search = told(pickle.loads(pickle.dumps(search)), 4)
    assert search.result.fun == straight.result.fun
    np.testing.assert_array_equal(
        search.result.recommended, straight.result.recommended
    )


@pytest.mark.usefixtures("early")
def test_the_program_is_compiled_ahead(compilations):
    # a size that no other test has
    gfopt.minimize(sphere, np.ones(7), method="nelder_mead", budget=20, seed=3)
    assert compilations == ["jit(_turn)"]


def test_what_numpy_cannot_run_is_compiled_from_the_start(compilations):
    method = registry.method("nelder_mead")
    plain = gfopt.minimize(sphere, X0, method=method, budget=40, seed=3)
    assert compilations == []
    result = gfopt.minimize(sphere, X0, method=Traced(method), budget=40, seed=3)
    np.testing.assert_allclose(result.x, plain.x, rtol=1e-6)
    assert any("_turn" in name for name in compilations)


@jax.tree_util.register_pytree_node_class
class Traced:
    """A user's own optimizer, whose ``decode`` has an operation that has no rule."""

    def __init__(self, inner):
        self.inner = inner

    def tree_flatten(self):
        return (self.inner,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    def init(self, key, solution):
        return self.inner.init(key, solution)

    def ask(self, key, state):
        return self.inner.ask(key, state)

    def decode(self, state, member):
        solution = self.inner.decode(state, member)
        return jax.tree.map(lambda x: x + 0 * lax.lgamma(jnp.abs(x) + 1), solution)

    def tell(self, state, population, evaluation):
        return self.inner.tell(state, population, evaluation)

    def recommend(self, state):
        return self.inner.recommend(state)
