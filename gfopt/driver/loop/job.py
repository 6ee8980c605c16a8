"""What a run searches and how: from it follow the path and the engine."""

from __future__ import annotations

from typing import NamedTuple

import jax

from gfopt import checks
from gfopt.core.evaluate import Evaluator
from gfopt.core.host.evaluator import HostEvaluator, host
from gfopt.core.objective import Inputs, Objective
from gfopt.core.processes import Processes
from gfopt.driver.engine.asynchronous import AsynchronousEngine
from gfopt.driver.engine.compiled import CompiledEngine
from gfopt.driver.engine.engine import Engine
from gfopt.driver.engine.hosted import HostEngine
from gfopt.driver.loop.batches import Batches
from gfopt.driver.loop.checkpoint import Checkpoint
from gfopt.driver.loop.path import choose_path, closed, saved_path
from gfopt.driver.loop.probe import Probe
from gfopt.driver.setup.setup import Setup
from gfopt.types import PyTree


class Job(NamedTuple):
    """One search.

    Attributes:
        setup: method, starting solution and precision.
        objective: what is minimised.
        evaluator: what was asked for, or None.
        inputs: frozen leaves and arguments.
        processes: that make it.
        seed: of the run.
        batches: the data of each step.
        is_asynchronous: whether workers don't wait for one another.
    """

    setup: Setup
    objective: Objective
    evaluator: Evaluator | HostEvaluator | None
    inputs: Inputs
    processes: Processes
    seed: int
    batches: Batches
    is_asynchronous: bool = False

    def closed(self) -> Job:
        """Returns it with arguments that are not arrays moved into the function."""
        objective, inputs = closed(self.objective, self.inputs)
        return self._replace(objective=objective, inputs=inputs)

    def first_batch(self) -> PyTree:
        """Returns the data of the first step.

        Raises:
            ValueError: there is none.
        """
        with jax.enable_x64(self.setup.x64):
            try:
                return self.batches.at(0)
            except StopIteration:
                raise ValueError(
                    "batches must hold at least one batch; got none"
                ) from None

    def path(self, saved: Checkpoint | None, with_fitness: bool) -> Probe:
        """Finds out which path runs: a run that goes on stays on its own.

        Args:
            saved: the file of the run, or None.
            with_fitness: also evaluate the start where the objective is traceable.
        """
        objective, evaluator = self.objective, self.evaluator
        if saved is not None and saved.snapshot is not None:
            with checks.whole_file("checkpoint", saved.path):
                return saved_path(saved.snapshot.meta, objective, evaluator)
        is_host = isinstance(evaluator, HostEvaluator)
        batch = None if is_host else self.first_batch()
        inputs = self.inputs._replace(batch=batch, context=objective.context)
        x0, seed = self.setup.x0, self.seed
        with jax.enable_x64(self.setup.x64):
            return choose_path(
                objective, x0, evaluator, inputs, seed, with_fitness=with_fitness
            )

    def engine(
        self, path: Probe, first: float, keeps_x: bool, saved: Checkpoint | None
    ) -> Engine:
        """Returns the engine of a path.

        Args:
            path: what was found out.
            first: fitness of the starting solution, infinity if it is not known.
            keeps_x: whether the best solution is kept.
            saved: the file of the run, or None.
        """
        setup, objective, inputs = self.setup, self.objective, self.inputs
        evaluator = self.evaluator
        if path.traceable and not isinstance(evaluator, HostEvaluator):
            return CompiledEngine(
                setup,
                objective,
                inputs,
                evaluator,
                self.processes,
                self.seed,
                first,
                keeps_x,
            )
        kind = AsynchronousEngine if self.is_asynchronous else HostEngine
        return kind(
            setup._replace(optimizer=setup.hosted),
            objective,
            inputs,
            evaluator if isinstance(evaluator, HostEvaluator) else host(),
            self.seed,
            first,
            keeps_x,
            {} if saved is None else saved.known,
            None if saved is None else saved.write,
        )
