"""The contract of ``gfopt.types``: what goes in and comes out of the five methods."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import cases
from conformance.cases import Case

from gfopt.core import evaluate, lazy
from gfopt.types import Evaluation, Optimizer, Population

X0 = jnp.array([1.0, -0.5, 0.25, 2.0, -1.5])
TREES = {
    "mixed": {
        "scalar": jnp.float32(0.5),
        "vector": jnp.arange(3.0),
        "layers": [{"w": jnp.ones((2, 3)), "none": {}}, (jnp.zeros((0, 4)),)],
    },
    "bfloat16": {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.zeros(3)},
}
KEY = jax.random.key(1)


@cases.each_case
def test_is_an_optimizer(case: Case) -> None:
    assert isinstance(case.make(), Optimizer)


@cases.each_case
def test_the_same_key_gives_the_same_population(case: Case) -> None:
    optimizer = case.make()
    state = optimizer.init(KEY, X0)
    before = jax.tree.map(np.array, state)
    population = optimizer.ask(KEY, state)
    cases.same_bits(population, optimizer.ask(KEY, state))
    optimizer.tell(state, population, cases.evaluate(optimizer, state, population))
    cases.same_bits(before, state)  # neither ask nor tell changes it


@cases.each_case
def test_another_key_gives_other_candidates(case: Case) -> None:
    optimizer = case.make()
    state = optimizer.init(KEY, X0)
    first, second = (
        np.stack(cases.solutions(optimizer, state, optimizer.ask(key, state)))
        for key in jax.random.split(KEY)
    )
    assert np.all(first != second)
    # members that are no antithetic pair differ in all coordinates, too
    step = 2 if case.has("pairs") else 1
    for row in first[step::step]:
        assert np.all(row != first[0])


@cases.each_case
def test_a_population_has_a_leading_axis(case: Case) -> None:
    optimizer = case.make()
    population = optimizer.ask(KEY, optimizer.init(KEY, X0))
    assert isinstance(population, Population)
    active = np.asarray(population.active)
    assert active.dtype == bool and active.ndim == 1
    assert np.all(active[: active.sum()])  # active rows stand first
    for leaf in jax.tree.leaves(population.members):
        assert leaf.shape[0] == len(active)
    if case.has("population_size"):
        for options in case.sizes(2, 3, 10):
            state = case.make(**options).init(KEY, X0)
            shapes = jax.eval_shape(case.make(**options).ask, KEY, state)
            assert shapes.active.shape == (options["population_size"],)


@cases.each_case
def test_tell_keeps_the_type_of_the_state(case: Case) -> None:
    optimizer = case.make()
    state = optimizer.init(KEY, X0)
    assert state._fields[0] == "step"
    assert state.step.dtype == jnp.int32 and state.step.shape == () and state.step == 0
    for leaf in jax.tree.leaves(state):
        assert isinstance(leaf, jax.Array)
        assert not jax.typeof(leaf).weak_type
        # a seed is stored as numbers, so that a state can be saved by anybody
        assert not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    population = optimizer.ask(KEY, state)
    evaluation = cases.evaluate(optimizer, state, population)
    new, info = optimizer.tell(state, population, evaluation)
    assert cases.types_of(new) == cases.types_of(state)
    assert new.step == 1
    assert all(jnp.shape(leaf) == () for leaf in jax.tree.leaves(info))


@cases.each_case
def test_recommends_the_starting_point_first(case: Case) -> None:
    optimizer = case.make()
    recommended = optimizer.recommend(optimizer.init(KEY, X0))
    if case.bounded:  # the way to the search space and back rounds twice
        cases.close(recommended, X0, 1e-6)
    else:
        cases.same_bits(recommended, X0)


@cases.each_case
@pytest.mark.parametrize("tree", TREES)
def test_any_tree_of_floats(case: Case, tree: str) -> None:
    x0 = TREES[tree]
    optimizer = case.make(x0)

    def shapes(x: object) -> object:
        return jax.tree.structure(x), [
            (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(x)
        ]

    @jax.jit
    def two_steps(key: jax.Array) -> tuple[object, object, object]:
        state = first = optimizer.init(key, x0)
        for step in range(2):
            population = optimizer.ask(jax.random.fold_in(key, step), state)
            member = jax.tree.map(lambda leaf: leaf[0], population.members)
            solution = lazy.materialise(optimizer.decode(state, member))
            evaluation = cases.evaluate(optimizer, state, population)
            state, _ = optimizer.tell(state, population, evaluation)
        return first, state, solution

    first, state, solution = two_steps(KEY)
    cases.no_nan(state)
    assert cases.types_of(state) == cases.types_of(first)
    assert shapes(solution) == shapes(x0)
    assert shapes(optimizer.recommend(state)) == shapes(x0)
    for leaf, old in zip(jax.tree.leaves(solution), jax.tree.leaves(x0), strict=True):
        assert leaf.size == 0 or jnp.all(leaf != old) or leaf.dtype == jnp.bfloat16


@cases.each_case
def test_decodes_a_group_as_its_members(case: Case) -> None:
    optimizer = case.make()
    state = optimizer.init(KEY, X0)
    population = optimizer.ask(KEY, state)
    stacked = evaluate.decode_rows(optimizer, state, population.members)
    together = jax.vmap(lazy.materialise)(stacked)
    alone = jnp.stack(cases.solutions(optimizer, state, population))
    if case.has("seeds"):
        cases.same_bits(together, alone)
    else:  # a fused multiply-add may round once where separate operations round twice
        cases.close(together, alone)


@cases.each_method
def test_takes_integers_as_floats(case: Case) -> None:
    optimizer = case.make()
    state = optimizer.init(KEY, np.array([1, 2, 3]))
    assert optimizer.recommend(state).dtype == jnp.float32


@cases.each_case
def test_double_precision(case: Case) -> None:
    with jax.enable_x64(True):
        x0 = jnp.asarray(X0, jnp.float64)
        optimizer = case.make()
        state = jax.eval_shape(optimizer.init, KEY, x0)
        population = jax.eval_shape(optimizer.ask, KEY, state)
        member = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
            population.members,
        )
        solution = jax.eval_shape(
            lambda s, m: lazy.materialise(optimizer.decode(s, m)), state, member
        )
        assert solution.dtype == jnp.float64
        size = population.active.shape[0]
        evaluation = Evaluation(
            jax.ShapeDtypeStruct((size,), jnp.float64),
            jax.ShapeDtypeStruct((size,), bool),
        )
        new, _ = jax.eval_shape(optimizer.tell, state, population, evaluation)
        assert cases.types_of(new) == cases.types_of(state)
