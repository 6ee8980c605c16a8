"""Language models as pytrees: read a prompt once, continue it often.

A model has two functions. ``start(prompt, room)`` reads a prompt, ``extend(cache,
tokens)`` reads on. Both are un-batched and go through ``vmap``: over the tokens alone,
all rows share the one cache. A cache is a NamedTuple with a field ``length``, the
tokens that were read; what it holds after them does not count, so that
``cache._replace(length=n)`` takes a text back to its first ``n`` tokens.

A model's weights are leaves: they are arguments of a compiled program, whichever
method or score holds the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from gfopt import checks
from gfopt.pytree import pytree, static
from gfopt.tokens.sequences import length_of
from gfopt.types import PyTree

Cache: TypeAlias = Any  # a NamedTuple with a field `length: i32[]`


@runtime_checkable
class LanguageModel(Protocol):
    """What a search needs from a causal language model.

    Example:
        >>> from gfopt.tokens import FunctionModel
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 2)))
        >>> isinstance(flat, LanguageModel)
        True
    """

    def start(self, prompt: jax.Array, room: int) -> tuple[jax.Array, Cache]:
        """Reads a prompt, ``i32[n]`` with ``-1`` after its end.

        Returns:
            The next token's logits ``[V]`` and a cache with room for ``room`` more.
        """

    def extend(
        self, cache: Cache, tokens: jax.Array, at: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """Reads more tokens.

        Args:
            cache: of what was read; not changed.
            tokens: ``i32[T]``; ids below 0 stand for anything.
            at: the places in ``tokens`` after which logits are wanted; all by default.

        Returns:
            The logits ``[T, V]`` or ``[len(at), V]``, and the longer cache.
        """


class TokenBuffer(NamedTuple):
    """The cache of a model without one: the tokens read so far, ``i32[C]``."""

    tokens: jax.Array
    length: jax.Array


@pytree
class FunctionModel:
    """A pure JAX function as a language model; every step reads the whole text.

    Args:
        fun: ``(weights, tokens i32[C]) -> logits [C, V]``, causal: a token changes
            nothing before it.
        weights: its first argument, any pytree.

    Raises:
        TypeError: where ``fun`` cannot be called.

    Example:
        >>> from gfopt.tokens import FunctionModel
        >>> bigrams = jnp.array([[0.0, 2.0], [1.0, 0.0]])
        >>> model = FunctionModel(lambda table, tokens: table[tokens], bigrams)
        >>> logits, cache = model.start(jnp.array([0, 1]), 3)
        >>> logits, cache.length
        (Array([1., 0.], dtype=float32), Array(2, dtype=int32))
    """

    fun: Callable[[PyTree, jax.Array], jax.Array] = static()
    weights: PyTree = ()

    def __post_init__(self) -> None:
        checks.is_callable("fun", self.fun)

    def start(self, prompt: jax.Array, room: int) -> tuple[jax.Array, TokenBuffer]:
        """Reads a prompt."""
        tokens = jnp.zeros(prompt.shape[0] + room, jnp.int32)
        cache = TokenBuffer(tokens, jnp.int32(0))
        return read_prompt(self, cache, prompt)

    def extend(
        self, cache: TokenBuffer, tokens: jax.Array, at: jax.Array | None = None
    ) -> tuple[jax.Array, TokenBuffer]:
        """Reads more tokens."""
        count, room = tokens.shape[0], cache.tokens.shape[0]
        at = jnp.arange(count) if at is None else at
        given = jnp.maximum(tokens, 0)
        # the tokens may be more than the cache has room for
        text = jnp.pad(cache.tokens, (0, count))
        text = lax.dynamic_update_slice(text, given, (cache.length,))
        logits = self.fun(self.weights, text)
        found = logits[cache.length + at]
        return found, TokenBuffer(text[:room], cache.length + count)


@pytree
class CachedModel:
    """A model with a cache of its own, such as ``gfopt.problems.smollm2()``.

    Args:
        model: has ``empty_cache(weights, room)``, ``extend(weights, cache, tokens) ->
            (hidden, cache)`` and ``head(weights, hidden) -> logits``; hashable.
        weights: the first argument of these; the embeddings are ``"embedding"``.

    Example:
        >>> import gfopt
        >>> from gfopt.tokens import CachedModel
        >>> found = gfopt.problems.small_language_model("to be or not to be " * 9)
        >>> model = CachedModel(found.model, found.weights)
        >>> prompt = jnp.array(found.tokenizer.encode("or not to").ids)
        >>> logits, cache = model.start(prompt, room=8)
        >>> found.tokenizer.decode([int(logits.argmax())])
        'be'
    """

    model: Any = static()
    weights: PyTree

    def __post_init__(self) -> None:
        for name in ("empty_cache", "extend", "head"):
            checks.is_callable(f"model.{name}", getattr(self.model, name, None))

    @property
    def embeddings(self) -> jax.Array:
        """The vectors of all tokens, ``[V, d]``."""
        return self.weights["embedding"]

    def start(self, prompt: jax.Array, room: int) -> tuple[jax.Array, Cache]:
        """Reads a prompt."""
        cache = self.model.empty_cache(self.weights, prompt.shape[0] + room)
        return read_prompt(self, cache, prompt)

    def extend(
        self, cache: Cache, tokens: jax.Array, at: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """Reads more tokens."""
        given = jnp.maximum(tokens, 0)
        hidden, cache = self.model.extend(self.weights, cache, given)
        hidden = hidden if at is None else hidden[at]
        return self.model.head(self.weights, hidden), cache


@pytree
class SeveralPrompts:
    """One model that reads several prompts: what is likely after all of them.

    Its logits are the sum over the prompts, those of the product of the distributions.

    Args:
        model: a language model; ``start`` then takes prompts ``i32[m, n]``.

    Example:
        >>> from gfopt.tokens import FunctionModel, SeveralPrompts
        >>> bigrams = jnp.array([[0.0, 2.0], [1.0, 0.0]])
        >>> one = FunctionModel(lambda table, tokens: table[tokens], bigrams)
        >>> prompts = jnp.array([[0, 1], [0, -1]])
        >>> SeveralPrompts(one).start(prompts, 1)[0]
        Array([1., 2.], dtype=float32)
    """

    model: LanguageModel

    def start(self, prompt: jax.Array, room: int) -> tuple[jax.Array, Cache]:
        """Reads all prompts."""
        logits, cache = jax.vmap(lambda row: self.model.start(row, room))(prompt)
        return jnp.sum(logits, axis=0), cache

    def extend(
        self, cache: Cache, tokens: jax.Array, at: jax.Array | None = None
    ) -> tuple[jax.Array, Cache]:
        """Reads on, the same tokens after each prompt."""
        logits, cache = jax.vmap(lambda one: self.model.extend(one, tokens, at))(cache)
        return jnp.sum(logits, axis=0), cache


class Caches(NamedTuple):
    """The caches of several models, and the tokens that each has read."""

    each: tuple[Cache, ...]
    length: jax.Array


@pytree
class SeveralModels:
    """Models with one vocabulary that read one text: what is likely for all of them.

    The logits are the mean of their log-probabilities.

    Args:
        models: two or more language models.

    Raises:
        TypeError: where ``models`` is not a tuple.

    Example:
        >>> from gfopt.tokens import FunctionModel, SeveralModels
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 2)))
        >>> SeveralModels((flat, flat)).start(jnp.array([0]), 1)[0]
        Array([-0.6931472, -0.6931472], dtype=float32)
    """

    models: tuple[LanguageModel, ...]

    def __post_init__(self) -> None:
        checks.instance("models", self.models, tuple, "a tuple of language models")

    def start(self, prompt: jax.Array, room: int) -> tuple[jax.Array, Caches]:
        """Reads a prompt."""
        found = [model.start(prompt, room) for model in self.models]
        caches = tuple(cache for _, cache in found)
        return _mean_log(found), Caches(caches, length_of(prompt))

    def extend(
        self, cache: Caches, tokens: jax.Array, at: jax.Array | None = None
    ) -> tuple[jax.Array, Caches]:
        """Reads more tokens."""
        # the length may have been set back
        given = [one._replace(length=cache.length) for one in cache.each]
        found = [
            model.extend(one, tokens, at)
            for model, one in zip(self.models, given, strict=True)
        ]
        caches = tuple(cache for _, cache in found)
        return _mean_log(found), Caches(caches, cache.length + tokens.shape[0])


def text_logits(model: LanguageModel, tokens: jax.Array) -> jax.Array:
    """Returns the next token's logits after each token of a text, ``[L, V]``.

    Args:
        model: a language model.
        tokens: ``i32[L]``, one or more.

    Example:
        >>> from gfopt.tokens import FunctionModel
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 2)))
        >>> text_logits(flat, jnp.array([0, 1, 1])).shape
        (3, 2)
    """
    _, cache = model.start(tokens[:1], tokens.shape[0] - 1)
    empty = cache._replace(length=jnp.zeros_like(cache.length))
    return model.extend(empty, tokens)[0]


def read_prompt(model: Any, empty: Cache, prompt: jax.Array) -> tuple[jax.Array, Cache]:
    """Reads a padded prompt into an empty cache."""
    length = length_of(prompt)
    logits, cache = model.extend(empty, prompt, jnp.maximum(length - 1, 0)[None])
    return logits[0], cache._replace(length=length)


def _mean_log(found: list[tuple[jax.Array, Cache]]) -> jax.Array:
    each = [jax.nn.log_softmax(logits) for logits, _ in found]
    return sum(each[1:], start=each[0]) / len(each)
