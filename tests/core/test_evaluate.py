"""Evaluators: the same population, whatever the batching; failures; what is called."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.evaluate import DEFAULT_ELEMENTS, default_evaluator
from gfopt.core.objective import Inputs, Objective
from gfopt.types import Population

KEY = jax.random.key(3)
P, D = 7, 4


class Rows(NamedTuple):
    """A method that proposes given vectors: decode is the identity."""

    step: jax.Array

    def decode(self, state, member):
        return member


METHOD = Rows(jnp.int32(0))
# eighths: their squares and sums are exact, in whatever order a program takes them
POINTS = jnp.round(8 * jax.random.normal(jax.random.key(1), (P, D))) / 8
FOUR = jax.make_mesh((4,), ("p",), axis_types=(jax.sharding.AxisType.Auto,))
EVALUATORS = {
    "vmapped": gfopt.vmapped(),
    "one by one": gfopt.chunked(1),
    "chunks of 3": gfopt.chunked(3),
    "one chunk": gfopt.chunked(50),
    "four devices": gfopt.sharded(FOUR),
    "four devices, one by one": gfopt.sharded(FOUR, gfopt.chunked(1)),
    "host": gfopt.host(),
}


def evaluated(evaluator, objective, active=None, inputs=None, points=POINTS):
    active = jnp.ones(len(points), bool) if active is None else jnp.array(active)
    population = Population(points, active)
    state = {"x": jnp.zeros(D)}
    inputs = Inputs() if inputs is None else inputs
    return evaluator(KEY, objective, METHOD, state, population, inputs)


def sphere(x):
    return jnp.sum(x * x)


@pytest.mark.parametrize("name", EVALUATORS)
def test_all_agree_to_the_last_bit_on_the_sphere(name):
    expected = evaluated(gfopt.vmapped(), Objective(sphere))
    found = evaluated(EVALUATORS[name], Objective(sphere))
    assert np.asarray(found.valid).all()
    np.testing.assert_array_equal(found.fitness, expected.fitness)


@pytest.mark.parametrize("name", EVALUATORS)
def test_nan_infinity_and_inactive_rows_are_not_valid(name):
    bad = POINTS.at[1].set(jnp.nan).at[2].set(jnp.inf)
    active = [True] * 5 + [False] * 2
    found = evaluated(EVALUATORS[name], Objective(sphere), active, points=bad)
    assert (
        np.asarray(found.valid).tolist()
        == [True, False, False, True, True] + [False] * 2
    )
    assert np.isinf(np.asarray(found.fitness)[~np.asarray(found.valid)]).all()


@pytest.mark.parametrize("name", [name for name in EVALUATORS if name != "host"])
def test_a_row_s_key_is_its_own(name):
    """NumPy key data on the host is another type: the host is not compared here."""
    noisy = Objective(lambda key, x: jax.random.normal(key), takes_key=True)
    expected = evaluated(gfopt.vmapped(), noisy).fitness
    found = evaluated(EVALUATORS[name], noisy).fitness
    np.testing.assert_array_equal(found, expected)
    assert len(set(np.asarray(found).tolist())) == P


@pytest.mark.parametrize("name", EVALUATORS)
def test_aux_args_batch_and_context_reach_every_row(name):
    def fun(x, batch, shift, context):
        value = sphere(x) + batch + shift + context["c"]
        return value, {"first": x[0]}

    inputs = Inputs(None, (jnp.float32(2),), jnp.float32(4), {"c": jnp.float32(8)})
    found = evaluated(EVALUATORS[name], Objective(fun, has_aux=True), inputs=inputs)
    plain = evaluated(gfopt.vmapped(), Objective(sphere)).fitness
    np.testing.assert_allclose(found.fitness, plain + 14, rtol=1e-6)
    np.testing.assert_array_equal(found.aux["first"], POINTS[:, 0])


@pytest.mark.parametrize("name", [name for name in EVALUATORS if "devices" not in name])
def test_a_batched_objective_gets_stacked_rows(name):
    stacked = Objective(lambda x: (x * x).sum(axis=1), batched=True)
    found = evaluated(EVALUATORS[name], stacked)
    plain = evaluated(gfopt.vmapped(), Objective(sphere)).fitness
    np.testing.assert_allclose(found.fitness, plain, rtol=1e-6)


def test_chunks_without_an_active_row_are_not_run():
    calls = []

    def counted(x):
        jax.debug.callback(lambda: calls.append(1))
        return sphere(x)

    active = [True] * 2 + [False] * 5
    evaluated(gfopt.chunked(1), Objective(counted), active)
    jax.effects_barrier()
    assert len(calls) == 2


def test_the_host_calls_for_active_rows_only():
    seen = []

    def counted(x):
        seen.append(x)
        return float(sphere(x))

    evaluated(gfopt.host(), Objective(counted), [True] * 3 + [False] * 4)
    assert len(seen) == 3


def test_frozen_leaves_are_merged():
    chosen, frozen = gfopt.partition(
        {"w": jnp.ones(2), "b": jnp.float32(5)}, lambda path, leaf: path == "w"
    )
    objective = Objective(lambda x: jnp.sum(x["w"]) + x["b"])
    value, _ = objective.value(chosen, None, Inputs(frozen))
    assert float(value) == 7


def test_the_default_holds_64_megabytes_at_most():
    small = jax.ShapeDtypeStruct((1000,), jnp.float32)
    assert default_evaluator(small, 64) == gfopt.vmapped()
    large = jax.ShapeDtypeStruct((DEFAULT_ELEMENTS // 2,), jnp.float32)
    assert default_evaluator(large, 64) == gfopt.chunked(2)


@pytest.mark.parametrize(
    ("fun", "message"),
    [
        (lambda x: x, r"one real number of shape \(\).*shape \(4,\)"),
        (lambda x: x.astype(complex)[0], "one real number"),
        (lambda x: "four", "one real number"),
    ],
)
def test_what_is_no_number_is_refused_in_words(fun, message):
    with pytest.raises(ValueError, match=message):
        evaluated(gfopt.vmapped(), Objective(fun))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="size must be .* 1 or above; got 0"):
        gfopt.chunked(0)
    with pytest.raises(TypeError, match="inner must be vmapped"):
        gfopt.sharded(FOUR, 3)
    two = jax.make_mesh(
        (2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    with pytest.raises(ValueError, match="exactly one axis"):
        gfopt.sharded(two)
