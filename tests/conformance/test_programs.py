"""Compilation, batching, chunks, devices, resuming: what design.md calls equalities."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import cases
from conformance.cases import KEY, X0, Case
from programs import cheap_jit

import gfopt
from gfopt.core import schedules
from gfopt.core.numpy_programs.program import NumpyProgram
from gfopt.protocol import Optimizer

GENERATIONS = 4


@partial(jax.jit, static_argnames="generations")
def run(
    optimizer: Optimizer, key: jax.Array, state: Any, generations: int = GENERATIONS
) -> tuple[Any, Any]:
    """Runs a method on the sphere: its last state and what the history says."""
    x0 = optimizer.recommend(state)  # of which only the type is read
    result = gfopt.run(
        optimizer, cases.sphere, x0, key=key, generations=generations, state=state
    )
    return result.state, result.history["fitness"]


@cases.each_case
def test_ten_steps_are_one_trace(case: Case) -> None:
    def step(optimizer: Optimizer, state: Any) -> Any:
        population = cases.ask(optimizer, jax.random.key(state.step), state)
        evaluation = cases.evaluate(optimizer, state, population)
        return cases.tell(optimizer, state, population, evaluation)[0]

    optimizer = case.make()
    state = step(optimizer, cases.init(optimizer, KEY, case.x0))
    traces = cases.TRACES.copy()
    for _ in range(9):
        state = step(optimizer, state)
    assert state.step == 10
    equal = case.make()
    assert equal is not optimizer
    step(equal, cases.init(equal, KEY, case.x0))
    numbers, structure = jax.tree.flatten(optimizer)
    # every method has a hyperparameter, but for one that tries all there is
    assert numbers or case.row.name == "greedy_tokens"
    other = jax.tree.unflatten(structure, [0.9 * number for number in numbers])
    step(other, cases.init(other, KEY, case.x0))
    assert traces == cases.TRACES


@cases.each_method
def test_run_compiles_once(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    traces = 0

    def objective(x: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return cases.sphere(x)

    def go(optimizer: Optimizer, key: jax.Array) -> None:
        gfopt.run(optimizer, objective, case.x0, key=key, generations=3)

    go(case.make(), KEY)
    first, other = traces, jax.random.key(8)  # to make a key may be a program
    with jax.log_compiles(), caplog.at_level("WARNING"):
        go(case.make(), other)
        others = {name: 0.7 * value for name, value in case.numbers.items()}
        go(case.make(**others), KEY)
    assert traces == first
    assert not [line for line in caplog.messages if "Compiling" in line]


@cases.each_method
def test_eager_equals_compiled(case: Case) -> None:
    optimizer, state, population, evaluation = cases.first_step(case)
    agree(case, optimizer.init(KEY, case.x0), state)
    agree(case, optimizer.ask(KEY, state), population)
    # the update has sums, which a compiled program may fuse: up to rounding, and a fit
    # by few points multiplies it
    told = optimizer.tell(state, population, evaluation)
    scale = 50 if case.has("surrogate") else 1
    compiled = cases.tell(optimizer, state, population, evaluation)
    cases.close(told, compiled, rtol=1e-5 * scale, atol=1e-6 * scale)


def agree(case: Case, a: Any, b: Any) -> None:
    """Bitwise for methods whose members are seeds; up to rounding for matrices."""
    if case.has("seeds"):
        cases.same_bits(a, b)
    else:
        cases.close(a, b)


@cases.each_method
def test_seeds_and_hyperparameters_are_batch_axes(case: Case) -> None:
    numbers, structure = jax.tree.flatten(case.make())
    keys = jax.random.split(KEY, len(numbers) + 1)
    # one run as it is, and one with each hyperparameter changed
    table = np.tile(np.array(numbers, np.float32), (len(keys), 1))
    for leaf in range(len(numbers)):
        table[leaf + 1, leaf] = 0.5 * table[leaf + 1, leaf] + 0.01

    # of candidates that promise as much, rounding decides which is taken
    generations = 1 if case.row.name == "bayesian_optimization" else GENERATIONS

    def whole(optimizer: Optimizer, key: jax.Array) -> tuple[Any, Any]:
        start = cases.init(optimizer, key, case.x0)
        return run(optimizer, key, start, generations)

    batch = jax.tree.unflatten(structure, [jnp.asarray(column) for column in table.T])
    # a difference quotient multiplies the rounding of cheaper programs
    jit = jax.jit if case.has("lazy") else cheap_jit
    together = jit(jax.vmap(whole))(batch, keys)
    # a fit by few points multiplies the rounding
    scale = 50 if case.has("surrogate") else 1
    for row, key in enumerate(keys):
        alone = whole(jax.tree.unflatten(structure, [*map(float, table[row])]), key)
        one = jax.tree.map(lambda leaf, row=row: leaf[row], together)
        cases.close(alone, one, rtol=1e-3 * scale, atol=1e-5 * scale)


@cases.each_method
def test_hyperparameters_come_in_any_form(case: Case) -> None:
    _, _, _, evaluation = cases.first_step(case)

    def step(optimizer: Optimizer) -> Any:
        first = cases.init(optimizer, KEY, case.x0)
        population = cases.ask(optimizer, KEY, first)
        return first, cases.tell(optimizer, first, population, evaluation)

    expected = step(case.make())
    for name, value in case.numbers.items():
        for form in (np.float32, np.float64, jnp.float32):
            cases.close(step(case.make(**{name: form(value)})), expected, 1e-5)
        if name in case.configuration.schedules:
            # part of the structure: a program of its own
            scheduled = case.make(**{name: lambda step, value=value: value})
            cases.close(cheap_jit(step)(scheduled), expected, 1e-5)
        assert case.make(**{name: np.int64(1)}) == case.make(**{name: 1.0})


def exact_sphere(x: jax.Array) -> tuple[jax.Array, tuple[()]]:
    """A quadratic whose sums are exact, so that no program can round them its way."""
    return jnp.sum((jnp.round(x * 64) / 64) ** 2), ()


@cases.each_method
def test_chunks_and_devices_change_nothing(case: Case) -> None:
    assert jax.local_device_count() == 4
    optimizer, state, population, _ = cases.first_step(case)
    expected, *others = (
        cases.evaluate(optimizer, state, population, exact_sphere, evaluator)
        for evaluator in (gfopt.vmapped(), gfopt.chunked(3), gfopt.sharded())
    )
    for other in others:
        agree(case, other, expected)


@cases.each_method
def test_a_resumed_run_is_the_straight_run(case: Case) -> None:
    optimizer, state, _, _ = cases.first_step(case)
    straight, history = run(optimizer, KEY, state, 2 * GENERATIONS)
    middle, first = run(optimizer, KEY, state)
    resumed, second = run(optimizer, KEY, middle)
    cases.same_bits(resumed, straight)
    cases.same_bits(jnp.concatenate([first, second]), history)


def test_a_schedule_is_part_of_the_configuration() -> None:
    def decay(step: jax.Array) -> jax.Array:
        return 0.5 * 0.9**step

    optimizer = gfopt.RandomSearch(sigma=decay)
    assert optimizer == gfopt.RandomSearch(sigma=schedules.Schedule(decay))
    assert jax.tree.leaves(optimizer) == []
    state = optimizer.init(KEY, X0)._replace(step=jnp.int32(3))
    sigma = optimizer.ask(KEY, state).members.scale
    np.testing.assert_allclose(sigma, 0.5 * 0.9**3, rtol=1e-6)


@cases.over([case for case in cases.NUMBERS if not case.has("seeds")])
def test_numpy_takes_the_same_steps(case: Case) -> None:
    """What a search with a Python objective begins in, before it is compiled."""

    def close(numbers: Any, compiled: Any) -> None:
        compiled = jax.device_get(compiled)
        pairs = zip(jax.tree.leaves(numbers), jax.tree.leaves(compiled), strict=True)
        for number, wanted in pairs:
            assert number.dtype == wanted.dtype and number.shape == wanted.shape
            # of float32; a fit of as many points as coefficients loses half of it
            np.testing.assert_allclose(number, wanted, rtol=1e-3, atol=1e-3)

    optimizer = case.make()
    start = NumpyProgram(type(optimizer).init, optimizer, KEY, case.x0)
    state = cases.init(optimizer, KEY, case.x0)
    close(start(optimizer, KEY, case.x0), state)
    ask = NumpyProgram(type(optimizer).ask, optimizer, KEY, state)
    tell = None
    for step in range(3):
        key = jax.random.fold_in(KEY, step)
        population = cases.ask(optimizer, key, state)
        close(ask(optimizer, key, state), population)
        evaluation = cases.evaluate(optimizer, state, population)
        told = optimizer, state, population, evaluation
        tell = tell or NumpyProgram(type(optimizer).tell, *told)
        expected = cases.tell(*told)
        close(tell(*told), expected)
        state = expected[0]
    answer = NumpyProgram(type(optimizer).recommend, optimizer, state)
    close(answer(optimizer, state), cases.recommend(optimizer, state))
