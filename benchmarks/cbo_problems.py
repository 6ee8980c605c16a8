"""What the scripts about consensus-based optimization share: problems and counting."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core.evaluate import Request, vmapped
from gfopt.core.objective import Inputs, Objective
from gfopt.protocol import Optimizer
from gfopt.research.suites.multimodal import DIMENSION, FUNCTIONS, place_of

DISTANCE, GAP = 0.25, 1e-4  # what counts as a success, both at the same point
CHUNK = 50  # steps between two looks at whether all runs are done


class Problem(NamedTuple):
    """A function, ``f(rotation (x - optimum))``, and the box in which a search starts.

    Attributes:
        name: of the function.
        optimum: ``[D]``, where it is 0.
        rotation: ``[D, D]``.
        low: lower side of the box, in every coordinate.
        high: upper side.
    """

    name: str
    optimum: np.ndarray
    rotation: np.ndarray
    low: float
    high: float

    def value(self, x: Any, numpy: Any = np) -> Any:
        """Returns the function's values at ``[..., D]``; never below 0."""
        z = (x - self.optimum) @ self.rotation.T
        return numpy.maximum(FUNCTIONS[self.name](z, numpy), 0)

    @property
    def start(self) -> tuple[float, float]:
        """Middle of the box, and the standard deviation of uniform points in it."""
        return (self.low + self.high) / 2, (self.high - self.low) / np.sqrt(12)


def problem(name: str, moved: bool, dimension: int = DIMENSION) -> Problem:
    """Returns a standard problem, or the shifted and rotated one."""
    optimum, rotation, (low, high) = place_of(moved, dimension)
    return Problem(name, optimum, rotation, low, high)


def problems() -> list[tuple[str, Problem]]:
    """Returns all sixteen."""
    return [
        (f"{name}{', moved' if moved else ''}", problem(name, moved))
        for moved in (False, True)
        for name in FUNCTIONS
    ]


class Count(NamedTuple):
    """Evaluations of a run so far, and those until its first success."""

    evaluations: jax.Array
    hit: jax.Array


@jax.jit
def _turns(
    optimizer: Optimizer, states: Any, counts: Count, keys: Any, spec: Any
) -> tuple[Any, Count]:
    """Makes ``CHUNK`` steps of all runs."""
    number, optimum, rotation = spec
    # one program for all functions: compiling takes longer than running
    functions = [lambda z, f=f: jnp.maximum(f(z, jnp), 0) for f in FUNCTIONS.values()]

    def value(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        f = jax.lax.switch(number, functions, (x - optimum) @ rotation.T)
        return f, (jnp.max(jnp.abs(x - optimum)) < DISTANCE) & (f < GAP)

    objective, evaluate = Objective(value, has_aux=True), vmapped()

    def step(state: Any, count: Count, key: Any) -> tuple[Any, Count]:
        population = optimizer.ask(jax.random.fold_in(key, state.step), state)
        found = evaluate(
            Request(key, objective, optimizer, state, population, Inputs())
        )
        state, _ = optimizer.tell(state, population, found)
        total = count.evaluations + jnp.sum(population.active)
        hit = jnp.any(found.aux & found.valid)
        return state, Count(
            total, jnp.where(hit, jnp.minimum(count.hit, total), count.hit)
        )

    def turn(carry: Any, _: None) -> tuple[Any, None]:
        states, counts = carry
        axes = type(states)(None, *[0] * (len(states) - 1))
        return jax.vmap(step, (axes, 0, 0), (axes, 0))(states, counts, keys), None

    return jax.lax.scan(turn, (states, counts), None, length=CHUNK)[0]


@jax.jit
def _first(optimizer: Optimizer, keys: Any, x0: Any) -> Any:
    """Returns the first states of all runs; their counter of steps is one number."""
    axes = jax.eval_shape(optimizer.init, keys[0], x0)
    axes = type(axes)(None, *[0] * (len(axes) - 1))
    return jax.vmap(optimizer.init, (0, None), axes)(keys, x0)


def hits_of(
    optimizer: Optimizer, where: Problem, runs: int, budget: int, seed: int = 0
) -> np.ndarray:
    """Returns the evaluations until success of each run, infinite where there is none.

    A success is counted at the end of its generation.
    """
    x0 = jnp.full(len(where.optimum), where.start[0], jnp.float32)
    keys = jax.random.split(jax.random.key(seed), runs)
    states = _first(optimizer, keys, x0)
    most = np.iinfo(np.int32).max
    counts = Count(jnp.zeros(runs, jnp.int32), jnp.full(runs, most))
    number = jnp.int32(list(FUNCTIONS).index(where.name))
    spec = (number, jnp.float32(where.optimum), jnp.float32(where.rotation))
    while True:
        states, counts = _turns(optimizer, states, counts, keys, spec)
        done = np.asarray((counts.hit < most) | (counts.evaluations >= budget))
        if done.all():
            hits = np.asarray(counts.hit, float)
            return np.where(hits <= budget, hits, np.inf)


def expected(hits: np.ndarray, budget: int) -> float:
    """Returns the expected evaluations to success of runs that are repeated.

    A run is given up after the number of evaluations that makes this least, for every
    method alike: ``min_T sum_i min(hit_i, T) / #{hit_i <= T}``.
    """
    ends = np.unique(hits[np.isfinite(hits)])
    if not len(ends):
        return np.inf
    return float(min(np.minimum(hits, t).sum() / np.sum(hits <= t) for t in ends))
