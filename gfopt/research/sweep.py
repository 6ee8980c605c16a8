"""Ablations: a grid or a random design over settings, with paired seeds.

Settings that are numbers are an axis of one compiled program, as seeds are: all runs of
a static configuration (a population size, say) are compiled once, however many values
and seeds there are. Letters: `N` problems, `C` settings, `S` seeds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

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
from gfopt.research.sweep_result import SweepResult
from gfopt.types import Key

Grid: TypeAlias = Mapping[
    str, Sequence[object] | Callable[[np.random.Generator], object]
]

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
) -> SweepResult:
    """Runs a method with every setting of a design, on every problem, with every seed.

    A run is ``gfopt.run`` for as many generations as the budget pays for, within the
    bounds of the problem, in double precision. Runs of one seed share their start and
    their key, whatever the settings: differences are paired.

    Args:
        methods: a registered name, or several: ``"method"`` is then a setting.
        problems: JAX functions with a start or bounds; see ``gfopt.problems.Problem``.
        grid: for each field of the method its values. For a random design, functions
            of a NumPy generator may stand in place of lists.
        budget: evaluations of a run.
        seeds: of each setting, ``S``.
        seed: of all of them, and of a random design.
        random: so many settings, each field drawn by itself, instead of all
            combinations.

    Raises:
        TypeError: for an argument of the wrong type, or a function that JAX cannot
            trace.
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
        for chosen in _design(grid, random, seed)
    ]
    tasks = as_problems(problems)
    values = np.full((len(tasks), len(settings), seeds), np.nan)
    evaluations = np.zeros(len(settings), int)
    compilations = 0
    with jax.enable_x64(True):
        for row, problem in enumerate(tasks):
            rngs = [np.random.default_rng((seed, s)) for s in range(seeds)]
            starts = np.stack([problem.start(rng) for rng in rngs])
            optimizers = [
                _optimizer({"method": listed[0]} | setting, problem, starts[0])
                for setting in settings
            ]
            for places in _groups(optimizers):
                group = [optimizers[place] for place in places]
                best, count = _runs(group, problem, starts, seed, budget)
                values[row, places], evaluations[places] = best, count
                compilations += 1
    names = [problem.name for problem in tasks]
    return SweepResult(names, settings, values, evaluations, compilations)


def _design(grid: Grid, random: int | None, seed: int) -> list[dict[str, object]]:
    checks.instance("grid", grid, Mapping, "a dictionary of fields and their values")
    lists: dict[str, Sequence[object]] = {}
    for name, values in grid.items():
        if callable(values) and random is not None:
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TypeError(
                f"grid[{name!r}] must be a list of values, or with random a function "
                f"of a NumPy generator; got {checks.shown(values)}"
            )
        if not len(values):
            raise ValueError(f"grid[{name!r}] must have one value or more; got none")
        lists[name] = values
    if random is None:
        rows = itertools.product(*lists.values())
        return [dict(zip(lists, row, strict=True)) for row in rows]
    checks.integer("random", random, 1)
    rng = np.random.default_rng(seed)
    return [
        {
            name: values(rng)
            if callable(values)
            else values[int(rng.integers(len(values)))]
            for name, values in grid.items()
        }
        for _ in range(random)
    ]


def _optimizer(
    setting: dict[str, object], problem: Problem, x0: np.ndarray
) -> Optimizer:
    method, options = str(setting["method"]), dict(setting)
    del options["method"]
    return setup(method, x0, None, problem.box, options).optimizer


def _groups(optimizers: Sequence[Optimizer]) -> list[list[int]]:
    """Returns the places of optimizers that share a program."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, optimizer in enumerate(optimizers):
        leaves, structure = jax.tree.flatten(optimizer)
        groups.setdefault((structure, *map(np.shape, leaves)), []).append(place)
    return list(groups.values())


def _runs(
    group: Sequence[Optimizer],
    problem: Problem,
    starts: np.ndarray,
    seed: int,
    budget: int,
) -> tuple[np.ndarray, int]:
    """Returns the best value of every run, ``[C, S]``, and how many evaluations."""
    first = jax.eval_shape(group[0].init, jax.random.key(0), starts[0])
    size = population_size(group[0], first)
    if budget < size:
        raise ValueError(
            f"budget must pay for one generation, {size} evaluations; got {budget}"
        )
    count, seeds = len(group), len(starts)
    structure = jax.tree.structure(group[0])
    columns = zip(*(jax.tree.leaves(one) for one in group), strict=True)
    # every setting with every seed, setting by setting
    leaves = [np.repeat(np.stack(column), seeds, axis=0) for column in columns]
    numbers, x0 = np.tile(np.arange(seeds), count), np.tile(starts, (count, 1))
    # chunks of one size: in a chunk of another a run may have other last bits
    chunk = min(CHUNK, count * seeds)
    filled = math.ceil(count * seeds / chunk) * chunk
    rows = np.arange(filled) % (count * seeds)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers[rows])
    best = _program(
        tuple(leaf[rows].reshape(-1, chunk, *leaf.shape[1:]) for leaf in leaves),
        keys.reshape(-1, chunk),
        x0[rows].reshape(-1, chunk, x0.shape[1]),
        Objective(problem.fun),
        structure=structure,
        generations=budget // size,
    )
    lowest = np.asarray(best).ravel()[: count * seeds]
    return lowest.reshape(count, seeds), budget // size * size


@partial(jax.jit, static_argnames=("structure", "generations"))
def _program(
    leaves: tuple[jax.Array, ...],
    keys: Key,
    x0: jax.Array,
    objective: Objective,
    *,
    structure: jax.tree_util.PyTreeDef,
    generations: int,
) -> jax.Array:
    """Returns the best value of each run, ``[chunks, chunk]``."""

    def one(leaves: tuple[jax.Array, ...], key: Key, start: jax.Array) -> jax.Array:
        optimizer: Optimizer = jax.tree.unflatten(structure, leaves)
        result = run(optimizer, objective, start, key=key, generations=generations)
        return jnp.nanmin(result.history["fitness"])

    many: Callable[..., jax.Array] = jax.vmap(one)
    return jax.lax.map(lambda chunk: many(*chunk), (leaves, keys, x0))
