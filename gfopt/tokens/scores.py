"""Scores of a text by a language model: objectives, lower is better.

A score is called with a solution, ``i32[L]`` with ``-1`` after its end. Where prompt
and text were read before, it continues from their cache:
``continued(Continuation(cache, tokens, length))``. That is how
``gfopt.tokens.shared_prefix()`` evaluates a beam's candidates. The model is a leaf, so
that the weights are arguments of the compiled program.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.pytree import pytree, static
from gfopt.tokens.beam_search import check_model, check_tokens
from gfopt.tokens.language_model import Cache, LanguageModel
from gfopt.tokens.sequences import END, followed_by, length_of
from gfopt.types import Key


class Continuation(NamedTuple):
    """A text whose beginning was already read.

    Attributes:
        cache: of what was read.
        tokens: what follows, ``i32[T]``.
        length: how much of it counts, ``i32[]``, 1 or more.
    """

    cache: Cache
    tokens: jax.Array
    length: jax.Array


def _ids(tokens: ArrayLike | None) -> jax.Array:
    """Returns an array of ids, empty for None."""
    return jnp.zeros(0, jnp.int32) if tokens is None else jnp.asarray(tokens)


def _from_the_last(
    model: LanguageModel, prompt: jax.Array, tokens: jax.Array
) -> Continuation:
    """Returns a text after a prompt; the prompt's last token is read again.

    The text may be empty: what follows it is then predicted from the prompt's end.
    """
    _, cache = model.start(prompt, 0)
    last = jnp.take(prompt, jnp.maximum(length_of(prompt) - 1, 0))
    return Continuation(
        cache._replace(length=cache.length - 1),
        jnp.concatenate([last[None].astype(jnp.int32), tokens.astype(jnp.int32)]),
        length_of(tokens) + 1,
    )


def _log_likelihoods(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns ``log p`` of each token, 0 after the end, ``[T]``."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    each = jnp.take_along_axis(log_p, jnp.maximum(tokens, 0)[:, None], axis=-1)[:, 0]
    return jnp.where(tokens >= 0, each, 0.0)


class _AfterPrompt:
    """Base of the scores of a text after one prompt."""

    prompt: ArrayLike

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``; of several prompts each."""
        return length_of(jnp.asarray(self.prompt))


@pytree
class Targeted(_AfterPrompt):
    """How unlikely a given continuation is: its mean negative log-likelihood in nats.

        -1/|t| sum_i log p(t_i | prompt, text, tail, t_<i)

    Its exponential is the perplexity, which has the same order.

    Args:
        model: a ``LanguageModel``.
        prompt: what stands before the text, ``i32[n]``, ``-1`` after its end.
        target: the continuation, ``i32[t]``, ``-1`` after its end.
        tail: what stands between text and target, such as a template's end.

    Raises:
        TypeError: for anything but an array of token ids.

    Example:
        >>> from gfopt.tokens import FunctionModel, Targeted
        >>> bigrams = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
        >>> model = FunctionModel(lambda table, tokens: table[tokens], bigrams)
        >>> score = Targeted(model, jnp.array([0]), target=jnp.array([1]))
        >>> score(jnp.array([0, -1])), score(jnp.array([0, 1]))  # -log .5, -log .75
        (Array(0.693..., dtype=float32), Array(0.287..., dtype=float32))

    Source: Sadasivan et al. (2024), arXiv 2402.15570, equation 1.
    """

    model: LanguageModel
    prompt: ArrayLike
    target: ArrayLike
    tail: ArrayLike | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        for name in ("prompt", "target"):
            check_tokens(name, getattr(self, name), (1, 2))
        if self.tail is not None:
            check_tokens("tail", self.tail)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Scores a text."""
        prompt = jnp.asarray(self.prompt)
        return self.continued(_from_the_last(self.model, prompt, tokens))

    def continued(self, text: Continuation) -> jax.Array:
        """Scores a text whose beginning was read."""
        tail, target = _ids(self.tail), jnp.asarray(self.target)
        # the last token of the target is predicted, not read
        rest = jnp.concatenate([tail, target[:-1]])
        row = followed_by(text.tokens, text.length, rest)
        at = text.length + tail.shape[0] - 1 + jnp.arange(target.shape[0])
        logits, _ = self.model.extend(text.cache, row, at)
        count = jnp.maximum(jnp.sum(target >= 0), 1)
        return -jnp.sum(_log_likelihoods(logits, target)) / count

    def num_tokens(self, length: jax.Array) -> jax.Array:
        """Returns what a text of ``length`` tokens costs if it was not read before."""
        rest = _ids(self.tail).shape[0] + length_of(jnp.asarray(self.target))
        return length + rest


@pytree
class Untargeted(_AfterPrompt):
    """How likely the model finds its own continuation, in nats: random.

    The model draws ``num_sampled`` tokens after the text; their mean log-likelihood is
    the score, so that the minimum is a text after which the model is least sure. It
    takes a key: ``gfopt.Objective(score, takes_key=True)``.

    Args:
        model: a ``LanguageModel``.
        prompt: what stands before the text, ``i32[n]``.
        tail: what stands between text and continuation.
        num_sampled: tokens that are drawn.
        temperature: that they are drawn with.

    Raises:
        TypeError, ValueError: for a wrong argument.

    Example:
        >>> from gfopt.tokens import FunctionModel, Untargeted
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> score = Untargeted(flat, jnp.array([0]), num_sampled=3)
        >>> score(jax.random.key(0), jnp.array([1, 2]))  # -log 4
        Array(-1.3862944, dtype=float32)

    Source: Sadasivan et al. (2024), arXiv 2402.15570, section 4.2.
    """

    model: LanguageModel
    prompt: ArrayLike
    tail: ArrayLike | None = None
    num_sampled: int = static(default=10)
    temperature: ArrayLike = 1.0

    def __post_init__(self) -> None:
        check_model(self.model)
        check_tokens("prompt", self.prompt, (1, 2))
        if self.tail is not None:
            check_tokens("tail", self.tail)
        checks.integer("num_sampled", self.num_sampled, 1)
        checks.positive("temperature", self.temperature)

    def __call__(self, key: Key, tokens: jax.Array) -> jax.Array:
        """Scores a text."""
        prompt = jnp.asarray(self.prompt)
        return self.continued(key, _from_the_last(self.model, prompt, tokens))

    def continued(self, key: Key, text: Continuation) -> jax.Array:
        """Scores a text whose beginning was read.

        The row is read anew for each token that is drawn: no copy of the cache is made.
        """
        tail = _ids(self.tail)
        room = jnp.full(self.num_sampled, END)
        row = followed_by(text.tokens, text.length, jnp.concatenate([tail, room]))
        end = text.length + tail.shape[0]

        def drawn(row: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
            at = end + number
            logits, _ = self.model.extend(text.cache, row, (at - 1)[None])
            word = jax.random.fold_in(key, number)
            token = jax.random.categorical(word, logits[0] / self.temperature)
            log_p = jax.nn.log_softmax(logits[0].astype(jnp.float32))[token]
            return row.at[at].set(token.astype(jnp.int32)), log_p

        _, log_p = jax.lax.scan(drawn, row, jnp.arange(self.num_sampled))
        return jnp.mean(log_p)

    def num_tokens(self, length: jax.Array) -> jax.Array:
        """Returns what a text of ``length`` tokens costs if it was not read before."""
        start = length + _ids(self.tail).shape[0]
        # 0 + 1 + ... after a row that is read again each time
        again = self.num_sampled * (self.num_sampled - 1) // 2
        return self.num_sampled * start + again


@pytree
class Fluency(_AfterPrompt):
    """How unlikely the text itself is after the prompt, in nats per token.

    Its minimum is what ordinary beam decoding looks for.

    Args:
        model: a ``LanguageModel``.
        prompt: what stands before the text, ``i32[n]``.
        total: the sum over the tokens instead of their mean.

    Raises:
        TypeError: for a wrong argument.

    Example:
        >>> from gfopt.tokens import Fluency, FunctionModel
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> Fluency(flat, jnp.array([0]))(jnp.array([1, 2, -1]))  # log 4
        Array(1.3862944, dtype=float32)
    """

    model: LanguageModel
    prompt: ArrayLike
    total: bool = static(default=False)

    def __post_init__(self) -> None:
        check_model(self.model)
        check_tokens("prompt", self.prompt, (1, 2))
        checks.instance("total", self.total, bool, "True or False")

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Scores a text."""
        text = _from_the_last(self.model, jnp.asarray(self.prompt), tokens)
        logits, _ = self.model.extend(text.cache, text.tokens[:-1])
        found = -jnp.sum(_log_likelihoods(logits, tokens))
        return found if self.total else found / jnp.maximum(length_of(tokens), 1)

    def num_tokens(self, length: jax.Array) -> jax.Array:
        """Returns what a text of ``length`` tokens costs after the prompt."""
        return length
