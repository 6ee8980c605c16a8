"""The host's side of a run: one state, one open generation, what was seen so far."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core import host_evaluator
from gfopt.core.evaluate import DEFAULT_ELEMENTS, judged
from gfopt.driver.step import step_keys
from gfopt.optimizers.bounded import stop_reasons
from gfopt.types import Optimizer, Population, PyTree, Solution, State


@jax.jit
def _start(optimizer: Optimizer, key_data: jax.Array, x0: Solution) -> State:
    return optimizer.init(run_keys(key_data)[0], x0)


@jax.jit
def _open(optimizer: Optimizer, key_data: jax.Array, state: State) -> Population:
    keys = step_keys(run_keys(key_data)[1], state.step)
    return optimizer.ask(keys.ask, state)


@partial(jax.jit, static_argnames="stacked")
def _turn(
    optimizer: Optimizer,
    key_data: jax.Array,
    state: State,
    population: Population,
    told: tuple[jax.Array, jax.Array, PyTree],
    stacked: bool,
) -> tuple[State, PyTree, Population, PyTree]:
    """Tells a generation and asks for the next: one program, one dispatch."""
    fitness, valid, aux = told
    evaluation = judged(fitness, population.active, aux, valid)
    state, info = optimizer.tell(state, population, evaluation)
    population = _open(optimizer, key_data, state)
    solutions = ()
    if stacked:
        solutions = host_evaluator.decode_stacked(optimizer, state, population.members)
    return state, (info, stop_reasons(optimizer, state)), population, solutions


@jax.jit
def _recommend(optimizer: Optimizer, state: State) -> Solution:
    return optimizer.recommend(state)


def run_keys(key_data: jax.Array) -> jax.Array:
    """Returns the keys of ``init`` and of the steps, as ``run`` splits them."""
    return jax.random.split(jax.random.wrap_key_data(key_data, impl="threefry2x32"))


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
        # the words of jax.random.key(seed)
        self.key_data = np.asarray([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
        self.best_x = x0
        self.best_fitness = np.inf
        self.info: PyTree = None
        self.reasons: dict[str, Any] = {}
        with self.precision():
            self.state = (
                _start(optimizer, self.key_data, x0) if state is None else state
            )
            self.population = _open(optimizer, self.key_data, self.state)
            self.size = self.population.active.shape[0]
            elements = self.size * sum(np.size(leaf) for leaf in jax.tree.leaves(x0))
            self.stacked = elements <= DEFAULT_ELEMENTS
            self.dtype = host_evaluator.fitness_dtype(self.state)
            self._solutions: PyTree = ()
            if self.stacked:
                self._solutions = host_evaluator.decode_stacked(
                    optimizer, self.state, self.population.members
                )

    def precision(self) -> Any:
        """Returns the context in which this search's programs run."""
        return jax.enable_x64(self.x64)

    @property
    def step(self) -> int:
        """Tells so far."""
        return int(self.state.step)

    @property
    def active_rows(self) -> np.ndarray:
        """The numbers of the rows that are to be evaluated."""
        return np.flatnonzero(np.asarray(self.population.active))

    def solution(self, row: int) -> Solution:
        """Returns a NumPy copy of one candidate; the caller may write into it."""
        if self.stacked:
            return host_evaluator.writable_row(self._solutions, row)
        with self.precision():
            one = host_evaluator.decode_one(
                self.optimizer, self.state, self.population.members, jnp.int32(row)
            )
        return jax.tree.map(np.array, one)

    def evaluation_keys(self) -> np.ndarray:
        """Returns the rows' key data ``uint32[P, 2]``."""
        keys = step_keys(run_keys(self.key_data)[1], self.state.step)
        return host_evaluator.row_keys(keys.evaluate, self.size)

    def advance(self, fitness: np.ndarray, valid: np.ndarray, aux: PyTree = ()) -> None:
        """Tells the open generation and opens the next.

        Args:
            fitness: ``float64[P]``, lower is better.
            valid: ``bool[P]``.
            aux: ``[P, ...]`` or ``()``.
        """
        if valid.any():
            row = int(np.argmin(np.where(valid, fitness, np.inf)))
            if fitness[row] < self.best_fitness:
                self.best_fitness = float(fitness[row])
                self.best_x = self.solution(row)
        told = (fitness.astype(self.dtype), valid, aux)
        with self.precision():
            self.state, (self.info, self.reasons), self.population, self._solutions = (
                _turn(
                    self.optimizer,
                    self.key_data,
                    self.state,
                    self.population,
                    told,
                    self.stacked,
                )
            )

    def tell_late(
        self, population: Population, fitness: np.ndarray, valid: np.ndarray
    ) -> None:
        """Tells rows of a generation that is closed; the open one stays open."""
        with self.precision():
            evaluation = judged(
                jnp.asarray(fitness, self.dtype), population.active, (), valid
            )
            self.state, self.info = self.optimizer.tell(
                self.state, population, evaluation
            )

    def recommended(self) -> Solution:
        """Returns the method's answer as NumPy arrays."""
        with self.precision():
            return jax.tree.map(np.asarray, _recommend(self.optimizer, self.state))

    def stop_reasons(self) -> list[str]:
        """Returns the names of the method's own reasons to stop, if any hold."""
        return [name for name, holds in self.reasons.items() if bool(holds)]

    def diagnostics(self) -> dict[str, float]:
        """Returns the method's scalars of the last step."""
        return diagnostics(self.info)


def diagnostics(info: PyTree) -> dict[str, float]:
    """Returns the fields of an ``Info`` as numbers."""
    fields = info._asdict() if hasattr(info, "_asdict") else {}
    return {name: float(value) for name, value in fields.items()}
