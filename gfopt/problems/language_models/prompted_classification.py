"""Classifying texts with a language model: how well does a prompt work?

A text is read after the prompt and within a template, and the likeliest of a few words
is the answer:

    prompt   "Review: " text "Sentiment:"   ->   " positive" or " negative"

The prompt is a sequence of token ids, which is what a search over tokens changes, or a
soft one: vectors in the place of the tokens' embeddings, which any method can move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gfopt import checks
from gfopt.lazy.interpreter import interpret
from gfopt.problems.language_models.decoder_layer import KeyValues
from gfopt.problems.language_models.language_models import Pretrained
from gfopt.problems.language_models.llama import Llama
from gfopt.pytree import pytree, static
from gfopt.types import Array, PyTree

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@pytree(eq=False)
class PromptedClassification:
    """Labelled texts, and the loss of a prompt on them; make it with ``prompted``.

    It is called with one prompt, ``int32[L]`` or, soft, ``float[L, d]``, and returns
    the mean cross-entropy of the labels, so that it is an objective, and a score for
    ``gfopt.prompts.counted``. Ids of -1 are empty places.

    Attributes:
        model: the forward pass.
        weights: its weights.
        bodies: ``int32[X, B]``, the texts in their template, padded at the end.
        lengths: ``int32[X]``, their tokens.
        labels: ``int32[X]``, which word is right.
        words: ``int32[Y]``, the token of each answer.
        opening: ``int32[S]``, what the tokenizer begins every text with.
    """

    model: Llama = static()
    weights: PyTree = field(repr=False)
    bodies: jax.Array = field(repr=False)
    lengths: jax.Array = field(repr=False)
    labels: jax.Array = field(repr=False)
    words: jax.Array
    opening: jax.Array = field(
        default_factory=lambda: jnp.zeros(0, jnp.int32), repr=False
    )

    def soft(self, tokens: npt.ArrayLike) -> jax.Array:
        """Returns the soft prompt of some tokens ``int32[L]``: ``float[L, d]``."""
        look_up = interpret(lambda table, which: table[which])
        return look_up(self.weights["embedding"], jnp.asarray(tokens, jnp.int32))

    def at(self, rows: jax.Array) -> PromptedClassification:
        """Returns the task of some of its texts, such as a mini-batch's."""
        bodies, lengths = jnp.asarray(self.bodies)[rows], jnp.asarray(self.lengths)
        labels = jnp.asarray(self.labels)[rows]
        return replace(self, bodies=bodies, lengths=lengths[rows], labels=labels)

    def log_probabilities(self, prompt: jax.Array) -> jax.Array:
        """Returns those of the answers alone, ``float[X, Y]``, under a prompt."""
        past = self._read(jnp.asarray(prompt))
        rows = jnp.asarray(self.bodies), jnp.asarray(self.lengths)
        logits = self.model.last_logits(self.weights, *rows, past)
        return jax.nn.log_softmax(logits[:, self.words], axis=-1)

    def _read(self, prompt: jax.Array) -> KeyValues | None:
        """Reads what comes before every text, once for all of them."""
        opening = jnp.asarray(self.opening, jnp.int32)
        room = opening.size + len(prompt)
        if room == 0:
            return None
        cache, size = self.model.empty_cache(self.weights, room), jnp.int32(room)
        if prompt.ndim == 2:
            tokens = jnp.concatenate([self.soft(opening), prompt])
        else:
            tokens = jnp.concatenate([opening, prompt.astype(jnp.int32)])
            order = jnp.argsort(tokens < 0)  # the empty places last
            size, tokens = jnp.sum(tokens >= 0), jnp.maximum(tokens[order], 0)
        cache = self.model.extend(self.weights, cache, tokens)[1]
        return cache._replace(length=size)

    def probabilities(self, prompt: jax.Array) -> jax.Array:
        """Returns the answers' probabilities ``float[X, Y]``; no label is read."""
        return jnp.exp(self.log_probabilities(prompt))

    def __call__(self, prompt: jax.Array) -> jax.Array:
        """Returns the mean cross-entropy of the labels, ``float[]``."""
        found = self.log_probabilities(prompt)
        right = jnp.take_along_axis(found, self.labels[:, None], axis=1)
        return -jnp.mean(right)

    def accuracy(self, prompt: jax.Array) -> jax.Array:
        """Returns the share of the texts that are answered rightly, ``float[]``."""
        guesses = jnp.argmax(self.log_probabilities(prompt), axis=1)
        return jnp.mean(guesses == self.labels)

    def num_tokens(self, prompt: Array) -> jax.Array:
        """Returns how many tokens the model reads for one prompt."""
        size = (prompt >= 0).sum() + self.opening.size
        return self.lengths.sum() + size * len(self.lengths)


def prompted(
    found: Pretrained,
    texts: Sequence[str],
    labels: npt.ArrayLike,
    words: Sequence[str],
    template: str = "\nReview: {}\nSentiment:",
) -> PromptedClassification:
    """Makes the task of classifying texts with a language model.

    Args:
        found: the model, from ``smollm2`` or ``load_gguf``.
        texts: to be classified.
        labels: of each, the number of its word.
        words: the answers, such as ``[" negative", " positive"]``; of each the first
            token counts, and these must differ.
        template: what stands between the prompt and the answer, with ``{}`` for the
            text.

    Raises:
        TypeError: for a template that is not a text.
        ValueError: for texts and labels of different numbers, labels without a word,
            words that begin with the same token, or a template without ``{}``.
    """
    checks.instance("template", template, str, "a text")
    if template.count("{}") != 1:
        raise ValueError(
            f"template must have one {{}} for the text; got {checks.shown(template)}"
        )
    numbers = np.asarray(labels)
    if len(texts) == 0 or numbers.shape != (len(texts),):
        raise ValueError(
            f"labels must be one number for each of the {len(texts)} texts, at least "
            f"one; got shape {numbers.shape}"
        )
    firsts, sizes = found.encode([*words, ""], add_special_tokens=False)
    tokens = firsts[: len(words), :1].ravel()
    if len(words) < 2 or not all(sizes[:-1]) or len({*tokens}) < len(words):
        raise ValueError(
            "words must be two or more that begin with different tokens; "
            f"got {checks.shown(list(words))}"
        )
    if numbers.dtype.kind not in "iu" or not np.isin(numbers, range(len(words))).all():
        raise ValueError(
            f"labels must be numbers of the {len(words)} words; "
            f"got {checks.shown(numbers)}"
        )
    whole = [template.replace("{}", text) for text in texts]
    bodies, lengths = found.encode(whole, add_special_tokens=False)
    opening = found.encode([""])[0][0]
    begun, _ = found.encode(whole[:1])
    if begun[0].tolist() != [*opening, *bodies[0][: lengths[0]]]:
        raise ValueError(
            "found.tokenizer must put tokens of its own before a text alone; got "
            f"{begun[0].tolist()} for {bodies[0][: lengths[0]].tolist()}"
        )
    return PromptedClassification(
        model=found.model,
        weights=found.weights,
        bodies=jnp.asarray(bodies),
        lengths=jnp.asarray(lengths),
        labels=jnp.asarray(numbers, jnp.int32),
        words=jnp.asarray(tokens, jnp.int32),
        opening=jnp.asarray(opening, jnp.int32),
    )


def word_tokens(tokenizer: Tokenizer, size: int) -> np.ndarray:
    """Returns the ids of tokens that are a word of lower-case letters after a space.

    Args:
        tokenizer: of the ``tokenizers`` package.
        size: of the vocabulary, ``V``.
    """
    texts = tokenizer.decode_batch([[number] for number in range(size)])
    kept = [
        number
        for number, text in enumerate(texts)
        if text.startswith(" ")
        and len(text) > 3
        and text[1:].isascii()
        and text[1:].isalpha()
        and text[1:].islower()
    ]
    return np.array(kept, np.int32)
