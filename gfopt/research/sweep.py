"""Ablations: a grid or a random design over settings, with paired seeds.

Settings that are numbers are an axis of one compiled program, as seeds are: all runs of
a static configuration (a population size, say) are compiled once, however many values
and seeds there are. Letters: `N` problems, `C` settings, `S` seeds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt import checks, registry
from gfopt.core.objective import Objective
from gfopt.driver.run import run
from gfopt.driver.setup.setup import setup
from gfopt.driver.step import population_size
from gfopt.problems.problem import Problem, as_problems
from gfopt.protocol import Optimizer
from gfopt.research.kept_sweep import KeptSweep
from gfopt.research.sweep_design import Grid, design
from gfopt.research.sweep_result import SweepResult
from gfopt.types import Key

CHUNK = 256  # runs of a program at a time, which keeps them in the processor's cache


def sweep(
    methods: str | Iterable[str],
    problems: object,
    grid: Grid,
    *,
    budget: int = 1000,
    seeds: int = 20,
    seed: int = 0,
    random: int | None = None,
    out: str | os.PathLike[str] | None = None,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> SweepResult:
    """Runs a method with every setting of a design, on every problem, with every seed.

    A run is ``gfopt.run`` for as many generations as the budget pays for, within the
    bounds of the problem, in double precision. Runs of one seed share their start and
    their key, whatever the settings: differences are paired.

    Args:
        methods: a registered name, or several: ``"method"`` is then a setting.
        problems: JAX functions with a start or bounds; see ``gfopt.problems.Problem``.
        grid: for each field of the method its values; ``"budget"`` is one, too. For a
            random design, functions of a NumPy generator may stand in place of lists.
        budget: evaluations of a run, where the grid does not say.
        seeds: of each setting, ``S``.
        seed: of all of them, and of a random design.
        random: so many settings, each field drawn by itself, instead of all
            combinations.
        out: directory where runs are kept as they come, from which the same call, or
            one of a larger design, goes on. What a run is found by is its problem's
            name, its settings, budget and seeds.
        on_progress: called as ``(done, total)`` runs on a problem, after each chunk.

    Raises:
        TypeError: for an argument of the wrong type, or a function that JAX cannot
            trace.
        OSError: where ``out`` cannot be written.
        ValueError: for an unknown field, or a budget below one generation.

    Example:
        >>> import gfopt
        >>> problem = gfopt.problems.Problem(
        ...     lambda x: jnp.sum((x - 1) ** 2), bounds=[(-5, 5)] * 3)
        >>> grid = {"sigma": [0.1, 1.0], "population_size": [6, 12]}
        >>> result = sweep("cma_es", problem, grid, budget=240, seeds=10)
        >>> result.values.shape, result.compilations
        ((1, 4, 10), 2)
        >>> result.settings[result.best]
        {'sigma': 1.0, 'population_size': 6}
    """
    for name, value in (("budget", budget), ("seeds", seeds)):
        checks.integer(name, value, 1)
    checks.integer("seed", seed, 0)
    listed = [methods] if isinstance(methods, str) else list(methods)
    for method in listed:
        registry.known_method(method, argument="methods")
    settings = [
        ({"method": method} if len(listed) > 1 else {}) | chosen
        for method in listed
        for chosen in design(grid, random, seed)
    ]
    for setting in settings:
        checks.integer("grid['budget']", setting.get("budget", budget), 1)
    tasks = as_problems(problems)
    values = np.full((len(tasks), len(settings), seeds), np.nan)
    evaluations = np.zeros(len(settings), int)
    compilations = 0
    finished = 0

    def counted(runs: int) -> None:
        nonlocal finished
        finished += runs
        on_progress(finished, values.size)

    with KeptSweep(out, seed) as kept, jax.enable_x64(True):
        for row, problem in enumerate(tasks):
            rngs = [np.random.default_rng((seed, s)) for s in range(seeds)]
            starts = np.stack([problem.start(rng) for rng in rngs])
            cells = [
                _cell(
                    {"method": listed[0], "budget": budget} | setting, problem, starts
                )
                for setting in settings
            ]
            for places in _groups([cell.optimizer for cell in cells]):
                group = [cells[place] for place in places]
                best, count, is_new = _runs(group, problem, starts, seed, kept, counted)
                values[row, places], evaluations[places] = best, count
                compilations += is_new
    names = [problem.name for problem in tasks]
    return SweepResult(names, settings, values, evaluations, compilations)


class _Cell(NamedTuple):
    """A setting on a problem: what is run, for how long, and what it is kept as."""

    optimizer: Optimizer
    budget: int
    setting: dict[str, object]


def _cell(setting: dict[str, object], problem: Problem, starts: np.ndarray) -> _Cell:
    options = dict(setting)
    method, budget = str(options.pop("method")), options.pop("budget")
    made = setup(method, starts[0], None, problem.box, options).optimizer
    return _Cell(made, int(budget), setting)  # type: ignore[call-overload]


def _groups(optimizers: Sequence[Optimizer]) -> list[list[int]]:
    """Returns the places of optimizers that share a program."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, optimizer in enumerate(optimizers):
        leaves, structure = jax.tree.flatten(optimizer)
        groups.setdefault((structure, *map(np.shape, leaves)), []).append(place)
    return list(groups.values())


def _runs(
    group: Sequence[_Cell],
    problem: Problem,
    starts: np.ndarray,
    seed: int,
    kept: KeptSweep,
    counted: Callable[[int], object],
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns the best values ``[C, S]``, the evaluations ``[C]``, whether it ran."""
    first = jax.eval_shape(group[0].optimizer.init, jax.random.key(0), starts[0])
    size = population_size(group[0].optimizer, first)
    for cell in group:
        if cell.budget < size:
            raise ValueError(
                f"budget must pay for one generation, {size} evaluations; got "
                f"{cell.budget}"
            )
    # settings that differ in their budgets alone are one run, looked at twice
    leaves = [jax.tree.leaves(cell.optimizer) for cell in group]
    distinct = {tuple(np.asarray(x).tobytes() for x in row): row for row in leaves}
    order = {name: number for number, name in enumerate(distinct)}
    row_of = [order[tuple(np.asarray(x).tobytes() for x in row)] for row in leaves]
    lengths = sorted({cell.budget // size for cell in group})
    length_of = [lengths.index(cell.budget // size) for cell in group]
    seeds = len(starts)
    values, is_there = kept.read(problem, [cell.setting for cell in group], seeds)
    # every setting with every seed, setting by setting; one is done if all looks are
    needed = np.zeros((len(distinct), seeds), bool)
    for place, row in enumerate(row_of):
        needed[row] |= ~is_there[place]
    left = np.flatnonzero(needed)
    counted(int(is_there.sum()))
    # chunks of one size: in a chunk of another a run may have other last bits
    chunk = min(CHUNK, needed.size)
    columns = [np.stack(column) for column in zip(*distinct.values(), strict=True)]
    structure = jax.tree.structure(group[0].optimizer)
    for begin in range(0, left.size, chunk):
        began = time.perf_counter()
        some = left[begin : begin + chunk]
        rows, numbers = np.divmod(np.resize(some, chunk), seeds)
        best = np.asarray(
            _program(
                tuple(column[rows] for column in columns),
                _keys(seed, numbers),
                starts[numbers],
                Objective(problem.fun),
                structure=structure,
                lengths=tuple(lengths),
            )
        )
        seconds, count = (time.perf_counter() - began) / some.size, 0
        for place, cell in enumerate(group):
            mine = np.flatnonzero((rows == row_of[place])[: some.size])
            mine = mine[~is_there[place, numbers[mine]]]
            found = best[mine, length_of[place]]
            values[place, numbers[mine]] = found
            kept.add(
                problem,
                cell.setting,
                numbers[mine],
                found,
                evaluations=lengths[length_of[place]] * size,
                seconds=seconds,
            )
            count += mine.size
        kept.write()
        counted(count)
    used = np.array([lengths[place] * size for place in length_of])
    return values, used, bool(left.size)


def _keys(seed: int, numbers: np.ndarray) -> Key:
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)


@partial(jax.jit, static_argnames=("structure", "lengths"))
def _program(
    leaves: tuple[jax.Array, ...],
    keys: Key,
    x0: jax.Array,
    objective: Objective,
    *,
    structure: jax.tree_util.PyTreeDef,
    lengths: tuple[int, ...],
) -> jax.Array:
    """Returns the best value of each run after so many generations, ``[chunk, K]``."""

    def one(leaves: tuple[jax.Array, ...], key: Key, start: jax.Array) -> jax.Array:
        optimizer: Optimizer = jax.tree.unflatten(structure, leaves)
        result = run(optimizer, objective, start, key=key, generations=lengths[-1])
        fitness = result.history["fitness"]
        return jnp.stack([jnp.nanmin(fitness[:length]) for length in lengths])

    many: Callable[..., jax.Array] = jax.vmap(one)
    return many(leaves, keys, x0)
