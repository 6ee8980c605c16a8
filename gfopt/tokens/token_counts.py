"""What an evaluation cost in tokens, beside its value.

``token_counting`` makes an objective of a score that counts its tokens; ``Beast`` and
``Steering`` add them up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gfopt.core.objective import Objective
from gfopt.pytree import pytree
from gfopt.tokens.sequences import length_of
from gfopt.types import Evaluation, PyTree


class TokenCount(NamedTuple):
    """What an evaluation cost, beside its value.

    Attributes:
        num_tokens: that the model was given, without padding, ``i32[]``.
    """

    num_tokens: jax.Array


def tokens_used(evaluation: Evaluation) -> jax.Array:
    """Returns the tokens that each evaluation counted, 0 for other scores."""
    aux = evaluation.aux
    return jnp.asarray(getattr(aux, "num_tokens", 0))


@pytree
class Counted:
    """A score that also returns how many tokens it reads."""

    score: Any

    def __call__(self, *given: PyTree) -> tuple[jax.Array, TokenCount]:
        """Scores a text; prompt and text are read."""
        count = self.score.num_tokens(length_of(given[-1])) + self.score.prompt_tokens
        return self.score(*given), TokenCount(jnp.asarray(count, jnp.int32))

    def continued(self, *given: PyTree) -> tuple[jax.Array, TokenCount]:
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
        >>> from gfopt.tokens import FunctionModel, Targeted, token_counting
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> score = Targeted(flat, jnp.array([0, 1]), jnp.array([3, 2]))
        >>> value, count = token_counting(score).fun(jnp.array([1, 2, 3, -1]))
        >>> count.num_tokens  # 2 + 3 + 2
        Array(7, dtype=int32)
    """
    return Objective(Counted(score), takes_key=takes_key, has_aux=True)
