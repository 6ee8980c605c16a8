"""The objective: how it is called, what it may return, which programs it shares."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.objective import Inputs, Objective, as_objective, check_number

X = jnp.array([1.0, 2.0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quadratic:
    """A problem that carries its numbers."""

    center: jax.Array

    def __call__(self, x):
        """Returns the squared distance."""
        return jnp.sum((x - self.center) ** 2)


def test_the_order_of_arguments():
    """fun([key,] x[, batch], *args[, context=context])."""
    seen = []

    def fun(*args, **kwargs):
        seen.append((args, kwargs))
        return 0.0, "aux"

    inputs = Inputs(args=(3, 4), batch="batch", context="context")
    Objective(fun, takes_key=True, has_aux=True).call(X, "key", inputs)
    assert seen.pop() == (("key", X, "batch", 3, 4), {"context": "context"})
    found = Objective(fun, has_aux=True).call(X, "key", Inputs())
    assert seen.pop() == ((X,), {}) and found == (0.0, "aux")


def test_the_sign_is_turned_once_and_fitness_is_wide():
    fun = Objective(lambda x: jnp.sum(x).astype(jnp.bfloat16), maximize=True)
    value, aux = fun.value(X, None, Inputs())
    assert value.dtype == jnp.float32 and value == -3 and aux == ()
    for number in (2, np.float32(2), np.int8(2), True + True, jnp.int32(2)):
        value, _ = Objective(lambda x, n=number: n).value(X, None, Inputs())
        assert value.dtype == jnp.float32 and value == 2
    with jax.enable_x64(True):
        x = jnp.ones(2, jnp.float64)
        value, _ = Objective(jnp.sum).value(x, None, Inputs())
        assert value.dtype == jnp.float64


@pytest.mark.parametrize(
    ("options", "found", "error", "message"),
    [
        (
            {},
            np.ones(2),
            ValueError,
            r"one real number of shape \(\).*got array.*of shape \(2,\)",
        ),
        ({}, None, ValueError, "one real number"),
        ({}, "1.0", ValueError, "one real number .* got '1.0'"),
        ({}, 1j, ValueError, "one real number"),
        ({}, (1.0, 2.0), ValueError, r"got shape \(2,\)"),
        ({}, jnp.ones(2), ValueError, r"got shape \(2,\), dtype float32"),
        ({}, {"loss": 1.0}, ValueError, "one real number"),
        ({"has_aux": True}, 1.0, TypeError, r"\(number, aux\) because has_aux=True"),
        ({"has_aux": True}, (1.0, 2.0, 3.0), TypeError, r"\(number, aux\)"),
        ({"batched": True}, 1.0, ValueError, r"numbers of shape \(2,\) for a batch"),
        ({"batched": True}, np.ones((2, 2)), ValueError, r"of shape \(2, 2\)"),
        ({"batched": True}, np.ones((1, 2)), ValueError, r"of shape \(1, 2\)"),
    ],
)
def test_a_wrong_result_is_refused_in_words(options, found, error, message):
    with pytest.raises(error, match=message):
        Objective(lambda x: found, **options).value(X, None, Inputs())


def test_numbers_of_every_kind_pass():
    for number in (1, 1.0, np.float16(1), np.array(1), jnp.ones(()), True):
        check_number(number, ())
    check_number([1.0, 2.0], (2,))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fun": 3}, TypeError, "fun must be callable; got 3"),
        ({"update": 3}, TypeError, "update must be callable; got 3"),
        ({"update": max}, ValueError, "update needs a context to start from"),
        ({"traceable": "yes"}, ValueError, "traceable must be one of.*'yes'"),
        ({"takes_key": 1}, TypeError, "takes_key must be True or False; got 1"),
        ({"has_aux": "no"}, TypeError, "has_aux must be True or False; got 'no'"),
        ({"batched": None}, TypeError, "batched must be True or False; got None"),
        ({"maximize": 0}, TypeError, "maximize must be True or False; got 0"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Objective(**{"fun": jnp.sum, **options})


def test_a_problem_with_numbers_shares_one_program():
    traces = []

    @jax.jit
    def evaluate(objective, x):
        traces.append(1)
        return objective.value(x, None, Inputs(context=objective.context))[0]

    for shift in (0.0, 1.0):
        value = evaluate(Objective(Quadratic(jnp.full(2, shift))), X)
        assert value == np.sum((np.asarray(X) - shift) ** 2)
    assert len(traces) == 1  # its numbers are arguments
    for scale in (1.0, 2.0):
        fun = Objective(
            lambda x, context: context * jnp.sum(x), context=jnp.float32(scale)
        )
        assert evaluate(fun, X) == 3 * scale
    assert len(traces) == 3  # another function is another program
    batch = jax.vmap(lambda c: Objective(Quadratic(c)).value(X, None, Inputs())[0])
    np.testing.assert_allclose(batch(jnp.zeros((3, 2))), np.full(3, 5.0))


def test_survives_flattening():
    objective = Objective(
        Quadratic(X), takes_key=True, has_aux=True, context={"a": X}, maximize=True
    )
    leaves, tree = jax.tree.flatten(objective)
    assert len(leaves) == 2
    again = jax.tree.unflatten(tree, leaves)
    assert again == objective and type(again.fun) is Quadratic
    equal = replace(objective, context={"a": X + 0})
    assert equal == objective != replace(objective, context={"a": 2 * X})
    assert objective != replace(objective, context={"a": X[0]})
    assert objective != replace(objective, maximize=False)
    assert objective != jnp.sum
    assert jax.tree.structure(Objective(jnp.sum)) == jax.tree.structure(
        Objective(jnp.sum)
    )
    assert jax.tree.structure(Objective(jnp.sum)) != jax.tree.structure(
        Objective(jnp.sum, maximize=True)
    )


def test_any_callable_is_an_objective():
    objective = Objective(jnp.sum)
    assert as_objective(objective) is objective
    assert as_objective(jnp.sum) == objective
    scaled = partial(lambda scale, x: scale * jnp.sum(x), 2.0)
    assert as_objective(scaled).value(X, None, Inputs())[0] == 6


def test_lazy_leaves_are_interpreted_in_solution_and_arguments():
    leaf = gfopt.noise.Perturbed(
        jnp.ones((2, 3)), jnp.uint32(1), 0.5, kind="rademacher"
    )

    def fun(w, v):
        return jnp.sum(X @ w) + jnp.sum(X @ v), w

    with gfopt.lazy.count_materialisations() as made:
        value, aux = Objective(fun, has_aux=True).value(
            leaf, None, Inputs(args=(leaf,))
        )
    assert [name for name, _ in made.list] == ["output"]  # aux is made of arrays
    np.testing.assert_allclose(value, 2 * np.sum(X @ leaf.materialise()), rtol=1e-6)
    np.testing.assert_array_equal(aux, leaf.materialise())


def test_problems_with_the_same_fields_are_not_taken_for_each_other():
    def made(sign: float) -> Any:
        def call(self: Any, x: Any) -> Any:
            return sign * self.scale * x

        fields, own = [("scale", float)], {"__call__": call}
        cls = make_dataclass("Problem", fields, frozen=True, namespace=own)
        return jax.tree_util.register_dataclass(cls, ["scale"], [])

    first, second = (jax.tree.structure(Objective(made(s)(2.0))) for s in (1.0, -1.0))
    assert first != second
