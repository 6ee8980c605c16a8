"""The rows, the objects, and what they say to a wrong argument."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import cases
from conformance.cases import KEY, Case

import gfopt
from gfopt import registry
from gfopt.lazy import lazy
from gfopt.methods_table import FLAGS
from gfopt.protocol import Method


class Wrong:
    """What no argument may be."""


WRONG = Wrong()


def names_of(optimizer: Any) -> set[str]:
    """Returns the names of its hyperparameters, its leaves: ``name``, ``part.name``."""
    paths = jax.tree_util.tree_leaves_with_path(optimizer)
    return {".".join(key.name for key in path) for path, _ in paths}


def says(error: pytest.ExceptionInfo[Exception], name: str, came: Any) -> bool:
    """Tells whether a message names the argument, what was expected and what came."""
    text = str(error.value)
    starts = text.startswith(name.split(".")[-1])
    return starts and " must " in text and repr(came)[:20] in text


@cases.each_method
def test_a_row_is_consistent(case: Case) -> None:
    row = case.row
    fields = {field.name for field in dataclasses.fields(row.cls)}
    assert registry.METHODS[row.name] is row
    assert row.flags <= set(FLAGS)
    named = {*case.configuration.options, *case.configuration.schedules}
    assert named <= fields
    assert row.sigma is None or row.sigma in fields
    assert case.has("population_size") == ("population_size" in fields)
    assert case.has("stops") == (row.cls.stop is not Method.stop)
    room = gfopt.tokens if row.tokens else gfopt
    assert row.cls.__name__ in room.__all__, "add it to gfopt/__init__.pyi"
    assert getattr(room, row.cls.__name__) is row.cls
    assert registry.row_of(case.make()) is row


@cases.each_case
def test_flags_are_true(case: Case) -> None:
    optimizer, state, population, _ = cases.first_step(case)
    # "seeds": a large population holds a few numbers a member, "dense": the state D x D
    members = population.members
    if case.has("seeds") and not case.bounded:
        large = jnp.zeros(2_000_000)
        members = jax.eval_shape(
            lambda x: optimizer.ask(KEY, optimizer.init(KEY, x)), large
        ).members
    numbers = all(leaf.shape[1:] == () for leaf in jax.tree.leaves(members))
    assert case.bounded or case.has("seeds") == numbers
    like = jnp.zeros(4 * case.x0.size, case.x0.dtype)
    larger = jax.eval_shape(case.make(like).init, KEY, like)
    growth = jax.tree.map(lambda new, old: new.size / old.size, larger, state)
    assert case.has("dense") == (max(jax.tree.leaves(growth)) > 8)
    solution = jax.eval_shape(
        lambda state, members: optimizer.decode(
            state, jax.tree.map(lambda leaf: leaf[0], members)
        ),
        state,
        population.members,
    )
    parts = jax.tree.leaves(solution, is_leaf=lazy.is_lazy)
    is_lazy = case.has("lazy") and not case.bounded  # a fold needs the numbers
    assert is_lazy == any(map(lazy.is_lazy, parts))
    if case.has("stops"):
        for name, holds in cases.stop(optimizer, state).items():
            assert (holds.shape, holds.dtype) == ((), bool), name
            assert not holds, name


@cases.methods_with("pairs")
def test_pairs_lie_on_both_sides(case: Case) -> None:
    _, _, _, evaluation = cases.first_step(case)
    center = np.asarray(case.x0)
    sides = (np.asarray(evaluation.aux) - center).reshape(-1, 2, center.size)
    np.testing.assert_allclose(sides[:, 0], -sides[:, 1], rtol=1e-3, atol=1e-6)


@cases.each_case
def test_an_optimizer_is_a_value(case: Case) -> None:
    optimizer = case.make()
    inner = optimizer.inner if case.bounded else optimizer
    assert inner == case.row.cls(**case.configuration.options)
    assert type(inner).__name__ in repr(optimizer)
    copy = pickle.loads(pickle.dumps(optimizer))
    assert jax.tree.structure(copy) == jax.tree.structure(optimizer)
    cases.same_bits(copy, optimizer)
    if not case.bounded:  # hashes where its fields do: bounds are arrays
        assert copy == optimizer and hash(copy) == hash(optimizer)
    for name, value in case.configuration.options.items():
        other = jax.tree.map(lambda number: 2 * number, value)
        changed = dataclasses.replace(inner, **{name: other})
        assert getattr(changed, name) == other
        assert changed != inner
    with pytest.raises(dataclasses.FrozenInstanceError):
        optimizer.anything = 1


@cases.each_method
def test_a_wrong_hyperparameter_is_named(case: Case) -> None:
    for name in names_of(case.make()):
        for wrong in ("0.1", True, [None], {"a": 1.0}, 1j):
            with pytest.raises(TypeError) as error:
                case.make(**{name: wrong})
            assert says(error, name, wrong)
        for wrong in (-1.0, np.nan, np.inf, jnp.array([0.1, -0.1])):
            with pytest.raises(ValueError) as error:
                case.make(**{name: wrong})
            assert says(error, name, wrong)


@cases.each_method
def test_an_array_of_a_hyperparameter_is_for_vmap(case: Case) -> None:
    for name in names_of(case.make()) & set(case.numbers):
        several = case.make(**{name: jnp.full(3, 0.1)})

        def step(optimizer: Any) -> Any:
            state = optimizer.init(KEY, case.x0)
            population = optimizer.ask(KEY, state)
            evaluation = cases.evaluate(optimizer, state, population)
            return optimizer.tell(state, population, evaluation)[0]

        field = name.split(".")[-1]
        with pytest.raises(ValueError, match=rf"^{field} must be one number.*\(3,\)"):
            jax.eval_shape(step, several)
        jax.eval_shape(jax.vmap(step, axis_size=3), batched(several, name))


def batched(optimizer: Any, name: str) -> Any:
    """Returns an optimizer with every other hyperparameter repeated as well."""

    def repeated(path: Any, leaf: Any) -> Any:
        is_it = ".".join(key.name for key in path) == name
        return leaf if is_it else jnp.full(3, leaf)

    return jax.tree_util.tree_map_with_path(repeated, optimizer)


@cases.each_method
def test_a_wrong_configuration_is_named(case: Case) -> None:
    hyperparameters = names_of(case.make())
    for field in dataclasses.fields(case.row.cls):
        if field.name not in hyperparameters:
            with pytest.raises(TypeError) as error:
                case.make(**{field.name: WRONG})
            assert says(error, field.name, WRONG)


@cases.methods_with("population_size")
def test_a_wrong_population_size_is_named(case: Case) -> None:
    odd = [7] if case.has("pairs") else []
    for wrong in (0, -2, *odd):
        with pytest.raises(ValueError) as error:
            case.make(population_size=wrong)
        assert says(error, "population_size", wrong)
    for wrong in (2.0, True, "16"):
        with pytest.raises(TypeError) as error:
            case.make(population_size=wrong)
        assert says(error, "population_size", wrong)


NEITHER = [
    (ValueError, np.zeros(0)),
    (ValueError, {}),
    (TypeError, np.array(["a"] * 5)),
    (TypeError, np.zeros(5, complex)),
    (TypeError, np.zeros(5, bool)),
]
NO_NUMBERS = [
    (ValueError, np.array([1.0, np.nan, 0.0, 0.0, 0.0])),
    (ValueError, np.array([1.0, np.inf, 0.0, 0.0, 0.0])),
]
NO_TOKENS = [
    (TypeError, np.array([1.0, 2.0])),
    (ValueError, np.array([[1, 2]])),
    (ValueError, np.array([1, -2])),
    (ValueError, [np.array([1]), np.array([2])]),
]


@cases.each_case
def test_a_wrong_starting_point_is_named(case: Case) -> None:
    for kind, wrong in NEITHER + (NO_TOKENS if case.row.tokens else NO_NUMBERS):
        with pytest.raises(kind, match="^solution.* must "):
            case.make().init(KEY, wrong)


def test_a_start_that_does_not_fit_its_space_is_named() -> None:
    sides = -np.ones(3), np.ones(3), np.ones(3)
    optimizer = gfopt.Bounded(gfopt.RandomSearch(), gfopt.spaces.Space(*sides))
    optimizer.init(KEY, jnp.ones(3))  # a corner is inside
    with pytest.raises(ValueError, match="^solution must lie within the bounds.*1.5"):
        optimizer.init(KEY, jnp.array([0.0, 0.0, 1.5]))
    with pytest.raises(
        ValueError, match=r"^space.lower must broadcast.*\(2,\).*\(3,\)"
    ):
        optimizer.init(KEY, jnp.zeros(2))
    with pytest.raises(ValueError, match="^space must have the structure"):
        optimizer.init(KEY, {"a": jnp.zeros(3)})


def test_a_wrong_space_is_named() -> None:
    zero, one = np.zeros(2), np.ones(2)
    with pytest.raises(ValueError, match="^lower must be below or equal to upper"):
        gfopt.spaces.Space(one, zero, one)
    with pytest.raises(ValueError, match="^upper must be numbers that are not NaN"):
        gfopt.spaces.Space(zero, np.array([1.0, np.nan]), one)
    with pytest.raises(ValueError, match="^scale must be a finite number above 0"):
        gfopt.spaces.Space(zero, one, zero)
    with pytest.raises(ValueError, match="^scale must have the structure of lower"):
        gfopt.spaces.Space(zero, one, {"a": one})
    with pytest.raises(TypeError, match="^inner must be a gfopt optimizer"):
        gfopt.Bounded("cma_es", gfopt.spaces.Space(zero, one, one))
    with pytest.raises(TypeError, match="^space must be a gfopt.spaces.Space"):
        gfopt.Bounded(gfopt.CMAES(), (0, 1))


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="method.*'cma-es'.*did you mean 'cma_es'"):
        gfopt.method("cma-es")
    with pytest.raises(ValueError, match="'populationsize'.*'population_size'"):
        gfopt.method("cma_es", {"populationsize": 3})
