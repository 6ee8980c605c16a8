"""Every wrong argument is refused by name, with what was expected and what came."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from driver.shared import host_plateau

import gfopt

KEY = jax.random.key(0)
SPACE = gfopt.spaces.Space(np.zeros(2), np.ones(2), np.ones(2))

# (argument, wrong value, error, what the message must say beside the name)
STARTS = [
    ("x0", None, ValueError, "at least one array"),
    ("x0", [], ValueError, "at least one"),
    ("x0", {}, ValueError, "at least one array"),
    ("x0", np.zeros((0, 3)), ValueError, "at least one number"),
    ("x0", "start", TypeError, "real numbers; got 'start' (str)"),
    ("x0", [1.0, "b"], TypeError, "real numbers"),
    ("x0", [1.0, np.nan], ValueError, "finite"),
    ("x0", {"a": 1.0, "b": -np.inf}, ValueError, "['b'] must be finite"),
    ("x0", [1.0, 2j], TypeError, "real numbers"),
    ("x0", [True, False], TypeError, "real numbers"),
    ("x0", np.array(["a"]), TypeError, "real numbers"),
    ("x0", np.array([1, None], object), TypeError, "real numbers"),
    ("x0", object(), TypeError, "real numbers"),
    ("x0", jnp.array([1.0, jnp.nan]), ValueError, "finite"),
]
SEARCHES = [
    *STARTS,
    ("method", "cma", ValueError, "'cma_es', "),
    ("method", "cmaes", ValueError, "did you mean 'cma_es'?"),
    ("method", "beast", ValueError, "gfopt.tokens.Beast(model, prompt)"),
    ("method", None, TypeError, "a method's name or a gfopt optimizer"),
    ("method", 3, TypeError, "got 3 (int)"),
    ("method", gfopt.CMAES, TypeError, "a gfopt optimizer; got the class"),
    ("sigma0", 0, ValueError, "above 0"),
    ("sigma0", -1.0, ValueError, "above 0"),
    ("sigma0", np.nan, ValueError, "finite number above 0"),
    ("sigma0", np.inf, ValueError, "finite number above 0"),
    ("sigma0", True, TypeError, "finite number above 0"),
    ("sigma0", "big", TypeError, "got 'big' (str)"),
    ("sigma0", [1.0, 2.0, 3.0], TypeError, "in the form of x0"),
    ("sigma0", [1.0, 0.0], ValueError, "above 0"),
    ("sigma0", {"a": 1.0}, TypeError, "in the form of x0"),
    ("sigma0", None, None, ""),
    ("bounds", 5, TypeError, "(low, high) pairs"),
    ("bounds", "ab", ValueError, "(low, high) pairs"),
    ("bounds", [(0, 1)], ValueError, "2 (low, high) pairs"),
    ("bounds", [(0, 1)] * 3, ValueError, "2 (low, high) pairs"),
    ("bounds", [(0, 1, 2)] * 2, ValueError, "(low, high) pairs"),
    ("bounds", [0, 1, 2], ValueError, "(low, high) pairs"),
    ("bounds", [("a", "b")] * 2, ValueError, "(low, high) pairs"),
    ("bounds", (1, 0), ValueError, "no lower number above its upper one"),
    ("bounds", (1, 1), ValueError, "x0 must lie within bounds"),
    ("bounds", [(0, 1), (3, 2)], ValueError, "no lower number above its upper"),
    ("bounds", [(0, 1), (np.nan, 2)], ValueError, "no NaN"),
    ("bounds", {"low": 0, "high": 1}, TypeError, "scipy.optimize.Bounds"),
    ("bounds", scipy.optimize.Bounds([0, 0, 0], 1), ValueError, "shape (2,)"),
    (
        "bounds",
        gfopt.spaces.Space(np.zeros(3), np.ones(3), np.ones(3)),
        ValueError,
        "(2,)",
    ),
    (
        "bounds",
        gfopt.spaces.Space({"a": 0.0}, {"a": 1.0}, {"a": 1.0}),
        TypeError,
        "of x0",
    ),
    ("seed", -1, ValueError, "0 or above; got -1 (int)"),
    ("seed", 2**64, ValueError, "below 2**64"),
    ("seed", 1.5, TypeError, "an integer"),
    ("seed", None, TypeError, "an integer"),
    ("seed", True, TypeError, "an integer"),
    ("seed", jax.random.key(1), TypeError, "an integer"),
    ("options", [("sigma", 1)], TypeError, "a dict of the method's fields"),
    ("options", {"sgima": 1.0}, ValueError, "did you mean 'sigma'?"),
    ("options", {1: 1.0}, ValueError, "key must be one of"),
    ("maximize", 1, TypeError, "True or False; got 1 (int)"),
    ("maximize", None, TypeError, "True or False"),
]
MINIMIZE = [
    ("fun", None, TypeError, "callable; got None"),
    ("fun", 3.0, TypeError, "callable"),
    ("budget", 0, ValueError, "1 or above; got 0 (int)"),
    ("budget", -5, ValueError, "1 or above"),
    ("budget", 1e4, TypeError, "an integer, 1 or above; got 10000.0 (float)"),
    ("budget", "all", TypeError, "an integer"),
    ("budget", True, TypeError, "an integer"),
    ("max_seconds", -1, ValueError, "a number, 0 or above"),
    ("max_seconds", np.nan, ValueError, "a number, 0 or above"),
    ("max_seconds", "1", TypeError, "a number, 0 or above"),
    ("max_seconds", True, TypeError, "a number"),
    ("target", np.nan, ValueError, "a number"),
    ("target", np.inf, ValueError, "finite"),
    ("target", -np.inf, ValueError, "finite"),
    ("target", "0", TypeError, "a number; got '0' (str)"),
    ("target", [0.0], TypeError, "a number"),
    ("workers", 0, ValueError, "1 or above"),
    ("workers", 1.5, TypeError, "an integer"),
    ("workers", True, TypeError, "an integer"),
    ("workers", "all", TypeError, "an integer"),
    ("evaluator", "vmapped", TypeError, "such as gfopt.vmapped()"),
    ("evaluator", gfopt.vmapped, TypeError, "such as gfopt.vmapped()"),
    ("evaluator", gfopt.host, TypeError, "such as gfopt.vmapped()"),
    ("evaluator", gfopt.chunked, TypeError, "such as gfopt.vmapped()"),
    ("evaluator", 4, TypeError, "such as gfopt.vmapped()"),
    ("args", [1], TypeError, "a tuple of further arguments; got [1] (list)"),
    ("args", 3, TypeError, "a tuple of further arguments"),
    ("args", None, TypeError, "a tuple of further arguments"),
    ("batches", 3, TypeError, "a function or an iterable"),
    ("batches", "data.csv", TypeError, "a function or an iterable"),
    ("batches", [], ValueError, "at least one batch"),
    ("callbacks", None, TypeError, "a function or several"),
    ("callbacks", 3, TypeError, "a function or several"),
    ("callbacks", [3], TypeError, "callable; got 3"),
    ("checkpoint", 3, TypeError, "a path"),
    ("checkpoint", True, TypeError, "a path"),
    ("progress", "yes", TypeError, "True or False"),
    ("progress", 1, TypeError, "True or False"),
    ("frozen", {"b": 1.0}, ValueError, "the other half of x0"),
    ("frozen", 1.0, ValueError, "the other half of x0"),
]
RUN = [
    *((n, v, e, w) for n, v, e, w in STARTS if n == "x0"),
    ("optimizer", "cma_es", TypeError, "a gfopt optimizer"),
    ("optimizer", gfopt.CMAES, TypeError, "a gfopt optimizer"),
    ("optimizer", None, TypeError, "a gfopt optimizer"),
    ("objective", None, TypeError, "callable"),
    ("objective", 3, TypeError, "callable"),
    ("objective", host_plateau, TypeError, "gfopt.minimize"),
    ("key", 0, TypeError, "a key from jax.random.key; got 0 (int)"),
    ("key", None, TypeError, "a key from jax.random.key"),
    ("key", jnp.zeros(2), TypeError, "a key from jax.random.key"),
    ("key", jax.random.split(KEY, 3), ValueError, "a single key; got an array of keys"),
    ("generations", 0, ValueError, "1 or above"),
    ("generations", 2.0, TypeError, "an integer"),
    ("generations", True, TypeError, "an integer"),
    ("args", [1], TypeError, "a tuple of further arguments"),
    ("batches", [1, 2], TypeError, "callable"),
    ("stop", True, TypeError, "callable"),
    ("evaluator", gfopt.vmapped, TypeError, "such as gfopt.vmapped()"),
    ("evaluator", "chunked", TypeError, "such as gfopt.vmapped()"),
    ("state", 3, ValueError, "one of RandomSearch"),
    ("frozen", {"b": 1.0}, ValueError, "the other half of x0"),
]


def names(table: list[tuple[Any, ...]]) -> list[str]:
    return [f"{row[0]}={str(row[1])[:20]}" for row in table]


def refused(call: Any, name: str, error: Any, words: str) -> None:
    """Makes the call and asserts that its error names the argument."""
    if error is None:
        call()
        return
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert name in message.split(";")[0], message  # the argument's name comes first
    assert words in message, message
    assert len(message) < 600 and "\n" not in message


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    SEARCHES + MINIMIZE,
    ids=names(SEARCHES + MINIMIZE),
)
def test_minimize(name, value, error, words):
    def fun(x: Any, *_: Any) -> Any:
        raise AssertionError("the objective was called before the arguments were read")

    given = {"fun": fun, "x0": [0.5, 0.5], "budget": 4} | {name: value}
    if error is None:
        given["fun"] = host_plateau
    refused(lambda: gfopt.minimize(**given), name, error, words)


@pytest.mark.parametrize(
    ("name", "value", "error", "words"), SEARCHES, ids=names(SEARCHES)
)
def test_ask_tell(name, value, error, words):
    given = {"method": "cma_es", "x0": [0.5, 0.5]} | {name: value}
    refused(lambda: gfopt.AskTell(**given), name, error, words)


@pytest.mark.parametrize(("name", "value", "error", "words"), RUN, ids=names(RUN))
def test_run(name, value, error, words):
    given = {
        "optimizer": gfopt.RandomSearch(population_size=4),
        "objective": jnp.sum,
        "x0": jnp.ones(2),
        "key": KEY,
        "generations": 2,
    }
    refused(lambda: gfopt.run(**(given | {name: value})), name, error, words)


@pytest.mark.parametrize(
    ("words", "name", "came"),
    [
        (
            {"method": gfopt.MeZO(learning_rate=1e-3), "sigma0": 1.0},
            "sigma0",
            "for MeZO, which has no such step size",
        ),
        (
            {"method": gfopt.CMAES(), "options": {}},
            "options",
            "where method is an optimizer",
        ),
        ({"method": "mezo", "sigma0": 1.0}, "sigma0", "no such step size"),
        (
            {"options": {"sigma": 1.0}, "sigma0": 1.0},
            "sigma0",
            "where options has 'sigma'",
        ),
        ({"x0": [2.0, 0.5], "bounds": (0, 1)}, "x0", "within bounds"),
        ({"x0": [2.0, 0.5], "bounds": SPACE}, "x0", "within bounds"),
        ({"x0": {"a": 0.5, "b": 0.5}, "bounds": [(0, 1)] * 2}, "bounds", "flat x0"),
        (
            {"x0": {"a": 0.5, "b": 0.5}, "bounds": SPACE},
            "bounds",
            "broadcast to a leaf",
        ),
        ({"options": {"sigma": -1.0}}, "sigma", "above 0"),
        ({"options": {"population_size": 2.5}}, "population_size", "an integer"),
    ],
)
def test_arguments_that_do_not_go_together(words, name, came):
    given = {"method": "cma_es", "x0": [0.5, 0.5]} | words
    refused(lambda: gfopt.AskTell(**given), name, (ValueError, TypeError), came)
    refused(
        lambda: gfopt.minimize(host_plateau, **given),
        name,
        (ValueError, TypeError),
        came,
    )


def test_workers_and_evaluator_are_one_choice():
    given = {"workers": 2, "evaluator": gfopt.host()}
    call = lambda: gfopt.minimize(host_plateau, [0.5], **given)  # noqa: E731
    refused(call, "workers", ValueError, "None where evaluator is given")
    evaluator = gfopt.chunked(2)
    call = lambda: gfopt.minimize(host_plateau, [0.5], evaluator=evaluator)  # noqa: E731
    refused(call, "evaluator", ValueError, "gfopt.host(...) for a function that JAX")


def test_an_unknown_word_is_pythons_own_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'sigma'"):
        gfopt.minimize(host_plateau, [0.5], sigma=1.0)
