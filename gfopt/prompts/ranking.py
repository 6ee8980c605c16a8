"""Ranking prompts without labels, from what the model answers to each of them.

``p[T, X, Y]`` are the probabilities of ``Y`` answers to ``X`` inputs under ``T``
prompts. A good prompt answers each input with certainty, and different ones in
different ways:

    MI(t) = H(mean_x p(. | x, t)) - mean_x H(p(. | x, t))

Calibration by marginalization takes a prompt's preference for an answer away:

    q(y | x, t) = p(y | x, t) / mean_x' p(y | x', t)

Source: Yang et al. (2024), TACL, arXiv 2305.14877.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gfopt import checks, jaxprs


class PromptRanking(NamedTuple):
    """Prompts by their scores.

    Attributes:
        order: ``i32[T]``, the best prompt first.
        scores: ``float[T]``, higher is better.
        answers: ``i32[T, X]``, what each prompt answers.
        chosen: ``i32[X]``, the prompt for each input: everywhere ``order[0]``, but for
            the methods that choose one for each.

    Example:
        >>> rank_prompts([[[0.2, 0.8], [0.9, 0.1]]]).answers
        Array([[1, 0]], dtype=int32)
    """

    order: jax.Array
    scores: jax.Array
    answers: jax.Array
    chosen: jax.Array


def entropy(p: jax.Array) -> jax.Array:
    """Returns ``-sum_y p log p`` over the last axis, 0 log 0 being 0."""
    return -jnp.sum(jax.scipy.special.xlogy(p, p), axis=-1)


def _votes(p: jax.Array) -> jax.Array:
    return jax.nn.one_hot(jnp.argmax(p, axis=-1), p.shape[-1], dtype=p.dtype)


def _of_mean(p: jax.Array) -> jax.Array:
    return entropy(jnp.mean(p, axis=1))


def _of_votes(p: jax.Array) -> jax.Array:
    return entropy(jnp.mean(_votes(p), axis=1))


def _agreement(ensemble: Callable[[jax.Array], jax.Array]) -> Any:
    """Scores by how often a prompt answers as all of them together do."""

    def score(p: jax.Array) -> jax.Array:
        together = jnp.argmax(jnp.mean(ensemble(p), axis=0), axis=-1)
        return jnp.mean(jnp.argmax(p, axis=-1) == together, axis=1).astype(p.dtype)

    return score


def _log(p: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


#: scores of whole prompts, ``[T, X, Y]`` to ``[T]``
SCORES: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "mutual_information": lambda p: _of_mean(p) - entropy(p).mean(axis=1),
        "mutual_information_of_votes": lambda p: _of_votes(p) - entropy(p).mean(axis=1),
        "global_entropy": _of_mean,
        "global_entropy_of_votes": _of_votes,
        "certainty": lambda p: -entropy(p).mean(axis=1),
        "local_entropy": lambda p: entropy(p).mean(axis=1),
        "agreement_of_log_probabilities": _agreement(_log),
        "agreement_of_probabilities": _agreement(lambda p: p),
        "agreement_of_votes": _agreement(_votes),
    }
)
#: scores of a prompt for each input, ``[T, X, Y]`` to ``[T, X]``
SCORES_BY_INPUT: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "mutual_information_by_input": lambda p: _of_mean(p)[:, None] - entropy(p),
        "mutual_information_of_votes_by_input": lambda p: (
            _of_votes(p)[:, None] - entropy(p)
        ),
    }
)
NORMALISATIONS = ("softmax", "sum", "none")
CALIBRATIONS = ("none", "answers", "selection", "both")


def calibrate(
    probabilities: npt.ArrayLike, normalisation: str = "softmax"
) -> jax.Array:
    """Divides each answer's probability by its mean over the inputs.

    ``q(y | x, t) = p(y | x, t) / mean_x' p(y | x', t)``, so that the mean of ``q`` over
    the inputs is 1 for every answer; an answer that never has any stays at 0.

    Args:
        probabilities: ``float[T, X, Y]``.
        normalisation: what makes probabilities of it again: the ``"softmax"``, division
            by the ``"sum"``, or ``"none"``.

    Returns:
        ``float[T, X, Y]``.

    Raises:
        ValueError: for another shape, or an unknown normalisation.

    Source: Yang et al. (2024), arXiv 2305.14877.

    Example:
        >>> p = jnp.array([[[0.9, 0.1], [0.7, 0.3]]])  # always the first answer
        >>> calibrate(p, "none").argmax(axis=-1)
        Array([[0, 1]], dtype=int32)
    """
    p = _checked(probabilities)
    checks.one_of("normalisation", normalisation, NORMALISATIONS)
    mean = jnp.mean(p, axis=1, keepdims=True)
    q = jnp.where(mean > 0, p / jnp.where(mean > 0, mean, 1), 0)
    if normalisation == "softmax":
        return jax.nn.softmax(q, axis=-1)
    if normalisation == "sum":
        total = jnp.sum(q, axis=-1, keepdims=True)
        return jnp.where(total > 0, q / jnp.where(total > 0, total, 1), 1 / p.shape[-1])
    return q


def rank_prompts(
    probabilities: npt.ArrayLike,
    method: str = "mutual_information",
    *,
    calibration: str = "answers",
    normalisation: str = "softmax",
) -> PromptRanking:
    """Ranks prompts by the answers of the model, without labels.

    A pre-screen: one forward pass for each prompt and input, before any labelled call.

    Args:
        probabilities: ``float[T, X, Y]``, of ``Y`` answers to ``X`` inputs under ``T``
            prompts, normalised over the answers.
        method: ``"mutual_information"``, a variant of it, or another score; see
            ``gfopt.prompts.ranking.SCORES`` and ``SCORES_BY_INPUT``.
        calibration: what is calibrated: nothing (``"none"``), what the prompts answer
            (``"answers"``), what they are scored by (``"selection"``), or ``"both"``.
        normalisation: of calibrated probabilities, see ``calibrate``.

    Returns:
        A ``PromptRanking``.

    Raises:
        ValueError: for another shape, numbers that are not probabilities, or an unknown
            name.

    Source: Yang et al. (2024), arXiv 2305.14877; their abbreviations are MI,
    MI_G, GE_M, GE, MDL_M, LE, ZLP, ZPM, ZMV, MI_L and MI_GL, in the order of the lists.

    Example:
        >>> vague = [[0.5, 0.5], [0.5, 0.5]]
        >>> stubborn = [[0.9, 0.1], [0.9, 0.1]]
        >>> telling = [[0.9, 0.1], [0.1, 0.9]]
        >>> ranking = rank_prompts([vague, stubborn, telling])
        >>> int(ranking.order[0]), [round(float(s), 3) for s in ranking.scores]
        (2, [0.0, 0.0, 0.368])
    """
    p = _checked(probabilities)
    checks.one_of("method", method, (*SCORES, *SCORES_BY_INPUT))
    checks.one_of("calibration", calibration, CALIBRATIONS)
    q = calibrate(p, normalisation)
    selected = q if calibration in ("selection", "both") else p
    answered = q if calibration in ("answers", "both") else p
    answers = jnp.argmax(answered, axis=-1).astype(jnp.int32)
    if method in SCORES:
        scores = SCORES[method](selected)
        order = jnp.argsort(-scores).astype(jnp.int32)
        chosen = jnp.broadcast_to(order[0], answers.shape[1:])
    else:
        table = SCORES_BY_INPUT[method](selected)
        scores = jnp.mean(table, axis=1)
        order = jnp.argsort(-scores).astype(jnp.int32)
        chosen = jnp.argmax(table, axis=0).astype(jnp.int32)
    return PromptRanking(order, scores, answers, chosen)


def _checked(probabilities: npt.ArrayLike) -> jax.Array:
    expected = "probabilities must be an array [T, X, Y] of numbers from 0 to 1"
    p = jnp.asarray(probabilities)
    if p.ndim != 3 or p.size == 0:
        raise ValueError(f"{expected}; got shape {p.shape}")
    p = p.astype(jnp.promote_types(p.dtype, jnp.float32))
    if not jaxprs.is_tracer(p):
        numbers = np.asarray(p)
        if not np.all((numbers >= 0) & (numbers <= 1 + 1e-5)):
            raise ValueError(f"{expected}; got {checks.shown(numbers)}")
    return p
