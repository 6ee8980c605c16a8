"""Evaluators: a population goes in, fitness comes out, memory is decided here.

An evaluator is a callable ``Request -> Evaluation``. The ones in this file are
traceable; ``sharded`` in ``sharded.py`` spreads one of them over devices, and ``host``
in ``host/evaluator.py`` calls any Python function. NaN and infinities become
``valid=False`` here and nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gfopt import checks
from gfopt.core import trees
from gfopt.core.constraints import is_feasible
from gfopt.core.objective import Inputs, Objective
from gfopt.deprecations import renamed_arguments
from gfopt.lazy.lazy import is_lazy, materialise
from gfopt.protocol import Optimizer, as_method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Member, Population, PyTree, State

# The default evaluator holds at most this many elements of solutions at a time:
# 64 MB of float32. Measured: at D = 2e6, P = 64 all at once takes 2.6 GB of
# temporaries, one by one 64 MB.
DEFAULT_ELEMENTS = 1 << 24


class Request(NamedTuple):
    """A population to evaluate, and all that this takes.

    Attributes:
        key: of this evaluation; each row folds in its number.
        objective: what is minimised.
        optimizer: the method, which decodes the members.
        state: its state.
        population: the members.
        inputs: what the objective needs besides the solution.
    """

    key: Key
    objective: Objective
    optimizer: Optimizer
    state: State
    population: Population
    inputs: Inputs


class Evaluator(Protocol):
    """The contract of every evaluator."""

    def __call__(self, request: Request) -> Evaluation:
        """Evaluates the active rows of a population."""


def group_size(optimizer: Optimizer, population_size: int) -> int:
    """Returns how many neighbouring rows a method decodes together (1: each alone)."""
    size = as_method(optimizer).group_size
    return size if population_size % size == 0 else 1


def decode_rows(optimizer: Optimizer, state: State, members: PyTree) -> PyTree:
    """Decodes stacked members ``[P, ...]`` into dense stacked solutions.

    Returns:
        A tree with leaves ``[P, ...]``; lazy leaves from ``decode`` are materialised,
        those from ``decode_group`` are dense by contract.
    """
    count = jax.tree.leaves(members)[0].shape[0]
    size = group_size(optimizer, count)
    if size == 1:
        return jax.vmap(lambda m: materialise(optimizer.decode(state, m)))(members)
    grouped = jax.tree.map(
        lambda leaf: leaf.reshape(count // size, size, *leaf.shape[1:]), members
    )
    method = as_method(optimizer)
    solutions = jax.vmap(lambda group: method.decode_group(state, group))(grouped)
    return jax.tree.map(lambda leaf: leaf.reshape(count, *leaf.shape[2:]), solutions)


def _values(
    request: Request, members: PyTree, rows: jax.Array
) -> tuple[jax.Array, PyTree]:
    """Evaluates the rows at once; a row's key depends only on its number."""
    key, objective, optimizer, state, _, inputs = request
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    keys = fold(key, rows) if objective.takes_key else None
    if objective.batched:
        solutions = decode_rows(optimizer, state, members)
        return objective.value(solutions, keys, inputs._replace(row=rows))

    def value(
        solution: PyTree, key: Key | None, row: jax.Array | None
    ) -> tuple[jax.Array, PyTree]:
        return objective.value(solution, key, inputs._replace(row=row))

    numbers = rows if objective.takes_row else None
    if group_size(optimizer, rows.shape[0]) > 1:
        solutions = decode_rows(optimizer, state, members)
        return jax.vmap(value)(solutions, keys, numbers)

    def one(
        member: Member, key: Key | None, row: jax.Array | None
    ) -> tuple[jax.Array, PyTree]:
        # decode inside the map: a lazy leaf's base stays un-batched
        return value(optimizer.decode(state, member), key, row)

    if (
        rows.shape[0] == 1
    ):  # a single row needs no batch axis: loops and conds stay as they are
        first = jax.tree.map(lambda leaf: leaf[0], (members, keys, numbers))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one(*first))
    return jax.vmap(one)(members, keys, numbers)


def judged(
    fitness: jax.Array,
    active: jax.Array,
    aux: PyTree,
    valid: jax.Array | np.ndarray | bool = True,
) -> Evaluation:
    """Makes an evaluation: rows that are inactive, NaN or infinite are not valid."""
    valid = active & jnp.isfinite(fitness) & valid
    return Evaluation(jnp.where(valid, fitness, jnp.inf), valid, aux)


@pytree
class Vmapped:
    """Evaluates all members at once, vectorised: fastest, ``P`` solutions in memory."""

    def rows(self, request: Request, rows: jax.Array) -> tuple[jax.Array, PyTree]:
        """Returns fitness and aux of the rows, whose numbers are ``i32[n]``."""
        return _values(request, request.population.members, rows)

    def __call__(self, request: Request) -> Evaluation:
        """Evaluates the active rows of a population."""
        active = request.population.active
        fitness, aux = self.rows(request, jnp.arange(active.shape[0]))
        return judged(fitness, active, aux)


@pytree
class Chunked(Vmapped):
    """Evaluates ``batch_size`` members at a time: so many solutions in memory.

    Only ``ceil(num_active / batch_size)`` chunks are run.

    Args:
        batch_size: members in a chunk.

    Raises:
        ValueError: where ``batch_size`` is below 1.
    """

    batch_size: int = static(default=1)

    def __post_init__(self) -> None:
        checks.integer("batch_size", self.batch_size, 1)

    def rows(self, request: Request, rows: jax.Array) -> tuple[jax.Array, PyTree]:
        """Returns fitness and aux of the rows, chunk by chunk."""
        population = request.population
        count = rows.shape[0]
        size = min(self.batch_size, count)

        def chunk(start: jax.Array) -> tuple[jax.Array, PyTree]:
            members, numbers = jax.tree.map(
                lambda leaf: lax.dynamic_slice_in_dim(leaf, start, size),
                (population.members, rows),
            )
            return _values(request, members, numbers)

        def fill(index: jax.Array, values: PyTree) -> PyTree:
            # the last chunk repeats some rows: same rows, same keys, same values
            start = jnp.minimum(index * size, count - size)
            return jax.tree.map(
                lambda whole, part: lax.dynamic_update_slice_in_dim(
                    whole, part.astype(whole.dtype), start, 0
                ),
                values,
                chunk(start),
            )

        empty = jax.tree.map(
            lambda leaf: jnp.zeros((count, *leaf.shape[1:]), leaf.dtype),
            jax.eval_shape(chunk, jnp.int32(0)),
        )
        num_active = jnp.sum(population.active, dtype=jnp.int32)
        return lax.fori_loop(0, (num_active + size - 1) // size, fill, empty)


def vmapped() -> Vmapped:
    """Returns the evaluator that runs all members at once.

    Example:
        >>> vmapped()
        Vmapped()
    """
    return Vmapped()


@renamed_arguments(size="batch_size")
def chunked(batch_size: int) -> Chunked:
    """Returns the evaluator that holds ``batch_size`` solutions in memory at a time.

    Example:
        >>> chunked(8)
        Chunked(batch_size=8)
    """
    return Chunked(batch_size)


def member_size(
    optimizer: Optimizer, state: State, solution: PyTree, population_size: int
) -> int:
    """Returns how many numbers each decoded member holds by itself.

    ``D`` for dense solutions; for a lazy leaf, what members do not share.
    """
    size = trees.num_parameters(solution)
    if size * population_size <= DEFAULT_ELEMENTS:
        return size  # it makes no difference, and tracing ``decode`` takes time

    def first(state: State) -> PyTree:
        members = optimizer.ask(jax.random.key(0), state).members
        return optimizer.decode(state, jax.tree.map(lambda leaf: leaf[0], members))

    leaves = jax.tree.leaves(jax.eval_shape(first, state), is_leaf=is_lazy)
    return sum(leaf.own_size if is_lazy(leaf) else leaf.size for leaf in leaves)


def default_evaluator(
    size: int, population_size: int, num_active: int | None = None
) -> Vmapped:
    """Returns the default evaluator.

    ``vmapped()`` while ``P * size <= 2**24``, else ``chunked(2**24 // size)``, 1 or an
    even number: a chunk of whole pairs draws the noise of each once. If only
    ``num_active`` rows are active at first, chunks are at most that large: a chunk
    without an active row is not computed.

    Args:
        size: numbers that each member holds, ``member_size``.
        population_size: rows, ``P``.
        num_active: rows to be evaluated, all by default.
    """
    most = max(1, DEFAULT_ELEMENTS // max(1, size))
    if 1 < most < population_size:
        most -= most % 2
    if num_active is not None and num_active < population_size:
        most = min(most, max(1, num_active))
    return vmapped() if population_size <= most else chunked(most)


def best_row(evaluation: Evaluation) -> tuple[jax.Array, jax.Array]:
    """Returns index and fitness of the best valid, feasible row (infinity if none)."""
    fitness = jnp.where(is_feasible(evaluation), evaluation.fitness, jnp.inf)
    index = jnp.argmin(fitness)
    return index, fitness[index]
