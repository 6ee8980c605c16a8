"""Beast and Steering through the drivers: tokens in, limits kept, runs that go on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt

TABLE = jax.random.normal(jax.random.key(3), (6, 6))
BIGRAMS = gfopt.tokens.FunctionModel(lambda table, tokens: table[tokens], TABLE)
PROMPT, EMPTY = jnp.array([0]), np.full(5, -1)
SCORE = gfopt.tokens.Targeted(BIGRAMS, PROMPT, jnp.array([3, 1]))
BEAST = gfopt.tokens.Beast(BIGRAMS, PROMPT, beam_width=3, num_candidates=2)


def same(a, b):
    return all(
        np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_minimize_ends_with_the_texts():
    result = gfopt.minimize(SCORE, EMPTY, method=BEAST, budget=1000)
    assert result.path == "compiled" and result.x.dtype == np.int32
    assert result.status == gfopt.Status.COMPLETE and "max_length" in result.message
    assert result.nfev == 1 + 3 * 2 * 4  # with one call of the function that looks
    assert np.isclose(SCORE(jnp.asarray(result.x)), result.fun)
    shared = gfopt.minimize(
        SCORE, EMPTY, method=BEAST, evaluator=gfopt.tokens.shared_prefix(), budget=1000
    )
    assert np.array_equal(shared.x, result.x)


def test_limits_of_queries_and_seconds():
    result = gfopt.minimize(SCORE, EMPTY, method=BEAST, budget=9)
    assert result.nfev == 9 and result.status == gfopt.Status.BUDGET
    result = gfopt.minimize(SCORE, EMPTY, method=BEAST, max_seconds=0.0)
    assert result.status == gfopt.Status.SECONDS


def test_a_run_goes_on_where_it_was_stopped(tmp_path):
    straight = gfopt.minimize(SCORE, EMPTY, method=BEAST, budget=1000)
    path = tmp_path / "run"
    gfopt.minimize(SCORE, EMPTY, method=BEAST, budget=15, checkpoint=path)
    resumed = gfopt.minimize(SCORE, EMPTY, method=BEAST, budget=1000, checkpoint=path)
    assert np.array_equal(resumed.x, straight.x) and resumed.nfev == straight.nfev
    assert same(resumed.state, straight.state)


@pytest.mark.parametrize("kind", ["beast", "steering"])
def test_ask_and_tell_with_a_python_function(kind):
    table = np.asarray(jax.nn.log_softmax(TABLE))

    def loss(tokens):
        text = [0, *(int(token) for token in tokens if token >= 0), 3, 1]
        return -(table[text[-3], 3] + table[3, 1]) / 2

    method = BEAST
    if kind == "steering":
        method = gfopt.tokens.Steering(BIGRAMS, PROMPT, num_particles=6)
    search = gfopt.AskTell(method, EMPTY)
    lengths = []
    while not search.stop():
        trials = search.ask()
        assert all(trial.solution.dtype == np.int32 for trial in trials)
        lengths.append(int(np.sum(trials[0].solution >= 0)))
        search.tell(trials, [loss(trial.solution) for trial in trials])
    assert lengths == ([2, 3, 4, 5] if kind == "beast" else [1, 2, 3, 4, 5])
    assert search.stop() == {"max_length": True}
    assert np.isclose(search.result.fun, loss(search.result.x))
