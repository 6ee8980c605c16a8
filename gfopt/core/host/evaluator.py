"""Evaluation of any Python callable: decode on the device, NumPy out, numbers back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks
from gfopt.core import trees
from gfopt.core.evaluate import Request, decode_rows, judged
from gfopt.core.host.failures import Failures
from gfopt.core.host.host import HostPool, Stream
from gfopt.core.host.values import Value, evaluation_of, value_of, values_of
from gfopt.core.numpy_programs.program import HostFunction
from gfopt.core.objective import Inputs, Objective
from gfopt.lazy import lazy
from gfopt.protocol import Optimizer
from gfopt.types import Evaluation, Key, PyTree, Solution, State


class HostEvaluator:
    """Calls the objective on the host, here or in a pool; see ``host``.

    An evaluator like the others, for use outside of compiled programs. What was
    raised, ran too long, died, or is NaN or infinite is a failed row with its reason.
    """

    host = True

    def __init__(
        self,
        executor: object = None,
        workers: int | None = None,
        timeout: float | None = None,
        retries: int = 0,
        quorum: float = 1.0,
    ):
        """Makes the pool; its workers start with the first call."""
        checks.positive("quorum", quorum)
        checks.share("quorum", quorum)
        self.pool = HostPool(executor, workers, timeout, retries)
        self.workers, self._quorum = workers, quorum
        self._failures = Failures()  # of calls of the evaluator itself

    def num_spare(self, count: int) -> int:
        """Returns how many of a generation's calls need not return."""
        return count - math.ceil(self._quorum * count)

    def values(
        self,
        objective: Objective,
        solutions: Sequence[Solution],
        keys: np.ndarray | None,
        inputs: Inputs,
        on_value: Callable[[int, Value], None] | None = None,
        num_spare: int = 0,
    ) -> list[Value]:
        """Evaluates a list of NumPy solutions.

        Args:
            objective: what to call.
            solutions: trainable halves, one for each row.
            keys: ``uint32[n, 2]`` key data, for an objective that takes a key.
            inputs: what it needs beside the solution.
            on_value: called as ``(index, value)`` when a row is done; what it raises
                ends the evaluation.
            num_spare: how many calls are cut off once all others have returned.
        """
        count, fun = len(solutions), _called(objective)
        if inputs.context is not None:
            fun = functools.partial(fun, context=inputs.context)
        values: dict[int, Value] = {}

        def settle(index: int, value: Value) -> None:
            values[index] = value
            if on_value is not None:
                on_value(index, value)

        if objective.batched:
            if inputs.frozen is not None:
                solutions = [trees.merge(x, inputs.frozen) for x in solutions]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *solutions)
            call = arguments(objective, keys, stacked, inputs._replace(frozen=None))
            (outcome,) = self.pool.map(fun, [call])
            for index, value in enumerate(values_of(objective, outcome, count)):
                settle(index, value)
        else:
            row_keys = [None] * count if keys is None else list(keys)
            self.pool.map(
                fun,
                [
                    arguments(objective, key, x, inputs)
                    for key, x in zip(row_keys, solutions, strict=True)
                ],
                lambda index, outcome: settle(index, value_of(objective, outcome)),
                max(1, count - num_spare),
            )
        return [values[index] for index in range(count)]

    def stream(
        self, objective: Objective, on_value: Callable[[int, Value], object]
    ) -> Stream:
        """Begins to evaluate solutions that are added one by one.

        Args:
            objective: what to call, with ``arguments``.
            on_value: called as ``(number, value)`` when one is done.
        """
        return self.pool.stream(
            _called(objective),
            lambda number, outcome: on_value(number, value_of(objective, outcome)),
        )

    def __call__(self, request: Request) -> Evaluation:
        """Evaluates the active rows of a population."""
        key, objective, optimizer, state, population, inputs = request
        active = np.asarray(population.active)
        stacked = decode_stacked(optimizer, state, population.members)
        rows = np.flatnonzero(active)
        solutions = [writable_row(stacked, int(row)) for row in rows]
        keys = row_keys(key, active.size)[rows] if objective.takes_key else None
        spare = self.num_spare(rows.size)
        values = self.values(objective, solutions, keys, inputs, num_spare=spare)
        for value in values:
            if value.reason:
                self._failures.add(value.reason, value.traceback)
        by_row = dict(zip(rows.tolist(), values, strict=True))
        evaluation = evaluation_of(by_row, active.size)
        fitness = jnp.asarray(evaluation.fitness, fitness_dtype(state))
        return judged(fitness, jnp.asarray(active), evaluation.aux, evaluation.valid)

    def close(self) -> None:
        """Ends the pool's workers."""
        self.pool.close()


def host(
    executor: object = None,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    retries: int = 0,
    quorum: float = 1.0,
) -> HostEvaluator:
    """Returns the evaluator for Python functions that JAX cannot trace.

    Args:
        executor: any ``concurrent.futures.Executor`` (threads, loky, MPI), or another
            engine: a Dask ``Client``, a pool of processes, ``submitit``.
        workers: number of processes of our own; None or 1 calls here, one by one.
        timeout: seconds that one call may take.
        retries: how often a failed call is made again.
        quorum: share of a generation's calls that must have returned for the others to
            be cut off, which then count as failed.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range.

    Example:
        >>> import gfopt
        >>> result = gfopt.minimize(lambda x: float(x @ x), [1.0, 2.0], budget=200,
        ...                         evaluator=gfopt.host(), seed=1)
        >>> result.path
        'host'
    """
    return HostEvaluator(executor, workers, timeout, retries, quorum)


def _called(objective: Objective) -> Callable[..., object]:
    """Returns the function that is called on the host."""
    if objective.takes_row:
        raise TypeError(
            "objective must be a JAX function to take its row; got one that is "
            "called as a Python function"
        )
    return objective.full_fun


def arguments(
    objective: Objective, key: np.ndarray | None, solution: Solution, inputs: Inputs
) -> tuple[PyTree, ...]:
    """Returns the arguments of one call."""
    if inputs.frozen is not None:
        solution = trees.merge(solution, inputs.frozen)
    head = (key,) if objective.takes_key else ()
    batch = () if inputs.batch is None else (inputs.batch,)
    return (*head, solution, *batch, *inputs.args)


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
