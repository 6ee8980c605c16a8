"""What a text of tokens is worth to a language model: objectives, lower is better.

A score is called with a solution, ``i32[L]`` with ``-1`` behind its end. It can also go
on from a cache, ``continued(Continuation(cache, tokens, length))``, where prompt and
text were read before: ``gfopt.shared_prefix()`` evaluates a beam's candidates so. Its
model is a leaf, so that the weights are arguments of the compiled program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.core.objective import Objective
from gfopt.tokens.beams import check_model, check_tokens
from gfopt.tokens.language_model import Cache
from gfopt.tokens.sequences import END, followed_by, length_of
from gfopt.types import Evaluation, Key


class Continuation(NamedTuple):
    """A text of which the beginning was read.

    Attributes:
        cache: of what was read.
        tokens: what follows, ``i32[T]``.
        length: how much of it counts, ``i32[]``, 1 or more.
    """

    cache: Cache
    tokens: jax.Array
    length: jax.Array


class TokenCount(NamedTuple):
    """What an evaluation cost, beside its value.

    Attributes:
        num_tokens: that the model was given, without padding, ``i32[]``.
    """

    num_tokens: jax.Array


def tokens_used(evaluation: Evaluation) -> jax.Array:
    """Returns the tokens that each evaluation counted, 0 where it counts none."""
    aux = evaluation.aux
    return jnp.asarray(getattr(aux, "num_tokens", 0))


def _ids(tokens: Any) -> jax.Array:
    """Returns an array of ids, empty for None."""
    return jnp.zeros(0, jnp.int32) if tokens is None else jnp.asarray(tokens)


def _from_the_last(model: Any, prompt: jax.Array, tokens: jax.Array) -> Continuation:
    """Returns a text behind a prompt whose last token is read again.

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
    """Returns ``log p`` of each token, 0 behind the end, ``[T]``."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    each = jnp.take_along_axis(log_p, jnp.maximum(tokens, 0)[:, None], axis=-1)[:, 0]
    return jnp.where(tokens >= 0, each, 0.0)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "prompt", "target", "tail"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Targeted:
    """How unlikely a given continuation is: its mean negative log-likelihood in nats.

        -1/|t| sum_i log p(t_i | prompt, text, tail, t_<i)

    Its exponential is the perplexity, which has the same order.

    Args:
        model: a ``LanguageModel``.
        prompt: what stands before the text, ``i32[n]``, ``-1`` behind its end.
        target: the continuation, ``i32[t]``, ``-1`` behind its end.
        tail: what stands between text and target, such as a template's end.

    Raises:
        TypeError: for what is no array of token ids.

    Example:
        >>> import gfopt
        >>> bigrams = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
        >>> model = gfopt.FunctionModel(lambda table, tokens: table[tokens], bigrams)
        >>> score = gfopt.Targeted(model, jnp.array([0]), target=jnp.array([1]))
        >>> score(jnp.array([0, -1])), score(jnp.array([0, 1]))  # -log .5, -log .75
        (Array(0.693..., dtype=float32), Array(0.287..., dtype=float32))

    Source: Sadasivan et al. (2024), arXiv 2402.15570, equation 1.
    """

    model: Any
    prompt: Any
    target: Any
    tail: Any = None

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
        """Returns what a text of ``length`` tokens costs where it was not read."""
        rest = _ids(self.tail).shape[0] + length_of(jnp.asarray(self.target))
        return length + rest

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``."""
        return length_of(jnp.asarray(self.prompt))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "prompt", "tail", "temperature"],
    meta_fields=["num_sampled"],
)
@dataclass(frozen=True)
class Untargeted:
    """How likely the model finds its own continuation, in nats: random.

    The model draws ``num_sampled`` tokens behind the text; their mean log-likelihood is
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
        >>> import gfopt
        >>> flat = gfopt.FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> score = gfopt.Untargeted(flat, jnp.array([0]), num_sampled=3)
        >>> score(jax.random.key(0), jnp.array([1, 2]))  # -log 4
        Array(-1.3862944, dtype=float32)

    Source: Sadasivan et al. (2024), arXiv 2402.15570, section 4.2.
    """

    model: Any
    prompt: Any
    tail: Any = None
    num_sampled: int = 10
    temperature: Any = 1.0

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
        """Returns what a text of ``length`` tokens costs where it was not read."""
        start = length + _ids(self.tail).shape[0]
        # 0 + 1 + ... behind a row that is read again each time
        again = self.num_sampled * (self.num_sampled - 1) // 2
        return self.num_sampled * start + again

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``."""
        return length_of(jnp.asarray(self.prompt))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["model", "prompt"],
    meta_fields=["total"],
)
@dataclass(frozen=True)
class Fluency:
    """How unlikely the text itself is behind the prompt, nats a token.

    Its minimum is what ordinary beam decoding looks for.

    Args:
        model: a ``LanguageModel``.
        prompt: what stands before the text, ``i32[n]``.
        total: the sum over the tokens instead of their mean.

    Raises:
        TypeError: for a wrong argument.

    Example:
        >>> import gfopt
        >>> flat = gfopt.FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> gfopt.Fluency(flat, jnp.array([0]))(jnp.array([1, 2, -1]))  # log 4
        Array(1.3862944, dtype=float32)
    """

    model: Any
    prompt: Any
    total: bool = False

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
        """Returns what a text of ``length`` tokens costs behind the prompt."""
        return length

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``."""
        return length_of(jnp.asarray(self.prompt))


@partial(jax.tree_util.register_dataclass, data_fields=["score"], meta_fields=[])
@dataclass(frozen=True)
class Universal:
    """One text for several prompts: the mean of a score over them.

    Args:
        score: a ``Targeted`` with prompts ``i32[m, n]`` and targets ``i32[m, t]``, each
            with ``-1`` behind its end.

    Raises:
        ValueError: where prompts and targets are not as many.

    Example:
        >>> import gfopt
        >>> flat = gfopt.FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> prompts, targets = jnp.array([[0, 1], [2, -1]]), jnp.array([[3], [1]])
        >>> gfopt.Universal(gfopt.Targeted(flat, prompts, targets))(jnp.array([1]))
        Array(1.3862944, dtype=float32)

    Source: Sadasivan et al. (2024), arXiv 2402.15570, section 4.1.
    """

    score: Any

    def __post_init__(self) -> None:
        check_model(getattr(self.score, "model", self.score))
        prompts, targets = self._prompt, self._target
        if not (hasattr(prompts, "shape") and hasattr(targets, "shape")):
            return  # placeholders from tree unflattening
        if {prompts.ndim, targets.ndim} != {2} or len(prompts) != len(targets):
            raise ValueError(
                "score must have prompts [m, n] and as many targets [m, t]; "
                f"got shapes {prompts.shape} and {targets.shape}"
            )

    @property
    def _prompt(self) -> Any:
        return getattr(self.score, "prompt", None)

    @property
    def _target(self) -> Any:
        return getattr(self.score, "target", None)

    def _each(self, call: Callable[[Any, Any], jax.Array], caches: Any) -> jax.Array:
        """Returns ``call(score of one prompt, its cache)`` for all prompts, ``[m]``."""
        score = self.score

        def one(prompt: jax.Array, target: jax.Array, cache: Any) -> jax.Array:
            return call(type(score)(score.model, prompt, target, score.tail), cache)

        return jax.vmap(one)(self._prompt, self._target, caches)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Scores a text."""
        return jnp.mean(self._each(lambda score, _: score(tokens), None))

    def continued(self, text: Continuation) -> jax.Array:
        """Scores a text that ``SeveralPrompts`` began to read."""
        each = self._each(
            lambda score, cache: score.continued(text._replace(cache=cache)), text.cache
        )
        return jnp.mean(each)

    def num_tokens(self, length: jax.Array) -> jax.Array:
        """Returns what a text of ``length`` tokens costs where it was not read."""
        each = self._each(lambda score, _: score.num_tokens(length), None)
        return jnp.sum(each)

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``."""
        return jnp.sum(jnp.asarray(self._prompt) >= 0, dtype=jnp.int32)


@partial(
    jax.tree_util.register_dataclass, data_fields=["scores", "weights"], meta_fields=[]
)
@dataclass(frozen=True)
class Total:
    """The weighted sum of scores: several models, or several aims.

    Args:
        scores: two or more scores; for ``continued`` those of ``SeveralModels``, in its
            order.
        weights: of each, all 1 by default.

    Raises:
        TypeError: where ``scores`` is not a tuple.
        ValueError: where there are not as many weights.

    Example:
        >>> import gfopt
        >>> flat = gfopt.FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> likely = gfopt.Fluency(flat, jnp.array([0]))
        >>> gfopt.Total((likely, likely), weights=(1.0, 0.5))(jnp.array([1]))
        Array(2.0794415, dtype=float32)
    """

    scores: tuple[Any, ...]
    weights: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        checks.instance("scores", self.scores, tuple, "a tuple of scores")
        if self.weights is not None:
            checks.instance("weights", self.weights, tuple, "a tuple of numbers")
            if len(self.weights) != len(self.scores):
                raise ValueError(
                    f"weights must be as many as scores, {len(self.scores)}; "
                    f"got {checks.shown(self.weights)}"
                )

    def _sum(self, values: list[jax.Array]) -> jax.Array:
        weights = self.weights or (1.0,) * len(values)
        each = [w * value for w, value in zip(weights, values, strict=True)]
        return sum(each[1:], start=each[0])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Scores a text."""
        return self._sum([score(tokens) for score in self.scores])

    def continued(self, text: Continuation) -> jax.Array:
        """Scores a text that ``SeveralModels`` began to read."""
        # their common length may have been set back
        caches = [one._replace(length=text.cache.length) for one in text.cache.each]
        parts = zip(self.scores, caches, strict=True)
        return self._sum(
            [score.continued(text._replace(cache=one)) for score, one in parts]
        )

    def num_tokens(self, length: jax.Array) -> jax.Array:
        """Returns what a text of ``length`` tokens costs where it was not read."""
        each = [score.num_tokens(length) for score in self.scores]
        return sum(each[1:], start=each[0])

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``."""
        each = [score.prompt_tokens for score in self.scores]
        return sum(each[1:], start=each[0])


@partial(jax.tree_util.register_dataclass, data_fields=["score"], meta_fields=[])
@dataclass(frozen=True)
class Counted:
    """A score that also returns the tokens that it takes."""

    score: Any

    def __call__(self, *given: Any) -> tuple[jax.Array, TokenCount]:
        """Scores a text; prompt and text are read."""
        count = self.score.num_tokens(length_of(given[-1])) + self.score.prompt_tokens
        return self.score(*given), TokenCount(jnp.asarray(count, jnp.int32))

    def continued(self, *given: Any) -> tuple[jax.Array, TokenCount]:
        """Scores a text whose beginning was read: only the rest counts."""
        count = self.score.num_tokens(given[-1].length)
        return self.score.continued(*given), TokenCount(jnp.asarray(count, jnp.int32))


def token_counting(score: Any, *, takes_key: bool = False) -> Objective:
    """Returns a score as an objective that counts its tokens.

    ``Beast`` adds them up (``info.num_tokens``) and stops at its ``max_tokens``.

    Args:
        score: such as ``Targeted``.
        takes_key: whether it is random, such as ``Untargeted``.

    Example:
        >>> import gfopt
        >>> flat = gfopt.FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> score = gfopt.Targeted(flat, jnp.array([0, 1]), jnp.array([3, 2]))
        >>> value, count = token_counting(score).fun(jnp.array([1, 2, 3, -1]))
        >>> count.num_tokens  # 2 + 3 + 2
        Array(7, dtype=int32)
    """
    return Objective(Counted(score), takes_key=takes_key, has_aux=True)
