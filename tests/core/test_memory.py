"""Peak memory as the compiler plans it, in ratios to a forward pass of the same model.

Nothing is run or allocated: the programs are compiled for abstract arrays.
"""

from __future__ import annotations

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax
from programs import peak

import gfopt

FLOAT = 4  # bytes
KEY = jax.eval_shape(lambda: jax.random.key(0))


def abstract(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def forward(loss, weights, x):
    return peak(jax.jit(loss).lower(weights, x).compile())


def run_of(optimizer, loss, weights, x, generations, evaluator=None):
    """Compiles a run that takes over the memory of its starting point."""

    @functools.partial(jax.jit, donate_argnums=0)
    def go(x0, key, x):
        result = gfopt.run(
            optimizer,
            loss,
            x0,
            key=key,
            generations=generations,
            evaluator=evaluator,
            args=(x,),
        )
        return result.state, result.history

    return go.lower(weights, KEY, x).compile()


def largest_array(compiled):
    """Returns the number of elements of the largest array that a program names."""
    shapes = re.findall(r"\b[a-z]+[0-9]+\[([0-9,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in set(shapes))


# -- the population is never there

POPULATION, PARAMETERS = 64, 1_000_000


def four_layers(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


@pytest.mark.parametrize(
    ("transform", "beyond"), [(None, 3.2), (optax.sgd(1.0), 1.2)], ids=["adam", "sgd"]
)
@pytest.mark.parametrize("noise", [gfopt.gaussian(), gfopt.rademacher()])
def test_open_es_holds_one_candidate_at_a_time(noise, transform, beyond):
    """Beyond a forward pass: one candidate or gradient, and Adam's two moments."""
    weights, x = [abstract(500, 500)] * 4, abstract(4, 500)
    optimizer = gfopt.OpenES(
        population_size=POPULATION, noise=noise, transform=transform
    )
    compiled = run_of(optimizer, four_layers, weights, x, 3, gfopt.chunked(1))
    more = peak(compiled) - forward(four_layers, weights, x)
    assert more <= beyond * FLOAT * PARAMETERS  # the figure of the design is 4
    assert largest_array(compiled) < 2 * PARAMETERS  # and no [P, D] anywhere


# -- a model of 100 MB is trained in the memory of a forward pass

LAYERS, WIDTH, VOCABULARY = 24, 1024, 2000
STACK = {"w": abstract(LAYERS, WIDTH, WIDTH), "b": abstract(LAYERS, WIDTH)}


def scanned_layers(weights, x):
    def layer(x, p):
        return jnp.tanh(x @ p["w"] + p["b"]), None

    return jnp.sum(lax.scan(layer, x, weights)[0] ** 2)


def listed_layers(weights, x):
    for w in weights:
        x = jnp.tanh(x @ w)
    return jnp.sum(x**2)


def tied_decoder(weights, tokens):
    def layer(x, p):
        q, k, v, up = jnp.split(x @ p["in"], 4, axis=-1)
        mixed = jax.nn.softmax(q @ k.mT / 32) @ v
        return x + (mixed * jax.nn.silu(up)) @ p["out"], None

    layers = {name: weights[name] for name in ("in", "out")}
    x, _ = lax.scan(layer, weights["table"][tokens], layers)
    scores = jax.nn.log_softmax(x @ weights["table"].T)
    return -jnp.mean(jnp.take_along_axis(scores, tokens[..., None], -1))


@pytest.mark.parametrize("generations", [1, 100])
@pytest.mark.parametrize("noise", [gfopt.gaussian(), gfopt.rademacher()])
def test_mezo_takes_the_memory_of_inference(noise, generations):
    x = abstract(4, WIDTH)
    compiled = run_of(gfopt.MeZO(noise=noise), scanned_layers, STACK, x, generations)
    assert sum(leaf.size for leaf in STACK.values()) * FLOAT > 100e6
    assert peak(compiled) <= 1.03 * forward(scanned_layers, STACK, x)


@pytest.mark.parametrize(
    "optimizer",
    [gfopt.MeZO(population_size=8, noise=gfopt.rademacher()), gfopt.FZOO()],
    ids=["mezo", "fzoo"],
)
def test_more_directions_take_no_memory(optimizer):
    x = abstract(4, WIDTH)
    compiled = run_of(optimizer, scanned_layers, STACK, x, 10)
    assert peak(compiled) <= 1.03 * forward(scanned_layers, STACK, x)
    # and no [q, D] anywhere
    assert largest_array(compiled) <= LAYERS * WIDTH * WIDTH


def test_stochastic_rounding_takes_no_memory():
    narrow = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), STACK
    )
    x = abstract(4, WIDTH)
    optimizer = gfopt.MeZO(rounding="stochastic", noise=gfopt.rademacher())
    compiled = run_of(optimizer, scanned_layers, narrow, x, 10)
    assert peak(compiled) <= 1.03 * forward(scanned_layers, narrow, x)


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [(gfopt.HiZOO(), 2), (gfopt.SVRG(), 3)],  # a diagonal; an anchor and the chosen one
    ids=["hizoo", "svrg"],
)
def test_trees_like_the_weights_are_one_copy_each(optimizer, copies):
    x = abstract(4, WIDTH)
    compiled = run_of(optimizer, scanned_layers, STACK, x, 10)
    assert peak(compiled) <= (copies + 0.05) * forward(scanned_layers, STACK, x)


def test_mezo_of_a_list_of_layers():
    weights, x = [abstract(WIDTH, WIDTH)] * 8, abstract(4, WIDTH)
    compiled = run_of(gfopt.MeZO(), listed_layers, weights, x, 10)
    assert peak(compiled) <= 1.05 * forward(listed_layers, weights, x)


def test_mezo_of_a_decoder_with_a_tied_head():
    weights = {
        "table": abstract(VOCABULARY, WIDTH),
        "in": abstract(6, WIDTH, 4 * WIDTH),
        "out": abstract(6, WIDTH, WIDTH),
    }
    tokens = jax.ShapeDtypeStruct((2, 32), jnp.int32)
    compiled = run_of(gfopt.MeZO(), tied_decoder, weights, tokens, 10)
    assert peak(compiled) <= 1.05 * forward(tied_decoder, weights, tokens)


def test_a_stop_rule_takes_one_copy_at_most():
    """A run that may stop early keeps the old state until the new one is accepted."""
    x = abstract(4, WIDTH)

    @functools.partial(jax.jit, donate_argnums=0)
    def go(x0, key, x):
        result = gfopt.run(
            gfopt.MeZO(),
            scanned_layers,
            x0,
            key=key,
            generations=10,
            args=(x,),
            stop=lambda state, info: info.loss < 1,
        )
        return result.state

    compiled = go.lower(STACK, KEY, x).compile()
    assert peak(compiled) <= 2.05 * forward(scanned_layers, STACK, x)


def test_a_dense_candidate_shows_in_the_plan():
    """The measure can fail: OpenES on the same layers makes each candidate."""
    weights, x = {"w": abstract(LAYERS, 256, 256), "b": abstract(LAYERS, 256)}, (4, 256)
    optimizer = gfopt.OpenES(population_size=2)
    compiled = run_of(
        optimizer, scanned_layers, weights, abstract(*x), 1, gfopt.chunked(1)
    )
    assert peak(compiled) > 2 * forward(scanned_layers, weights, abstract(*x))
