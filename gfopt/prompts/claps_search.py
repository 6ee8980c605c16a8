"""ClaPS: cluster the vocabulary, prune it by influence, then search what is left.

A program over parts that can be had alone: ``cluster_vocabulary``, ``influence``,
``prune`` and any search over tokens. All of it is paid from one ledger.

Source: Zhou et al. (2023), "Survival of the most influential prompts", arXiv
2310.12774.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from gfopt import checks, registry
from gfopt.core.objective import Objective
from gfopt.deprecations import renamed_arguments
from gfopt.driver.minimize import minimize
from gfopt.driver.result.result import Result
from gfopt.driver.storage.fingerprint import described
from gfopt.driver.storage.recovery import recovered
from gfopt.driver.storage.storage import read_records, write_snapshot
from gfopt.driver.storage.tree_records import (
    differences,
    record_to_tree,
    tree_to_record,
)
from gfopt.prompts.counted_objectives import function_of
from gfopt.prompts.ledger import Ledger
from gfopt.prompts.vocabulary import cluster_vocabulary, influence, prune
from gfopt.tokens.alphabet import vocabulary
from gfopt.types import JsonObject

_ROWS = 50  # candidates for each query: a search that finds nothing new must end


@dataclass
class ClapsResult:
    """What ClaPS found.

    Attributes:
        x: the best prompt, ``int32[L]``.
        fun: its value, in the user's sense.
        search: the ``Result`` of the search.
        ledger: what was asked in all.
        candidates: the tokens whose influence was measured, ``int32[n]``.
        influence: of each of them, ``float[n]``.
        vocabulary: the tokens that were searched, ``int32[m]``.
        pruning_queries: how much of the budget went into pruning.

    Example:
        >>> import jax.numpy as jnp
        >>> from gfopt.prompts import claps, counted
        >>> objective = counted(lambda prompt: jnp.sum(-prompt), 2, budget=60)
        >>> found = claps(objective, [0, 0], ids=9, num_kept=2)
        >>> found.x, found.vocabulary
        (array([8, 8], dtype=int32), array([7, 8], dtype=int32))
    """

    x: np.ndarray
    fun: float
    search: Result = field(repr=False)
    ledger: Ledger = field(repr=False)
    candidates: np.ndarray = field(repr=False)
    influence: np.ndarray = field(repr=False)
    vocabulary: np.ndarray
    pruning_queries: int


@renamed_arguments(block="batch_size")
def claps(
    objective: Objective,
    start: npt.ArrayLike,
    *,
    ids: npt.ArrayLike | None = None,
    embeddings: npt.ArrayLike | None = None,
    num_clusters: int = 2000,
    num_kept: int = 20,
    position: int = 0,
    predict: Callable[[jax.Array], npt.ArrayLike] | None = None,
    method: str = "genetic_tokens",
    options: Mapping[str, object] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    after_block: Callable[[Objective], object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callbacks: Callable[[Result], object] | Iterable[Callable[[Result], object]] = (),
    progress: bool = False,
) -> ClapsResult:
    """Searches a prompt among the tokens that have an influence.

    Args:
        objective: one that counts, from ``gfopt.prompts.counted(..., budget=...)``.
            Clustering is free; pruning and search share the budget.
        start: the prompt without any words, ``int32[L]``: padding, -1, or a
            neutral text. Influence is measured against it.
        ids: the tokens to begin with, ``int32[n]`` or their number ``V``; all that have
            an embedding by default.
        embeddings: ``[V, d]``; None leaves clustering out.
        num_clusters: tokens that are to stand for all of ``ids``.
        num_kept: how many of them are searched.
        position: where a token is put to measure its influence.
        predict: None for the influence on the objective, else the function of
            ``influence`` that gives class probabilities: no labels are needed then.
        method: the name of a search over tokens.
        options: its fields but for ``vocabulary``.
        seed: of clustering and search.
        batch_size: prompts that are asked at a time for their influence.
        after_block: is called with the objective, and so its ledger, after each.
        checkpoint: file from which the same call resumes; beside it, a second file with
            the ending ``.pruning``.
        callbacks: of the search, as for ``minimize``.
        progress: show a line on standard error.

    Returns:
        A ``ClapsResult``.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or a budget that pruning alone would use.

    Example:
        >>> import jax.numpy as jnp
        >>> from gfopt.prompts import claps, counted
        >>> points = np.random.default_rng(0).normal(size=(500, 8))
        >>> points[[7, 77, 177]] += 20  # three tokens that mean something
        >>> worth = jnp.zeros(500).at[jnp.array([7, 77, 177])].set(1.0)
        >>> def loss(prompt):
        ...     return -jnp.sum(jnp.where(prompt < 0, 0.0, worth[prompt]))
        >>> objective = counted(loss, 5, budget=300)
        >>> found = claps(objective, [-1] * 5, embeddings=points,
        ...                     num_clusters=100, num_kept=5)
        >>> found.fun, found.pruning_queries < 102, int(found.ledger.queries) <= 300
        (-5.0, True, True)
    """
    function_of(objective)  # refuses one that does not count
    checks.one_of("method", method, registry.names(tokens=True))
    checks.integer("num_kept", num_kept, 1)
    given = dict(options or {})
    if "vocabulary" in given:
        raise ValueError(
            "options must not have a vocabulary, which claps finds; "
            f"got {checks.shown(given['vocabulary'])}"
        )
    candidates = _candidates(ids, embeddings, num_clusters, seed)
    if num_kept > candidates.size:
        raise ValueError(
            f"num_kept must be at most the {candidates.size} tokens that are left by "
            f"clustering; got {num_kept}"
        )
    before, answered = int(objective.context.queries), objective.context.answered
    if objective.context.left <= candidates.size + 1:
        raise ValueError(
            "budget must be above what pruning takes, one query for each of the "
            f"{candidates.size} tokens and one without; got {objective.context.left}"
        )
    place, header = (
        None,
        {
            "kind": "pruning",
            "start": described(np.asarray(start)),
            "candidates": described(candidates),
            "budget": int(objective.context.budget),
        },
    )
    if checkpoint is not None:
        place = Path(f"{os.fspath(checkpoint)}.pruning")
        objective = _resumed(place, header, objective)

    def pruned_block(objective: Objective) -> None:
        if place is not None:
            tree = objective.context._asdict()
            records = [tree_to_record("ledger", tree, {})]
            write_snapshot(place, header, records, keep=True)
        if after_block is not None:
            after_block(objective)

    measured = influence(
        objective,
        candidates,
        start,
        position=position,
        predict=predict,
        batch_size=batch_size,
        after_block=pruned_block,
    )
    # a resumed session re-reads saved answers: they are not cache hits, so that its
    # ledger is that of a session that was never stopped
    ledger = measured.objective.context._replace(answered=answered)
    objective = replace(objective, context=ledger)
    kept = prune(candidates, measured.values, num_kept)
    spent = int(ledger.queries) - before
    listed = (callbacks,) if callable(callbacks) else tuple(callbacks)
    result = minimize(
        objective,
        start,
        method=method,
        options={**given, "vocabulary": kept},
        budget=_ROWS * objective.context.left,
        seed=seed,
        checkpoint=checkpoint,
        callbacks=(*listed, budget_is_used),
        progress=progress,
    )
    return ClapsResult(
        x=np.asarray(result.x),
        fun=result.fun,
        search=result,
        ledger=jax.tree.map(np.asarray, result.context),
        candidates=candidates,
        influence=measured.values,
        vocabulary=kept,
        pruning_queries=spent,
    )


def budget_is_used(result: Result) -> bool:
    """Ends a search whose counted objective has no query left; a callback.

    Example:
        >>> import gfopt, jax.numpy as jnp
        >>> from gfopt.prompts import counted
        >>> objective = counted(lambda prompt: jnp.sum(prompt), 3, budget=100)
        >>> result = gfopt.minimize(objective, [0, 0, 0], method="random_tokens",
        ...                         options={"vocabulary": 50}, budget=10_000,
        ...                         callbacks=budget_is_used)
        >>> int(result.context.queries), result.nfev < 200
        (100, True)
    """
    return bool(result.context.left <= 0)


def _candidates(
    ids: npt.ArrayLike | None,
    embeddings: npt.ArrayLike | None,
    num_clusters: int,
    seed: int,
) -> np.ndarray:
    if embeddings is not None:
        return cluster_vocabulary(embeddings, num_clusters, ids=ids, seed=seed)
    if ids is None:
        raise ValueError("ids must be given where there are no embeddings; got None")
    allowed = vocabulary(ids, "ids")
    if isinstance(allowed, int):
        return np.arange(allowed, dtype=np.int32)
    return np.asarray(allowed)


def _resumed(place: Path, header: JsonObject, objective: Objective) -> Objective:
    """Returns the objective with the ledger of an earlier session, if there is one.

    Earlier queries are answered from it, so that pruning resumes where it was.
    """
    if not place.exists():
        return objective
    contents = read_records(place)
    lines = differences(header, contents.header)
    if lines:
        raise ValueError(
            "\n  ".join([f"checkpoint {place} is of another run:", *lines])
        )
    ledger = objective.context
    records, _ = recovered(place, header, contents, "ledger")
    if not records:
        return objective
    found = record_to_tree(records[0], ledger._asdict())
    return replace(objective, context=Ledger(**found))
