"""Peak memory of QZO on a decoder of 7B, as the compiler plans it; nothing is made.

Programs are compiled ahead of time for abstract arrays of Llama-2-7B's shapes (with a
tied head): a step of QZO on 4-bit weights with groups of 128, a forward pass of the
same weights, and a step of MeZO on 16-bit weights, of which the weights alone count
(XLA for CPU makes wider copies of such arrays). Beside them the plan of ``gfopt
memory``.

    python benchmarks/qzo_memory.py
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import common
import jax
import jax.numpy as jnp

import gfopt
from gfopt.lazy.interpreter import interpret
from gfopt.problems.language_models.llama import Llama
from gfopt.quantization.memory import Decoder, memory_plan

LAYERS, WIDTH, INNER, VOCABULARY, HEADS = 32, 4096, 11008, 32000, 32


def shapes(layers: int, dtype: Any) -> Any:
    """Returns abstract weights."""

    def leaf(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    square = leaf(layers, WIDTH, WIDTH)
    return {
        "embedding": leaf(VOCABULARY, WIDTH),
        "norm": leaf(WIDTH),
        "layers": {
            "attention_norm": leaf(layers, WIDTH),
            "feed_forward_norm": leaf(layers, WIDTH),
            **dict.fromkeys(("query", "key", "value", "output"), square),
            **dict.fromkeys(("gate", "up"), leaf(layers, INNER, WIDTH)),
            "down": leaf(layers, WIDTH, INNER),
        },
    }


def bytes_of(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    given = common.parsed(parser, layers=1)
    model = Llama(HEADS, HEADS)
    tokens = jax.ShapeDtypeStruct((given.batch, given.length), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def loss(weights: Any, tokens: Any) -> Any:
        scores = jax.nn.log_softmax(model.logits(weights, tokens[:, :-1]))
        return -jnp.mean(jnp.take_along_axis(scores, tokens[:, 1:, None], -1))

    quantize = functools.partial(gfopt.quantization.quantize, bits=4, group_size=128)
    weights = jax.eval_shape(quantize, shapes(given.layers, jnp.float32))
    scales, codes = gfopt.partition(weights)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(scales: Any, codes: Any, key: Any, tokens: Any) -> Any:
        found = gfopt.run(
            gfopt.QZO(relative=True, noise=gfopt.rademacher()),
            loss,
            scales,
            frozen=codes,
            key=key,
            generations=1,
            args=(tokens,),
            evaluator=gfopt.chunked(1),
        )
        return found.state, found.history

    began = time.monotonic()
    with gfopt.lazy.count_materialisations() as made:
        qzo = common.peak(step.lower(scales, codes, key, tokens).compile())
    inference = common.peak(jax.jit(interpret(loss)).lower(weights, tokens).compile())
    seconds = time.monotonic() - began
    mezo = bytes_of(shapes(given.layers, jnp.bfloat16))
    linear = bytes_of(shapes(given.layers, jnp.int8)["layers"])
    plan = memory_plan(
        Decoder(linear, 0, given.layers, WIDTH, INNER, VOCABULARY),
        batch=given.batch,
        length=given.length,
    )
    found = {
        "scales": sum(leaf.size for leaf in jax.tree.leaves(scales)),
        "qzo_step": qzo,
        "quantized_weights": bytes_of(weights),
        "quantized_inference": inference,
        "mezo_16_bit_weights": mezo,
        "over_inference": qzo / inference,
        "share_of_mezo": qzo / mezo,
        "plan_without_embedding": sum(plan.values()),
        "materialisations": made.count,
        "seconds": round(seconds),
    }
    common.show(["", ""], [[name, value] for name, value in found.items()])
    settings = {"layers": given.layers, "batch": given.batch, "length": given.length}
    common.save("qzo_memory", ["jax"], {"settings": settings, **found})


if __name__ == "__main__":
    main()
