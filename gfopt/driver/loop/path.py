"""Which way a search goes: compiled, or with calls of Python."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np

from gfopt import checks
from gfopt.core.evaluate import Evaluator
from gfopt.core.host.evaluator import HostEvaluator
from gfopt.core.objective import Inputs, Objective
from gfopt.driver.loop.probe import Probe, fitness_of, probe
from gfopt.driver.step import keys_of_step
from gfopt.driver.storage.records import JSON
from gfopt.types import Solution


def choose_path(
    objective: Objective,
    x0: Solution,
    evaluator: Evaluator | HostEvaluator | None,
    inputs: Inputs,
    seed: int,
    *,
    with_fitness: bool,
) -> Probe:
    """Decides between the paths of a new search.

    Args:
        objective: what is minimised.
        x0: the starting solution in the precision of the search.
        evaluator: what was asked for, or None.
        inputs: what the objective needs beside the solution.
        seed: of the run.
        with_fitness: also evaluate ``x0`` where the objective is said to be traceable.

    Raises:
        ValueError: where the evaluator is for the other path.
    """
    if isinstance(evaluator, HostEvaluator):
        return Probe(False, "workers or a host evaluator were asked for", None)
    key = keys_of_step(seed, 0).evaluate if objective.takes_key else None
    path = probe(objective, x0, key, inputs)
    if path.traceable and path.fitness is None and with_fitness:
        path = path._replace(fitness=fitness_of(objective, x0, key, inputs))
    return _fitting(path, evaluator)


def saved_path(
    meta: JSON,
    objective: Objective,
    evaluator: Evaluator | HostEvaluator | None,
) -> Probe:
    """Returns the path of a run that goes on: it stays on its own.

    Raises:
        ValueError: where the evaluator is for the other path.
    """
    traceable, first = meta["path"] == "compiled", meta["first"]
    fitness = None if first is None else objective.sense.fitness(first)
    if traceable and isinstance(evaluator, HostEvaluator):
        raise ValueError(
            "workers and evaluator must not ask for Python calls where the checkpoint "
            "is of a compiled run, whose values differ in the last bits; "
            f"got {checks.shown(evaluator)}"
        )
    return _fitting(Probe(traceable, meta["reason"], fitness), evaluator)


def _fitting(path: Probe, evaluator: Evaluator | HostEvaluator | None) -> Probe:
    """Returns a path that an evaluator can take."""
    is_compiled = evaluator is not None and not isinstance(evaluator, HostEvaluator)
    if is_compiled and not path.traceable:
        raise ValueError(
            "evaluator must be gfopt.host(...) for a function that JAX cannot "
            f"trace ({path.reason}); got {checks.shown(evaluator)}"
        )
    return path


def closed(objective: Objective, inputs: Inputs) -> tuple[Objective, Inputs]:
    """Moves arguments that are not arrays (a name, a function) into the function."""
    plain = (int, float, np.ndarray, np.generic, jax.Array)
    if all(isinstance(leaf, plain) for leaf in jax.tree.leaves(inputs.args)):
        return objective, inputs
    fun, args = objective.fun, inputs.args
    bound = replace(objective, fun=lambda *head, **words: fun(*head, *args, **words))
    return bound, inputs._replace(args=())
