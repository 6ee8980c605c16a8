"""Argument checks: what passes, what is refused, and the words for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt import checks

NUMBERS = [checks.positive, checks.non_negative, checks.finite, checks.share]


@pytest.mark.parametrize("check", NUMBERS)
def test_numbers_of_every_type_pass(check):
    for value in (1, 0.5, np.float32(0.5), np.int64(1), jnp.bfloat16(0.5)):
        check("x", value)
    for array in (np.array([0.5, 1]), jnp.ones((2, 2), jnp.bfloat16), [0.5, 1.0]):
        check("x", array)


@pytest.mark.parametrize("check", NUMBERS)
def test_what_is_not_known_yet_passes(check):
    jax.eval_shape(lambda x: check("x", x), jnp.float32(-1))
    jax.vmap(lambda x: check("x", x))(jnp.full(2, jnp.nan))
    check("x", object())  # a placeholder with which a tree is flattened


@pytest.mark.parametrize("check", NUMBERS)
@pytest.mark.parametrize("value", ["1", None, True, b"1", 1j, len, [[1], [1, 2]]])
def test_what_is_no_number_is_a_type_error(check, value):
    with pytest.raises(TypeError, match=r"^x must be .*; got "):
        check("x", value)


@pytest.mark.parametrize(
    ("check", "value", "words"),
    [
        (checks.positive, 0, "x must be a finite number above 0; got 0 (int)"),
        (checks.positive, np.inf, "x must be a finite number above 0; got inf (float)"),
        (
            checks.non_negative,
            -1,
            "x must be a finite number, 0 or above; got -1 (int)",
        ),
        (checks.finite, np.nan, "x must be finite; got nan (float)"),
        (checks.share, 1.01, "x must be a number from 0 to 1; got 1.01 (float)"),
        (checks.positive, [1.0, -1.0], "x must be a finite number above 0; got [1.0, "),
    ],
)
def test_a_number_out_of_range_is_a_value_error(check, value, words):
    with pytest.raises(ValueError) as caught:
        check("x", value)
    assert str(caught.value).startswith(words)


def test_bounds_of_another_argument():
    checks.below("lower", [0.0, -np.inf], "upper", [1.0, np.inf])
    checks.below("lower", -1, "upper", jnp.zeros(3))
    jax.eval_shape(lambda high: checks.below("lower", 5.0, "upper", high), 1.0)
    with pytest.raises(ValueError, match="lower must be below upper everywhere"):
        checks.below("lower", [0.0, 1.0], "upper", [1.0, 1.0])
    with pytest.raises(ValueError, match="upper must be numbers that are not NaN"):
        checks.below("lower", 0.0, "upper", np.nan)


def test_integers():
    checks.integer("n", np.int32(4), 2, even=True)
    for value in (2.0, "2", True, None, np.float32(2), jnp.ones(())):
        with pytest.raises(TypeError, match="n must be an integer, 1 or above; got "):
            checks.integer("n", value, 1)
    with pytest.raises(ValueError, match="n must be an integer, 1 or above; got 0"):
        checks.integer("n", 0, 1)
    with pytest.raises(
        ValueError, match="n must be an even integer, 2 or above; got 3"
    ):
        checks.integer("n", 3, 2, even=True)


def test_one_real_number():
    checks.real("budget", np.float32(3), minimum=1)
    checks.real("target", -np.inf)
    for value in (True, "3", None, [3.0]):
        with pytest.raises(TypeError, match="budget must be a number, 1 or above; got"):
            checks.real("budget", value, 1)
    for value in (0.5, np.nan):
        with pytest.raises(
            ValueError, match="budget must be a number, 1 or above; got"
        ):
            checks.real("budget", value, 1)


def test_names_are_suggested():
    checks.one_of("method", "cma_es", ["cma_es", "open_es"])
    with pytest.raises(ValueError, match="'cma_es', 'open_es'; got 'cmaes' .*did you "):
        checks.one_of("method", "cmaes", ["cma_es", "open_es"])
    with pytest.raises(ValueError) as caught:
        checks.one_of("method", 3, ["cma_es"])
    assert "did you mean" not in str(caught.value)
    checks.known_options("options", ["sigma"], {"sigma", "rate"})
    with pytest.raises(ValueError, match="options key must be one of .*mean 'sigma'"):
        checks.known_options("options", ["sigme"], {"sigma", "rate"})


def test_callables_and_instances():
    checks.is_callable("fun", len)
    checks.instance("noise", 3, int, "an integer")
    with pytest.raises(TypeError, match="fun must be callable; got 3"):
        checks.is_callable("fun", 3)
    with pytest.raises(TypeError, match="noise must be a noise family; got 3 .int"):
        checks.instance("noise", 3, str, "a noise family")


def test_keys():
    checks.key("key", jax.random.key(0))
    checks.key("key", jax.random.key(0, impl="rbg"))
    checks.key("key", jax.random.PRNGKey(0))
    jax.eval_shape(lambda key: checks.key("key", key), jax.random.key(0))
    for value in (0, None, np.zeros(2), "seed"):
        with pytest.raises(TypeError, match="key must be a key from jax.random.key"):
            checks.key("key", value)
    for keys in (jax.random.split(jax.random.key(0), 3), np.zeros((3, 2), np.uint32)):
        with pytest.raises(ValueError, match=r"key must be a single key.*shape \(3,\)"):
            checks.key("key", keys)


def test_long_values_are_shown_short():
    text = checks.shown(np.arange(1000))
    assert len(text) < 100 and text.endswith("... (ndarray)") and "\n" not in text


def test_a_class_in_place_of_an_object_is_told_to_be_called() -> None:
    with pytest.raises(TypeError, match=r"got the class: call it, CMAES\(\.\.\.\)"):
        gfopt.minimize(sum, [1.0], method=gfopt.CMAES)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"call it: vmapped\(\)"):
        gfopt.minimize(sum, [1.0], evaluator=gfopt.vmapped)  # type: ignore[arg-type]


def test_of_many_names_the_nearest_comes_first() -> None:
    with pytest.raises(ValueError, match="got 'cmaes'.*mean 'cma_es'.*All are 'auto'"):
        gfopt.minimize(sum, [1.0], method="cmaes")


def test_a_function_of_fitness_is_named_where_one_is_wanted() -> None:
    with pytest.raises(TypeError, match="such as gfopt.shaping.centered_rank; got"):
        gfopt.OpenES(shaping="centered_rank")  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"scaling must be Anisotropic\(\), Isotropic\(\).*got Noise"
    ):
        gfopt.CBO(scaling=gfopt.rademacher())  # type: ignore[arg-type]
