"""An engine without a server: our own forward pass, one member after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.engines.adapters import Adapter, with_adapter
from gfopt.problems.language_models.llama import Llama
from gfopt.problems.language_models.pretrained import Pretrained
from gfopt.types import PyTree


class InProcess:
    """Runs a model here, to try an objective before there is a server.

    Args:
        found: the model, such as ``load_gguf`` returns; no member has a copy of it.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import gfopt
        >>> from gfopt import engines
        >>> found = gfopt.problems.small_language_model("so it goes " * 30, steps=50)
        >>> adapter = engines.new_adapter(found.weights)
        >>> with engines.InProcess(found).loaded([adapter]) as (model,):
        ...     model.log_probabilities([[1, 2]], [[3, 1]])[0].shape
        (2,)
    """

    slots = 1
    members_at_once = 1

    def __init__(self, found: Pretrained):
        checks.instance("found", found, Pretrained, "a model with its weights")
        self._found = found

    @contextmanager
    def loaded(self, adapters: Sequence[Adapter]) -> Iterator[list[_Member]]:
        """Holds some members, and gives their models."""
        yield [
            _Member(self._found, with_adapter(self._found.weights, adapter))
            for adapter in adapters
        ]


class _Member:
    def __init__(self, found: Pretrained, weights: PyTree):
        self._found = found._replace(weights=weights)

    def log_probabilities(
        self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[np.ndarray]:
        """Returns ``log p`` of each target's tokens after its prompt."""
        texts = [[*p, *t] for p, t in zip(prompts, targets, strict=True)]
        tokens = np.zeros((len(texts), max(map(len, texts))), np.int32)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = text
        found = np.asarray(_scores(self._found.model, self._found.weights, tokens))
        ends = zip(found, map(len, prompts), map(len, texts), strict=True)
        return [row[start - 1 : end - 1] for row, start, end in ends]

    def continuations(
        self, prompts: Sequence[Sequence[int]], num_tokens: int, **sampling: object
    ) -> list[str]:
        """Returns the likeliest tokens after each prompt; nothing else is sampled."""
        if sampling:
            raise ValueError(f"sampling must be empty here; got {sorted(sampling)}")
        decode = self._found.tokenizer.decode
        return [
            self._found.continued(decode([int(t) for t in prompt]), num_tokens)
            for prompt in prompts
        ]


@partial(jax.jit, static_argnums=0)
def _scores(model: Llama, weights: PyTree, tokens: jax.Array) -> jax.Array:
    """Returns ``log p`` of each token but the first, ``[B, L - 1]``."""
    logits = jax.nn.log_softmax(model.logits(weights, tokens)[:, :-1], axis=-1)
    return jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
