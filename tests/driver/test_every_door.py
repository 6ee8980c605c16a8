"""One method of each family through every driver: the same search, whoever calls it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import gfopt
from gfopt import registry

X0 = jnp.array([1.5, -0.5])
# one of each family, with what it needs to improve a little in a few steps
FAMILIES = {
    "cma_es": {"sigma": 0.3},
    "snes": {"sigma": 0.3},
    "open_es": {"sigma": 0.1, "learning_rate": 0.1, "population_size": 8},
    "deep_ga": {"sigma": 0.3},
    "mezo": {"learning_rate": 0.05},
    "cbo": {"population_size": 8},
    "differential_evolution": {"sigma": 0.5, "population_size": 8},
    "nelder_mead": {},
}
BUDGET = 80


def sphere(x):
    return jnp.sum(x**2)


def host_sphere(x):
    return float(np.sum(np.asarray(x) ** 2))


@pytest.fixture(params=FAMILIES)
def method(request):
    return registry.method(request.param, FAMILIES[request.param])


def test_run(method):
    found = gfopt.run(method, sphere, X0, key=jax.random.key(0), generations=20)
    assert found.history["fitness"][-1] < sphere(X0) and found.recommended.shape == (2,)


@pytest.mark.parametrize("fun", [sphere, host_sphere])
def test_minimize(method, fun):
    found = gfopt.minimize(fun, X0, method=method, budget=BUDGET, seed=0)
    assert found.path == ("compiled" if fun is sphere else "host")
    assert found.fun < sphere(X0) and not found.failures
    np.testing.assert_allclose(found.fun, sphere(found.x), rtol=1e-5)


def test_ask_tell(method):
    search = gfopt.AskTell(method, X0, seed=0)
    while search.result.nfev < BUDGET:
        trials = search.ask()
        search.tell(trials, [host_sphere(trial.solution) for trial in trials])
    assert search.result.fun < sphere(X0)


@pytest.mark.parametrize("name", FAMILIES)
def test_scipy(name):
    found = scipy.optimize.minimize(
        host_sphere,
        np.asarray(X0, float),
        method=gfopt.scipy_method(name),
        options={"maxfev": BUDGET, "seed": 0, **FAMILIES[name]},
    )
    assert found.fun < sphere(X0) and found.nfev <= BUDGET


def test_tokens():
    """Methods of tokens have integers in place of numbers."""

    def ones(tokens):
        return jnp.sum(tokens != 1).astype(jnp.float32)

    method, start = gfopt.tokens.GeneticTokens(4), jnp.zeros(6, jnp.int32)
    by_run = gfopt.run(method, ones, start, key=jax.random.key(0), generations=20)
    assert by_run.history["fitness"][-1] < 6
    assert gfopt.minimize(ones, start, method=method, budget=BUDGET, seed=0).fun < 6
    search = gfopt.AskTell(method, start, seed=0)
    while search.result.nfev < BUDGET:
        trials = search.ask()
        search.tell(trials, [float(ones(trial.solution)) for trial in trials])
    assert search.result.fun < 6
