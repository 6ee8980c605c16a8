"""A language model with its weights and its tokenizer."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.problems.language_models.llama import Llama
from gfopt.types import PyTree


class Pretrained(NamedTuple):
    """A language model that was read from a file.

    Attributes:
        model: its forward pass.
        weights: see ``load_gguf``.
        tokenizer: of the ``tokenizers`` package.
    """

    model: Llama
    weights: PyTree
    tokenizer: Any

    def encode(
        self, texts: list[str], *, add_special_tokens: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns tokens ``i32[B, L]``, padded with 0, and lengths ``i32[B]``.

        Args:
            texts: to be encoded.
            add_special_tokens: False for parts of a text, before which some tokenizers
                must not put a token that begins it.

        Raises:
            ValueError: for a model whose files had no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(
                "tokenizer must be there to encode texts; the model's folder had no "
                "tokenizer.json (set it by found._replace(tokenizer=...))"
            )
        rows = [
            self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
            for text in texts
        ]
        lengths = np.array([len(row) for row in rows], np.int32)
        tokens = np.zeros((len(rows), lengths.max()), np.int32)
        for place, row in zip(tokens, rows, strict=True):
            place[: len(row)] = row
        return tokens, lengths

    def continued(self, text: str, num_tokens: int) -> str:
        """Returns what the model writes next, the likeliest token each time."""
        checks.integer("num_tokens", num_tokens, 1)
        start = self.encode([text])[0][0].tolist()
        tokens = jnp.zeros((1, len(start) + num_tokens), jnp.int32)
        tokens = tokens.at[0, : len(start)].set(jnp.array(start))
        last_logits = jax.jit(self.model.last_logits)
        for length in range(len(start), tokens.shape[1]):
            logits = last_logits(self.weights, tokens, jnp.array([length]))
            tokens = tokens.at[0, length].set(logits[0].argmax())
        return self.tokenizer.decode(tokens[0, len(start) :].tolist())
