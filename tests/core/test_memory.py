"""Peak memory of a model-sized step, from XLA's plan: ratios within one test.

Peak = arguments + outputs - aliased + temporaries. Nothing is run or allocated here.
"""

import math
import re

import jax
import jax.numpy as jnp
import pytest

import gfopt

KEY = jax.eval_shape(lambda: jax.random.key(0))


def peak(compiled):
    plan = compiled.memory_analysis()
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        - plan.alias_size_in_bytes
        + plan.temp_size_in_bytes
    )


def compiled_forward(loss, weights, x):
    return jax.jit(loss).lower(weights, x).compile()


def compiled_run(method, loss, weights, x, generations, evaluator=None):
    """Returns the program of a run whose start is donated."""

    def search(weights, key, x):
        result = gfopt.run(
            method,
            loss,
            weights,
            key=key,
            generations=generations,
            args=(x,),
            evaluator=evaluator,
        )
        return result.state, result.history

    jitted = jax.jit(search, donate_argnums=0)
    return jitted.lower(weights, KEY, x).compile()


def layers(weights, x):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    x, _ = jax.lax.scan(layer, x, weights)
    return jnp.sum(x**2)


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_open_es_holds_no_population():
    """D = 10^6, P = 64, one candidate at a time."""
    weights, x, size = shaped(4, 500, 500), shaped(4, 500), 10**6
    program = compiled_run(
        gfopt.OpenES(population_size=64), layers, weights, x, 3, gfopt.chunked(1)
    )
    beyond = peak(program) - peak(compiled_forward(layers, weights, x))
    assert beyond <= 4 * 4 * size
    shapes = set(re.findall(r"\w+\[([\d,]+)\]", program.as_text()))
    largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
    assert largest <= size


@pytest.mark.parametrize("generations", [1, 100])
@pytest.mark.parametrize("noise", [gfopt.gaussian(), gfopt.rademacher()], ids=str)
def test_mezo_takes_the_memory_of_inference(noise, generations):
    """100 MB of weights in 24 scanned layers, donated."""
    weights, x = shaped(24, 1024, 1024), shaped(64, 1024)
    method = gfopt.MeZO(learning_rate=1e-4, noise=noise)
    program = compiled_run(method, layers, weights, x, generations)
    assert peak(program) <= 1.05 * peak(compiled_forward(layers, weights, x))


def test_a_dense_candidate_shows_in_the_plan():
    """The measure can fail: OpenES on the same layers makes each candidate."""
    weights, x = shaped(24, 256, 256), shaped(64, 256)
    method = gfopt.OpenES(population_size=2)
    program = compiled_run(method, layers, weights, x, 1, gfopt.chunked(1))
    assert peak(program) > 2 * peak(compiled_forward(layers, weights, x))
