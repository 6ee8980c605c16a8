"""What became of an evaluation on the host: one record from the call to the journal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gfopt import checks
from gfopt.core.constraints import keeps
from gfopt.core.host.calls import Outcome
from gfopt.core.objective import Objective, as_number, check_number, described
from gfopt.types import Evaluation, PyTree

# How a reason begins that says what a function should have returned, and what stands
WRONG_KIND, EXAMPLE = "returned no ", ", such as "  # before what it did return
NOT_FINITE = ("returned NaN", "returned an infinity")


class Value(NamedTuple):
    """The value of one solution, or why it has none.

    Attributes:
        fitness: lower is better; infinite where the evaluation failed.
        reason: why it failed, ``""`` where it did not.
        aux: what the objective returned beside the number; None for nothing.
        traceback: of what was raised, to be shown once; no file keeps it.
        candidate: leaves of what a later step needs to know of the solution, where
            values may come late; else None.
    """

    fitness: float
    reason: str = ""
    aux: PyTree = None
    traceback: str = ""
    candidate: list[np.ndarray] | None = None

    @property
    def feasible_fitness(self) -> float:
        """The fitness, infinite where it failed or a constraint is not met."""
        return math.inf if self.reason or not keeps(self.aux) else self.fitness


class Answers(NamedTuple):
    """What a batched function may return where calls that it makes can fail.

    Attributes:
        numbers: ``float[b]``; NaN where a call failed.
        failed: what became of such calls, by row.
    """

    numbers: np.ndarray
    failed: Mapping[int, Outcome]


def value_of(objective: Objective, outcome: Outcome) -> Value:
    """Returns the value that one call of an objective gave."""
    if outcome.status != "ok":
        reason = outcome.reason or outcome.status
        return Value(math.inf, reason, traceback=outcome.traceback)
    answer, aux = outcome.value, None
    if objective.returns_pairs:
        if not isinstance(answer, tuple) or len(answer) != 2:
            return _wrong_kind("(number, aux) pair", answer)
        answer, aux = answer
    number = answer if type(answer) is float else as_number(answer)
    if number is None:
        return _wrong_kind("real number", answer)
    if not math.isfinite(number):
        return Value(math.inf, NOT_FINITE[0 if math.isnan(number) else 1], aux)
    return Value(objective.sense.fitness(number), "", aux)


def values_of(objective: Objective, outcome: Outcome, count: int) -> list[Value]:
    """Returns the values of ``count`` solutions that one batched call gave."""
    if outcome.status != "ok":
        return [value_of(objective, outcome)] * count
    answers, aux = outcome.value, None
    if objective.returns_pairs:
        if not isinstance(answers, tuple) or len(answers) != 2:
            return [_wrong_kind("(numbers, aux) pair", answers)] * count
        answers, aux = answers
    failed: Mapping[int, Outcome] = {}
    if isinstance(answers, Answers):
        answers, failed = answers
    try:
        check_number(answers, (count,))
    except ValueError:
        return [_wrong_kind(f"array of {count} real numbers", answers)] * count
    rows = list(np.asarray(answers).reshape(count))
    if objective.returns_pairs:
        rows = [
            (row, jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], aux))
            for i, row in enumerate(rows)
        ]
    values = [value_of(objective, Outcome(row, "ok")) for row in rows]
    for row, outcome in failed.items():  # what it returned beside them counts
        said = math.inf, outcome.reason, values[row].aux, outcome.traceback
        values[row] = Value(*said)
    return values


def evaluation_of(
    values: Mapping[int, Value], size: int, like: PyTree = None
) -> Evaluation:
    """Returns the values of some rows as those of a generation, NumPy arrays.

    Args:
        values: by row.
        size: the number of rows of the generation.
        like: what ``aux`` looks like where all of the values failed, if that is known.

    Returns:
        ``float64[P]`` fitness, and aux ``[P, ...]``, zeros where there is none.

    Raises:
        ValueError: where aux differs in structure or shape.
    """
    fitness: Any = np.full(size, np.inf)
    valid: Any = np.zeros(size, bool)
    for row, value in values.items():
        fitness[row], valid[row] = value.fitness, not value.reason
    known = [value.aux for value in values.values() if value.aux is not None]
    if not known and like is None:
        return Evaluation(fitness, valid)
    first = known[0] if known else like
    whole = [jax.tree.map(lambda leaf: np.zeros_like(np.asarray(leaf)), first)] * size
    for row, value in values.items():
        whole[row] = whole[row] if value.aux is None else value.aux
    try:
        aux = jax.tree.map(lambda *leaves: np.stack(leaves), *whole)
        kinds = {leaf.dtype.kind for leaf in jax.tree.leaves(aux)}
    except (TypeError, ValueError):
        kinds = {"O"}
    if kinds & set("OSUM"):
        raise ValueError(
            "aux must be numbers, in one structure and of the same shapes for every "
            f"solution; got {checks.shown(first)} and {checks.shown(known[-1])}"
        )
    return Evaluation(fitness, valid, aux)


def _wrong_kind(expected: str, answer: object) -> Value:
    reason = f"{WRONG_KIND}{expected}{EXAMPLE}{described(answer)}"
    return Value(math.inf, reason)


def check_kind(reason: str) -> None:
    """Refuses a function of which a reason says that it returns the wrong kind.

    Raises:
        ValueError: what it should return, and what came.
    """
    if not reason.startswith(WRONG_KIND):
        return
    expected, _, came = reason.removeprefix(WRONG_KIND).partition(EXAMPLE)
    article, hint = "an" if expected[0] == "a" else "a", ""
    if came.endswith("(tuple)"):
        hint = "; for (number, aux) pass gfopt.Objective(fun, has_aux=True)"
    raise ValueError(f"fun must return {article} {expected}; got {came}{hint}")
