"""A Llama-type language model's forward pass: one pure function of a plain pytree.

The layers are stacked, so that the forward pass is one scan; matrices have the layout
``[out, in]`` and are used as ``h @ w.T``, which leaves lazy leaves (low-rank,
perturbed, quantized) lazy. Layers whose leaves differ in type are several stacks, and
the scan takes each layer from its own.

Source: Touvron et al. (2023), arXiv 2302.13971. Rotary positions turn the interleaved
pairs (2i, 2i + 1) that GGUF files of this type are made for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.lazy.interpreter import interpret
from gfopt.problems.language_models.decoder_layer import (
    ACTIVATIONS,
    KeyValues,
    Sight,
    capped,
    layer,
    norm,
)
from gfopt.problems.language_models.rotary import Rotary, tables
from gfopt.types import PyTree


class Layer(NamedTuple):
    """What differs from layer to layer.

    Attributes:
        rotary: its positions.
        window: tokens that a token sees, itself included; None for all before it.
        stack: number of the stack that has its weights.
    """

    rotary: Rotary
    window: int | None = None
    stack: int = 0


@dataclass(frozen=True)
class Llama:
    """The forward pass; what its weights look like is in ``load_gguf``.

    Args:
        num_heads: of the queries.
        num_key_value_heads: of keys and values; each serves a group of queries.
        rope_base: of the rotary positions' wavelengths.
        norm_eps: added to the mean square that a norm divides by.
        activation: of the gate, ``"silu"``, ``"gelu"``, ``"gelu_tanh"`` or ``"relu"``.
        attention_scale: of the scores; None for ``1 / sqrt(s)``.
        attention_cap: bound of the scores, by ``cap tanh(x / cap)``; None for none.
        logit_cap: the same for the logits.
        embedding_scale: of the embedded tokens.
        layers: what differs from layer to layer; () where nothing does.

    Raises:
        TypeError: for a number of heads that is not an integer.
        ValueError: where keys and values don't serve equal groups of queries.
    """

    num_heads: int
    num_key_value_heads: int
    rope_base: float = 1e5
    norm_eps: float = 1e-5
    activation: str = "silu"
    attention_scale: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    embedding_scale: float = 1.0
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        checks.integer("num_heads", self.num_heads, 1)
        checks.integer("num_key_value_heads", self.num_key_value_heads, 1)
        for name in ("rope_base", "norm_eps", "embedding_scale"):
            checks.positive(name, getattr(self, name))
        for name in ("attention_scale", "attention_cap", "logit_cap"):
            if getattr(self, name) is not None:
                checks.positive(name, getattr(self, name))
        checks.one_of("activation", self.activation, ACTIVATIONS)
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
        sights = self._sights(weights, 0, tokens.shape[1])
        h, _ = self._scan(
            weights,
            self._embedded(weights, tokens),
            lambda h, number, w: (layer(self, w, h, sights(number))[0], None),
        )
        return norm(h, weights["norm"], self.norm_eps)

    @interpret
    def logits(self, weights: PyTree, tokens: jax.Array) -> jax.Array:
        """Returns the next token's logits at every position, ``[B, L, V]``."""
        return self.head(weights, self.hidden(weights, tokens))

    @interpret
    def last_logits(
        self,
        weights: PyTree,
        tokens: jax.Array,
        lengths: jax.Array,
        past: KeyValues | None = None,
    ) -> jax.Array:
        """Returns the logits after each text's last token, ``[B, V]``.

        Args:
            weights: of the model.
            tokens: ``i32[B, L]``, padded at the end with anything.
            lengths: ``i32[B]``, tokens of each text, 1 or more.
            past: what comes before every text, from ``extend``; None for nothing.
        """
        if past is None:
            h = self.hidden(weights, tokens)
        else:
            h = jax.vmap(lambda row: self.extend(weights, past, row)[0])(tokens)
        last = jnp.take_along_axis(h, (lengths - 1)[:, None, None], axis=1)
        return self.head(weights, last[:, 0])

    def head(self, weights: PyTree, hidden: jax.Array) -> jax.Array:
        """Returns the logits of what ``hidden`` or ``extend`` returned."""
        matrix = weights["head"] if "head" in weights else weights["embedding"]
        return capped(hidden @ matrix.T, self.logit_cap)

    def empty_cache(self, weights: PyTree, room: int) -> KeyValues:
        """Returns a cache with places for ``room`` tokens."""
        heads, size = self.num_key_value_heads, self._head_size(weights)
        shape = (num_layers(weights), room, heads, size)
        places = jnp.zeros(shape, weights["embedding"].dtype)
        return KeyValues(places, places, jnp.int32(0))

    @interpret
    def extend(
        self, weights: PyTree, cache: KeyValues, tokens: jax.Array
    ) -> tuple[jax.Array, KeyValues]:
        """Reads on: only the new tokens pass through the layers.

        Under ``vmap`` over the tokens alone all rows share the one cache; where the new
        cache is not used, none is made.

        Args:
            weights: of the model.
            cache: of what was read; it must have places for ``T`` more if it is used.
            tokens: ``i32[T]``, or ``float[T, d]``, vectors in the place of their
                embeddings.

        Returns:
            ``[T, d]``, normed for the head, and the longer cache.
        """
        room = cache.keys.shape[1]
        sights = self._sights(weights, cache.length, len(tokens), room)

        def step(
            h: jax.Array, number: jax.Array, w: PyTree
        ) -> tuple[jax.Array, PyTree]:
            # a layer's part is cut out here: a scan over it would turn all of it round
            keys, values = (
                lax.dynamic_index_in_dim(whole, number, keepdims=False)
                for whole in cache[:2]
            )
            past = cache._replace(keys=keys, values=values)
            return layer(self, w, h, sights(number)._replace(past=past))

        h, new = self._scan(weights, self._embedded(weights, tokens)[None], step)
        keys, values = (
            lax.dynamic_update_slice(whole, part[:, 0, :room], (0, cache.length, 0, 0))
            for whole, part in zip(cache[:2], new, strict=True)
        )
        length = cache.length + len(tokens)
        h = norm(h, weights["norm"], self.norm_eps)[0]
        return h, KeyValues(keys, values, length)

    def _embedded(self, weights: PyTree, tokens: jax.Array) -> jax.Array:
        is_soft = jnp.issubdtype(tokens.dtype, jnp.floating)
        h = tokens if is_soft else weights["embedding"][tokens]
        return h if self.embedding_scale == 1 else h * self.embedding_scale

    def _head_size(self, weights: PyTree) -> int:
        return stacks_of(weights)[0]["key"].shape[1] // self.num_key_value_heads

    def _sights(
        self, weights: PyTree, start: ArrayLike, length: int, room: int = 0
    ) -> Callable[[jax.Array], Sight]:
        """Returns what a layer's tokens see, as a function of its number."""
        kinds = [*dict.fromkeys(own.rotary for own in self.layers)]
        size = self._head_size(weights)
        rates = [rotary.rates(size) for rotary in kinds or [Rotary(self.rope_base)]]
        turns = tables(np.stack(rates), room + length, weights["embedding"].dtype)
        cosine, sine = (
            lax.dynamic_slice_in_dim(table, start, length, axis=1) for table in turns
        )
        if not self.layers:
            return lambda number: Sight((cosine[0], sine[0]))
        which = jnp.array([kinds.index(own.rotary) for own in self.layers])
        endless = np.iinfo(np.int32).max
        sizes = [own.window for own in self.layers]
        windows = jnp.array([endless if size is None else size for size in sizes])

        def sight(number: jax.Array) -> Sight:
            turns = (cosine[which[number]], sine[which[number]])
            return Sight(turns, windows[number] if any(sizes) else None)

        return sight

    def _scan(
        self,
        weights: PyTree,
        h: jax.Array,
        step: Callable[..., tuple[jax.Array, PyTree]],
    ) -> tuple[jax.Array, PyTree]:
        """Scans ``step(h, number, layer weights) -> (h, out)`` over the layers."""
        numbers, stacks = jnp.arange(num_layers(weights)), stacks_of(weights)
        if len(stacks) == 1:
            return lax.scan(lambda h, x: step(h, *x), h, (numbers, stacks[0]))
        which = [own.stack for own in self.layers]
        places = [which[:number].count(stack) for number, stack in enumerate(which)]

        def turn(h: jax.Array, inputs: PyTree) -> tuple[jax.Array, PyTree]:
            number, stack, place = inputs

            def branch(
                layers: PyTree,
            ) -> Callable[[jax.Array], tuple[jax.Array, PyTree]]:
                def own(leaf: PyTree) -> PyTree:
                    return lax.dynamic_index_in_dim(leaf, place, keepdims=False)

                return lambda h: step(h, number, jax.tree.map(own, layers))

            return lax.switch(stack, [branch(layers) for layers in stacks], h)

        return lax.scan(turn, h, (numbers, jnp.array(which), jnp.array(places)))


def stacks_of(weights: PyTree) -> tuple[PyTree, ...]:
    """Returns the stacks of the layers' weights."""
    layers = weights["layers"]
    return (layers,) if isinstance(layers, dict) else tuple(layers)


def num_layers(weights: PyTree) -> int:
    """Returns the number of layers in all stacks."""
    return sum(stack["attention_norm"].shape[0] for stack in stacks_of(weights))
