"""The programs of a host search: start, open, tell; in NumPy first, compiled later.

Compiling a method takes seconds, and a step of it in NumPy a millisecond. So a search
begins in NumPy, and goes on in compiled programs after ``HAND_OVER`` steps with one
number of rows; these are compiled in a thread, from ``AHEAD`` steps before. Both are
rules of the number of steps, never of the clock: the same call gives the same result.

Compiled from the start are programs that NumPy can't run (``UnknownEquation``), and
methods whose members are seeds: what a seed decodes to must be the same to the last bit
wherever that is done, and NumPy's normals are not the compiler's in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef

from gfopt import registry
from gfopt.core import trees
from gfopt.core.evaluate import DEFAULT_ELEMENTS, decode_rows, judged
from gfopt.core.numpy_programs.program import NumpyProgram
from gfopt.core.numpy_programs.rule import UnknownEquation
from gfopt.driver.engine.packing import Packed, pack
from gfopt.driver.step import step_keys, wrapped
from gfopt.protocol import Optimizer, as_method, diagnostics
from gfopt.pytree import pytree, static
from gfopt.types import Population, PyTree, Solution, State

# where a compiled step has saved what compiling costs: .2 to .3 ms of 3 to 6 s
HAND_OVER = 20_000
AHEAD = 10_000  # steps before it at which a thread begins to compile


@pytree
class StepReport:
    """What a step reports: diagnostics, reasons to stop, the tier that it asks for."""

    info: tuple[jax.Array, ...] = ()
    reasons: jax.Array | tuple[()] = ()
    tier: jax.Array | None = None
    info_names: tuple[str, ...] = static(default=())
    reason_names: tuple[str, ...] = static(default=())

    def reasons_that_hold(self) -> list[str]:
        """Returns the names of the reasons to stop that hold."""
        named = zip(self.reason_names, np.asarray(self.reasons), strict=True)
        return [name for name, holds in named if holds]


class Plain(NamedTuple):
    """State and population as they are; ``Packed`` is the other form of a pair."""

    pair: tuple[State, Population]

    def fetched(self) -> tuple[State, Population]:
        """Returns ``(state, population)``."""
        return self.pair


class OpenGeneration(NamedTuple):
    """A generation that waits for its values.

    Attributes:
        pair: holds ``(state, population)``.
        active: ``bool[P]``.
        solutions: stacked, or ``()`` where they are too large to decode at once.
    """

    pair: Packed | Plain
    active: jax.Array
    solutions: PyTree


# -- what is run, once as NumPy and once compiled


def _init(optimizer: Optimizer, key_data: jax.Array, x0: Solution) -> State:
    return optimizer.init(wrapped(key_data), x0)


def _ask(
    optimizer: Optimizer, key_data: jax.Array, state: State
) -> tuple[Population, PyTree]:
    """Asks for the generation that follows a state; decodes it if it is small."""
    population = optimizer.ask(step_keys(wrapped(key_data), state.step).ask, state)
    one = jax.eval_shape(optimizer.recommend, state)
    elements = population.active.shape[0] * trees.num_parameters(one)
    if elements > DEFAULT_ELEMENTS:
        return population, ()
    return population, decode_rows(optimizer, state, population.members)


def _tell(
    optimizer: Optimizer,
    state: State,
    population: Population,
    fitness: jax.Array,
    aux: PyTree,
) -> tuple[State, StepReport]:
    """Tells a generation; a fitness that is not finite is a failure."""
    evaluation = judged(fitness, population.active, aux)
    state, info = optimizer.tell(state, population, evaluation)
    return state, report_of(optimizer, state, diagnostics(info))


def report_of(
    optimizer: Optimizer, state: State, info: dict[str, jax.Array]
) -> StepReport:
    """Returns the report of a step."""
    method = as_method(optimizer)
    reasons = method.stop(state)
    return StepReport(
        tuple(map(jnp.asarray, info.values())),  # a seed has no room in a float32
        jnp.array(list(reasons.values()), bool),
        method.wanted_tier(state),
        tuple(info),
        tuple(reasons),
    )


class NumpyTurns:
    """Turns of a method whose programs NumPy can run.

    Args:
        optimizer: the method.
        run_key: key data of the run, ``uint32[2]``.

    Raises:
        UnknownEquation: by the first call, where the programs must be compiled.
    """

    def __init__(self, optimizer: Optimizer, run_key: np.ndarray):
        self._optimizer, self._run_key = optimizer, run_key
        self._asking: NumpyProgram | None = None
        self._telling: dict[PyTreeDef, NumpyProgram] = {}

    def start(self, init_key: np.ndarray, x0: Solution) -> OpenGeneration:
        """Returns the first generation."""
        args = self._optimizer, init_key, x0
        return self.open(NumpyProgram(_init, *args)(*args))

    def open(self, state: State) -> OpenGeneration:
        """Returns the generation that follows a state."""
        if self._asking is None:
            args = self._optimizer, self._run_key, state
            self._asking = NumpyProgram(_ask, *args)
        population, solutions = self._asking(self._optimizer, self._run_key, state)
        return OpenGeneration(Plain((state, population)), population.active, solutions)

    def tell(
        self, generation: OpenGeneration, fitness: np.ndarray, aux: PyTree
    ) -> tuple[OpenGeneration, StepReport]:
        """Returns the next generation, and the report of this one."""
        state, population = generation.pair.fetched()
        kind = jax.tree.structure(aux)
        if kind not in self._telling:
            args = self._optimizer, state, population, fitness, aux
            self._telling[kind] = NumpyProgram(_tell, *args)
        program = self._telling[kind]
        state, report = program(self._optimizer, state, population, fitness, aux)
        return self.open(state), report


# -- compiled


@jax.jit
def _start(method: Packed, init_key: jax.Array, x0: Solution) -> OpenGeneration:
    return _open(method, _init(method.tree()[0], init_key, x0))


@jax.jit
def _open(method: Packed, state: State) -> OpenGeneration:
    optimizer, run_key = method.tree()
    population, solutions = _ask(optimizer, run_key, state)
    return OpenGeneration(pack((state, population)), population.active, solutions)


@jax.jit
def _turn(
    method: Packed, pair: Packed, fitness: jax.Array, aux: PyTree
) -> tuple[OpenGeneration, StepReport]:
    """Tells a generation and asks for the next in one dispatch."""
    state, population = pair.tree()
    state, report = _tell(method.tree()[0], state, population, fitness, aux)
    return _open(method, state), report


class CompiledTurns:
    """Turns in compiled programs; the arguments are those of ``NumpyTurns``."""

    def __init__(self, optimizer: Optimizer, run_key: np.ndarray):
        self._method = pack((optimizer, run_key))
        self._ahead: dict[
            PyTreeDef, Future[Callable[..., tuple[OpenGeneration, StepReport]]]
        ] = {}

    def start(self, init_key: np.ndarray, x0: Solution) -> OpenGeneration:
        """Returns the first generation."""
        return _start(self._method, init_key, x0)

    def open(self, state: State) -> OpenGeneration:
        """Returns the generation that follows a state."""
        return _open(self._method, state)

    def compile_ahead(
        self, generation: OpenGeneration, fitness: np.ndarray, aux: PyTree
    ) -> None:
        """Begins to compile the program of a turn, in a thread, unless it has begun."""
        kind = jax.tree.structure(aux)
        if kind not in self._ahead:
            pair = pack(generation.pair.fetched())
            lowered = _turn.lower(self._method, pair, fitness, aux)
            pool = ThreadPoolExecutor(1, "gfopt-compile")
            self._ahead[kind] = pool.submit(lowered.compile)
            pool.shutdown(wait=False)

    def tell(
        self, generation: OpenGeneration, fitness: np.ndarray, aux: PyTree
    ) -> tuple[OpenGeneration, StepReport]:
        """Returns the next generation, and the report of this one."""
        pair = generation.pair
        if isinstance(pair, Plain):
            pair = pack(pair.fetched())
        ahead = self._ahead.get(jax.tree.structure(aux))
        turn = _turn if ahead is None else ahead.result()
        return turn(self._method, pair, fitness, aux)


class Turns:
    """Turns in NumPy while they are few, then compiled ones.

    Args:
        optimizer: the method, at one tier.
        run_key: key data of the run, ``uint32[2]``.

    Attributes:
        count: how many turns the search has made so far with this number of rows.
    """

    def __init__(self, optimizer: Optimizer, run_key: np.ndarray):
        self.count = 0
        row = registry.row_of(optimizer)
        is_seeds = row is not None and "seeds" in row.flags
        self._numpy = None if is_seeds else NumpyTurns(optimizer, run_key)
        self._compiled = CompiledTurns(optimizer, run_key)

    def start(self, init_key: np.ndarray, x0: Solution) -> OpenGeneration:
        """Returns the first generation."""
        return self._run("start", init_key, x0)

    def open(self, state: State) -> OpenGeneration:
        """Returns the generation that follows a state."""
        if self.count > HAND_OVER:
            self._numpy = None
        return self._run("open", state)

    def tell(
        self, generation: OpenGeneration, fitness: np.ndarray, aux: PyTree
    ) -> tuple[OpenGeneration, StepReport]:
        """Returns the next generation, and the report of this one."""
        if self.count >= HAND_OVER:
            self._numpy = None
        elif self._numpy is not None and self.count >= HAND_OVER - AHEAD:
            self._compiled.compile_ahead(generation, fitness, aux)
        self.count += 1
        return self._run("tell", generation, fitness, aux)

    def _run(self, name: str, *args: PyTree) -> PyTree:
        if self._numpy is not None:
            try:
                return getattr(self._numpy, name)(*args)
            except UnknownEquation:
                self._numpy = None
        return getattr(self._compiled, name)(*args)
