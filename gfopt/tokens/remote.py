"""Language models outside of JAX: a Python function, a torch module, an endpoint.

``HostModel`` is a ``LanguageModel`` that calls a function with NumPy arrays from inside
compiled programs. An endpoint may fail or take long: it is asked by a plain Python
objective, ``continuation_score``, for which ``gfopt.host`` has timeouts and retries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jax.typing import ArrayLike

from gfopt import checks
from gfopt.pytree import pytree, static
from gfopt.tokens.endpoint import answer_of, check_address
from gfopt.tokens.language_model import TokenBuffer, read_prompt
from gfopt.types import JsonObject

ANSWER_BYTES, TOKEN_BYTES = 2**20, 2**12  # of an answer at most, and more for a token


@pytree
class HostModel:
    """A Python function as a language model; every step reads the whole text.

    Args:
        fun: ``(tokens int32[B, C], at int32[B, m]) -> logits [B, m, V]``, those of the
            token after each place ``at``; what stands after a place changes nothing.
        vocabulary_size: ``V``.

    Raises:
        TypeError: where ``fun`` cannot be called.
        ValueError: for a vocabulary without tokens.

    Example:
        >>> from gfopt.tokens import HostModel
        >>> def bigrams(tokens, at):
        ...     last = np.take_along_axis(tokens, at, axis=1)
        ...     return np.eye(4, k=1)[last]
        >>> model = HostModel(bigrams, 4)
        >>> model.start(jnp.array([0, 2]), 1)[0]
        Array([0., 0., 0., 1.], dtype=float32)
    """

    fun: Callable[[np.ndarray, np.ndarray], npt.ArrayLike] = static()
    vocabulary_size: int = static()

    def __post_init__(self) -> None:
        checks.is_callable("fun", self.fun)
        checks.integer("vocabulary_size", self.vocabulary_size, 1)

    def start(self, prompt: jax.Array, room: int) -> tuple[jax.Array, TokenBuffer]:
        """Reads a prompt."""
        tokens = jnp.zeros(prompt.shape[0] + room, jnp.int32)
        return read_prompt(self, TokenBuffer(tokens, jnp.int32(0)), prompt)

    def extend(
        self, cache: TokenBuffer, tokens: jax.Array, at: jax.Array | None = None
    ) -> tuple[jax.Array, TokenBuffer]:
        """Reads more tokens."""
        count, room = tokens.shape[0], cache.tokens.shape[0]
        at = jnp.arange(count) if at is None else at
        text = jnp.pad(cache.tokens, (0, count))
        text = lax.dynamic_update_slice(text, jnp.maximum(tokens, 0), (cache.length,))
        places = (cache.length + at).astype(jnp.int32)
        shape = jax.ShapeDtypeStruct((len(at), self.vocabulary_size), jnp.float32)
        logits = jax.pure_callback(
            self._called, shape, text, places, vmap_method="broadcast_all"
        )
        return logits, TokenBuffer(text[:room], cache.length + count)

    def _called(self, text: ArrayLike, places: ArrayLike) -> np.ndarray:
        text, places = np.asarray(text), np.asarray(places)
        batch = text.shape[:-1]
        rows = text.reshape(-1, text.shape[-1])
        wanted = places.reshape(-1, places.shape[-1])
        logits = np.asarray(self.fun(rows, wanted), np.float32)
        expected = (*wanted.shape, self.vocabulary_size)
        if logits.shape != expected:
            raise ValueError(
                f"fun must return logits of shape {expected}; got {logits.shape}"
            )
        return logits.reshape(*batch, *expected[1:])


def torch_model(model: Any, vocabulary_size: int, *, batch_size: int = 32) -> HostModel:
    """Returns a causal model of Hugging Face's ``transformers`` as a language model.

    Args:
        model: called as ``model(input_ids)``; what it returns has ``logits``
            ``[B, C, V]``. Its parameters say on which device.
        vocabulary_size: ``V``, the width of the logits.
        batch_size: rows that it is given at a time.

    Raises:
        ImportError: where torch is missing.
        TypeError, ValueError: for a wrong argument.

    Example:
        >>> from gfopt.tokens import torch_model
        >>> model = torch_model(AutoModelForCausalLM.from_pretrained("gpt2"),
        ...                           50257)  # doctest: +SKIP
    """
    checks.is_callable("model", model)
    checks.integer("batch_size", batch_size, 1)
    with checks.needed_by(
        "torch_model", "torch and transformers", "pip install torch transformers"
    ):
        import torch

    def logits(tokens: np.ndarray, at: np.ndarray) -> np.ndarray:
        found = []
        device = getattr(model, "device", None)
        for start in range(0, len(tokens), batch_size):
            rows, places = tokens[start:][:batch_size], at[start:][:batch_size]
            # nothing after the last requested place is read
            rows = rows[:, : int(places.max()) + 1]
            with torch.no_grad():
                # a copy: a callback must not write to its arguments
                ids = torch.as_tensor(rows.astype(np.int64), device=device)
                out = model(ids).logits.float().cpu().numpy()
            found.append(np.take_along_axis(out, places[..., None], axis=1))
        return np.concatenate(found)

    return HostModel(logits, vocabulary_size)


@dataclass(frozen=True)
class EndpointModel:
    """A server that returns the log-probabilities of the tokens it is sent.

    It is sent ``{"prompt": [ids], "echo": true, "logprobs": 1, "max_tokens": 1}`` and
    answers as servers of the completions protocol do, with
    ``choices[0].logprobs.token_logprobs``.

    Args:
        url: of the endpoint, ``http://`` or ``https://``.
        name: of the model, where the server has several.
        headers: of the request, such as one with a key.
        timeout: seconds to wait for an answer.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for another kind of address.

    Example:
        >>> EndpointModel("http://localhost:8000/v1/completions", name="mine").name
        'mine'
    """

    url: str
    name: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        check_address(self.url, self.headers)
        checks.positive("timeout", self.timeout)

    def __call__(self, tokens: Sequence[int]) -> np.ndarray:
        """Returns ``log p`` of each token after those before it, NaN for the first.

        Raises:
            OSError: where the server can't be reached, refuses, or sends elsewhere:
                another host is not given the headers.
            ValueError: where it answers something else, or too much.
        """
        asked: JsonObject = {
            "prompt": [int(token) for token in tokens],
            "echo": True,
            "logprobs": 1,
            "max_tokens": 1,
            "temperature": 0,
        }
        if self.name is not None:
            asked["model"] = self.name
        most = ANSWER_BYTES + TOKEN_BYTES * len(tokens)
        text = answer_of(self.url, asked, self.headers, self.timeout, most)
        if len(text) > most:
            raise ValueError(
                f"url must answer {len(tokens)} tokens with at most {most} bytes"
            )
        found: Any = text
        try:
            found = json.loads(text)
            values = found["choices"][0]["logprobs"]["token_logprobs"]
            each = [np.nan if value is None else float(value) for value in values]
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
            raise ValueError(
                "url must answer with choices[0].logprobs.token_logprobs; "
                f"got {checks.shown(found)}"
            ) from None
        if len(each) < len(tokens):
            raise ValueError(
                f"url must answer for all {len(tokens)} tokens (echo); got {len(each)}"
            )
        return np.array(each[: len(tokens)])


def continuation_score(
    log_probabilities: Callable[[Sequence[int]], npt.ArrayLike],
    prompt: Sequence[int],
    target: Sequence[int],
    tail: Sequence[int] = (),
) -> Callable[[np.ndarray], float]:
    """Returns ``Targeted`` as a Python function, for models outside of JAX.

    Args:
        log_probabilities: ``log p`` of each token of a text after those before it, such
            as an ``EndpointModel``.
        prompt: what stands before the text, one token or more.
        target: the continuation.
        tail: what stands between text and target.

    Raises:
        TypeError, ValueError: for a wrong argument.

    Example:
        >>> from gfopt.tokens import continuation_score
        >>> def equally_likely(tokens):
        ...     return np.log(np.full(len(tokens), 0.25))
        >>> loss = continuation_score(equally_likely, prompt=[0], target=[1, 2])
        >>> round(loss(np.array([3, 3, -1])), 4)
        1.3863
    """
    checks.is_callable("log_probabilities", log_probabilities)
    for name, given in (("prompt", prompt), ("target", target)):
        if len(given) == 0:
            raise ValueError(f"{name} must have one token or more; got none")
    return partial(
        _continuation_loss,
        log_probabilities,
        tuple(map(int, prompt)),
        tuple(map(int, tail)),
        tuple(map(int, target)),
    )


def _continuation_loss(
    log_probabilities: Callable[[Sequence[int]], npt.ArrayLike],
    prompt: tuple[int, ...],
    tail: tuple[int, ...],
    target: tuple[int, ...],
    tokens: np.ndarray,
) -> float:
    text = [int(token) for token in tokens if token >= 0]
    found = np.asarray(log_probabilities([*prompt, *text, *tail, *target]), np.float64)
    return float(-found[-len(target) :].mean())
