"""``noisy=True`` in the drivers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt

X0 = np.full(3, 1.5)


class Noisy:
    """A sphere with noise that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._random = np.random.default_rng(1)

    def __call__(self, x: np.ndarray) -> float:
        self.calls += isinstance(x, np.ndarray)  # and not a tracer
        return float(x @ x + self._random.normal())


def compiled_noise(key: jax.Array, x: jax.Array) -> jax.Array:
    return x @ x + jax.random.normal(key)


@pytest.mark.parametrize("budget", [40, 400])
def test_minimize_on_the_host_keeps_to_the_budget(budget):
    fun = Noisy()
    found = gfopt.minimize(fun, X0, method="snes", noisy=True, budget=budget, seed=2)
    assert found.nfev == fun.calls == budget and found.path == "host"
    assert isinstance(found.optimizer, gfopt.Reevaluated) and found.optimizer.grows


@pytest.mark.parametrize("method", ["snes", "nelder_mead"])
def test_minimize_compiled_uses_its_budget_on_whole_generations(method):
    fun = gfopt.Objective(compiled_noise, takes_key=True)
    found = gfopt.minimize(fun, X0, method=method, noisy=True, budget=400, seed=2)
    assert found.nfev == 400 and found.path == "compiled"
    assert found.history["effort"][-1] > 1
    # all but the last generation were told, though each is of another size
    assert found.state.step >= found.nit - 1 > 3


def test_within_bounds_and_without_noise():
    found = gfopt.minimize(
        lambda x: jnp.sum((x - 1) ** 2),
        [0.5, 0.5],
        bounds=(0, 0.8),
        noisy=True,
        method="snes",
    )
    np.testing.assert_allclose(found.recommended, 0.8, atol=1e-4)
    assert found.success and (found.history["effort"] == 1).all()
    assert "tol_" in found.message and found.optimizer.inner.space is not None


def test_ask_tell_hands_out_repeated_candidates():
    search = gfopt.AskTell("cma_es", X0, sigma0=1.0, noisy=True, seed=4)
    trials = search.ask()
    assert len(trials) == 10  # the start, 7 candidates, two of them twice
    for i in (0, 1):
        np.testing.assert_array_equal(trials[1 + i].solution, trials[8 + i].solution)
    fun = Noisy()
    for _ in range(30):
        search.tell(trials, [fun(trial.solution) for trial in trials])
        trials = search.ask()
    assert search.result.history["effort"].max() > 2
    assert search.result.nfev == fun.calls


def test_a_seeded_run_is_repeated(tmp_path: Any):
    words = {"method": "snes", "noisy": True, "seed": 5, "budget": 120}
    fun = gfopt.Objective(compiled_noise, takes_key=True)
    whole = gfopt.minimize(fun, X0, **words)
    path = tmp_path / "run.gfopt"
    gfopt.minimize(fun, X0, **words | {"budget": 50}, checkpoint=path)
    again = gfopt.minimize(fun, X0, **words, checkpoint=path)
    for name in ("recommended", "x", "fun"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(again, name))


def test_it_is_refused_by_name():
    with pytest.raises(TypeError, match="noisy must be True or False"):
        gfopt.minimize(Noisy(), X0, noisy=1)


def test_restarts_are_refused_by_name() -> None:
    method = gfopt.Restarts(gfopt.CMAES(sigma=1.0))
    with pytest.raises(ValueError, match="^noisy must be False with Restarts"):
        gfopt.minimize(
            lambda x: float(np.sum(x**2)), np.ones(3), method=method, noisy=True
        )
