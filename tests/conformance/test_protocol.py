"""The contract of ``gfopt.protocol``: what goes in and comes out of five methods."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from conformance import cases
from conformance.cases import KEY, Case

from gfopt.core import evaluate
from gfopt.lazy import lazy
from gfopt.protocol import Optimizer, as_method
from gfopt.types import Evaluation, Population

MIXED = {
    "scalar": jnp.float32(0.5),
    "vector": jnp.arange(3.0),
    "layers": [
        {"w": jnp.ones((2, 3), jnp.bfloat16), "none": {}},
        (jnp.ones((0, 4)), jnp.ones((3, 0))),
    ],
}


def shapes(tree: Any) -> Any:
    """Returns structure, shapes and dtypes."""
    return jax.tree.structure(tree), [
        (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)
    ]


@cases.each_case
def test_is_an_optimizer(case: Case) -> None:
    assert isinstance(case.make(), Optimizer)


@cases.each_case
def test_the_same_key_gives_the_same_population(case: Case) -> None:
    optimizer, state, population, evaluation = cases.first_step(case)
    before = jax.tree.map(lambda leaf: np.array(leaf), state)
    cases.same_bits(population, cases.ask(optimizer, KEY, state))
    cases.tell(optimizer, state, population, evaluation)
    cases.same_bits(before, state)  # neither ask nor tell changes it


@cases.each_case
def test_another_key_gives_other_candidates(case: Case) -> None:
    optimizer, state, _, evaluation = cases.first_step(case)
    other = cases.ask(optimizer, jax.random.key(7), state)
    if case.has("deterministic"):
        cases.same_bits(other, cases.ask(optimizer, KEY, state))
        return
    first, second = evaluation.aux, cases.evaluate(optimizer, state, other).aux
    if case.row.tokens:  # two draws of tokens agree in some positions
        assert np.any(first != second) and np.any(first != first[0])
        return
    if case.has("centered"):
        cases.close(first[0], case.x0)
        first, second = first[1:], second[1:]
    step = 2 if case.has("pairs") else 1
    if case.has("signs"):  # two draws of signs agree in some coordinates
        assert np.all(first != case.x0) and np.any(first != second)
        return
    start = np.isclose(first, case.x0).all(axis=1)  # a member may stand there
    assert start.sum() <= 1 and np.all((first != second)[~start])
    # members that are no antithetic pair differ in all coordinates, too
    assert np.all(first[step::step] != first[0])


@cases.each_case
def test_a_population_has_a_leading_axis(case: Case) -> None:
    _, _, population, _ = cases.first_step(case)
    assert isinstance(population, Population)
    active = np.asarray(population.active)
    assert active.dtype == bool and active.ndim == 1
    assert np.all(active[: active.sum()])  # active rows stand first
    for leaf in jax.tree.leaves(population.members):
        assert leaf.shape[0] == len(active)


@cases.each_case
def test_tell_keeps_the_type_of_the_state(case: Case) -> None:
    optimizer, state, population, evaluation = cases.first_step(case)
    assert state._fields[0] == "step"
    assert state.step.dtype == jnp.int32 and state.step.shape == () and state.step == 0
    for leaf in jax.tree.leaves(optimizer.init(KEY, case.x0)):
        assert isinstance(leaf, jax.Array)
        assert not leaf.weak_type
        # a seed is stored as numbers, so that a state can be saved by anybody
        assert not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    new, info = cases.tell(optimizer, state, population, evaluation)
    assert cases.types_of(new) == cases.types_of(state)
    assert new.step == 1
    assert all(jnp.shape(leaf) == () for leaf in jax.tree.leaves(info))


@cases.each_case
def test_recommends_the_starting_point_first(case: Case) -> None:
    optimizer, state, _, _ = cases.first_step(case)
    recommended = cases.recommend(optimizer, state)
    if case.bounded:  # the way to the search space and back rounds twice
        cases.close(recommended, case.x0, 1e-6)
    else:
        cases.same_bits(recommended, case.x0)


@cases.each_case_of_numbers
def test_a_tree_of_mixed_shapes_and_types(case: Case) -> None:
    steps = cases.steps(case.make(MIXED), MIXED, num_steps=1)
    assert cases.types_of(steps.last) == cases.types_of(steps.first)
    cases.no_nan(steps.last)
    # the objective saw solutions like the starting point, each number moved in one
    seen = jax.tree.map(lambda leaf: np.asarray(leaf)[0], steps.seen)
    assert shapes(jax.tree.map(lambda rows: rows[0], seen)) == shapes(MIXED)
    assert shapes(steps.recommended) == shapes(MIXED)
    for rows, old in zip(jax.tree.leaves(seen), jax.tree.leaves(MIXED), strict=True):
        # eps = 1e-3 is less than the spacing of bfloat16 at 1
        moved = rows != np.asarray(old)
        assert rows.dtype == jnp.bfloat16 or np.all(np.any(moved, axis=0))


@cases.each_method_of_numbers
def test_types_follow_the_starting_point(case: Case) -> None:
    optimizer = case.make()
    state = cases.init(optimizer, KEY, np.array([1, 2, 3]))
    assert optimizer.recommend(state).dtype == jnp.float32
    with jax.enable_x64(True):
        for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
            x0 = jax.ShapeDtypeStruct((5,), dtype)
            state = jax.eval_shape(optimizer.init, KEY, x0)
            population = jax.eval_shape(optimizer.ask, KEY, state)
            solution = jax.eval_shape(
                lambda s, p: jax.vmap(lazy.materialise)(
                    evaluate.decode_rows(optimizer, s, p.members)
                ),
                state,
                population,
            )
            size = population.active.shape[0]
            assert (solution.shape, solution.dtype) == ((size, 5), dtype)
            wide = jax.ShapeDtypeStruct((size,), jnp.promote_types(dtype, jnp.float32))
            told = Evaluation(wide, jax.ShapeDtypeStruct((size,), bool))
            new, _ = jax.eval_shape(optimizer.tell, state, population, told)
            assert cases.types_of(new) == cases.types_of(state)


@cases.each_method
def test_decodes_a_group_as_its_members(case: Case) -> None:
    """``decode`` has the same bits alone, in a group, under vmap, map and eagerly."""
    optimizer, state, population, evaluation = cases.first_step(case)

    def decode(member: Any) -> Any:
        return lazy.materialise(optimizer.decode(state, member))

    members = population.members
    rows = range(population.active.shape[0])
    ways = [
        jax.jit(jax.vmap(decode))(members),
        jax.jit(lambda m: jax.lax.map(decode, m))(members),
        jnp.stack([decode(jax.tree.map(lambda x, r=r: x[r], members)) for r in rows]),
    ]
    for way in ways:
        if case.has("seeds"):
            cases.same_bits(way, evaluation.aux)
        else:  # a fused multiply-add rounds once where two operations round twice
            cases.close(way, evaluation.aux)


@cases.methods_with("resizable")
def test_a_resizable_state_serves_every_population_size(case: Case) -> None:
    optimizer, state, population, _ = cases.first_step(case)
    larger = as_method(optimizer).resized(4 * population.active.shape[0])

    def step(state: Any) -> Any:
        population = larger.ask(KEY, state)
        values = jnp.arange(population.active.size, dtype=jnp.float32)
        evaluation = evaluate.judged(values, population.active, ())
        return larger.tell(state, population, evaluation)[0]

    assert shapes(jax.eval_shape(step, state)) == shapes(state)
