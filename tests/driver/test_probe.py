"""Is it a JAX function? Traced twice, called once, and believed only if it is pure."""

from __future__ import annotations

import collections
import functools
import itertools
import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.objective import Inputs, as_objective
from gfopt.driver.loop.probe import probe

X0 = np.array([1.0, 2.0])
KEY = jax.random.key(0)


def found(fun: Any, x0: Any = X0, **inputs: Any) -> Any:
    return probe(as_objective(fun), x0, KEY, Inputs(**inputs))


def square(x: Any) -> Any:
    return jnp.sum(x**2)


class Model:
    """What a user's program looks like: an object that the function refers to."""

    shared = 0

    def __init__(self) -> None:
        self.calls = 0
        self.log: list[Any] = []
        self.stats = {"calls": 0}
        self.cache: Any = None

    def count(self, x: Any) -> Any:
        self.calls += 1
        return square(x)

    def append(self, x: Any) -> Any:
        self.log.append(x)
        return square(x)

    def in_dict(self, x: Any) -> Any:
        self.stats["calls"] += 1
        return square(x)

    def in_class(self, x: Any) -> Any:
        Model.shared += 1
        return square(x)

    def lazily(self, x: Any) -> Any:
        if self.cache is None:
            self.cache = np.ones(2)
        return square(x * self.cache)

    def __call__(self, x: Any) -> Any:
        return self.count(x)


model = Model()
calls = 0
generator = np.random.default_rng(0)
numbers = itertools.count()
history: collections.deque[Any] = collections.deque(maxlen=3)


def global_counter(x: Any) -> Any:
    global calls
    calls += 1
    return square(x)


def helper_counts(x: Any) -> Any:
    return global_counter(x) + 1


def through_a_global_object(x: Any) -> Any:
    return model.count(x)


def closed_over() -> Any:
    count = 0

    def fun(x: Any) -> Any:
        nonlocal count
        count += 1
        return square(x)

    return fun


def closed_over_list() -> Any:
    seen: list[Any] = []

    def fun(x: Any) -> Any:
        seen.append(x)
        return square(x)

    return fun


def default_argument(x: Any, count: list[int] = [0]) -> Any:  # noqa: B006
    count[0] += 1
    return square(x)


def with_iterator(x: Any) -> Any:
    next(numbers)
    return square(x)


def numpy_global(x: Any) -> Any:
    return square(x) + np.random.normal()


def numpy_generator(x: Any) -> Any:
    return square(x) + generator.normal()


def numpy_array(x: Any) -> Any:
    return square(x + generator.normal(size=2))


def python_random(x: Any) -> Any:
    return square(x) * random.random()


IMPURE = {
    "global counter": global_counter,
    "helper": helper_counts,
    "object": through_a_global_object,
    "method": Model().count,
    "append": Model().append,
    "dict": Model().in_dict,
    "class": Model().in_class,
    "callable": Model(),
    "lambda": lambda x: model.append(x),
    "partial": functools.partial(lambda one, x: one.count(x), Model()),
    "closure": closed_over(),
    "closed list": closed_over_list(),
    "default": default_argument,
    "iterator": with_iterator,
    "deque": lambda x: [history.append(len(history)), square(x)][1],
    "numpy": numpy_global,
    "generator": numpy_generator,
    "constant": numpy_array,
    "random": python_random,
}


@pytest.mark.parametrize("fun", IMPURE.values(), ids=IMPURE)
def test_what_is_traceable_but_not_pure_is_caught(fun):
    answer = found(fun)
    assert not answer.traceable
    assert "changes variables" in answer.reason or "two programs" in answer.reason


def test_what_depends_on_being_traced_is_caught_by_the_real_call():
    def fun(x: Any) -> Any:
        return square(x) + (0 if isinstance(x, jax.core.Tracer) else 3)

    answer = found(fun)
    assert answer[:3] == (
        False,
        "a real call gave 8, the compiled one 5",
        8.0,
    )  # paid for


def test_a_real_call_that_raises_is_a_paid_failure():
    def fun(x: Any) -> Any:
        if isinstance(x, jax.core.Tracer):
            return square(x)
        raise OSError("no disk")

    answer = found(fun)
    assert not answer.traceable and np.isnan(answer.fitness)
    assert answer.reason == "it can be traced, but a real call raised OSError: no disk"


@pytest.mark.parametrize(
    ("fun", "words"),
    [
        (lambda x: float(x[0]), "ConcretizationTypeError"),
        (lambda x: np.linalg.norm(x), "TracerArrayConversionError"),
        (lambda x: 1.0 if x[0] > 0 else 2.0, "TracerBoolConversionError"),
        (lambda x: [0, 1][x.astype(int)[0]] * 1.0, "TracerIntegerConversionError"),
        (lambda x: x.no_such_thing, "AttributeError"),
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x: exec("raise SystemError()"), "SystemError: no message"),
    ],
)
def test_what_cannot_be_traced_says_why(fun, words):
    answer = found(fun)
    assert not answer.traceable and answer.fitness is None
    assert "tracing it raised" in answer.reason and words in answer.reason


PURE = {
    "plain": square,
    "numpy style": lambda x: (x**2).sum(),
    "constant": lambda x: 5.0,
    "integer": lambda x: 5,
    "one element": lambda x: jnp.sum(x)[None, None],
    "jitted": jax.jit(square),
    "lazily filled": Model().lazily,
    "problem": gfopt.problems.bbob(1, 2, 1),
    "reads a generator's name": lambda x: square(x) + len(str(generator)) * 0,
}


@pytest.mark.parametrize("fun", PURE.values(), ids=PURE)
def test_a_pure_function_is_a_jax_function(fun):
    answer = found(fun)
    assert answer.traceable and answer.reason == "a JAX function"
    np.testing.assert_allclose(answer.fitness, np.sum(fun(X0)), rtol=1e-6)


def test_a_value_that_is_not_finite_is_a_value():
    assert np.isnan(found(lambda x: jnp.log(-x[0])).fitness)
    assert found(lambda x: jnp.divide(1, x[0] - 1)).traceable


def test_what_is_said_is_believed_without_a_call():
    def fun(x: Any) -> Any:
        raise AssertionError

    for said in (True, False):
        answer = found(gfopt.Objective(fun, traceable=said))
        assert (answer.traceable, answer.fitness) == (said, None)
        assert "said" in answer.reason


def test_all_that_an_objective_can_take():
    def fun(key: Any, x: Any, batch: Any, scale: Any, context: Any) -> Any:
        noise = (
            jax.random.normal(key)
            if key.shape == ()
            else jax.vmap(jax.random.normal)(key)
        )
        total = jnp.sum((x["a"] + x["b"]) ** 2, axis=-1) * scale
        return total + batch + context + 0 * noise, {"descriptor": x["a"]}

    inputs = {"frozen": {"a": None, "b": 2.0}, "args": (3.0,), "batch": 1.0}
    x0 = {"a": X0, "b": None}
    for batched in (False, True):
        objective = gfopt.Objective(
            fun,
            takes_key=True,
            has_aux=True,
            batched=batched,
            context=0.5,
            maximize=True,
        )
        answer = probe(objective, x0, KEY, Inputs(**inputs, context=0.5))
        assert answer.traceable and answer.fitness == -((9 + 16) * 3 + 1.5)


@pytest.mark.parametrize(
    ("fun", "words"),
    [
        (lambda x: x, r"shape \(\) for one solution; got shape \(2,\)"),
        (lambda x: x[0] * 1j, "got .*complex"),
        (lambda x: None, "got None"),
        (lambda x: (jnp.sum(x), x), "one real number"),
    ],
)
def test_what_is_no_number_is_refused_at_once(fun, words):
    with pytest.raises(ValueError, match=f"fun must return.*{words}|{words}"):
        found(fun)
