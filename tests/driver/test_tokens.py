"""Token sequences through the drivers: integers stay what they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt

HIDDEN = np.array([3, 1, 4, 1, 5])
OPTIONS = {"vocabulary": 8}


def traced(tokens: jax.Array) -> jax.Array:
    return jnp.sum((tokens != jnp.asarray(HIDDEN)) * jnp.arange(1.0, 6.0))


def hosted(tokens: np.ndarray) -> float:
    assert type(tokens) is np.ndarray and tokens.dtype == np.int32
    return float(((tokens != HIDDEN) * np.arange(1.0, 6.0)).sum())


def minimize(fun: Any, x0: Any = (0, 0, 0, 0, 0), **words: Any) -> gfopt.Result:
    given = {"method": "genetic_tokens", "options": OPTIONS, "budget": 320, **words}
    return gfopt.minimize(fun, x0, **given)


def test_both_paths_search_the_same_way() -> None:
    compiled, host = minimize(traced), minimize(hosted)
    assert (compiled.path, host.path) == ("compiled", "host")
    for result in (compiled, host):
        assert result.x.dtype == result.recommended.dtype == np.int32
    np.testing.assert_array_equal(compiled.x, HIDDEN)
    np.testing.assert_array_equal(host.x, HIDDEN)
    rows = compiled.history["fitness"][-5:], host.history["fitness"][-5:]
    np.testing.assert_array_equal(*rows)


def test_the_caller_evaluates_and_pickles() -> None:
    search = gfopt.AskTell("genetic_tokens", [0, 0, 0, 0, 0], options=OPTIONS)
    for _ in range(12):
        trials = search.ask()
        search.tell(trials, [hosted(trial.solution) for trial in trials])
        search = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(search.result.x, HIDDEN)


@pytest.mark.parametrize("fun", [traced, hosted])
def test_a_run_goes_on_from_its_checkpoint(fun: Any, tmp_path: Path) -> None:
    words = {"checkpoint": tmp_path / "run", "seed": 5}
    minimize(fun, **words, budget=75)
    resumed, straight = (
        minimize(fun, **words, budget=150),
        minimize(fun, seed=5, budget=150),
    )
    assert resumed.nfev == straight.nfev == 150
    np.testing.assert_array_equal(resumed.x, straight.x)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, straight.state)


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (TypeError, {"x0": [0.5, 1.0]}, "^x0 must be a vector of token ids"),
        (TypeError, {"x0": jnp.ones(3)}, "^x0 must be a vector of token ids"),
        (TypeError, {"x0": [True, False]}, "^x0 must be a vector of token ids"),
        (ValueError, {"x0": [[1, 2]]}, "^x0 must be a vector of token ids"),
        (ValueError, {"bounds": (0, 7)}, "^bounds must be None for a method of token"),
        (ValueError, {"sigma0": 1.0}, "^sigma0 must be None for genetic_tokens"),
        (TypeError, {"options": {}}, "^vocabulary must be the number of tokens"),
        (
            TypeError,
            {
                "x0": [0.5],
                "method": gfopt.tokens.RandomTokens(vocabulary=3),
                "options": None,
            },
            "^x0 must be a vector of token ids",
        ),
    ],
)
def test_a_wrong_argument_is_named(kind: Any, words: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        minimize(traced, **words)


def test_integers_are_numbers_for_all_other_methods() -> None:
    result = gfopt.minimize(lambda x: jnp.sum((x - 0.5) ** 2), [3, 4], budget=20)
    assert result.x.dtype == np.float64
