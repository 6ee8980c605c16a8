"""From a whole vocabulary to the few tokens that matter, the first phases of ClaPS.

    cluster:    k-means of the embeddings; of each cluster the token nearest its mean
    influence:  I(v) = f(x0) - f(x0 with v),  or  sum_x KL(p(. | x, v) || p(. | x))
    prune:      keep the tokens with the largest I

The first kind of influence has a sign: what makes a prompt worse goes. The second needs
no labels.

Source: Zhou et al. (2023), arXiv 2310.12774, section 3. Deviations: a fixed number is
kept, so that one program serves all vocabularies and ties cannot leave it empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from gfopt import checks
from gfopt.core.objective import Objective
from gfopt.deprecations import renamed_arguments
from gfopt.prompts.counted_objectives import answers, function_of
from gfopt.tokens.alphabet import starting_tokens, vocabulary

_ROUNDS = 30  # of k-means


def cluster_vocabulary(
    embeddings: npt.ArrayLike,
    num_clusters: int,
    *,
    ids: npt.ArrayLike | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Chooses tokens that stand for all others: k-means, nearest to each mean.

    Args:
        embeddings: of the tokens, ``[V, d]``.
        num_clusters: how many to make; fewer are returned where one token is nearest
            to several means.
        ids: the tokens that may be chosen, ``int32[n]``; all by default.
        seed: of the first means (k-means++).

    Returns:
        Token ids ``int32[at most num_clusters]``, ascending.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> points = np.array([[0.0], [0.1], [0.3], [5.0], [5.2], [5.3]])
        >>> cluster_vocabulary(points, 2)
        array([1, 4], dtype=int32)
    """
    from scipy.cluster.vq import kmeans2

    points = np.asarray(embeddings, np.float32)
    checks.integer("num_clusters", num_clusters, 1)
    checks.integer("seed", seed, 0)
    if points.ndim != 2 or points.size == 0:
        raise ValueError(
            f"embeddings must be a matrix [V, d]; got shape {np.shape(embeddings)}"
        )
    checks.finite("embeddings", points)
    chosen = np.arange(len(points), dtype=np.int32)
    if ids is not None:
        chosen = np.asarray(vocabulary(ids, "ids"))
        if isinstance(ids, int) or chosen.max() >= len(points):
            raise ValueError(
                f"ids must be token ids below the {len(points)} embeddings; "
                f"got {checks.shown(ids)}"
            )
    if num_clusters >= len(chosen):
        return chosen
    points = points[chosen]
    means = _spread(points, num_clusters, np.random.default_rng(seed))
    with warnings.catch_warnings():  # a cluster that loses all of its tokens stays
        warnings.simplefilter("ignore", UserWarning)
        means, _ = kmeans2(points, means, iter=_ROUNDS, minit="matrix")
    nearest = [
        np.argmin(_squares(points, mean)) for mean in np.asarray(means, np.float32)
    ]
    return chosen[np.unique(nearest)]


def _spread(points: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Draws first means: each with a probability like its squared distance (k++)."""
    first = points[draw.integers(len(points))]
    means, distance = [first], _squares(points, first)
    while len(means) < count:
        total = distance.sum(dtype=np.float64)
        shares = distance / total if total > 0 else None  # all points are taken
        mean = points[draw.choice(len(points), p=shares)]
        means.append(mean)
        distance = np.minimum(distance, _squares(points, mean))
    return np.array(means)


def _squares(points: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return ((points - mean) ** 2).sum(axis=1)


class Influence(NamedTuple):
    """What each token does to a prompt.

    Attributes:
        values: ``float[n]``; NaN where a query failed or the budget was used.
        baseline: the value without any of them.
        objective: the objective with its new ledger.

    Example:
        >>> from gfopt.prompts.counted_objectives import counted
        >>> objective = counted(lambda prompt: jnp.sum(prompt), 2)
        >>> influence(objective, [3], [1, 1]).baseline
        2.0
    """

    values: np.ndarray
    baseline: float
    objective: Objective


def with_token(
    start: npt.ArrayLike, ids: npt.ArrayLike, position: int = 0
) -> np.ndarray:
    """Returns prompts that are ``start`` with one token put in, ``int32[n, L]``."""
    base, tokens = np.asarray(starting_tokens(start)), np.asarray(ids, np.int32)
    checks.integer("position", position, 0)
    if position >= len(base):
        raise ValueError(
            f"position must be below the prompt's length {len(base)}; got {position}"
        )
    prompts = np.tile(base, (len(tokens), 1))
    prompts[:, position] = tokens
    return prompts


@renamed_arguments(block="batch_size")
def influence(
    objective: Objective,
    ids: npt.ArrayLike,
    start: npt.ArrayLike,
    *,
    position: int = 0,
    predict: Callable[[jax.Array], npt.ArrayLike] | None = None,
    batch_size: int = 256,
    after_block: Callable[[Objective], object] | None = None,
) -> Influence:
    """Measures what each token does to a prompt, one query each and one for the start.

    Args:
        objective: one that counts, from ``counted``; its ledger is charged.
        ids: the tokens, ``int32[n]``.
        start: the prompt without them, ``int32[L]``: padding, -1, or a neutral text.
        position: where a token is put.
        predict: None for the signed influence on the objective,
            ``I(v) = f(start) - f(start with v)``; a JAX function from a prompt to class
            probabilities ``[X, Y]`` for that on the predictions, without labels, the
            sum over inputs of ``KL(p(. | x, v) || p(. | x))``.
        batch_size: prompts that are asked at a time.
        after_block: is called with the objective after each of them, to save it.

    Raises:
        TypeError: for an objective that does not count.
        ValueError: for an argument out of range, or a start without a value, of which
            nothing can be said: it failed, or no query is left.

    Example:
        >>> from gfopt.prompts.counted_objectives import counted
        >>> worth = jnp.array([0.0, 3.0, 1.0, -2.0])
        >>> objective = counted(lambda prompt: -jnp.sum(worth[prompt]), 2)
        >>> found = influence(objective, [1, 2, 3], [0, 0])
        >>> found.values, int(found.objective.context.queries)
        (array([ 3.,  1., -2.]), 4)
    """
    prompts = with_token(start, ids, position)
    base = np.asarray(starting_tokens(start))[None]
    if predict is not None:
        return _on_predictions(objective, prompts, base, predict, batch_size)
    first, objective = answers(objective, base)
    if not np.isfinite(first[0]):
        raise _no_baseline(objective)
    parts = []
    for place in range(0, len(prompts), batch_size):
        rows = prompts[place : place + batch_size]
        values, objective = answers(objective, rows, batch_size)
        parts.append(first[0] - values)
        if after_block is not None:
            after_block(objective)
    return Influence(np.concatenate(parts), float(first[0]), objective)


def _no_baseline(objective: Objective) -> ValueError:
    return ValueError(
        "start must have a value, with which the others are compared; it failed, or no "
        f"query is left: {objective.context.left} of {int(objective.context.budget)}"
    )


def _on_predictions(
    objective: Objective,
    prompts: np.ndarray,
    base: np.ndarray,
    predict: Callable[[jax.Array], npt.ArrayLike],
    batch_size: int,
) -> Influence:
    if objective.context.left < 1:
        raise _no_baseline(objective)
    log_p0 = _log_probabilities(predict(jnp.asarray(base[0])))

    def divergence(prompt: jax.Array) -> jax.Array:
        # I(v) = sum_x KL(p(. | x, v) || p(. | x))
        log_p = _log_probabilities(predict(prompt))
        return jnp.sum(jnp.exp(log_p) * (log_p - log_p0))

    left = objective.context.left - 1
    found = np.full(len(prompts), np.nan)
    rows = jnp.asarray(prompts[:left])
    if len(rows):
        found[: len(rows)] = jax.lax.map(
            divergence, rows, batch_size=min(batch_size, 16)
        )
    size = function_of(objective).num_tokens
    each = int(size(base[0])) if callable(size) else size
    count = len(rows) + 1
    ledger = objective.context.charged(count, count * each)
    return Influence(found, 0.0, replace(objective, context=ledger))


def _log_probabilities(p: npt.ArrayLike) -> jax.Array:
    tiny = jnp.finfo(jnp.float32).tiny
    return jnp.log(jnp.maximum(jnp.asarray(p, jnp.float32), tiny))


def prune(ids: npt.ArrayLike, values: npt.ArrayLike, num_kept: int) -> np.ndarray:
    """Keeps the tokens with the largest influence, always as many.

    Args:
        ids: tokens, ``int32[n]``.
        values: their influence, ``float[n]``; NaN counts as the least.
        num_kept: how many stay, at most ``n``.

    Returns:
        Token ids ``int32[num_kept]``, ascending; of equal ones the first are kept.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range or of another length.

    Example:
        >>> prune([10, 20, 30, 40], [0.1, np.nan, 0.7, 0.1], 2)
        array([10, 30], dtype=int32)
    """
    tokens, worth = np.asarray(ids, np.int32), np.asarray(values, np.float64)
    checks.integer("num_kept", num_kept, 1)
    if tokens.ndim != 1 or worth.shape != tokens.shape:
        raise ValueError(
            f"values must be one number for each of the {tokens.size} ids; "
            f"got shape {worth.shape}"
        )
    if num_kept > tokens.size:
        raise ValueError(
            f"num_kept must be at most the number of ids, {tokens.size}; got {num_kept}"
        )
    order = np.argsort(np.where(np.isnan(worth), np.inf, -worth), kind="stable")
    return np.sort(tokens[order[:num_kept]])
