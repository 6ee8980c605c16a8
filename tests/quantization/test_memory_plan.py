"""The memory planner beside the compiler's plan, and the command that shows it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from programs import peak, quantized_step

import gfopt
from gfopt.cli.main import main
from gfopt.lazy.interpreter import interpret
from gfopt.problems.language_models.llama import Llama
from gfopt.quantization.memory import Decoder, decoder, memory_plan

LAYERS, WIDTH, INNER, VOCABULARY = 12, 1024, 2752, 2048
TOKENS = jax.ShapeDtypeStruct((2, 32), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))
MODEL = Llama(4, 4)


def shapes() -> Any:
    """Returns the abstract weights of a small decoder."""

    def leaf(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    square = leaf(LAYERS, WIDTH, WIDTH)
    norm = leaf(LAYERS, WIDTH)
    return {
        "embedding": leaf(VOCABULARY, WIDTH),
        "norm": leaf(WIDTH),
        "layers": {
            **dict.fromkeys(("attention_norm", "feed_forward_norm"), norm),
            **dict.fromkeys(("query", "key", "value", "output"), square),
            **dict.fromkeys(("gate", "up"), leaf(LAYERS, INNER, WIDTH)),
            "down": leaf(LAYERS, WIDTH, INNER),
        },
    }


def loss(weights: Any, tokens: jax.Array) -> jax.Array:
    scores = jax.nn.log_softmax(MODEL.logits(weights, tokens[:, :-1]))
    return -jnp.mean(jnp.take_along_axis(scores, tokens[:, 1:, None], -1))


def num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "optimizer",
    [
        gfopt.QZO(noise=gfopt.rademacher()),
        gfopt.QZO(population_size=8, relative=True),
        gfopt.QES(population_size=4, window=4),
    ],
    ids=["signs", "four directions", "codes"],
)
def test_a_step_takes_the_memory_of_quantized_inference(optimizer: Any) -> None:
    quantize = functools.partial(gfopt.quantization.quantize, group_size=128)
    weights = jax.eval_shape(quantize, shapes())
    x0, frozen = gfopt.partition(weights, codes=isinstance(optimizer, gfopt.QES))

    step = quantized_step(optimizer, loss, generations=10)
    with gfopt.lazy.count_materialisations() as made:
        found = peak(step.lower(x0, frozen, KEY, TOKENS).compile())
    assert made.list == []
    inference = peak(jax.jit(interpret(loss)).lower(weights, TOKENS).compile())
    assert found <= 1.05 * inference
    # less than a third of the weights in 16 bits, which MeZO has at least
    narrow = num_bytes(shapes()) // 2
    assert num_bytes(weights) < 0.27 * narrow and found < narrow / 3


def test_the_plan_has_the_bytes_of_the_weights() -> None:
    quantize = functools.partial(
        gfopt.quantization.quantize, group_size=128, symmetric=False
    )
    layers = jax.eval_shape(quantize, shapes()["layers"])
    linear = [leaf for name, leaf in layers.items() if "norm" not in name]
    size = sum(leaf.size for leaf in linear)
    shape = Decoder(size, 0, LAYERS, WIDTH, INNER, VOCABULARY)
    plan = memory_plan(shape, symmetric=False)
    weights = plan["codes"] + plan["scales"] + plan["zeros"]
    padding = 3 * LAYERS * WIDTH * 128  # of groups that 2752 does not fill
    assert 0 <= num_bytes(linear) - weights <= padding


def test_a_plan_of_llama_2_7b() -> None:
    shape = decoder(6.738e9, width=4096)
    assert shape.layers == 32
    plan = memory_plan(shape, length=128)
    # the sizes that the shapes of its linear layers have: 6,476,005,376 weights
    assert abs(plan["codes"] / (6_476_005_376 / 2) - 1) < 1e-3
    assert abs(plan["scales"] / (4 * 50_593_792) - 1) < 1e-3
    total = {
        name: sum(memory_plan(shape, name).values())
        for name in ("qzo", "inference", "mezo", "lora", "adam")
    }
    assert total["qzo"] == total["inference"] < total["mezo"] / 3
    assert total["mezo"] < total["lora"] < total["adam"]
    assert total["adam"] > 15 * total["qzo"]


def test_the_command_shows_parts_and_methods(capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["memory", "--parameters", "7e9", "--bits", "2", "--method", "qzo"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for word in ("codes", "scales", "embedding and head", "all", "mezo", "adam"):
        assert word in out
    for line in (
        ["--parameters", "7e9", "--method", "qz"],
        ["--parameters", "1e6"],
        ["--parameters", "7e9", "--bits", "3"],
        ["--parameters", "-1"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["memory", *line])
        assert ended.value.code == 2
        assert " must be " in capsys.readouterr().err
