"""Restarts: the schedule of populations, tiers of programs, the answer."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import gfopt
from gfopt.driver.engine import compiled, turns
from gfopt.optimizers.wrappers.restarts import Restarts
from gfopt.types import Evaluation


def rastrigin(x: jax.Array) -> jax.Array:
    return 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x))


def rastrigin_in_numpy(x: np.ndarray) -> float:
    return float(10 * x.size + np.sum(x**2 - 10 * np.cos(2 * np.pi * x)))


X0 = np.array([3.0, -2.0])
SEARCH = Restarts(gfopt.CMAES(sigma=2.0))


@pytest.mark.parametrize("bipop", [False, True])
def test_schedule_as_its_oracle(bipop: bool) -> None:
    """Flat fitness ends a run at its second step; a long one comes between."""
    optimizer = Restarts(gfopt.CMAES(sigma=2.0), bipop=bipop, first_size=8, tier=5)
    oracle = oracles.Restarts(8, 2.0, bipop)
    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    state = optimizer.init(jax.random.key(0), jnp.asarray(X0))
    sizes = []
    for step in range(26):
        population = ask(jax.random.key(step), state)
        size = min(oracle.size, 256)  # which is how many rows there are
        np.testing.assert_array_equal(population.active, np.arange(256) < size)
        fitness = jnp.arange(256.0) if 6 < step < 14 else jnp.ones(256)
        before = int(state.num_restarts)
        state, _ = tell(state, population, Evaluation(fitness, population.active))
        ended = int(state.num_restarts) > before
        oracle.tell(size, ended, int(state.num_active), float(state.sigma))
        if ended:
            sizes.append(int(state.num_active))
            assert int(state.inner.age) == 0
            assert float(state.inner.sigma) == float(state.sigma)
            away = np.abs(np.asarray(state.inner.mean) - X0)
            assert np.all(away <= SEARCH.reach * 2.0)
    assert len(sizes) == 9
    if not bipop:
        assert sizes == [8 * 2**k for k in range(1, 10)]


def test_tiers_are_few_programs_and_host_and_compiled_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # in NumPy the last bits differ, and restarts soon lie elsewhere
    monkeypatch.setattr(turns, "HAND_OVER", 0)

    def search(fun: object) -> gfopt.Result:
        return gfopt.minimize(fun, X0, method=SEARCH, budget=6000, target=-1.0, seed=5)

    before = compiled._advance._cache_size()
    found = search(rastrigin)
    programs = compiled._advance._cache_size() - before
    largest = int(found.state.doublings)
    assert found.state.num_restarts > largest >= 2
    assert programs <= largest + 1
    assert found.nfev == 6000
    assert int(found.state.spent.sum()) <= 6000
    on_host = search(rastrigin_in_numpy)
    assert on_host.path == "host"
    np.testing.assert_allclose(on_host.fun, found.fun, rtol=1e-9, atol=1e-9)
    # the host path has paid for f(x0): it may end a generation earlier
    np.testing.assert_allclose(on_host.state.spent, found.state.spent, atol=50)
    assert search(rastrigin).x.tolist() == found.x.tolist()
    assert compiled._advance._cache_size() == before + programs


def test_population_grows_up_to_its_rows_in_a_batch_of_runs() -> None:
    optimizer = Restarts(gfopt.CMAES(sigma=2.0), tier=2)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        result = gfopt.run(
            optimizer, rastrigin, jnp.asarray(X0), key=key, generations=400
        )
        state = result.state
        return rastrigin(result.recommended), state.num_restarts, state.fitness

    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.jit(jax.vmap(one))(keys)
    assert np.all(batch[1] > 2)
    for row, key in enumerate(keys):
        alone = jax.jit(one)(key)
        assert int(alone[1]) == int(batch[1][row])
        np.testing.assert_allclose(alone[0], batch[0][row], atol=1e-5)


def test_answer_is_that_of_the_best_run() -> None:
    result = gfopt.minimize(rastrigin, X0, method=SEARCH, budget=4000, seed=5)
    assert result.state.num_restarts > 1
    assert rastrigin_in_numpy(result.recommended) < result.fun + 0.1


def test_patience_ends_it() -> None:
    method = Restarts(gfopt.CMAES(sigma=1.0), patience=2)
    result = gfopt.minimize(lambda x: jnp.sum(x**2), X0, method=method)
    assert result.message == "converged: patience = 2" and result.success
    assert result.nfev < 3000


def test_bounds_hold_around_it() -> None:
    method = gfopt.Bounded(
        SEARCH, gfopt.spaces.Space(*np.full((3, 2), [[1.0], [4.0], [1.0]]))
    )
    result = gfopt.minimize(
        rastrigin, [3.5, 2.0], method=method, budget=3000, target=2.1
    )
    assert result.status is gfopt.Status.TARGET
    assert int(result.state.num_restarts) >= 0 and np.all(result.x >= 1)


MIXED = {"count": gfopt.spaces.integer(0, 20), "rate": gfopt.spaces.real(-5, 5)}


def two_valleys(x: dict[str, float]) -> float:
    """A wide one at the count of 4, and the better one at 17."""
    wide, better = 0.05 * (x["count"] - 4) ** 2 + 0.5, 0.5 * (x["count"] - 17) ** 2
    return float(min(wide, better) + (x["rate"] - 1.5) ** 2)


@pytest.mark.parametrize(
    "method", ["auto", Restarts(gfopt.CMAES(sigma=1.0), reach=5.0)]
)
def test_restarts_find_another_integer(method: object) -> None:
    found = gfopt.minimize(
        two_valleys,
        {"count": 1, "rate": -4.0},
        bounds=MIXED,
        method=method,
        budget=3000,
        target=1e-6,
        seed=3,
    )
    restarts, margin = found.optimizer.inner, found.optimizer.inner.inner
    assert isinstance(restarts, Restarts) and isinstance(margin, gfopt.Margin)
    assert found.status is gfopt.Status.TARGET and found.x["count"] == 17
    assert found.state.num_restarts > 0
    steps = found.state.step, found.state.inner.step, found.state.inner.inner.step
    assert len(set(map(int, steps))) == 1


def test_restarts_start_anywhere_within_finite_bounds() -> None:
    bounds = [(0, 1), (-100, 100)]
    found = gfopt.minimize(
        lambda x: float(x @ x), [0.9, 90], bounds=bounds, budget=21, seed=0
    )
    assert found.optimizer.inner.inner.reach == pytest.approx(5)  # fifths, either way
    open_end = gfopt.minimize(
        lambda x: float(x @ x), [1, 2], bounds=[(0, None), (0, 9)], budget=5, seed=0
    )
    assert open_end.optimizer.inner.inner.reach == 2


@pytest.mark.parametrize("fun", [rastrigin, rastrigin_in_numpy])
def test_goes_on_from_a_snapshot_of_another_tier(fun: object, tmp_path: Path) -> None:
    def search(budget: int, path: Path | None) -> gfopt.Result:
        return gfopt.minimize(
            fun, X0, method=SEARCH, budget=budget, target=-1.0, checkpoint=path, seed=4
        )

    first = search(2500, tmp_path / "run")
    assert first.optimizer.tier > 0
    whole, again = search(4000, None), search(4000, tmp_path / "run")
    assert again.x.tolist() == whole.x.tolist() and again.nfev == whole.nfev
    for ours, theirs in zip(
        jax.tree.leaves(again.state), jax.tree.leaves(whole.state), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_what_cannot_be_restarted_is_refused() -> None:
    with pytest.raises(ValueError, match="inner must be .* restarted.*CMAES.*OpenES"):
        Restarts(gfopt.OpenES())
    with pytest.raises(TypeError, match="inner must be a gfopt optimizer; got 3"):
        Restarts(3)
    with pytest.raises(ValueError, match="first_size"):
        Restarts(gfopt.CMAES(), first_size=1)
    with pytest.raises(ValueError, match="patience"):
        Restarts(gfopt.CMAES(), patience=0)
