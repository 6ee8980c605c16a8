"""Scores made of scores: for several prompts, models or aims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.pytree import pytree
from gfopt.tokens.beam_search import check_model
from gfopt.tokens.scores import Continuation
from gfopt.types import PyTree


@pytree
class Universal:
    """One text for several prompts: the mean of a score over them.

    Args:
        score: a ``Targeted`` with prompts ``i32[m, n]`` and targets ``i32[m, t]``, each
            with ``-1`` after its end.

    Raises:
        ValueError: where prompts and targets are not as many.

    Example:
        >>> from gfopt.tokens import FunctionModel, Targeted, Universal
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> prompts, targets = jnp.array([[0, 1], [2, -1]]), jnp.array([[3], [1]])
        >>> Universal(Targeted(flat, prompts, targets))(jnp.array([1]))
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

    def _each(
        self, call: Callable[[Any, PyTree], jax.Array], caches: PyTree
    ) -> jax.Array:
        """Returns ``call(score of one prompt, its cache)`` for all prompts, ``[m]``."""
        score = self.score

        def one(prompt: jax.Array, target: jax.Array, cache: PyTree) -> jax.Array:
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
        """Returns what a text of ``length`` tokens costs if it was not read before."""
        each = self._each(lambda score, _: score.num_tokens(length), None)
        return jnp.sum(each)

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``."""
        return jnp.sum(self.score.prompt_tokens, dtype=jnp.int32)


@pytree
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
        >>> from gfopt.tokens import Fluency, FunctionModel, Total
        >>> flat = FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, 4)))
        >>> likely = Fluency(flat, jnp.array([0]))
        >>> Total((likely, likely), weights=(1.0, 0.5))(jnp.array([1]))
        Array(2.0794415, dtype=float32)
    """

    scores: tuple[Any, ...]
    weights: tuple[float | jax.Array, ...] | None = None

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
        # their common length may have been reset
        caches = [one._replace(length=text.cache.length) for one in text.cache.each]
        parts = zip(self.scores, caches, strict=True)
        return self._sum(
            [score.continued(text._replace(cache=one)) for score, one in parts]
        )

    def num_tokens(self, length: jax.Array) -> jax.Array:
        """Returns what a text of ``length`` tokens costs if it was not read before."""
        each = [score.num_tokens(length) for score in self.scores]
        return sum(each[1:], start=each[0])

    @property
    def prompt_tokens(self) -> jax.Array:
        """What is read before, ``i32[]``."""
        each = [score.prompt_tokens for score in self.scores]
        return sum(each[1:], start=each[0])
