"""The host's side of a run: one state, one open generation, what was seen so far."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import host_evaluator, trees
from gfopt.core.evaluate import DEFAULT_ELEMENTS, judged
from gfopt.driver.packing import Packed, pack
from gfopt.driver.step import seed_keys, step_keys, wrapped
from gfopt.protocol import as_method, at_tier
from gfopt.types import Evaluation, Optimizer, Population, PyTree, Solution, State


class _Opened(NamedTuple):
    """A generation: all of it in few buffers, and what is read at every turn."""

    packed: Packed  # (state, population)
    active: jax.Array
    solutions: PyTree  # stacked, or () where they are too large to decode at once


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["info", "reasons", "tier"],
    meta_fields=["info_names", "reason_names"],
)
@dataclass(frozen=True)
class _Told:
    """What a tell has to say: diagnostics, reasons to stop, the tier it asks for."""

    info: tuple[Any, ...]
    reasons: Any
    tier: Any = None
    info_names: tuple[str, ...] = ()
    reason_names: tuple[str, ...] = ()


@jax.jit
def _start(method: Packed, key_data: jax.Array, x0: Solution) -> _Opened:
    return _open(method, method.tree()[0].init(wrapped(key_data), x0))


@jax.jit
def _open(method: Packed, state: State) -> _Opened:
    """Asks for the generation that follows a state; decodes it if it is small."""
    optimizer, key_data = method.tree()
    keys = step_keys(wrapped(key_data), state.step)
    population = optimizer.ask(keys.ask, state)
    one = jax.eval_shape(optimizer.recommend, state)
    elements = population.active.shape[0] * trees.num_parameters(one)
    solutions: PyTree = ()
    if elements <= DEFAULT_ELEMENTS:
        solutions = host_evaluator.decode_stacked(optimizer, state, population.members)
    return _Opened(pack((state, population)), population.active, solutions)


@jax.jit
def _turn(
    method: Packed, current: Packed, fitness: jax.Array, aux: PyTree
) -> tuple[_Opened, _Told]:
    """Tells a generation, NaN for failures, and asks for the next in one dispatch."""
    optimizer, _ = method.tree()
    state, population = current.tree()
    evaluation = judged(fitness, population.active, aux)
    state, info = optimizer.tell(state, population, evaluation)
    named = info._asdict() if hasattr(info, "_asdict") else {}
    reasons = as_method(optimizer).stop(state)
    told = _Told(
        tuple(map(jnp.asarray, named.values())),  # a seed has no room in a float32
        jnp.array(list(reasons.values()), bool),
        as_method(optimizer).wanted_tier(state),
        tuple(named),
        tuple(reasons),
    )
    return _open(method, state), told


@jax.jit
def _tell_late(
    method: Packed, state: State, population: Population, evaluation: Evaluation
) -> State:
    return method.tree()[0].tell(state, population, evaluation)[0]


@jax.jit
def _inject(
    method: Packed, current: Packed, row: jax.Array, solution: Solution
) -> tuple[State, Population]:
    """Puts a solution into a row of the open generation."""
    state, population = current.tree()
    member = as_method(method.tree()[0]).encode(state, solution)
    members = jax.tree.map(
        lambda whole, leaf: whole.at[row].set(leaf), population.members, member
    )
    return state, population._replace(members=members)


@jax.jit
def recommend(optimizer: Optimizer, state: State) -> Solution:
    """Returns the method's answer, as one program."""
    return optimizer.recommend(state)


class Search:
    """A run whose evaluations happen outside of compiled programs.

    Args:
        optimizer: the method.
        x0: starting solution, already in the precision of the search.
        seed: of the run.
        x64: whether the programs run in double precision.
        state: continue from here instead of ``x0``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        x0: Solution,
        seed: int,
        x64: bool,
        state: State | None = None,
    ):
        self.optimizer = optimizer
        self.x64 = x64
        self.best_x = x0
        self.best_fitness = np.inf
        init_key, self._run_key = seed_keys(seed)
        self._method = pack((optimizer, self._run_key))
        self._told = _Told((), np.zeros(0, bool))
        with self.precision():
            if state is None:
                self._see(_start(self._method, init_key, x0))
            else:
                self._see(_open(self._method, state))
                found = as_method(optimizer).stop(state)
                holds = np.array([bool(value) for value in found.values()], bool)
                self._told = _Told((), holds, None, (), tuple(found))
            first = self.state
            self.dtype = host_evaluator.fitness_dtype(first)
        self.step = int(first.step)  # tells so far

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: NumPy arrays, which keep their precision."""
        return {name: fetched(value) for name, value in self.__dict__.items()}

    def precision(self) -> Any:
        """Returns the context in which this search's programs run."""
        return jax.enable_x64(self.x64)

    @property
    def tier(self) -> int:
        """The tier of the method's rows."""
        return as_method(self.optimizer).tier

    def move(self, tier: int) -> None:
        """Moves the method to another tier and asks for the open generation again."""
        with self.precision():
            self.optimizer, state = at_tier(self.optimizer, self.state, tier)
            self._method = pack((self.optimizer, self._run_key))
            self._see(_open(self._method, state))

    def _see(self, opened: _Opened) -> None:
        self._opened = opened
        self._asked_from: State | None = None  # where the state is not what was asked
        active = np.asarray(opened.active)
        self.rows = active.size  # of the open generation, active or not
        self.active_rows = np.flatnonzero(active)
        self._rows: list[Solution] | None = None

    @property
    def state(self) -> State:
        """The method's state; its small leaves are NumPy arrays."""
        return self._opened.packed.fetched()[0]

    @property
    def population(self) -> Population:
        """The open generation."""
        return self._opened.packed.fetched()[1]

    def solution(self, row: int) -> Solution:
        """Returns one candidate as NumPy arrays of its own."""
        if self._rows is None and jax.tree.leaves(self._opened.solutions):
            # one copy of all: the caller may write into it
            self._rows = _unstacked(self._opened.solutions, self.rows)
        if self._rows is not None:
            return self._rows[row]
        state = self.state if self._asked_from is None else self._asked_from
        with self.precision():
            one = host_evaluator.decode_one(
                self.optimizer, state, self.population.members, jnp.int32(row)
            )
        return jax.tree.map(np.array, one)

    def begins_at(self, x0: Solution) -> bool:
        """Tells whether the first candidate of the open generation is ``x0``."""
        first = self.solution(int(self.active_rows[0]))
        return jax.tree.all(jax.tree.map(np.array_equal, first, x0))

    def evaluation_keys(self) -> np.ndarray:
        """Returns the rows' key data ``uint32[P, 2]``."""
        keys = step_keys(wrapped(self._run_key), jnp.int32(self.step))
        return host_evaluator.row_keys(keys.evaluate, self.rows)

    def note(self, row: int, fitness: float, keep_x: bool = True) -> None:
        """Remembers a candidate of the open generation as the best so far."""
        self.best_fitness = fitness
        if keep_x:
            self.best_x = self.clean(row)

    def advance(self, fitness: np.ndarray, valid: np.ndarray, aux: PyTree = ()) -> None:
        """Tells the open generation and opens the next.

        Args:
            fitness: ``float64[P]``, lower is better.
            valid: ``bool[P]``.
            aux: ``[P, ...]`` or ``()``.
        """
        told = np.where(valid, fitness, np.nan).astype(self.dtype)
        with self.precision():
            opened, self._told = _turn(self._method, self._opened.packed, told, aux)
            self._see(opened)
            wanted = self._told.tier
            if wanted is not None and int(wanted) != self.tier:
                self.move(int(wanted))
        self.step += 1

    def tell_late(
        self, population: Population, fitness: np.ndarray, valid: np.ndarray
    ) -> None:
        """Tells rows of a generation that is closed; the open one stays open."""
        with self.precision():
            evaluation = judged(
                jnp.asarray(fitness, self.dtype), population.active, (), valid
            )
            if self._asked_from is None:
                self._asked_from = self.state  # what the open rows are decoded with
            # the counter is the open generation's: the same keys are asked again
            state = _tell_late(self._method, self.state, population, evaluation)
            state = state._replace(step=np.int32(self.step))
            packed = pack((jax.device_get(state), self.population))
            self._opened = self._opened._replace(packed=packed)

    def inject(self, row: int, solution: Solution) -> None:
        """Puts a solution into a row of the open generation, if need be shortened."""
        with self.precision():
            found = _inject(self._method, self._opened.packed, np.int32(row), solution)
            packed = pack(jax.device_get(found))
        self._opened = self._opened._replace(packed=packed)

    def recommended(self) -> Solution:
        """Returns the method's answer as NumPy arrays."""
        with self.precision():
            return jax.tree.map(np.asarray, recommend(self.optimizer, self.state))

    def stop_reasons(self) -> list[str]:
        """Returns the names of the method's own reasons to stop, if any hold."""
        told = self._told
        holds = np.asarray(told.reasons)
        if not holds.any():
            return []
        return [n for n, met in zip(told.reason_names, holds, strict=True) if met]

    def diagnostics(self) -> dict[str, np.ndarray]:
        """Returns the method's scalars of the last step, in their own precision."""
        values = jax.device_get(self._told.info)
        return dict(zip(self._told.info_names, values, strict=True))

    def clean(self, row: int) -> Solution:
        """Returns one candidate from the device, whatever was done to its copy."""
        if jax.tree.leaves(self._opened.solutions):
            return host_evaluator.writable_row(self._opened.solutions, row)
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
