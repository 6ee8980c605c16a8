"""Runs of any competitor, one candidate after the other, every value kept.

The objective counts (``Counted``), so that an optimizer of ours, SciPy's and a
company's own are measured in the same way: from the same starts, with the same budget,
to the same target.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from gfopt.core.objective import Objective
from gfopt.driver.engine.host_search import HostSearch
from gfopt.driver.minimize import minimize
from gfopt.driver.result.result import Result
from gfopt.problems import BBOBProblem, bbob
from gfopt.problems.problem import Problem
from gfopt.protocol import Optimizer
from gfopt.research.counted import Counted, Ended
from gfopt.research.finished_runs import Run, improvements
from gfopt.research.memory_use import RESIDENT, ResidentMemory
from gfopt.research.plan import Batch
from gfopt.research.statistics import TARGETS


def run_on_host(batch: Batch) -> Iterator[Run]:
    """Runs a batch on an own problem or on BBOB; yields each run when it is done."""
    for instance in batch.instances:
        yield run_one(batch, instance, problem_of(batch, instance))


def problem_of(batch: Batch, instance: int) -> Problem:
    """Returns what a run minimises."""
    if batch.given is not None:
        return batch.given.at(instance)
    drawn = bbob(batch.function, batch.dimension, instance)
    box, optimum = [(-5.0, 5.0)] * batch.dimension, float(drawn.f_opt)
    return Problem(lambda x: _value(drawn, x), bounds=box, optimum=optimum)


@jax.jit
def _value(problem: BBOBProblem, x: jax.Array) -> jax.Array:
    return problem(x)


def run_one(batch: Batch, instance: int, problem: Problem) -> Run:
    """Makes one run; in double precision, also of what JAX computes."""
    x0, seed = batch.start(instance)
    optimum = problem.optimum
    known = {} if optimum is None else {"optimum": optimum, "target": TARGETS[-1]}
    fun, truth = _Rounded(problem), problem.truth
    counted = Counted(fun, problem.box, batch.budget, truth=truth, **known)
    began, memory = time.perf_counter(), ResidentMemory()
    ending = Ending("returned")
    with jax.enable_x64(True), contextlib.suppress(Ended):
        ending = _solved(batch, problem, counted, x0, seed)
    values = np.asarray(counted.values)
    return Run(
        key=batch.key(instance),
        options=batch.options,
        evaluations=values.size,
        status=counted.status or ending.status,
        seconds=time.perf_counter() - began,
        compile_seconds=0.0,
        trajectory=improvements(np.arange(1, values.size + 1), values),
        tuning=batch.tuning,
        population_size=ending.population_size,
        optimum=optimum,
        failures=int(np.isnan(values).sum()),
        memory=memory.peak(),
        memory_kind=RESIDENT,
    )


class Ending(NamedTuple):
    """Why a run ended by itself, and how many rows its first step had."""

    status: str
    population_size: int | None = None


class _Rounded:
    """What is called: whole numbers are whole, and constraints are in the value."""

    def __init__(self, problem: Problem):
        self._problem = problem

    def __call__(self, x: np.ndarray) -> ArrayLike:
        problem = self._problem
        value = problem.fun if problem.constraints is None else problem.penalised
        return value(problem.rounded(x))


def _solved(
    batch: Batch, problem: Problem, fun: Counted, x0: np.ndarray, seed: int
) -> Ending:
    how = batch.competitor.how
    if batch.given is None and batch.optimizer is not None:
        return _search(batch.optimizer, fun, x0, seed)
    if isinstance(how, str | Optimizer):
        return _minimize(how, problem, fun, x0, batch.budget, seed)
    how(fun, x0, batch.budget, seed)
    return Ending("returned")


def _search(optimizer: Optimizer, fun: Counted, x0: np.ndarray, seed: int) -> Ending:
    """Runs a method as it is: the same run as the compiled one."""
    search = HostSearch(optimizer, x0, seed, x64=True)
    size, reasons = search.rows, ["stalled"]
    while search.active_rows.size:
        fitness = np.full(search.rows, np.inf)
        for row in search.active_rows:
            fitness[row] = fun(search.solution(int(row)))
            if fun.status:
                return Ending(fun.status, size)
        search.tell(fitness)
        reasons = search.reasons
        if reasons:
            break
    return Ending(min(reasons, default="stalled"), size)


def _minimize(
    method: str | Optimizer,
    problem: Problem,
    fun: Counted,
    x0: np.ndarray,
    budget: int,
    seed: int,
) -> Ending:
    """Runs a method as people call it: within the bounds, at its defaults."""

    def unpenalised(x: np.ndarray) -> ArrayLike:
        fun(x)
        return problem.fun(problem.rounded(x))

    limits = problem.constraints
    result = minimize(
        Objective(fun if limits is None else unpenalised, traceable=False),
        problem.rounded(x0),
        method=method,
        bounds=problem.domains,
        budget=budget,
        target=fun.target if limits is None else None,
        seed=seed,
        constraints=() if limits is None else limits,
        noisy=problem.truth is not None,
    )
    return Ending(result.status.name.lower(), rows_of(result))


def rows_of(result: Result) -> int:
    """Returns how many candidates the first full step of a search had."""
    counts = result.history["nfev"]
    return int(counts[1] - counts[0] if len(counts) > 1 else counts[0])
