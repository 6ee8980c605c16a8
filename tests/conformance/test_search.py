"""Searching: the registered bound, bounds on solutions, and all shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance import cases
from conformance.cases import KEY, Case
from programs import cheap_jit

import gfopt
from gfopt.protocol import Optimizer

SEEDS = 5
DIMENSIONS = (1, 2, 3, 5, 50, 500)


@cases.each_case
def test_reaches_its_bound_on_a_shifted_quadratic(case: Case) -> None:
    optimizer, zeros = case.make(jnp.zeros(5)), jnp.zeros(5, case.x0.dtype)

    @cheap_jit
    @jax.vmap
    def final(key: jax.Array) -> jax.Array:
        result = gfopt.run(
            optimizer,
            case.distance,
            zeros,
            key=key,
            generations=case.configuration.generations,
        )
        return case.distance(result.recommended)

    found = final(jax.random.split(jax.random.key(0), SEEDS))
    assert np.all(found <= case.configuration.bound), found


@cases.each_method_of_numbers
def test_bounds_are_respected(case: Case) -> None:
    """The minimum is far outside, the start in a corner, and sigma wider than both."""
    low, high = jnp.array([-1.0, 0.0, 2.0]), jnp.array([1.0, jnp.inf, 2.5])
    space = gfopt.spaces.Space(low, high, jnp.full(3, 2.0))
    optimizer = gfopt.Bounded(case.make(), space)
    x0 = jnp.array([-1.0, 3.0, 2.5])

    def objective(x: jax.Array, context: Any) -> tuple[jax.Array, jax.Array]:
        return jnp.sum((x - 9) ** 2), x

    result = cheap_jit(
        lambda key: gfopt.run(
            optimizer,
            gfopt.Objective(
                objective, has_aux=True, context=jnp.zeros((2, 3)), update=extremes
            ),
            x0,
            key=key,
            generations=20,
        )
    )(jax.random.key(0))
    least, most = result.context
    for x in (least, most, result.recommended):
        assert np.all((x >= low) & (x <= high)), x
    assert np.all(least < most)  # it moved, in every coordinate


def extremes(context: Any, evaluation: Any) -> jax.Array:
    """Keeps the least and the largest value of each coordinate so far."""
    seen = evaluation.aux
    first = jnp.all(context == 0)
    least = jnp.where(first, jnp.inf, context[0])
    most = jnp.where(first, -jnp.inf, context[1])
    return jnp.stack(
        [jnp.minimum(least, seen.min(axis=0)), jnp.maximum(most, seen.max(axis=0))]
    )


@pytest.mark.parametrize("dimension", DIMENSIONS)
@cases.each_method
def test_every_shape_has_its_types(case: Case, dimension: int) -> None:
    for options in case.sizes(2, 3, 7, 2 * dimension + 1, 10 * dimension):
        optimizer = case.make(**options)
        x0 = jnp.ones(dimension, case.x0.dtype)
        first, population, new = jax.eval_shape(partial(one_step, optimizer), x0)
        assert cases.types_of(new) == cases.types_of(first)
        if options:
            assert population.active.shape == (options["population_size"],)


def one_step(optimizer: Optimizer, x0: Any) -> tuple[Any, Any, Any]:
    """Returns first state, population and next state."""
    state = optimizer.init(KEY, x0)
    population = optimizer.ask(KEY, state)
    evaluation = cases.evaluate(optimizer, state, population)
    return state, population, optimizer.tell(state, population, evaluation)[0]


@cases.each_method
def test_every_shape_runs(case: Case) -> None:
    """The corners are compiled; dimension 5 runs in all other tests."""
    for dimension, size in ((1, 3), (2, 2), (50, 101)):
        (options,) = case.sizes(size)
        x0 = jnp.ones(dimension, case.x0.dtype)
        steps = cases.steps(case.make(**options), x0, num_steps=3)
        assert np.all(np.isfinite(steps.seen))
        cases.no_nan(steps.last)
        assert steps.recommended.shape == (dimension,)
        assert np.all(np.isfinite(steps.recommended))


@cases.each_method_of_numbers
def test_a_moved_problem_is_the_same_problem(case: Case) -> None:
    """The same steps from a moved start, up to rounding in double precision."""
    shift = np.array([3.0, -1.0, 0.5, 7.0, -2.0])

    @cheap_jit
    def path(shift: jax.Array) -> jax.Array:
        result = gfopt.run(
            case.make(),
            lambda x: jnp.sum(jnp.arange(1, 6) * (x - shift) ** 2),
            jnp.ones(5) + shift,
            key=KEY,
            generations=15,
        )
        return result.recommended - shift

    with jax.enable_x64(True):
        np.testing.assert_allclose(path(shift), path(0 * shift), atol=1e-8)


@cases.methods_with("rotation_invariant")
def test_a_turned_problem_is_no_harder(case: Case) -> None:
    """An ellipsoid of condition 1e4, along the axes and turned: 25 runs of each."""
    normal = np.random.default_rng(0).normal(size=(5, 5))

    @cheap_jit
    @jax.vmap
    def reached(key: jax.Array, axes: jax.Array) -> jax.Array:
        result = gfopt.run(
            case.make(),
            lambda x: jnp.sum(10.0 ** jnp.arange(5) * (axes @ x) ** 2),
            axes.T @ jnp.ones(5),
            key=key,
            generations=60,
        )
        return result.history["fitness"].min()

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(2), 50)
        axes = np.stack([np.eye(5)] * 25 + [np.linalg.qr(normal)[0]] * 25)
        digits = np.log10(np.maximum(reached(keys, axes), 1e-12))
    along, turned = np.median(np.split(digits, 2), axis=1)
    assert abs(along - turned) < 1
