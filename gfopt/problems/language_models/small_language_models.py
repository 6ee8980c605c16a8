"""A small language model that trains in seconds, on any text.

Words and punctuation marks are its tokens, the commonest ones; all others are one token
of their own. The model is a ``Llama`` of one or two layers, trained by Adam on windows
drawn at random. It serves tests, examples and benchmarks.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.language_models.language_models import Pretrained
from gfopt.problems.language_models.llama import Llama
from gfopt.types import PyTree

UNKNOWN = "?"


class Encoded(NamedTuple):
    """A text as numbers, as ``tokenizers`` returns it."""

    ids: list[int]


@dataclass(frozen=True)
class Words:
    """A tokenizer of words and punctuation marks.

    Args:
        vocabulary: the words that it knows; the first stands for all others.
    """

    vocabulary: tuple[str, ...]

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoded:
        """Returns the ids of a text's words, in lower case; none are special."""
        known = {word: number for number, word in enumerate(self.vocabulary)}
        return Encoded([known.get(word, 0) for word in _words(text)])

    def decode(self, ids: list[int]) -> str:
        """Returns the words with a space between them."""
        return " ".join(self.vocabulary[number] for number in ids)


def small_language_model(
    text: str,
    *,
    vocabulary_size: int = 600,
    width: int = 64,
    num_layers: int = 1,
    num_heads: int = 4,
    context: int = 24,
    steps: int = 200,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Pretrained:
    """Trains a language model on a text.

    Args:
        text: what it learns.
        vocabulary_size: words that it knows, at most, with that for all others.
        width: numbers in a token's vector; a multiple of twice the heads.
        num_layers: of the transformer.
        num_heads: of the queries; half as many of keys and values.
        context: words in a window.
        steps: of Adam.
        batch_size: windows in a step.
        learning_rate: of Adam; it falls to zero along a cosine.
        seed: of the first weights and the windows.

    Returns:
        The model with its weights and its tokenizer, ``Words``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or a text shorter than a window.

    Example:
        >>> found = small_language_model("to be or not to be " * 9, steps=100)
        >>> found.continued("or not", 3)
        'to be to'
    """
    checks.instance("text", text, str, "a text")
    for name, value, least in (
        ("vocabulary_size", vocabulary_size, 2),
        ("num_layers", num_layers, 1),
        ("num_heads", num_heads, 1),
        ("context", context, 2),
        ("steps", steps, 1),
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
    ):
        checks.integer(name, value, least)
    checks.integer("width", width, 2 * num_heads)
    if width % (2 * num_heads):
        raise ValueError(
            f"width must be a multiple of 2 num_heads = {2 * num_heads}; got {width}"
        )
    checks.positive("learning_rate", learning_rate)
    counts = Counter(_words(text))
    common = [word for word, _ in counts.most_common(vocabulary_size)]
    common = [word for word in common if word != UNKNOWN][: vocabulary_size - 1]
    tokenizer = Words((UNKNOWN, *common))
    ids = jnp.array(tokenizer.encode(text).ids, jnp.int32)
    if ids.size <= context:
        raise ValueError(
            f"text must have more words than a window, {context}; got {ids.size}"
        )
    model = Llama(num_heads, max(1, num_heads // 2), rope_base=1e3)
    key, start_key = jax.random.split(jax.random.key(seed))
    size = len(tokenizer.vocabulary)
    weights = _first_weights(start_key, model, size, width, num_layers)
    weights = _trained(
        key,
        weights,
        ids,
        model=model,
        context=context,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    return Pretrained(model, weights, tokenizer)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|[^\sa-z]", text.lower())


def _first_weights(
    key: jax.Array, model: Llama, vocabulary_size: int, width: int, num_layers: int
) -> PyTree:
    """Draws matrices with deviation ``1 / sqrt(fan_in)``."""
    narrow = width // model.num_heads * model.num_key_value_heads
    shapes = {
        "query": (width, width),
        "key": (narrow, width),
        "value": (narrow, width),
        "output": (width, width),
        "gate": (3 * width, width),
        "up": (3 * width, width),
        "down": (width, 3 * width),
    }
    keys = dict(zip([*shapes, "embedding"], jax.random.split(key, 8), strict=True))
    layers = {
        name: jax.random.normal(keys[name], (num_layers, *shape)) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }
    for name in ("attention_norm", "feed_forward_norm"):
        layers[name] = jnp.ones((num_layers, width))
    embedding = jax.random.normal(keys["embedding"], (vocabulary_size, width))
    return {
        "embedding": embedding / width**0.5,
        "layers": layers,
        "norm": jnp.ones(width),
    }


@partial(jax.jit, static_argnames=("model", "context", "steps", "batch_size"))
def _trained(
    key: jax.Array,
    weights: PyTree,
    ids: jax.Array,
    *,
    model: Llama,
    context: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> PyTree:
    import optax

    method = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(weights: PyTree, windows: jax.Array) -> jax.Array:
        logits = model.logits(weights, windows[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels
        return losses(logits, windows[:, 1:]).mean()

    def step(carry: tuple[PyTree, PyTree], key: jax.Array) -> tuple[PyTree, None]:
        weights, moments = carry
        starts = jax.random.randint(key, (batch_size, 1), 0, ids.size - context)
        gradient = jax.grad(loss)(weights, ids[starts + np.arange(context + 1)])
        moved, moments = method.update(gradient, moments, weights)
        return (optax.apply_updates(weights, moved), moments), None

    carry = weights, method.init(weights)
    (weights, _), _ = jax.lax.scan(step, carry, jax.random.split(key, steps))
    return weights
