"""Models that know nothing of lazy leaves, each with the shapes of its weights.

Every model is a function ``(weights, x) -> arrays``; ``axes`` says how many axes of a
weight are stacked and how many are rows (the rest are columns), where that is not 0
and 1 of a matrix, or 1 and 1 of a stack of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

B, T, D, H, K, F, V, L, E = 3, 4, 8, 2, 4, 6, 11, 3, 2


class Model(NamedTuple):
    """A model, the shapes of its weights, and its input: a shape, or token numbers."""

    fun: Callable[[dict[str, jax.Array], jax.Array], Any]
    weights: dict[str, tuple[int, ...]]
    x: tuple[int, ...] | None  # None: tokens [B, T]
    axes: dict[str, tuple[int, int]] = {}
    tolerance: float = 1e-5


MODELS: dict[str, Model] = {}


def model(weights: dict[str, tuple[int, ...]], x: Any = (B, D), **options: Any) -> Any:
    """Enters a function into ``MODELS`` under its name."""

    def enter(fun: Callable[..., Any]) -> Callable[..., Any]:
        MODELS[fun.__name__] = Model(fun, weights, x, **options)
        return fun

    return enter


# -- products


@model({"w": (D, F), "b": (F,)})
def dense_layer(p, x):
    return jnp.tanh(x @ p["w"] + p["b"])


@model({"w": (F, D)})
def transposed(p, x):
    return x @ p["w"].T


@model({"w": (F, D)}, (B, T, D))
def transposed_under_two_batch_axes(p, x):
    return x @ p["w"].T


@model({"w": (F, D)}, (D,))
def weight_first(p, x):
    return p["w"] @ x


@model({"w": (D, H * K), "v": (H * K, D)}, (B, T, D))
def einsum_with_reshaped_heads(p, x):
    heads = jnp.einsum("btd,dhk->bthk", x, p["w"].reshape(D, H, K))
    return jnp.einsum("bthk,hkd->btd", heads, p["v"].reshape(H, K, D))


@model({"w": (D, H, K), "v": (H, K, D)}, (B, T, D), axes={"w": (0, 1), "v": (0, 2)})
def einsum_with_heads_of_their_own(p, x):
    heads = jnp.einsum("btd,dhk->bhtk", x, p["w"])
    return jnp.einsum("bhtk,hkd->btd", heads, p["v"])


@model({"w": (E, D, F)}, (E, B, D))
def batched_matmul(p, x):
    return x @ p["w"]


@model({"w": (E, F, D)}, (E, B, D))
def batched_matmul_transposed(p, x):
    return jnp.einsum("ebd,efd->ebf", x, p["w"])


@model({"w": (D, F)})
def tensordot(p, x):
    return jnp.tensordot(p["w"], x, ((0,), (1,)))


@model({"w": (D, F)})
def scaled(p, x):
    return x @ (p["w"] * 0.5) - x @ (-p["w"] / jnp.sqrt(3.0)) * jnp.max(x)


@model({"w": (D, F)})
def scaled_by_the_data(p, x):
    return x @ (jnp.max(x) * p["w"])


# -- stacks of layers


@model({f"w{i}": (D, D) for i in range(L)})
def unrolled_list(p, x):
    for w in [p[f"w{i}"] for i in range(L)]:
        x = jnp.tanh(x @ w)
    return x


@model({"w": (L, D, D), "b": (L, D)})
def unrolled_stack(p, x):
    for i in range(L):
        x = jnp.tanh(x @ p["w"][i] + p["b"][i])
    return x


@model({"w": (L, D, D), "b": (L, D)})
def scanned_stack(p, x):
    def layer(x, p):
        return jnp.tanh(x @ p["w"] + p["b"]), jnp.sum(x)

    return lax.scan(layer, x, p)


@model({"w": (L, D, D)})
def scanned_stack_reversed_and_unrolled(p, x):
    return lax.scan(
        lambda x, w: (jnp.tanh(x @ w.T), None), x, p["w"], reverse=True, unroll=2
    )[0]


@model({"w": (L, D, D)})
def dynamic_index(p, x):
    i = jnp.argmax(x) % L
    x = x @ lax.dynamic_index_in_dim(p["w"], i, keepdims=False)
    return x @ p["w"][i - 1] + x @ p["w"][-1]


@model({"w": (L, D, D)})
def dynamic_slice_of_a_stack(p, x):
    pair = lax.dynamic_slice_in_dim(p["w"], jnp.argmax(x) % 5, 2)  # is clamped
    return x @ pair[0] @ pair[1]


@model({"w": (L, D, D)})
def loop_over_a_stack(p, x):
    return lax.fori_loop(0, L, lambda i, x: jnp.tanh(x @ p["w"][i]), x)


@model({"w": (D, D)})
def while_loop_with_a_weight_in_its_condition(p, x):
    def unfinished(carry):
        return (carry[0] < 4) & (jnp.sum(carry[1] @ p["w"]) < 1e3)

    def body(carry):
        return carry[0] + 1, jnp.tanh(carry[1] @ p["w"])

    return lax.while_loop(unfinished, body, (0, x))


@model({"w": (D, D), "v": (D, D)})
def conditional(p, x):
    x = lax.cond(x[0, 0] > 0, lambda: x @ p["w"], lambda: x @ p["v"].T)
    branches = [lambda w, x, i=i: (i + 1) * x @ w for i in range(3)]
    return lax.switch(jnp.argmax(x) % 3, branches, p["w"], x)


@model({"w": (D, D)}, (T, B, D))
def recurrent(p, x):
    def cell(h, x):
        h = jnp.tanh(h @ p["w"] + x)
        return h, h

    return lax.scan(cell, jnp.zeros((B, D)), x)


# -- transformations around and within


@model({"w": (L, D, D)})
def checkpointed(p, x):
    @jax.checkpoint
    def layer(x, w):
        return checkpoint_name(jnp.tanh(x @ w), "h"), None

    policy = jax.checkpoint_policies.save_only_these_names("h")
    x, _ = lax.scan(layer, x, p["w"])
    return jax.checkpoint(lambda x, w: x @ w[0], policy=policy)(x, p["w"])


@model({"w": (D, D), "b": (D,)}, tolerance=4e-2)
def mixed_precision(p, x):
    p = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), p)
    x = x.astype(jnp.bfloat16)
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["w"].T


@jax.custom_jvp
def own_product(x, w):
    return jax.nn.silu(x @ w)


own_product.defjvp(lambda primals, tangents: (own_product(*primals), tangents[0]))


@model({"w": (D, D)})
def custom_jvp(p, x):
    return jax.nn.relu(own_product(x, p["w"]))


@jax.custom_vjp
def clipped_product(x, w):
    return x @ w


clipped_product.defvjp(lambda x, w: (x @ w, None), lambda _, g: (g, None))


@model({"w": (D, D)})
def custom_vjp(p, x):
    return clipped_product(x, p["w"])


@model({"w": (D, F)})
def vmapped_over_examples(p, x):
    return jax.vmap(lambda row: jnp.tanh(row @ p["w"]))(x)


@model({"w": (D, F)})
def mapped_over_examples(p, x):
    return lax.map(lambda row: jnp.tanh(row @ p["w"]), x)


@model({"w": (D, F)})
def jitted_within(p, x):
    return jax.jit(lambda w, x: jnp.tanh(x @ w))(p["w"], x)


@model({"w": (D, F)})
def marked(p, x):
    w, x = lax.optimization_barrier((lax.stop_gradient(p["w"].copy()), x))
    return x @ checkpoint_name(w, "w")


# -- parts


@model({"w": (D, 3 * F), "v": (3 * D, F)})
def split(p, x):
    q, k, v = jnp.split(p["w"], 3, axis=1)
    first, *_ = jnp.split(p["v"], 3)
    return x @ q + x @ k * (x @ v), x @ first


@model({"w": (D, F)})
def sliced(p, x):
    return x[:, 2:5] @ p["w"][2:5, 1:4], x @ p["w"][:, -2:], x[:, :6] @ p["w"][:6]


@model({"w": (D, H, K)}, axes={"w": (0, 1)})
def sliced_heads(p, x):
    return jnp.einsum("bd,dhk->bhk", x[:, 2:], p["w"][2:, :, 1:3])


@model({"w": (D, F)})
def added_and_removed_axes(p, x):
    w = p["w"][None, :, None, :]
    return jnp.einsum("bd,adcf->bacf", x, w), x @ jnp.squeeze(w, (0, 2))


@model({"w": (D, H * K)})
def reshaped_and_transposed(p, x):
    w = jnp.moveaxis(p["w"].reshape(D, H, K), 1, 0)
    return jnp.einsum("bd,hdk->bhk", x, w), x @ w.transpose(1, 0, 2).reshape(D, -1)


# -- embeddings


@model({"table": (V, D)}, None)
def embedding(p, tokens):
    return p["table"][tokens], p["table"][3]


@model({"table": (V, D)}, None)
def embedding_of_one_token(p, tokens):
    return p["table"][tokens[0, 0]], p["table"][tokens[1, 1] - V]


@model({"table": (V, D)}, None)
def embedding_token_by_token(p, tokens):
    return jax.vmap(jax.vmap(lambda token: p["table"][token]))(tokens)


@model({"table": (V, D)}, None)
def embedding_by_take(p, tokens):
    past = jnp.take(p["table"], tokens + 5, axis=0)  # NaN beyond the end
    clipped = jnp.take(p["table"], tokens + 5, axis=0, mode="clip")
    filled = p["table"].at[tokens + 5].get(mode="fill", fill_value=0.5)
    return past, clipped, filled


@model({"table": (V, D)}, None)
def tied_head(p, tokens):
    return jnp.tanh(p["table"][tokens]) @ p["table"].T


@model(
    {
        "table": (V, D),
        "norm": (L, D),
        "qkv": (L, D, 3 * H * K),
        "out": (L, H * K, D),
        "up": (L, D, 2 * F),
        "down": (L, F, D),
    },
    None,
)
def decoder(p, tokens):
    """A language model: scan, checkpoint, heads, gated layers, a tied head."""
    x = p["table"][tokens]
    mask = jnp.tril(jnp.ones((T, T), bool))

    @jax.checkpoint
    def layer(x, p):
        y = jax.nn.standardize(x) * (1 + p["norm"])
        q, k, v = jnp.split(y @ p["qkv"], 3, axis=-1)
        q, k, v = (part.reshape(B, T, H, K) for part in (q, k, v))
        scores = jnp.where(mask, jnp.einsum("bthk,bshk->bhts", q, k), -jnp.inf)
        mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores / 2), v)
        x = x + mixed.reshape(B, T, H * K) @ p["out"]
        gate, up = jnp.split(jax.nn.standardize(x) @ p["up"], 2, axis=-1)
        return x + (jax.nn.silu(gate) * up) @ p["down"], None

    layers = {name: p[name] for name in ("norm", "qkv", "out", "up", "down")}
    x, _ = lax.scan(layer, x, layers)
    return jax.nn.log_softmax(jax.nn.standardize(x) @ p["table"].T)
