"""Every model call counted: queries, scored tokens, distinct prompts, and a budget.

``counted`` turns a score of prompts into an ``Objective`` that keeps a ledger as its
context. A prompt that is known is answered from the ledger; of equal prompts in one
generation, one is asked. So a query is a call of the model, whatever the search does,
and the ledger goes wherever a context goes: into the result, into a checkpoint, and
from one search into the next, which then shares its budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax

from gfopt import checks
from gfopt.core.host.calls import Outcome
from gfopt.core.host.failures import Failures
from gfopt.core.host.values import Answers, evaluation_of, values_of
from gfopt.core.objective import Inputs, Objective
from gfopt.deprecations import renamed_arguments
from gfopt.prompts.ledger import Ledger, empty_ledger, noted, planned
from gfopt.types import Evaluation, PyTree


@jax.tree_util.register_pytree_node_class
class Counted:
    """The function of a counted objective; see ``counted``."""

    def __init__(
        self,
        score: Callable[..., PyTree],
        batched: bool,
        is_host: bool,
        batch_size: int,
        num_tokens: int | Callable[[PyTree], PyTree],
    ):
        self.score, self.batched, self.is_host = score, batched, is_host
        self.batch_size, self.num_tokens = batch_size, num_tokens

    def tree_flatten(self) -> tuple[tuple[PyTree], tuple[object, ...]]:
        """Flattens: a score that is a pytree, such as one with a model, is data."""
        is_data = not jax.tree_util.all_leaves([self.score])
        rest = self.batched, self.is_host, self.batch_size, self.num_tokens
        return (self.score if is_data else None,), (
            None if is_data else self.score,
            *rest,
        )

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], data: tuple[PyTree]) -> Counted:
        """Rebuilds it."""
        return cls(static[0] if data[0] is None else data[0], *static[1:])

    def __call__(
        self, prompts: PyTree, *args: PyTree, context: Ledger
    ) -> tuple[PyTree, dict[str, PyTree]]:
        """Returns the values of prompts ``[b, L]``, and what the ledger is to note."""
        place, leader, is_asked = planned(context, prompts)
        failed: dict[int, Outcome] = {}
        if self.is_host:
            asked = np.asarray(prompts), np.asarray(is_asked)
            fresh, failed = self._called(*asked, args)
        else:
            fresh = self._computed(prompts, is_asked, args)
        xp: Any = np if self.is_host else jnp
        is_known = place < context.values.shape[0]
        known = context.values[xp.minimum(place, context.values.shape[0] - 1)]
        values = xp.where(is_known, known, xp.asarray(fresh)[leader])
        size = self.num_tokens
        if callable(size):
            tokens = (
                xp.stack([size(p) for p in prompts])
                if self.is_host
                else (jax.vmap(size)(prompts))
            )
        else:
            tokens = xp.full(prompts.shape[0], size)
        told = {
            "prompt": prompts,
            "value": values,
            "is_query": is_asked,
            "num_tokens": tokens.astype(np.uint32),
        }
        if self.is_host:
            told = {name: np.asarray(column) for name, column in told.items()}
            values = np.asarray(values, np.float64)
            if failed:
                rows = enumerate(np.asarray(leader).tolist())
                values = Answers(values, {i: failed[r] for i, r in rows if r in failed})
        return values, told

    def _called(
        self, prompts: np.ndarray, is_asked: np.ndarray, args: PyTree
    ) -> tuple[np.ndarray, dict[int, Outcome]]:
        """Calls a Python score; returns its values, and which rows failed and why."""
        values = np.full(len(prompts), np.nan, np.float32)
        rows = np.flatnonzero(is_asked)
        if self.batched and rows.size:
            values[rows] = self.score(prompts[rows], *args)
            return values, {}
        failed, first = {}, None
        for row in rows.tolist():
            try:
                values[row] = self.score(prompts[row].copy(), *args)
            except Exception as error:  # a failed call is a prompt without a value
                failed[row] = Outcome.of_error(error)
                first = first or error
        if first is not None and len(failed) == rows.size:
            raise first
        return values, failed

    def _computed(
        self, prompts: jax.Array, is_asked: jax.Array, args: PyTree
    ) -> PyTree:
        """Runs a JAX score on the prompts that are asked, some at a time."""
        count = prompts.shape[0]
        size = min(self.batch_size, count)
        order = jnp.argsort(~is_asked)  # the asked ones first, in their order

        def some(index: jax.Array, values: jax.Array) -> jax.Array:
            start = jnp.minimum(index * size, count - size)
            rows = lax.dynamic_slice_in_dim(order, start, size)
            if self.batched:
                found = self.score(prompts[rows], *args)
            else:
                found = jax.vmap(lambda prompt: self.score(prompt, *args))(
                    prompts[rows]
                )
            return values.at[rows].set(found.astype(jnp.float32))

        number = (jnp.sum(is_asked, dtype=jnp.int32) + size - 1) // size
        values = lax.fori_loop(0, number, some, jnp.full(count, jnp.nan, jnp.float32))
        return jnp.where(is_asked, values, jnp.nan)


@renamed_arguments(chunk="batch_size")
def counted(
    score: Callable[..., PyTree],
    length: int,
    *,
    budget: int | None = None,
    num_tokens: int | Callable[[PyTree], PyTree] | None = None,
    batched: bool = False,
    is_host: bool = False,
    batch_size: int = 16,
    capacity: int = 4096,
    maximize: bool = False,
) -> Objective:
    """Makes an objective that counts what a model is asked, and never asks twice.

    Pass it to any search over tokens; ``result.context`` is the ``Ledger``. To go on
    with the same ledger elsewhere, use ``dataclasses.replace(objective,
    context=result.context)``. All of a generation must be evaluated at once, as it is
    by default: ``batch_size`` bounds the memory. A generation is entered when it is
    closed: limit a search by ``budget`` here, and by ``budget_is_used``, rather than in
    the middle of one.

    Args:
        score: ``score(prompt int32[L], *args)`` to one number; a JAX function, or a
            pytree with ``__call__`` that holds a model.
        length: of the prompts, ``L``.
        budget: queries at most; a prompt beyond them fails, and costs nothing.
        num_tokens: tokens that the model reads for a prompt, a number or a function of
            it; ``length`` by default.
        batched: ``score`` takes ``int32[b, L]`` and returns ``b`` numbers.
        is_host: ``score`` is a Python function, called with NumPy arrays.
        batch_size: prompts that a JAX score is run on at a time.
        capacity: prompts that are remembered, the last ones; what was forgotten is
            asked, and counted, once more.
        maximize: look for the largest value.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> hidden = jnp.array([3, 1, 4])
        >>> objective = counted(lambda prompt: jnp.sum(prompt != hidden), 3)
        >>> result = gfopt.minimize(objective, [0, 0, 0], method="genetic_tokens",
        ...                         options={"vocabulary": 5}, budget=320)
        >>> ledger = result.context
        >>> result.nfev, int(ledger.queries + ledger.answered)
        (320, 320)
        >>> int(ledger.queries) < 125
        True
    """
    checks.is_callable("score", score)
    checks.integer("length", length, 1)
    for name, count in (("batch_size", batch_size), ("capacity", capacity)):
        checks.integer(name, count, 1)
    if budget is not None:
        checks.integer("budget", budget, 1)
    if num_tokens is None:
        num_tokens = length
    elif not callable(num_tokens):
        checks.integer("num_tokens", num_tokens, 1)
    for name, flag in (("batched", batched), ("is_host", is_host)):
        checks.instance(name, flag, bool, "True or False")
    return Objective(
        Counted(score, batched, is_host, batch_size, num_tokens),
        has_aux=True,
        batched=True,
        traceable=not is_host,
        context=empty_ledger(length, capacity, budget),
        update=noted,
        maximize=maximize,
    )


def function_of(objective: object) -> Counted:
    """Returns the function of a counted objective, and refuses any other."""
    fun = getattr(objective, "fun", None)
    if not isinstance(fun, Counted):
        raise TypeError(
            "objective must be one that counts, from gfopt.prompts.counted; "
            f"got {checks.shown(objective)}"
        )
    return fun


@renamed_arguments(block="batch_size")
def answers(
    objective: Objective, prompts: npt.ArrayLike, batch_size: int = 256
) -> tuple[np.ndarray, Objective]:
    """Asks a counted objective for the values of prompts, outside of a search.

    Args:
        objective: from ``counted``.
        prompts: ``int32[n, L]``.
        batch_size: prompts that are asked at a time.

    Returns:
        Values ``float[n]``, lower is better, NaN where one failed or the budget was
        used; and the objective with the new ledger.

    Example:
        >>> objective = counted(lambda prompt: jnp.sum(prompt), 2, budget=2)
        >>> values, after = answers(objective, [[1, 2], [1, 2], [3, 4], [5, 6]])
        >>> values, int(after.context.queries)
        (array([ 3.,  3.,  7., nan]), 2)
    """
    is_host = function_of(objective).is_host
    rows = np.asarray(prompts, np.int32)
    found, failures = [], Failures()
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        # the last batch repeats its last prompt, which costs nothing
        full = np.concatenate(
            [part, np.repeat(part[-1:], batch_size - len(part), axis=0)]
        )
        given = full if len(rows) > batch_size else part
        inputs = Inputs(context=objective.context)
        if is_host:
            values, aux = _host_values(objective, given, inputs, failures)
        else:
            values, aux = _value(objective, given, None, inputs)
        valid = jnp.isfinite(values) & (jnp.arange(len(given)) < len(part))
        ledger = noted(inputs.context, Evaluation(jnp.asarray(values), valid, aux))
        objective = replace(objective, context=ledger)
        found.append(np.asarray(values, np.float64)[: len(part)])
    return np.concatenate(found) if found else np.zeros(0), objective


def _host_values(
    objective: Objective, prompts: np.ndarray, inputs: Inputs, failures: Failures
) -> tuple[np.ndarray, PyTree]:
    """Asks a Python score; shows the first exception of each type."""
    outcome = Outcome(objective.call(prompts, None, inputs), "ok")
    each = values_of(objective, outcome, len(prompts))
    for value in each:
        if value.traceback:
            failures.add(value.reason, value.traceback)
    evaluation = evaluation_of(dict(enumerate(each)), len(prompts))
    return np.where(evaluation.valid, evaluation.fitness, np.nan), evaluation.aux


@jax.jit  # the ledger is an argument: all blocks are one program
def _value(
    objective: Objective, prompts: jax.Array, key: None, inputs: Inputs
) -> tuple[jax.Array, PyTree]:
    return objective.value(prompts, key, inputs)
