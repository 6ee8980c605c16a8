"""Sequences of tokens to be found; each token is a whole number below the vocabulary.

Methods for tokens take part by their names, those for numbers search the whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.problems.language_models.small_language_models import small_language_model
from gfopt.problems.problem import Problem
from gfopt.research.suites.compiled import Compiled

LENGTH, VOCABULARY = 8, 64
#: A grammar of the small language model: what an answer is depends on what came before.
_TEXT = " ".join(
    f"the {animal} of {place} {verb} and says {sound} ."
    for animal, sound in (("cat", "meow"), ("dog", "woof"), ("cow", "moo"))
    for place in ("rome", "oslo", "lima")
    for verb in ("sleeps", "eats", "runs", "sits")
)
_ANSWER = "says moo ."


def problems() -> list[Problem]:
    """Returns a hidden sequence, hidden pairs, and a prompt for a small language model.

    The value of the first is the number of wrong tokens; of the second that of wrong
    pairs, so that one right token alone is worth nothing. The third is the negative log
    likelihood of an answer after the prompt.
    """
    return [
        Problem(
            Compiled(made, x64=False),
            bounds=[(0, size - 1)] * LENGTH,
            optimum=optimum,
            integer=True,
            name=name,
        )
        for name, made, size, optimum in (
            ("hidden", _hidden, VOCABULARY, 0.0),
            ("pairs", _pairs, VOCABULARY, 0.0),
            ("prompt", _prompt, len(set(_TEXT.split())) + 1, None),
        )
    ]


def _secret() -> np.ndarray:
    return np.random.default_rng(5).integers(VOCABULARY, size=LENGTH)


def _hidden() -> Callable[[jax.Array], jax.Array]:
    secret = _secret()
    return lambda x: jnp.sum(x != secret).astype(float)


def _pairs() -> Callable[[jax.Array], jax.Array]:
    secret = _secret()
    return lambda x: jnp.sum((x != secret).reshape(-1, 2).any(axis=1)).astype(float)


def _prompt() -> Callable[[jax.Array], jax.Array]:
    with jax.enable_x64(False):
        found = small_language_model(_TEXT, steps=150, width=32, context=16)
    answer = jnp.asarray(found.tokenizer.encode(_ANSWER).ids, jnp.int32)

    def value(x: jax.Array) -> jax.Array:
        tokens = jnp.concatenate([x.astype(jnp.int32), answer])
        logits = found.model.logits(found.weights, tokens[None, :-1])[0, LENGTH - 1 :]
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, answer[:, None], axis=1).mean()

    return value
