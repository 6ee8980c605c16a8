"""What the scripts about consensus-based optimization share: problems and counting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gfopt.core.evaluate import Request, vmapped
from gfopt.core.objective import Inputs, Objective
from gfopt.protocol import Optimizer

DIMENSION = 20
DISTANCE, GAP = 0.25, 1e-4  # what counts as a success, both at the same point
CHUNK = 50  # steps between two looks at whether all runs are done


def _ellipsoid(z: Any, np: Any) -> Any:
    scales = 1e3 ** np.linspace(0, 1, z.shape[-1])
    return np.sum(scales * z**2, -1)


def _rosenbrock(z: Any, np: Any) -> Any:
    x = z + 1
    return np.sum(
        100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2, -1
    )


def _ackley(z: Any, np: Any) -> Any:
    mean, waves = np.mean(z**2, -1), np.mean(np.cos(2 * np.pi * z), -1)
    # e - exp(waves), written so that it is 0 at 0 in single precision, too
    return -20 * np.expm1(-0.2 * np.sqrt(mean)) - np.e * np.expm1(waves - 1)


def _rastrigin(z: Any, np: Any) -> Any:
    return np.sum(z**2 + 10 * (1 - np.cos(2 * np.pi * z)), -1)


def _griewank(z: Any, np: Any) -> Any:
    x = 20 * z  # its domain is [-600, 600], ours about [-3, 3]
    i = np.sqrt(np.arange(1, z.shape[-1] + 1))
    return np.sum(x**2, -1) / 4000 - np.prod(np.cos(x / i), -1) + 1


def _levy(z: Any, np: Any) -> Any:
    w = 1 + z / 4
    middle = (w - 1) ** 2 * (1 + 10 * np.sin(np.pi * w + 1) ** 2)
    last = (w[..., -1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[..., -1]) ** 2)
    return np.sin(np.pi * w[..., 0]) ** 2 + np.sum(middle[..., :-1], -1) + last


def _ripples(z: Any, np: Any) -> Any:
    scales = 10 ** np.linspace(0, 1, z.shape[-1])
    return np.sum(scales * z**2 + 2 * (1 - np.cos(5 * z)), -1) / 10


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sphere": lambda z, np: np.sum(z**2, -1),
    "ellipsoid": _ellipsoid,
    "rosenbrock": _rosenbrock,
    "ackley": _ackley,
    "rastrigin": _rastrigin,
    "griewank": _griewank,
    "levy": _levy,
    "ripples": _ripples,
}


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
    if not moved:
        return Problem(name, np.zeros(dimension), np.eye(dimension), -3.0, 3.0)
    rng = np.random.default_rng(7)
    optimum = rng.uniform(-2, 2, dimension)
    rotation, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return Problem(name, optimum, rotation * np.sign(np.diag(r)), -1.5, 4.5)


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
