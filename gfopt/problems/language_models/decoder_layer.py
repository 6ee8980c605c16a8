"""One layer of a Llama-type decoder: what its weights and its model ask for.

    h <- h + attention(norm(h)),   h <- h + W_down(act(W_gate n) * W_up n), n = norm(h)

Whatever a layer has weights for is computed: biases (``query_bias`` and its like),
norms of queries and keys by head, and norms of what a sub-layer returns.

Sources: Touvron et al. (2023), arXiv 2302.13971; grouped keys and values of Ainslie et
al. (2023), arXiv 2305.13245; norms of queries and keys of Yang et al. (2025), arXiv
2505.09388; capped scores of Gemma Team (2024), arXiv 2408.00118, section 2; windows of
Jiang et al. (2023), arXiv 2310.06825, section 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.problems.language_models.rotary import turned
from gfopt.types import PyTree

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class KeyValues(NamedTuple):
    """What the layers remember of a text: it is read once and continued often.

    Attributes:
        keys: of all layers and places, ``[N, C, H, s]``, turned by their positions.
        values: of all layers and places, ``[N, C, H, s]``.
        length: places that are filled, ``i32[]``; what comes after does not count.
    """

    keys: jax.Array
    values: jax.Array
    length: jax.Array


class Sight(NamedTuple):
    """Where a layer's tokens are and what they see.

    Attributes:
        turns: cosine and sine of the tokens' positions, ``[L, 1, s / 2]``.
        window: tokens that one of them sees, itself included; None for all before it.
        past: keys and values of what was read before, ``[C, H, s]``; None for none.
    """

    turns: tuple[jax.Array, jax.Array]
    window: jax.Array | None = None
    past: KeyValues | None = None


def norm(h: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Divides by the root of the mean square."""
    square = jnp.mean(h * h, axis=-1, keepdims=True)
    return h * jax.lax.rsqrt(square + eps) * scale


def capped(x: jax.Array, cap: float | None) -> jax.Array:
    """Returns ``cap tanh(x / cap)``, or ``x`` without a cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def layer(
    model: Any, w: PyTree, h: jax.Array, sight: Sight
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns ``[B, L, d]`` and the tokens' own keys and values."""
    n = norm(h, w["attention_norm"], model.norm_eps)
    change, new = _attention(model, w, n, sight)
    h = h + _normed(model, w, "post_attention_norm", change)
    n = norm(h, w["feed_forward_norm"], model.norm_eps)
    gated = ACTIVATIONS[model.activation](_linear(w, "gate", n)) * _linear(w, "up", n)
    change = _linear(w, "down", gated)
    return h + _normed(model, w, "post_feed_forward_norm", change), new


def _linear(w: PyTree, name: str, h: jax.Array) -> jax.Array:
    bias = w.get(f"{name}_bias")
    return h @ w[name].T if bias is None else h @ w[name].T + bias


def _normed(model: Any, w: PyTree, name: str, h: jax.Array) -> jax.Array:
    return norm(h, w[name], model.norm_eps) if name in w else h


def _attention(
    model: Any, w: PyTree, h: jax.Array, sight: Sight
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns ``[B, L, d]`` and the tokens' own keys and values."""
    batch, length, _ = h.shape
    shared = model.num_key_value_heads
    groups = model.num_heads // shared

    def heads(name: str, number: int) -> jax.Array:
        return _linear(w, name, h).reshape(batch, length, number, -1)

    key = turned(_normed(model, w, "key_norm", heads("key", shared)), sight.turns)
    value = heads("value", shared)
    size = key.shape[-1]
    # every key and value head, k, serves g queries
    query = _normed(model, w, "query_norm", heads("query", model.num_heads))
    query = turned(query, sight.turns).reshape(batch, length, -1, groups, size)

    def scores_of(equation: str, keys: jax.Array, seen: jax.Array) -> jax.Array:
        products = jnp.einsum(equation, query, keys)
        if model.attention_scale is None:
            products = products / np.sqrt(size)
        else:
            products = products * model.attention_scale
        return jnp.where(seen, capped(products, model.attention_cap), -jnp.inf)

    places = jnp.arange(length)
    seen = jnp.tril(jnp.ones((length, length), bool))
    if sight.window is not None:
        seen &= places[:, None] - places < sight.window
    scores = scores_of("blkgs,bmks->bkglm", key, seen)
    past, room = sight.past, 0
    if past is not None:  # all rows have this past: it is read, never repeated
        room = past.keys.shape[0]
        before = jnp.arange(room)
        seen = before < past.length
        if sight.window is not None:
            seen &= past.length + places[:, None] - before < sight.window
        older = scores_of("blkgs,mks->bkglm", past.keys, seen)
        scores = jnp.concatenate([older, scores], axis=-1)
    shares = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.einsum("bkglm,bmks->blkgs", shares[..., room:], value)
    if past is not None:
        mixed += jnp.einsum("bkglm,mks->blkgs", shares[..., :room], past.values)
    return _linear(w, "output", mixed.reshape(batch, length, -1)), (key, value)
