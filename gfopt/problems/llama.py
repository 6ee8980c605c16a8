"""A Llama-type language model's forward pass: one pure function of a plain pytree.

The layers are stacked, so that the forward pass is one scan; matrices have the layout
``[out, in]`` and are used as ``h @ w.T``, which leaves lazy leaves (low-rank,
perturbed, quantized) lazy.

    h <- h + attention(norm(h)),   h <- h + W_down(silu(W_gate n) * W_up n), n = norm(h)

Source: Touvron et al. (2023), arXiv 2302.13971; rotary positions of Su et al. (2021),
arXiv 2104.09864, on the interleaved pairs (2i, 2i + 1) that GGUF files are made for;
grouped keys and values of Ainslie et al. (2023), arXiv 2305.13245.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core.interpret import interpret
from gfopt.types import PyTree


class KeyValues(NamedTuple):
    """What the layers remember of a text: it is read once and continued often.

    Attributes:
        keys: of all layers and places, ``[N, C, H, s]``, turned by their positions.
        values: of all layers and places, ``[N, C, H, s]``.
        length: places that are filled, ``i32[]``; what lies behind does not count.
    """

    keys: jax.Array
    values: jax.Array
    length: jax.Array


@dataclass(frozen=True)
class Llama:
    """The forward pass; what its weights look like is in ``load_gguf``.

    Args:
        num_heads: of the queries.
        num_key_value_heads: of keys and values; each serves a group of queries.
        rope_base: of the rotary positions' wavelengths.
        norm_eps: added to the mean square that a norm divides by.

    Raises:
        TypeError: for a number of heads that is not an integer.
        ValueError: where keys and values don't serve equal groups of queries.
    """

    num_heads: int
    num_key_value_heads: int
    rope_base: float = 1e5
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        checks.integer("num_heads", self.num_heads, 1)
        checks.integer("num_key_value_heads", self.num_key_value_heads, 1)
        checks.positive("rope_base", self.rope_base)
        checks.positive("norm_eps", self.norm_eps)
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                "num_heads must be a multiple of num_key_value_heads; "
                f"got {self.num_heads} and {self.num_key_value_heads}"
            )

    @interpret
    def hidden(self, weights: PyTree, tokens: jax.Array) -> jax.Array:
        """Runs the layers: ``i32[B, L]`` to ``[B, L, d]``, normed for the head.

        Attention is causal: padding at the end changes nothing before it.
        """
        turns = self._turns(weights, tokens.shape[1])
        h, _ = lax.scan(
            lambda h, layer: (self._layer(layer, h, turns)[0], None),
            weights["embedding"][tokens],
            weights["layers"],
        )
        return self._norm(h, weights["norm"])

    @interpret
    def logits(self, weights: PyTree, tokens: jax.Array) -> jax.Array:
        """Returns the next token's logits at every position, ``[B, L, V]``."""
        return self.hidden(weights, tokens) @ weights["embedding"].T

    @interpret
    def last_logits(
        self, weights: PyTree, tokens: jax.Array, lengths: jax.Array
    ) -> jax.Array:
        """Returns the logits after each text's last token, ``[B, V]``.

        Args:
            weights: of the model.
            tokens: ``i32[B, L]``, padded at the end with anything.
            lengths: ``i32[B]``, tokens of each text, 1 or more.
        """
        h = self.hidden(weights, tokens)
        last = jnp.take_along_axis(h, (lengths - 1)[:, None, None], axis=1)
        return last[:, 0] @ weights["embedding"].T

    def empty_cache(self, weights: PyTree, room: int) -> KeyValues:
        """Returns a cache with places for ``room`` tokens."""
        layers, embedding = weights["layers"], weights["embedding"]
        count, rows, _ = layers["key"].shape
        heads = self.num_key_value_heads
        places = jnp.zeros((count, room, heads, rows // heads), embedding.dtype)
        return KeyValues(places, places, jnp.int32(0))

    def extend(
        self, weights: PyTree, cache: KeyValues, tokens: jax.Array
    ) -> tuple[jax.Array, KeyValues]:
        """Reads on: only the new tokens pass through the layers.

        Under ``vmap`` over the tokens alone all rows share the one cache; where the new
        cache is not used, none is made.

        Args:
            weights: of the model.
            cache: of what was read; it must have places for ``T`` more if it is used.
            tokens: ``i32[T]``.

        Returns:
            ``[T, d]``, normed for the head, and the longer cache.
        """
        count, room = cache.keys.shape[:2]
        turns = jax.tree.map(
            lambda table: lax.dynamic_slice_in_dim(table, cache.length, len(tokens)),
            self._turns(weights, room + len(tokens)),
        )

        def layer(h: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
            number, w = inputs
            # a layer's part is cut out here: a scan over it would turn all of it round
            keys, values = (
                lax.dynamic_index_in_dim(whole, number, keepdims=False)
                for whole in cache[:2]
            )
            return self._layer(w, h, turns, cache._replace(keys=keys, values=values))

        h, new = lax.scan(
            layer,
            weights["embedding"][tokens][None],
            (jnp.arange(count), weights["layers"]),
        )
        keys, values = (
            lax.dynamic_update_slice(whole, part[:, 0, :room], (0, cache.length, 0, 0))
            for whole, part in zip(cache[:2], new, strict=True)
        )
        length = cache.length + len(tokens)
        return self._norm(h, weights["norm"])[0], KeyValues(keys, values, length)

    def head(self, weights: PyTree, hidden: jax.Array) -> jax.Array:
        """Returns the logits of what ``hidden`` or ``extend`` returned."""
        return hidden @ weights["embedding"].T

    def _norm(self, h: jax.Array, scale: jax.Array) -> jax.Array:
        square = jnp.mean(h * h, axis=-1, keepdims=True)
        return h * lax.rsqrt(square + self.norm_eps) * scale

    def _layer(
        self,
        w: PyTree,
        h: jax.Array,
        turns: tuple[jax.Array, jax.Array],
        past: KeyValues | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        normed = self._norm(h, w["attention_norm"])
        found, new = self._attention(w, normed, turns, past)
        h = h + found
        n = self._norm(h, w["feed_forward_norm"])
        gated = jax.nn.silu(n @ w["gate"].T) * (n @ w["up"].T)
        return h + gated @ w["down"].T, new

    def _attention(
        self,
        w: PyTree,
        h: jax.Array,
        turns: tuple[jax.Array, jax.Array],
        past: KeyValues | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Returns ``[B, L, d]`` and the tokens' own keys and values."""
        batch, length, _ = h.shape
        groups = self.num_heads // self.num_key_value_heads

        def heads(matrix: jax.Array) -> jax.Array:
            return (h @ matrix.T).reshape(batch, length, self.num_key_value_heads, -1)

        key, value = _turned(heads(w["key"]), turns), heads(w["value"])
        size = key.shape[-1]
        # every key and value head, k, serves g queries
        query = heads(w["query"]).reshape(batch, length, self.num_heads, size)
        query = _turned(query, turns).reshape(batch, length, -1, groups, size)
        scores = jnp.einsum("blkgs,bmks->bkglm", query, key) / np.sqrt(size)
        causal = jnp.tril(jnp.ones((length, length), bool))
        scores = jnp.where(causal, scores, -jnp.inf)
        room = 0
        if past is not None:  # all rows have this past: it is read, never repeated
            room = past.keys.shape[0]
            seen = jnp.einsum("blkgs,mks->bkglm", query, past.keys) / np.sqrt(size)
            seen = jnp.where(jnp.arange(room) < past.length, seen, -jnp.inf)
            scores = jnp.concatenate([seen, scores], axis=-1)
        shares = jax.nn.softmax(scores, axis=-1)
        found = jnp.einsum("bkglm,bmks->blkgs", shares[..., room:], value)
        if past is not None:
            found += jnp.einsum("bkglm,mks->blkgs", shares[..., :room], past.values)
        return found.reshape(batch, length, -1) @ w["output"].T, (key, value)

    def _turns(self, weights: PyTree, length: int) -> tuple[jax.Array, jax.Array]:
        """Returns cosine and sine of ``t base^(-2i / s)``, ``[L, 1, s / 2]``."""
        size = weights["layers"]["key"].shape[1] // self.num_key_value_heads
        rates = self.rope_base ** (-np.arange(0, size, 2) / size)
        angles = (np.arange(length)[:, None] * rates)[:, None]
        dtype = weights["embedding"].dtype
        return jnp.asarray(np.cos(angles), dtype), jnp.asarray(np.sin(angles), dtype)


def _turned(heads: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the pairs ``(2i, 2i + 1)`` of ``[B, L, H, s]``."""
    cosine, sine = turns
    even, odd = heads[..., 0::2], heads[..., 1::2]
    pairs = [even * cosine - odd * sine, even * sine + odd * cosine]
    return jnp.stack(pairs, axis=-1).reshape(heads.shape)
