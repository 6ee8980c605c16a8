"""Solutions from elsewhere: what a session learns from them, and what it refuses."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt import registry

X0 = [0.5, -0.5, 0.25]
INJECTS = [name for name, row in registry.METHODS.items() if "injects" in row.flags]


def value(x: Any) -> float:
    return float(np.sum((np.asarray(x) - 1) ** 2))


def session(method: str = "cma_es", **words: Any) -> gfopt.AskTell:
    return gfopt.AskTell(method, X0, sigma0=0.5, seed=3, **words)


def step(search: gfopt.AskTell) -> None:
    trials = search.ask()
    search.tell(trials, [value(trial.solution) for trial in trials])


@pytest.mark.parametrize("bounds", [None, (-3, 3)])
@pytest.mark.parametrize("name", INJECTS)
def test_a_near_solution_is_met_exactly_and_a_far_one_shortened(name, bounds):
    method = registry.method(name, {"sigma": 0.5})
    if bounds:
        space = gfopt.spaces.Space(
            *(np.full(3, side) for side in bounds), np.full(3, 2.0)
        )
        method = gfopt.Bounded(method, space)
    state = method.init(jax.random.key(0), jnp.array(X0))
    near, far = jnp.array([0.75, -0.25, 0.5]), jnp.array([2.9, 1.9, 2.9])
    made = method.decode(state, method.encode(state, near))
    np.testing.assert_allclose(made, near, rtol=1e-5)
    made = method.decode(state, method.encode(state, far)) - jnp.array(X0)
    whole = far - jnp.array(X0)
    std = 0.5 * (2.0 if bounds else 1.0)
    expected = whole / jnp.linalg.norm(whole) * std * (3**0.5 + 2 * 3 / 5)
    shorter = jnp.linalg.norm(expected) < jnp.linalg.norm(whole)
    np.testing.assert_allclose(made, expected if shorter else whole, rtol=1e-5)


@pytest.mark.parametrize("name", INJECTS)
def test_it_learns_from_them(name):
    plain, helped = session(name), session(name)
    helped.inject(np.ones((3, 3)), [0.0, 0.1, 0.2])
    assert len(helped.ask()) == len(plain.ask()) - 3
    for search in (plain, helped):
        search.close()  # what is missing counts as failed
    assert value(helped.result.recommended) < value(plain.result.recommended)
    assert helped.result.fun == 0 and helped.result.nfev == 0


def test_at_most_half_a_generation_and_the_others_wait():
    search = session()  # 7 candidates, after the start
    search.inject(np.full((5, 3), 0.6), [value([0.6] * 3)] * 5)
    for expected in (1 + 4, 5, 7):
        trials = search.ask()
        assert len(trials) == expected
        search.tell(trials, [value(trial.solution) for trial in trials])
    assert search.result.nfev == 17 and search.result.nit == 3
    assert search.result.history["nfev"].tolist() == [5, 10, 17]


def test_a_generation_that_is_handed_out_is_left_alone():
    search = session()
    first = search.ask(1)
    search.inject([[1.0, 1.0, 1.0]], [0.0])
    rest = search.ask()
    assert len(rest) == 7
    search.tell(first + rest, [value(t.solution) for t in first + rest])
    assert len(search.ask()) == 6


def test_the_best_of_them_counts_and_failures_are_left_out():
    search = session(maximize=True)
    given = np.ones(3)
    search.inject([given, X0], [5.0, None])
    given[:] = 7  # the caller's
    assert search.result.fun == 5 and search.result.x.tolist() == [1, 1, 1]
    assert len(search.ask()) == 1 + 6


def test_a_pickled_session_keeps_those_that_wait():
    search = session()
    search.inject(np.full((5, 3), 0.6), [1.0] * 5)
    again = pickle.loads(pickle.dumps(search))
    for _ in range(3):
        step(search)
        step(again)
    found = [s.result.recommended for s in (search, again)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("words", [{"method": "nelder_mead"}, {"noisy": True}])
def test_others_count_them_for_the_best_with_a_warning(words):
    search = session(**words)
    with pytest.warns(UserWarning, match="cannot learn from injected solutions"):
        search.inject([[1, 1, 1]], [0.0])
    assert search.result.fun == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.inject([], [])


@pytest.mark.parametrize(
    "solutions, values, match",
    [
        ([[1.0, 2.0]], [1.0], "solutions must be like x0"),
        ([[1.0, 2.0, 9.0]], [1.0], "solutions must lie within bounds"),
        ([[1.0, 2.0, 0.0]], [1.0, 2.0], "2 for 1 solutions"),
        ([[1.0, 2.0, 0.0]], ["x"], "values must be"),
    ],
)
def test_it_is_refused_by_name(solutions, values, match):
    search = session(bounds=(-3, 3))
    with pytest.raises((TypeError, ValueError), match=match):
        search.inject(solutions, values)
    assert np.isnan(search.result.fun)
