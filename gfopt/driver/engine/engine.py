"""What the loop of ``minimize`` asks of a search, compiled or calling Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import numpy as np

from gfopt.core.host.failures import Failures
from gfopt.driver.progress.interrupt import Interrupt
from gfopt.driver.result.history import Columns
from gfopt.protocol import Optimizer
from gfopt.types import PyTree, Solution, State


class Carry(NamedTuple):
    """What goes on from call to call, and into a snapshot.

    Attributes:
        state: the method's state.
        context: the objective's context.
        best_fitness: the best so far, lower is better.
        best_x: its solution, or ``()`` where it is too large to copy.
        num_barren: evaluations in the generations since the last valid one.
    """

    state: State
    context: PyTree
    best_fitness: jax.Array | np.ndarray
    best_x: Solution
    num_barren: jax.Array | np.ndarray


class Limits(NamedTuple):
    """Where a call of ``advance`` stops.

    Attributes:
        generations: how many it may run, infinity for as many as it likes.
        evaluations: how many it may make.
        target: the fitness that is good enough, -infinity for none.
        deadline: the time of ``time.monotonic`` at which it ends, or infinity.
        barren: evaluations without a valid one after which to give up.
    """

    generations: float
    evaluations: float
    target: float
    deadline: float
    barren: int


class Engine(Protocol):
    """A search that can be advanced, saved and restored.

    Attributes:
        path: ``"compiled"`` or ``"host"``.
        optimizer: the method, at the number of rows that it asked for.
        failures: failed evaluations by reason.
        is_open: whether a limit cut the last generation short.
    """

    path: str
    optimizer: Optimizer
    failures: Failures
    is_open: bool

    @property
    def in_flight(self) -> int:
        """Evaluations that are under way, or done and not yet told."""

    @property
    def size(self) -> int:
        """Evaluations of the next generation."""

    @property
    def best_fitness(self) -> float:
        """The best so far, lower is better; infinity if nothing was valid."""

    @property
    def num_barren(self) -> int:
        """Evaluations in the generations since the last valid one."""

    @property
    def reasons(self) -> list[str]:
        """The names of the method's own reasons to stop that hold."""

    @property
    def carry(self) -> Carry:
        """All that goes on, as it is now; a later call may overwrite its arrays."""

    @property
    def counts(self) -> Mapping[int, int]:
        """How many turns each tier has made, where results depend on that."""

    def begin(self, batch: PyTree, interrupt: Interrupt) -> float | None:
        """Evaluates the starting solution where no other evaluation does.

        Returns:
            Its fitness, infinite where it failed; None where it was not evaluated.
        """

    def advance(self, limits: Limits, batch: PyTree, interrupt: Interrupt) -> Columns:
        """Runs generations until a limit is met, at least one evaluation.

        Returns:
            Their records as columns: ``fitness``, ``num_evaluations``, ``num_valid``
            and the method's diagnostics.
        """

    def close(self) -> None:
        """Gives up what is under way."""

    def rounded(self, target: float) -> float:
        """Returns a target in the precision in which fitness is compared."""

    def recommended(self) -> Solution:
        """Returns the method's answer as NumPy arrays."""

    def move(self, tier: int) -> None:
        """Moves the method to another tier of rows."""

    def restore(
        self, carry: Carry, counts: Mapping[int, int], history: Columns
    ) -> None:
        """Goes on from a snapshot.

        Args:
            carry: as it was saved.
            counts: as they were saved.
            history: columns of the generations so far.
        """


def reasons_that_hold(reasons: Mapping[str, jax.Array]) -> list[str]:
    """Returns the names of the reasons to stop that are true."""
    return [name for name, holds in reasons.items() if bool(holds)]
