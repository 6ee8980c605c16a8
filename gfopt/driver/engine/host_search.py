"""A search whose evaluations happen outside of compiled programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core.evaluate import judged
from gfopt.core.host import evaluator
from gfopt.core.numpy_programs.program import HostFunction
from gfopt.driver.engine.tiers import at_tier
from gfopt.driver.engine.turns import (
    OpenGeneration,
    Plain,
    StepReport,
    Turns,
    report_of,
)
from gfopt.driver.step import seed_keys, step_keys, wrapped
from gfopt.protocol import Optimizer, as_method
from gfopt.types import Member, Population, PyTree, Solution, State


@jax.jit
def recommend(optimizer: Optimizer, state: State) -> Solution:
    """Returns the method's answer, as one program."""
    return optimizer.recommend(state)


@HostFunction
def _recommended(optimizer: Optimizer, state: State) -> Solution:
    return optimizer.recommend(state)


@HostFunction
def _told_late(
    optimizer: Optimizer,
    state: State,
    population: Population,
    fitness: jax.Array,
) -> State:
    evaluation = judged(fitness, population.active, ())
    return optimizer.tell(state, population, evaluation)[0]


@HostFunction
def _encoded(optimizer: Optimizer, state: State, solution: Solution) -> Member:
    return as_method(optimizer).encode(state, solution)


@HostFunction
def _more(
    optimizer: Optimizer, run_key: jax.Array, state: State, number: jax.Array
) -> PyTree:
    key = step_keys(wrapped(run_key), state.step).ask
    return optimizer.ask(jax.random.fold_in(key, number), state).members


@HostFunction
def _row_keys(run_key: jax.Array, step: jax.Array, rows: jax.Array) -> jax.Array:
    key = step_keys(wrapped(run_key), step).evaluate
    return evaluator.row_key_data(key, rows)


@HostFunction
def _reasons(optimizer: Optimizer, state: State) -> StepReport:
    return report_of(optimizer, state, {})


class HostSearch:
    """A method's state, its open generation, and the best solution so far.

    Args:
        optimizer: the method.
        x0: starting solution, already in the precision of the search.
        seed: of the run.
        x64: whether the programs run in double precision.

    Attributes:
        optimizer: the method, at the number of rows that it asked for.
        best_fitness: the best so far, lower is better.
        best_x: its solution.
        info: the method's scalars of the last step, in their own precision.
        step: how often it was told.
    """

    def __init__(self, optimizer: Optimizer, x0: Solution, seed: int, x64: bool):
        self.optimizer = optimizer
        self.x64 = x64
        self.best_x = x0
        self.best_fitness = math.inf
        init_key, self._run_key = seed_keys(seed)
        self._turns = self._turns_of({})
        self._report = StepReport()
        self.info: dict[str, np.ndarray] = {}
        with self.precision():
            self._see(self._turns[self.tier].start(init_key, x0))
            first = self.state
            self.dtype = evaluator.fitness_dtype(first)
        self.step = int(first.step)

    def resume(self, state: State, counts: Mapping[int, int]) -> None:
        """Goes on from a state, after so many turns at each tier."""
        self._turns = self._turns_of(counts)
        with self.precision():
            self._see(self._turns[self.tier].open(state))
            self._report = _reasons(self.optimizer, state)
        self.step = int(self.state.step)

    def __getstate__(self) -> dict[str, PyTree]:
        """Returns what is pickled: NumPy arrays, which keep their precision."""
        kept = {k: fetched(v) for k, v in self.__dict__.items() if k != "_turns"}
        return kept | {"counts": self.counts}

    def __setstate__(self, state: dict[str, PyTree]) -> None:
        """Makes the programs again, which are not pickled."""
        self.__dict__.update({k: v for k, v in state.items() if k != "counts"})
        self._turns = self._turns_of(state["counts"])

    def _turns_of(self, counts: Mapping[int, int]) -> dict[int, Turns]:
        turns = {self.tier: Turns(self.optimizer, self._run_key)}
        for tier, count in counts.items():
            if tier != self.tier:
                method = as_method(self.optimizer).at_tier(tier)
                turns[tier] = Turns(method, self._run_key)
            turns[tier].count = count
        return turns

    def precision(self) -> AbstractContextManager[object]:
        """Returns the context in which this search's programs run."""
        return jax.enable_x64(self.x64)

    @property
    def tier(self) -> int:
        """The tier of the method's rows."""
        return as_method(self.optimizer).tier

    @property
    def size(self) -> int:
        """Evaluations of the open generation."""
        return self.active_rows.size

    @property
    def counts(self) -> dict[int, int]:
        """How many turns the search has made at each tier."""
        return {tier: turns.count for tier, turns in self._turns.items()}

    def move(self, tier: int) -> None:
        """Moves the method to another tier and asks for the open generation again."""
        with self.precision():
            self.optimizer, state = at_tier(self.optimizer, self.state, tier)
            if tier not in self._turns:
                self._turns[tier] = Turns(self.optimizer, self._run_key)
            self._see(self._turns[tier].open(state))

    def _see(self, generation: OpenGeneration) -> None:
        self._generation = generation
        self._asked_from: State | None = None  # where the state is not what was asked
        active = np.asarray(generation.active)
        self.rows = active.size  # of the open generation, active or not
        self.active_rows = np.flatnonzero(active)
        self._rows: list[Solution] | None = None

    @property
    def began(self) -> int:
        """The step at which the method's present run began."""
        return int(as_method(self.optimizer).began(self.state))

    @property
    def state(self) -> State:
        """The method's state; its small leaves are NumPy arrays."""
        return self._generation.pair.fetched()[0]

    @property
    def population(self) -> Population:
        """The open generation."""
        return self._generation.pair.fetched()[1]

    def solution(self, row: int) -> Solution:
        """Returns one candidate as NumPy arrays of its own."""
        if self._rows is None and jax.tree.leaves(self._generation.solutions):
            # one copy of all: the caller may write into it
            self._rows = _unstacked(self._generation.solutions, self.rows)
        if self._rows is not None:
            return self._rows[row]
        state = self.state if self._asked_from is None else self._asked_from
        with self.precision():
            one = evaluator.decode_one(
                self.optimizer, state, self.population.members, jnp.int32(row)
            )
        return jax.tree.map(np.array, one)

    def begins_at(self, x0: Solution) -> bool:
        """Tells whether the first candidate of the open generation is ``x0``."""
        first = self.solution(int(self.active_rows[0]))
        return jax.tree.all(jax.tree.map(np.array_equal, first, x0))

    def evaluation_keys(self, rows: np.ndarray) -> np.ndarray:
        """Returns the key data of rows, ``uint32[n, 2]``, as on the compiled path."""
        step, rows = np.int32(self.step), rows.astype(np.int32)
        return np.asarray(_row_keys(self._run_key, step, rows))

    def remember(self, row: int, fitness: float, keep_x: bool = True) -> None:
        """Takes a candidate of the open generation as the best so far."""
        self.best_fitness = fitness
        if keep_x:
            self.best_x = self.clean(row)

    def tell(self, fitness: np.ndarray, aux: PyTree = ()) -> None:
        """Tells the open generation and opens the next.

        Args:
            fitness: ``float64[P]``, lower is better; not finite for a failure.
            aux: ``[P, ...]`` or ``()``.
        """
        fitness = np.asarray(fitness, self.dtype)
        with self.precision():
            turns = self._turns[self.tier]
            generation, self._report = turns.tell(self._generation, fitness, aux)
            self._see(generation)
            info = map(np.asarray, self._report.info)
            self.info = dict(zip(self._report.info_names, info, strict=True))
            tier = self._report.tier
            if tier is not None and int(tier) != self.tier:
                self.move(int(tier))
        self.step += 1

    def tell_late(self, population: Population, fitness: np.ndarray) -> None:
        """Tells rows of a generation that is closed; the open one stays open."""
        with self.precision():
            if self._asked_from is None:
                self._asked_from = self.state  # what the open rows are decoded with
            fitness = np.asarray(fitness, self.dtype)
            state = _told_late(self.optimizer, self.state, population, fitness)
            # the counter is the open generation's: the same keys are asked again
            state = fetched(state)._replace(step=np.int32(self.step))
            self._generation = self._generation._replace(
                pair=Plain((state, self.population))
            )

    def encoded(self, solution: Solution) -> Member:
        """Returns a solution as a member of this step, if need be shortened."""
        with self.precision():
            return _encoded(self.optimizer, self.state, solution)

    def more_members(self, number: int) -> PyTree:
        """Returns the members of another population of this step, by its number."""
        with self.precision():
            which = np.uint32(number)
            return _more(self.optimizer, self._run_key, self.state, which)

    def put(self, members: Mapping[int, Member]) -> None:
        """Puts members into rows of the open generation."""
        state, population = fetched(self._generation.pair.fetched())
        leaves, structure = jax.tree.flatten(population.members)
        leaves = [np.array(leaf) for leaf in leaves]
        for row, member in members.items():
            for leaf, part in zip(leaves, jax.tree.leaves(member), strict=True):
                leaf[row] = part
        population = population._replace(members=jax.tree.unflatten(structure, leaves))
        self._generation = self._generation._replace(pair=Plain((state, population)))

    def recommended(self) -> Solution:
        """Returns the method's answer as NumPy arrays."""
        with self.precision():
            return jax.tree.map(np.asarray, _recommended(self.optimizer, self.state))

    @property
    def reasons(self) -> list[str]:
        """The names of the method's own reasons to stop that hold."""
        return self._report.reasons_that_hold()

    def clean(self, row: int) -> Solution:
        """Returns one candidate from the device, whatever was done to its copy."""
        if jax.tree.leaves(self._generation.solutions):
            return evaluator.writable_row(self._generation.solutions, row)
        return self.solution(row)


def fetched(tree: PyTree) -> PyTree:
    """Returns a tree with its JAX arrays as NumPy arrays.

    A pickled JAX array of float64 comes back as float32 where that is the default.
    """
    return jax.tree.map(
        lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree
    )


def _unstacked(stacked: PyTree, count: int) -> list[Solution]:
    """Copies stacked solutions out and returns a view for each row."""
    leaves, structure = jax.tree.flatten(stacked)
    columns = [list(np.array(leaf)) for leaf in leaves]
    if len(columns) == 1 and jax.tree_util.treedef_is_leaf(structure):
        return columns[0]
    return [
        jax.tree.unflatten(structure, [column[row] for column in columns])
        for row in range(count)
    ]
