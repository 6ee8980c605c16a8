"""``run``: pure, batched, continued, stopped, and compiled once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driver.shared import compilations, same

import gfopt
from gfopt.driver.run import _scanned
from gfopt.driver.step import step_keys

KEY = jax.random.key(7)
X0 = jnp.array([1.5, -0.5, 0.25])
GENERATIONS = 6
OPTIMIZER = gfopt.RandomSearch(population_size=4, sigma=0.1)


def sphere(x: Any) -> jax.Array:
    return jnp.sum((x - 0.5) ** 2)


def run(optimizer: Any = OPTIMIZER, fun: Any = sphere, x0: Any = X0, **words: Any):
    words = {"key": KEY, "generations": GENERATIONS} | words
    return gfopt.run(optimizer, fun, x0, **words)


@pytest.fixture(scope="module")
def straight():
    return run()


def numbers(result: Any) -> Any:
    return result.state, result.history, result.stopped


def test_the_same_call_gives_the_same_bits_and_changes_nothing(straight):
    x0 = np.array(X0)
    again = run(x0=jnp.asarray(x0))
    same(again, straight)
    assert x0.tobytes() == np.asarray(X0).tobytes()
    assert straight.state.step == GENERATIONS


def test_jitted_it_is_the_same(straight):
    def whole(key: Any, x0: Any) -> Any:
        found = run(key=key, x0=x0)
        return numbers(found), found.recommended

    jitted, x = jax.jit(whole)(KEY, X0)
    same(jitted, numbers(straight))
    same(x, jax.jit(OPTIMIZER.recommend)(straight.state))


def test_vmapped_over_keys_and_hyperparameters_it_is_a_loop():
    keys = jax.random.split(KEY, 3)
    sigmas = [0.05, 0.1, 0.2]

    def one(key: Any, sigma: Any) -> Any:
        return numbers(run(gfopt.RandomSearch(population_size=4, sigma=sigma), key=key))

    batch = jax.jit(jax.vmap(one))(keys, jnp.array(sigmas))
    for i in range(3):
        same(jax.tree.map(lambda leaf, i=i: leaf[i], batch), one(keys[i], sigmas[i]))
    assert len(np.unique(batch[1]["fitness"][:, -1])) == 3


def test_it_is_the_loop_of_the_protocol():
    """Everything at once against a Python loop over ask, decode, fun and tell."""
    frozen = {"x": None, "shift": jnp.array([0.5, 0.25])}
    x0 = {"x": jnp.array([1.0, -1.0]), "shift": None}

    def fun(key: Any, x: Any, batch: Any, scale: Any, context: Any) -> Any:
        noise = jax.random.normal(key)
        value = jnp.sum(jnp.abs(x["x"] - x["shift"] - batch)) * scale + noise
        return value + context, {"descriptor": x["x"]}

    def batches(step: Any, key: Any) -> Any:
        return step + jax.random.uniform(key, (2,))

    def update(context: Any, evaluation: Any) -> Any:
        return context + jnp.sum(evaluation.aux["descriptor"])

    objective = gfopt.Objective(
        fun, takes_key=True, has_aux=True, context=jnp.float32(0.25), update=update
    )
    found = run(
        OPTIMIZER,
        objective,
        x0,
        generations=3,
        args=(2.0,),
        batches=batches,
        frozen=frozen,
    )

    init_key, run_key = jax.random.split(KEY)
    ask, decode, tell, values, keys_at = map(
        jax.jit, (OPTIMIZER.ask, OPTIMIZER.decode, OPTIMIZER.tell, fun, step_keys)
    )
    state, context, best = OPTIMIZER.init(init_key, x0), jnp.float32(0.25), []
    for step in range(3):
        keys = keys_at(run_key, jnp.int32(step))
        population = ask(keys.ask, state)
        told = []
        for row in range(4):
            member = jax.tree.map(lambda leaf, row=row: leaf[row], population.members)
            x = gfopt.merge(decode(state, member), frozen)
            key = jax.random.fold_in(keys.evaluate, row)
            told.append(values(key, x, batches(step, keys.batch), 2.0, context=context))
        fitness = jnp.stack([value for value, _ in told])
        aux = {"descriptor": jnp.stack([aux["descriptor"] for _, aux in told])}
        evaluation = gfopt.Evaluation(fitness, jnp.ones(4, bool), aux)
        state, _ = tell(state, population, evaluation)
        context = update(context, evaluation)
        best.append(float(min(fitness)))
    np.testing.assert_allclose(found.history["fitness"], best, rtol=1e-5)
    np.testing.assert_allclose(found.context, context, rtol=1e-5)
    assert found.state.best_seed == state.best_seed


def test_continued_it_is_the_straight_run(straight):
    first = run(generations=3)
    second = run(generations=3, state=first.state)
    same(second.state, straight.state)
    parts = first.history, second.history
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *parts)
    own = {"nfev", "best"}  # are counted from where a call begins
    for name in joined.keys() - own:
        same(joined[name], straight.history[name])
    assert second.history["nfev"].tolist() == first.history["nfev"].tolist()


def test_a_stopped_run_is_frozen_where_it_stopped(straight):
    def stop(state: Any, info: Any) -> Any:
        del info
        return jnp.where(state.step == 3, 7, 0)

    stopped = run(stop=stop)
    assert stopped.stopped == 7 and straight.stopped == 0
    same(stopped.state, run(generations=3).state)
    assert stopped.history["nfev"].tolist() == [4, 8, 12, 12, 12, 12]
    assert stopped.history["num_valid"].tolist() == [4, 4, 4, 0, 0, 0]
    best = stopped.history["fitness"]
    assert np.isnan(best).tolist() == [False] * 3 + [True] * 3
    same(best[:3], straight.history["fitness"][:3])


def enough(state: Any, info: Any) -> Any:
    return info.best_fitness < 1.5


def test_runs_of_a_batch_stop_each_by_themselves():
    def one(key: Any) -> Any:
        return numbers(run(key=key, stop=enough))

    keys = jax.random.split(KEY, 6)
    batch = jax.jit(jax.vmap(one))(keys)
    for i, key in enumerate(keys):
        same(jax.tree.map(lambda leaf, i=i: leaf[i], batch), one(key))
    assert len(np.unique(batch[0].step)) > 2  # they did stop at different steps


def test_failures_and_the_sense_of_the_search():
    def fun(x: Any) -> Any:
        return jnp.where(x[0] > 1.5, jnp.nan, -jnp.sum(x**2))

    with compilations() as names:
        found = run(fun=gfopt.Objective(fun, maximize=True))
    assert "jit(_scanned)" in names  # the count of the next test is not blind
    assert (jnp.diff(found.history["nfev"]) == 4).all()
    assert found.history["num_valid"].min() < 4
    assert np.nanmax(found.history["fitness"]) < 0  # as the user counts


def test_the_history_is_scalars():
    found = run(fun=lambda x: jnp.sum(x["w"] ** 2), x0={"w": jnp.ones((3, 2))})
    assert {leaf.shape for leaf in jax.tree.leaves(found.history)} == {(GENERATIONS,)}


def test_it_compiles_once(straight):
    size = _scanned._cache_size()
    with compilations() as names:
        run()
        run(gfopt.RandomSearch(population_size=4, sigma=0.1))
        run(gfopt.RandomSearch(population_size=4, sigma=0.3))
        run(key=jax.random.key(8))
    assert names == [] and _scanned._cache_size() == size


def test_chunks_give_the_same_bits(straight):
    same(run(evaluator=gfopt.chunked(2)).state, straight.state)


@pytest.mark.parametrize(
    "words",
    [
        {"fun": gfopt.Objective(sphere, traceable=False)},
        {"fun": lambda x: float(x[0])},
        {"fun": lambda x: np.sum(np.array(x))},
        {"fun": lambda x: 1.0 if x[0] > 0 else 2.0},
        {"evaluator": gfopt.host()},
        {"stop": lambda state, info: bool(state.step > 3)},
    ],
    ids=["marked", "float", "numpy", "branch", "evaluator", "stop"],
)
def test_what_is_no_jax_function_is_sent_to_minimize(words):
    with pytest.raises(TypeError, match="gfopt.minimize"):
        run(**words)


def test_a_state_of_another_search_is_refused(straight):
    with pytest.raises(ValueError, match="state must be one of RandomSearch"):
        run(state=gfopt.MeZO().init(KEY, X0))
    with pytest.raises(ValueError, match="state must be one of RandomSearch"):
        run(state=straight.state, x0=jnp.ones(2))


def test_a_start_outside_the_bounds_is_refused():
    space = gfopt.spaces.Space(jnp.zeros(2), jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="must lie within the bounds"):
        run(gfopt.Bounded(gfopt.CMAES(), space), x0=jnp.full(2, 2.0))
