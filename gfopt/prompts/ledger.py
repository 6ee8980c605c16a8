"""What was asked of a counted objective: the ledger, and the entries into it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gfopt.types import Evaluation

_UNLIMITED = 2**31 - 1


class Ledger(NamedTuple):
    """What was asked so far.

    Attributes:
        queries: ``i32[]``, calls of the model, failed ones included.
        scored_tokens: ``uint32[]``, tokens that it read for them.
        distinct: ``i32[]``, different prompts that have a value.
        answered: ``i32[]``, wishes for a value that were met from here.
        budget: ``i32[]``, queries at most; a prompt beyond it has no value.
        prompts: ``i32[C, L]``, the latest ``C`` prompts.
        values: ``float[C]``, theirs.

    Example:
        >>> from gfopt.prompts import counted
        >>> ledger = counted(lambda prompt: prompt[0], 2, budget=100).context
        >>> ledger.charged(30, 60).left
        70
    """

    queries: jax.Array
    scored_tokens: jax.Array
    distinct: jax.Array
    answered: jax.Array
    budget: jax.Array
    prompts: jax.Array
    values: jax.Array

    @property
    def left(self) -> int:
        """Queries that may still be made."""
        return int(self.budget) - int(self.queries)

    def charged(self, queries: int, scored_tokens: int) -> Ledger:
        """Returns the ledger after calls that had no part in the search."""
        return self._replace(
            queries=self.queries + jnp.int32(queries),
            scored_tokens=self.scored_tokens + jnp.uint32(scored_tokens),
        )


def empty_ledger(length: int, capacity: int, budget: int | None) -> Ledger:
    """Returns the ledger before the first question; ``budget`` None has no limit."""
    zero = jnp.int32(0)
    return Ledger(
        queries=zero,
        scored_tokens=jnp.uint32(0),
        distinct=zero,
        answered=zero,
        budget=jnp.int32(_UNLIMITED if budget is None else budget),
        prompts=jnp.full((capacity, length), -2, jnp.int32),
        values=jnp.full(capacity, jnp.nan, jnp.float32),
    )


@jax.jit
def planned(
    ledger: Ledger, prompts: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds out what must be asked.

    Returns:
        Each prompt's place in the ledger, ``C`` if it has none; the first row with the
        same prompt; and whether the model is asked for this row.
    """
    count, capacity = prompts.shape[0], ledger.values.shape[0]
    held = jnp.arange(capacity) < ledger.distinct
    known = (prompts[:, None] == ledger.prompts).all(axis=-1) & held
    place = jnp.where(known.any(axis=1), jnp.argmax(known, axis=1), capacity)
    leader = jnp.argmax((prompts[:, None] == prompts).all(axis=-1), axis=1)
    is_new = (place == capacity) & (leader == jnp.arange(count))
    is_paid = jnp.cumsum(is_new) <= ledger.budget - ledger.queries
    return place, leader, is_new & is_paid


@jax.jit
def noted(ledger: Ledger, evaluation: Evaluation) -> Ledger:
    """Enters the evaluations of a generation; the update of a counted objective."""
    row = evaluation.aux
    has_value = jnp.isfinite(row["value"])
    # a row that was not to be evaluated has a value all the same, and is not valid
    happened = evaluation.valid | ~has_value
    is_query, is_kept = row["is_query"] & happened, row["is_query"] & evaluation.valid
    capacity = ledger.values.shape[0]
    place = (ledger.distinct + jnp.cumsum(is_kept) - 1) % capacity
    place = jnp.where(is_kept, place, capacity)
    return Ledger(
        queries=ledger.queries + jnp.sum(is_query, dtype=jnp.int32),
        scored_tokens=ledger.scored_tokens
        + jnp.sum(jnp.where(is_query, row["num_tokens"], 0), dtype=jnp.uint32),
        distinct=ledger.distinct + jnp.sum(is_kept, dtype=jnp.int32),
        answered=ledger.answered
        + jnp.sum(evaluation.valid & ~row["is_query"], dtype=jnp.int32),
        budget=ledger.budget,
        prompts=ledger.prompts.at[place].set(row["prompt"], mode="drop"),
        values=ledger.values.at[place].set(
            row["value"].astype(ledger.values.dtype), mode="drop"
        ),
    )
