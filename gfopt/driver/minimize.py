"""``minimize``: one call for any objective, on the fastest path that it allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gfopt import checks
from gfopt.core import trees
from gfopt.core.constraints import as_constraints, values_at
from gfopt.core.evaluate import Evaluator
from gfopt.core.host.evaluator import HostEvaluator, host
from gfopt.core.objective import Inputs, Objective, as_objective
from gfopt.core.processes import processes_of
from gfopt.driver.loop.batches import Batches
from gfopt.driver.loop.checkpoint import Checkpoint, configuration
from gfopt.driver.loop.finished import Ends, unstarted
from gfopt.driver.loop.job import Job
from gfopt.driver.loop.loop import Callback, Loop
from gfopt.driver.result.result import Result
from gfopt.driver.setup.any_order import asynchronous_setup
from gfopt.driver.setup.arguments import (
    as_callbacks,
    check_batches,
    check_evaluator,
    check_frozen,
    check_limits,
    check_seed,
)
from gfopt.driver.setup.method import against_noise
from gfopt.driver.setup.setup import Setup, setup
from gfopt.optimizers.wrappers.augmented_lagrangian import constrained
from gfopt.optimizers.wrappers.bounded import refuse_slopes
from gfopt.protocol import Optimizer
from gfopt.types import Key, PyTree

DEFAULT_BUDGET = 1000  # evaluations per number, where nothing limits the search
MOST_DEFAULT_BUDGET = 100_000


def minimize(
    fun: Callable[..., Any] | Objective,
    x0: PyTree,
    *,
    method: str | Optimizer = "auto",
    sigma0: PyTree = None,
    bounds: PyTree = None,
    budget: int | None = None,
    max_seconds: float | None = None,
    target: float | None = None,
    seed: int = 0,
    maximize: bool = False,
    noisy: bool = False,
    workers: object = None,
    asynchronous: bool = False,
    evaluator: Evaluator | HostEvaluator | None = None,
    options: Mapping[str, object] | None = None,
    args: tuple[PyTree, ...] = (),
    batches: Callable[[int, Key], PyTree] | Iterable[PyTree] | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: bool = False,
    frozen: PyTree = None,
    constraints: object = (),
) -> Result:
    """Minimises a function of which only values are known.

    A JAX function is compiled, many generations to a call; any other Python function
    is called with NumPy arrays, here or in worker processes. Which of the two runs is
    found out by tracing the function and calling it once; the result says why. The
    first evaluation is that of ``x0``, so that the result is never worse. An
    evaluation that raises, returns NaN or infinity, or does not return in time is a
    failed candidate with its reason in ``Result.failures``.

    Args:
        fun: the objective, called as ``fun(x, *args)``; a ``gfopt.Objective`` where
            more is to be said about it.
        x0: starting solution: numbers, an array, or any pytree of them. NumPy arrays
            and numbers are searched in double precision, JAX arrays in their own; for
            methods of token sequences a vector of token ids. The
            ``Result`` of a run continues from where it ended, with its scale. None for
            the middle of finite bounds that are domains or pairs.
        method: ``"auto"``, a name from ``gfopt list``, or an optimizer.
        sigma0: first standard deviation, a number or a tree like ``x0``; by default a
            fifth of finite bounds, else ``0.3 max(1, rms(x0))`` (or the default of a
            method for networks). It replaces the step size of an optimizer; one that
            is set there, or in ``options``, counts in fifths of finite bounds.
        bounds: ``(low, high)`` for each number, equal for one that is fixed; one such
            pair for all, domains such as ``gfopt.spaces.integer(0, 9)`` in the form of
            ``x0``, a ``scipy.optimize.Bounds`` or a ``gfopt.spaces.Space``; None for an
            open side.
        budget: evaluations at most; 1000 for each number, 100,000 at most, where
            neither ``budget`` nor ``max_seconds`` is given.
        max_seconds: wall time after which no more is begun.
        target: stop at the first value that is as good as this.
        seed: of all randomness; the same call gives the same result.
        maximize: look for the largest value; all values are reported as they are.
        noisy: values differ from call to call: measure the noise and spend as many
            evaluations on a step as it asks for (see ``Reevaluated``); the answer is
            then ``recommended``.
        workers: number of processes that call ``fun``; or an executor, a Dask
            ``Client``, a pool of processes, or the like.
        asynchronous: keep all workers busy: no generation is waited for, the method is
            told values as they come. For those that ``gfopt list`` marks so.
        evaluator: how a population is evaluated: ``vmapped()``, ``chunked(b)``,
            ``sharded()`` or ``host(...)``; by default chosen by size.
        options: fields of the method, such as ``{"population_size": 20}``.
        args: further arguments of ``fun``.
        batches: data of a generation, passed after ``x``: ``(step, key) -> batch`` or
            an iterable, which ends the search with its end.
        callbacks: called with a ``Result`` so far after each generation; True, or
            raising StopIteration, ends the search.
        checkpoint: file from which the same call resumes, even after a kill.
        log: file for the scalars of a zeroth-order run, see ``gfopt.replay``.
        progress: show a line on standard error.
        frozen: leaves that are not searched but merged into every solution; ``x0`` is
            then the other half, see ``gfopt.partition``.
        constraints: functions ``g(x)``, feasible where all their numbers are 0 or
            below, or SciPy's ``NonlinearConstraint`` and ``LinearConstraint``. ``x``
            and ``recommended`` are then the best feasible solution.

    Returns:
        A ``Result``. ``x, fun`` are the best that was evaluated; ``recommended`` is the
        method's own answer, better where values are noisy. Ctrl-C ends the search, not
        the program: it is a status of the result.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for a value out of range, or a checkpoint of another run.

    Example:
        >>> import gfopt
        >>> result = gfopt.minimize(lambda x: ((x - 1) ** 2).sum(), [0.0] * 3)
        >>> result.x.round(4), result.success, result.path
        (array([1., 1., 1.]), True, 'compiled')
    """
    check_seed(seed)
    flags = {"maximize": maximize, "noisy": noisy, "progress": progress}
    flags |= {"asynchronous": asynchronous}
    for name, flag in flags.items():
        checks.instance(name, flag, bool, "True or False")
    check_limits(budget, max_seconds, target)
    checks.instance("args", args, tuple, "a tuple of further arguments")
    listed = as_callbacks(callbacks)
    check_batches(batches)
    for name, path in (("checkpoint", checkpoint), ("log", log)):
        if path is not None:
            checks.instance(name, path, (str, os.PathLike), "a path")
    objective = as_objective(fun)
    if maximize:
        objective = replace(objective, maximize=True)
    if limits := as_constraints(constraints):
        objective = replace(objective, constraints=objective.constraints + limits)

    start = setup(
        method,
        x0,
        sigma0,
        bounds,
        options,
        allows_model=not (
            noisy or objective.constraints or objective.takes_key or batches is not None
        ),
        # restart only if the caller set a limit
        restarts=not (budget is None and max_seconds is None and target is None),
        any_order=asynchronous,
        budget=budget,
        batch_size=_num_at_once(evaluator, workers),
    )
    check_frozen(start.x0, frozen)
    if noisy:
        start = start.wrapped(against_noise)
    starts_feasible = True
    if objective.constraints:
        refuse_slopes(start.optimizer, "constraints", "method")
        try:
            values = _constraint_values(objective, start, frozen)
        except KeyboardInterrupt:
            return unstarted(start, "interrupted in a constraint", 0.0)
        starts_feasible = bool(np.all(values <= 0))
        start = start.wrapped(lambda inner: constrained(inner, values.size))
    if budget is None and max_seconds is None:
        size = trees.num_parameters(start.x0)
        budget = min(DEFAULT_BUDGET * size, MOST_DEFAULT_BUDGET)

    inputs = Inputs(frozen, args)
    processes = processes_of(evaluator, (inputs, objective.context))
    with ExitStack() as stack:
        caller = _evaluator(evaluator, workers, stack)
        if asynchronous:
            others = {"noisy": noisy, "batches": batches}
            start = asynchronous_setup(start, objective, caller, others)
        saved = None
        if checkpoint is not None:
            config = configuration(start, objective, seed, frozen, args, asynchronous)
            saved = processes.opened(
                Path(checkpoint), lambda path: Checkpoint(path, config), stack
            )
        logged = None
        if log is not None:
            # brings the methods that a log can be of, which most searches don't need
            from gfopt.driver.replay.log_writer import LogWriter

            logged = processes.opened(
                Path(log),
                lambda path: LogWriter(path, start.optimizer, start.x0),
                stack,
            )
        job = Job(
            start,
            objective,
            caller,
            inputs,
            processes,
            seed,
            Batches(batches, seed),
            asynchronous,
        )
        loop = Loop(job, saved, logged, starts_feasible)
        return loop.run(Ends(budget, max_seconds, target), listed, progress)


def _constraint_values(
    objective: Objective, start: Setup, frozen: PyTree
) -> np.ndarray:
    """Returns the values of the constraints at the start, ``float64[M]``."""
    x0 = start.x0 if frozen is None else trees.merge(start.x0, frozen)
    with jax.enable_x64(start.x64):
        return values_at(objective.constraints, x0, objective.batched)


def _num_at_once(evaluator: object, workers: Any) -> int:
    """Returns how many evaluations are made at once; 1 where it is not known."""
    number = getattr(evaluator, "workers", None) if workers is None else workers
    return number if type(number) is int and number > 0 else 1


def _evaluator(
    evaluator: Evaluator | HostEvaluator | None, workers: Any, stack: ExitStack
) -> Evaluator | HostEvaluator | None:
    """Returns the evaluator that was asked for; one that is made here is closed."""
    if evaluator is not None:
        check_evaluator(evaluator)
        if workers is not None:
            raise ValueError(
                "workers must be None where evaluator is given: pass "
                f"evaluator=gfopt.host(workers=...); got {checks.shown(workers)}"
            )
        return evaluator
    if workers is None:
        return None
    if hasattr(workers, "submit") or hasattr(workers, "apply_async"):
        return stack.enter_context(closing(host(workers)))
    checks.integer("workers", workers, 1)
    return stack.enter_context(closing(host(workers=workers)))
