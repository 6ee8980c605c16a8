"""The grid archive against NumPy, in every driver, and what it is for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import gfopt
from gfopt.optimizers.wrappers import elites as archives
from gfopt.types import Evaluation, Population

KEY = jax.random.key(4)
PROBLEM = gfopt.problems.LinearProjection("sphere", 6)
CMA_ME = gfopt.GridArchive(
    gfopt.CMAES(6, sigma=0.5), PROBLEM.lower, PROBLEM.upper, (8, 8), 3, worst=100.0
)


class Told(NamedTuple):
    """A state that remembers what it was told."""

    step: Any
    center: Any
    loss: Any
    valid: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Listener:
    """Walks around its start: five functions, as a user may write them."""

    rows: int = 8

    def init(self, key: Any, solution: Any) -> Told:
        zero = jnp.zeros(self.rows)
        return Told(jnp.int32(0), solution, zero, zero > 0)

    def ask(self, key: Any, state: Told) -> Population:
        away = jax.random.normal(key, (self.rows, 2))
        return Population(away, jnp.ones(self.rows, bool))

    def decode(self, state: Told, member: Any) -> Any:
        return state.center + member

    def tell(self, state: Told, population: Any, evaluation: Any) -> tuple[Told, Any]:
        fitness, valid, _ = evaluation
        return Told(state.step + 1, state.center, fitness, valid), ()

    def recommend(self, state: Told) -> Any:
        return state.center


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_archive_ranks_and_restarts_against_a_loop(soft: bool) -> None:
    setting: dict[str, Any] = {"learning_rate": 0.9, "worst": 4.0} if soft else {}
    patience = 1 if soft else 2
    lower, upper, shape = (-2.0, -1.0), (2.0, 3.0), (3, 4)
    optimizer = gfopt.GridArchive(
        Listener(), lower, upper, shape, num_emitters=2, patience=patience, **setting
    )
    expected = oracles.GridArchive(
        np.array(lower), np.array(upper), shape, setting.get("learning_rate")
    )
    expected.worst = setting.get("worst", np.inf)
    ask, tell = jax.jit(optimizer.ask), jax.jit(optimizer.tell)
    state, rng = optimizer.init(KEY, jnp.zeros(2)), np.random.default_rng(0)
    barren, num_restarts = np.zeros(2, int), 0
    for step in range(12):
        population = ask(jax.random.fold_in(KEY, step), state)
        x = np.asarray(jax.vmap(partial(optimizer.decode, state))(population.members))
        # eighths are exact in every precision, and tie; one row in five fails
        fitness = np.round(8 * (x**2).sum(axis=1)).astype(np.float32) / 8
        behaviours = np.where(rng.random(x.shape) < 0.1, np.nan, x)
        fitness[rng.random(16) < 0.1] = np.nan
        evaluation = Evaluation(
            jnp.asarray(fitness), np.isfinite(fitness), jnp.asarray(behaviours)
        )
        keys, entered = expected.add(x, fitness, behaviours)
        state, info = tell(state, population, evaluation)

        grid = np.full(shape, np.inf)
        for cell, (value, _) in expected.elites.items():
            grid[cell] = value
        np.testing.assert_array_equal(state.elites.fitness.reshape(shape), grid)
        solutions, values, descriptors = state.elites.found()
        assert len(values) == len(expected.elites)
        for solution, value, behaviour in zip(
            solutions, values, descriptors, strict=True
        ):
            np.testing.assert_array_equal(solution, behaviour)
            best, where = expected.elites[expected.cell(behaviour)]
            np.testing.assert_array_equal(solution, where)
            assert value == best
        for cell, threshold in expected.thresholds.items():
            found = state.elites.threshold.reshape(shape)[cell]
            np.testing.assert_allclose(found, threshold, rtol=1e-6)
        assert info.num_valid == sum(key is not None for key in keys)
        np.testing.assert_allclose(info.coverage, len(values) / 12)
        scored = sum(setting.get("worst", 0) - values.astype(float))
        np.testing.assert_allclose(info.qd_score, scored, rtol=1e-5)

        assert info.num_added == len(entered)
        for m in range(2):
            rows = range(8 * m, 8 * m + 8)
            barren[m] = 0 if entered & set(rows) else barren[m] + 1
            if barren[m] >= patience:
                barren[m], num_restarts = 0, num_restarts + 1
                assert state.emitters.step[m] == 0
                assert np.asarray(state.emitters.center[m]) in solutions
                continue
            loss, valid = state.emitters.loss[m], state.emitters.valid[m]
            assert valid.tolist() == [keys[i] is not None for i in rows]
            for i, a in enumerate(rows):
                for j, b in enumerate(rows):
                    if keys[a] is None or keys[b] is None:
                        continue
                    differ = np.subtract(keys[a], keys[b])
                    if np.any(np.abs(differ) > 1e-4):
                        assert (loss[i] < loss[j]) == (keys[a] < keys[b])
    assert num_restarts >= 2 and len(expected.elites) > 8


def searches() -> dict[str, Callable[[], Any]]:
    """The same search through every driver: 20 generations of it."""

    def python(x: Any) -> Any:
        value, behaviour = PROBLEM(jnp.asarray(x))
        return float(value), np.asarray(behaviour)

    hosted = gfopt.Objective(python, has_aux=True, traceable=False)

    def told() -> Any:
        search = gfopt.AskTell(CMA_ME, PROBLEM.x0, seed=3)
        while search.result.nit < 20:
            trials = search.ask(7)
            values, behaviours = zip(*(python(t.solution) for t in trials), strict=True)
            search.tell(trials, values, behaviours)
        return search.result

    search = partial(gfopt.minimize, method=CMA_ME, seed=3, budget=361)
    return {
        "compiled": lambda: search(PROBLEM.objective, PROBLEM.x0),
        "host": lambda: search(hosted, PROBLEM.x0),
        "ask_tell": told,
    }


def test_every_driver_fills_the_same_archive() -> None:
    found = {name: search() for name, search in searches().items()}
    for name, result in found.items():
        assert result.path == name and result.nit == 20
        filled = result.state.elites.is_filled
        np.testing.assert_array_equal(filled, found["host"].state.elites.is_filled)
        solutions, fitness, behaviours = result.state.elites.found()
        again, where = jax.vmap(PROBLEM)(solutions)
        np.testing.assert_allclose(again, fitness, rtol=1e-4)
        np.testing.assert_allclose(where, behaviours, rtol=1e-4, atol=1e-5)
        assert result.history["coverage"][-1] == len(fitness) / 64
    plotted = found["compiled"].plot()
    titles = " ".join(axes.get_title(loc="left") for axes in plotted.axes)
    assert "coverage" in titles and "QD score" in titles and "elites" in titles
    image = plotted.axes[-2].images[0].get_array()
    fitness = found["compiled"].state.elites.fitness
    assert np.isfinite(image).sum() == np.isfinite(fitness).sum()
    assert np.nanmin(image) == fitness.min()


def test_an_archive_survives_an_interruption(tmp_path: Any) -> None:
    path = tmp_path / "search.gfo"
    search = partial(gfopt.minimize, PROBLEM.objective, PROBLEM.x0, method=CMA_ME)
    search(budget=181, checkpoint=path)
    resumed, straight = search(budget=361, checkpoint=path), search(budget=361)
    for a, b in zip(
        *(jax.tree.leaves(r.state) for r in (resumed, straight)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_map_elites_is_a_random_search_that_restarts() -> None:
    """From its elites it covers twice what it does from the center alone."""

    def search(patience: Any, key: Any) -> Any:
        optimizer = gfopt.GridArchive(
            gfopt.RandomSearch(1, sigma=1.0),
            PROBLEM.lower,
            PROBLEM.upper,
            shape=(6, 6),
            num_emitters=16,
            worst=100.0,
            patience=patience,
        )
        return gfopt.run(
            optimizer, PROBLEM.objective, PROBLEM.x0, key=key, generations=80
        )

    keys = jax.random.split(KEY, 3)
    never = 1000
    found = jax.vmap(jax.vmap(search, (None, 0)), (0, None))(
        jnp.array([0, never]), keys
    )
    assert np.all(found.history["num_restarts"][0] == 16)
    assert not np.any(found.history["num_restarts"][1])
    covered, from_center = found.history["coverage"][:, :, -1]
    assert covered.min() > 1.4 * from_center.max()
    grows = np.diff(np.asarray(found.history["qd_score"]), axis=2)
    assert grows.min() > -1e-2  # rounding
    # a batch of runs is these runs one by one
    one = search(0, keys[1]).state.elites.fitness
    np.testing.assert_allclose(one, found.state.elites.fitness[0, 1], rtol=1e-4)


def test_what_failed_never_enters() -> None:
    def fails(x: Any, limit: Any) -> Any:
        value, behaviour = PROBLEM(x)
        behaviour = jnp.where(x[0] > limit, jnp.nan, behaviour)
        return jnp.where(x[0] < -limit, jnp.nan, value), behaviour

    search = partial(
        gfopt.run,
        dataclasses.replace(CMA_ME, inner=gfopt.SepCMAES(6, sigma=0.5)),
        gfopt.Objective(fails, has_aux=True),
        PROBLEM.x0,
        key=KEY,
        generations=30,
    )
    result = search(args=(0.5,))
    solutions, fitness, _ = result.state.elites.found()
    assert len(fitness) > 3 and np.all(np.abs(solutions[:, 0]) <= 0.5)
    assert np.any(np.asarray(result.history["num_valid"]) < 18)
    for leaf in jax.tree.leaves(result.state.emitters):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or not np.isnan(leaf).any()

    result = search(args=(-9.0,))
    assert not result.state.elites.is_filled.any()
    np.testing.assert_array_equal(result.recommended, PROBLEM.x0)


def test_three_descriptors_have_a_map_and_trees_an_archive() -> None:
    optimizer = gfopt.GridArchive(
        gfopt.OpenES(8, sigma=0.3, learning_rate=0.1), (0, 0, 0), (1, 1, 1), [2, 3, 4]
    )

    def fun(p: Any) -> Any:
        return jnp.sum(p["w"] ** 2), jax.nn.sigmoid(p["w"].ravel()[:3])

    x0 = {"w": jnp.zeros((2, 2), jnp.bfloat16)}
    objective = gfopt.Objective(fun, has_aux=True)
    result = gfopt.run(optimizer, objective, x0, key=KEY, generations=10)
    assert result.state.elites.solutions["w"].shape == (24, 2, 2)
    assert result.recommended["w"].dtype == jnp.bfloat16
    shown = optimizer.heat_map(result.state)
    cube = result.state.elites.fitness.reshape(2, 3, 4)
    np.testing.assert_array_equal(shown.fitness, cube.min(axis=2))
    assert (shown.lower, shown.upper) == ((0.0, 0.0), (1.0, 1.0))


def test_a_line_of_cells_is_a_map_of_one_row() -> None:
    line = gfopt.GridArchive(gfopt.CMAES(4), (0,), (2,), (5,))
    state = line.init(KEY, jnp.zeros(2))
    assert line.heat_map(state).fitness.shape == (5, 1)


def test_the_border_belongs_to_the_grid() -> None:
    points = jnp.array([[-9.0], [0.0], [0.99], [1.0], [9.0]])
    assert archives.cell_of(points, (0.0,), (1.0,), (4,)).tolist() == [0, 0, 3, 3, 3]


def test_wrong_arguments_are_named() -> None:
    inner = gfopt.CMAES(4)
    for message, wrong in {
        r"^inner must not keep an elite": {"inner": gfopt.DeepGA()},
        r"^lower must have 2 numbers": {"lower": (0,)},
        r"^lower must be below upper": {"lower": (2, 0)},
        r"^shape must be an integer, 1": {"shape": (0, 3)},
        r"^num_emitters must": {"num_emitters": 0},
        r"^worst must be given": {"learning_rate": 0.1},
        r"^learning_rate must": {"learning_rate": 1.5, "worst": 1.0},
        r"^patience must": {"patience": -1},
    }.items():
        with pytest.raises(ValueError, match=message):
            gfopt.GridArchive(
                **{"inner": inner, "lower": (0, 0), "upper": (1, 1), "shape": (4, 4)}
                | wrong
            )
    with pytest.raises(ValueError, match=r"^descriptor must return 2 .* got no aux"):
        gfopt.run(CMA_ME, lambda x: jnp.sum(x**2), jnp.zeros(6), key=KEY, generations=1)


def test_told_behaviours_must_fit() -> None:
    search = gfopt.AskTell(CMA_ME, PROBLEM.x0)
    trials = search.ask(3)
    search.tell(trials[0], 1.0, np.zeros(2))
    with pytest.raises(ValueError, match="aux must be of one structure"):
        search.tell(trials[1], 1.0, np.zeros(3))
    with pytest.raises(ValueError, match="aux must be one for each of the 2 trials"):
        search.tell(trials[1:], [1.0, 2.0], [np.zeros(2)])
    search.tell(trials[1:], [None, 2.0], [None, np.ones(2)])
    search.close()
    assert search.result.state.elites.is_filled.sum() == 1
    late = gfopt.AskTell("cma_es", [0.0, 0.0], asynchronous=True)
    with pytest.raises(ValueError, match="aux must be None in an asynchronous"):
        late.tell(late.ask(1), [1.0], [np.zeros(2)])
