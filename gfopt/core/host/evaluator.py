"""Evaluation of any Python callable: decode on the device, NumPy out, numbers back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.core import trees
from gfopt.core.evaluate import Request, decode_rows, judged
from gfopt.core.host.host import HostPool, Outcome
from gfopt.core.numpy_programs.program import HostFunction
from gfopt.core.objective import (
    Inputs,
    Objective,
    as_number,
    check_number,
    described,
)
from gfopt.lazy import lazy
from gfopt.types import Evaluation, Key, Optimizer, PyTree, Solution, State

# How a reason begins that says what a function should have returned, and what stands
WRONG_KIND, EXAMPLE = "returned no ", ", such as "  # before what it did return


class HostValues(NamedTuple):
    """What came back from a list of solutions.

    Attributes:
        fitness: ``float64[n]``, lower is better, infinity where it failed.
        valid: ``bool[n]``.
        aux: a list of what the objective returned beside it, None where it failed.
        reasons: why each failed, ``""`` where it did not.
    """

    fitness: np.ndarray
    valid: np.ndarray
    aux: list[Any]
    reasons: list[str]


class HostEvaluator:
    """Calls the objective on the host, here or in a pool; see ``host``.

    An evaluator like the others, for use outside of compiled programs. What was
    raised, ran too long, died, or is NaN or infinite is a failed row with its reason.
    """

    host = True

    def __init__(
        self,
        executor: Any = None,
        workers: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
    ):
        """Makes the pool; its workers start with the first call."""
        self.pool = HostPool(executor, workers, timeout, retries)

    def values(
        self,
        objective: Objective,
        solutions: Sequence[Solution],
        keys: np.ndarray | None,
        inputs: Inputs,
        on_value: Callable[[int, float, str, PyTree], None] | None = None,
    ) -> HostValues:
        """Evaluates a list of NumPy solutions.

        Args:
            objective: what to call.
            solutions: trainable halves, one for each row.
            keys: ``uint32[n, 2]`` key data, for an objective that takes a key.
            inputs: what it needs beside the solution.
            on_value: called as ``(index, fitness, reason, aux)`` when a row is done;
                what it raises ends the evaluation.
        """
        if objective.takes_row:
            raise TypeError(
                "objective must be a JAX function to take its row; got one that is "
                "called as a Python function"
            )
        count = len(solutions)
        if inputs.frozen is not None:
            solutions = [trees.merge(x, inputs.frozen) for x in solutions]
        fun = objective.full_fun
        if inputs.context is not None:
            fun = functools.partial(fun, context=inputs.context)
        batch = () if inputs.batch is None else (inputs.batch,)

        def call(key: Any, solution: Solution) -> tuple[Any, ...]:
            head = (key,) if objective.takes_key else ()
            return (*head, solution, *batch, *inputs.args)

        rows: list[Any] = [None] * count
        if objective.batched:
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *solutions)
            (outcome,) = self.pool.map(fun, [call(keys, stacked)])
            for index, part in enumerate(_split(objective, outcome, count)):
                rows[index] = _read(objective, part)
                if on_value is not None:
                    on_value(index, *rows[index])
        else:

            def note(index: int, outcome: Outcome) -> None:
                rows[index] = _read(objective, outcome)
                if on_value is not None:
                    on_value(index, *rows[index])

            row_keys = [None] * count if keys is None else list(keys)
            calls = [call(k, x) for k, x in zip(row_keys, solutions, strict=True)]
            self.pool.map(fun, calls, note)
        fitness = np.array([row[0] for row in rows], np.float64)
        reasons = [row[1] for row in rows]
        valid = np.array([reason == "" for reason in reasons], bool)
        return HostValues(fitness, valid, [row[2] for row in rows], reasons)

    def __call__(self, request: Request) -> Evaluation:
        """Evaluates the active rows of a population."""
        key, objective, optimizer, state, population, inputs = request
        active = np.asarray(population.active)
        stacked = decode_stacked(optimizer, state, population.members)
        rows = np.flatnonzero(active)
        solutions = [writable_row(stacked, int(row)) for row in rows]
        keys = row_keys(key, active.size)[rows] if objective.takes_key else None
        values = self.values(objective, solutions, keys, inputs)
        fitness, valid, aux = spread(values, rows, active.size)
        typed = jnp.asarray(fitness, fitness_dtype(state))
        return judged(typed, jnp.asarray(active), aux, valid)

    def close(self) -> None:
        """Ends the pool's workers."""
        self.pool.close()


def host(
    executor: Any = None,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    retries: int = 0,
) -> HostEvaluator:
    """Returns the evaluator for Python functions that JAX cannot trace.

    Args:
        executor: any ``concurrent.futures.Executor`` (threads, loky, MPI), or another
            engine: a Dask ``Client``, a pool of processes, ``submitit``.
        workers: number of processes of our own; None or 1 calls here, one by one.
        timeout: seconds that one call may take.
        retries: how often a failed call is made again.

    Example:
        >>> import gfopt
        >>> result = gfopt.minimize(lambda x: float(x @ x), [1.0, 2.0], budget=200,
        ...                         evaluator=gfopt.host(), seed=1)
        >>> result.path
        'host'
    """
    return HostEvaluator(executor, workers, timeout, retries)


decode_stacked = HostFunction(decode_rows)


@HostFunction
def decode_one(
    optimizer: Optimizer, state: State, members: PyTree, row: jax.Array
) -> Solution:
    """Decodes one row, for solutions that are too large to stack."""
    member = jax.tree.map(lambda leaf: leaf[row], members)
    return lazy.materialise(optimizer.decode(state, member))


def writable_row(stacked: PyTree, row: int) -> Solution:
    """Copies one row out: a user's function may write into its argument."""
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[row]), stacked)


def row_keys(key: Key, count: int) -> np.ndarray:
    """Returns the rows' key data ``uint32[P, 2]``, those of the compiled path."""
    return np.asarray(row_key_data(key, jnp.arange(count)))


def row_key_data(key: Key, rows: jax.Array) -> jax.Array:
    """Returns the key data of some rows, ``uint32[n, 2]``; traceable."""
    return jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key, rows))


def fitness_dtype(state: State) -> np.dtype:
    """Returns float64 for a state in double precision, else float32."""
    floats = [
        leaf
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return np.dtype(trees.wide_dtype(floats))


def spread(
    found: HostValues, rows: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, PyTree]:
    """Puts values of some rows where they belong in a generation of ``size`` rows.

    Returns:
        ``(fitness float64[P], valid bool[P], aux [P, ...] or ())``.
    """
    fitness = np.full(size, np.inf)
    fitness[rows] = found.fitness
    valid = np.zeros(size, bool)
    valid[rows] = found.valid
    known = [aux for aux in found.aux if aux is not None]
    if not known:
        return fitness, valid, ()
    template = jax.tree.map(lambda leaf: np.zeros_like(np.asarray(leaf)), known[0])
    whole = [template] * size
    for row, value in zip(rows, found.aux, strict=True):
        whole[row] = template if value is None else value
    try:
        aux = jax.tree.map(lambda *leaves: np.stack(leaves), *whole)
        kinds = {leaf.dtype.kind for leaf in jax.tree.leaves(aux)}
    except (TypeError, ValueError):
        kinds = {"O"}
    if kinds & set("OSUM"):
        raise ValueError(
            "aux must be numbers, in one structure and of the same shapes for every "
            f"solution; got {checks.shown(known[0])} and {checks.shown(known[-1])}"
        )
    return fitness, valid, aux


def _read(objective: Objective, outcome: Outcome) -> tuple[float, str, Any]:
    """Returns ``(fitness, reason, aux)`` of one call."""
    if outcome.status != "ok":
        return np.inf, outcome.reason or outcome.status, None
    value, aux = outcome.value, None
    if objective.returns_pairs:
        if not isinstance(value, tuple) or len(value) != 2:
            return np.inf, _wrong_kind("(number, aux) pair", value), None
        value, aux = value
    number = value if type(value) is float else as_number(value)
    if number is None:
        return np.inf, _wrong_kind("real number", value), None
    if not math.isfinite(number):
        what = "NaN" if math.isnan(number) else "an infinity"
        return np.inf, f"returned {what}", aux
    return (-number if objective.maximize else number), "", aux


def _wrong_kind(expected: str, value: Any) -> str:
    return f"{WRONG_KIND}{expected}{EXAMPLE}{described(value)}"


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


def _split(objective: Objective, outcome: Outcome, count: int) -> list[Outcome]:
    """Takes the answer of a batched call apart, row by row."""
    if outcome.status != "ok":
        return [outcome] * count
    values, aux = outcome.value, None
    if objective.returns_pairs:
        if not isinstance(values, tuple) or len(values) != 2:
            reason = _wrong_kind("(numbers, aux) pair", values)
            return [Outcome(None, "raised", reason)] * count
        values, aux = values
    try:
        check_number(values, (count,))
    except ValueError:
        reason = _wrong_kind(f"array of {count} real numbers", values)
        return [Outcome(None, "raised", reason)] * count
    numbers = np.asarray(values).reshape(count)
    if not objective.returns_pairs:
        return [Outcome(number, "ok", "") for number in numbers]
    parts = [
        jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], aux) for i in range(count)
    ]
    return [
        Outcome((number, part), "ok", "")
        for number, part in zip(numbers, parts, strict=True)
    ]
