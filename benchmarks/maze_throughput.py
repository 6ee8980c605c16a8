"""Evaluations a second on the deceptive maze: DeepGA, a NumPy GA in processes, evosax.

The NumPy side is the GA of Such et al. (2017) as their master and workers do it: a
message is a parent's seeds and a new one, a worker keeps the networks that it has made
and walks through the maze step by step. The walk is the same one: its end is compared
with that of the compiled walk before anything is timed. The sides take turns.

    python benchmarks/maze_throughput.py
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import evosax.algorithms
import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import parsed, save, show
from deceptive_maze import HIDDEN, PARENTS, POPULATION, SIGMA, STEPS, policy

import gfopt
from gfopt.problems.environments import maze as mazes
from gfopt.problems.environments.policies import continuous_action

MAZE = mazes.deceptive_maze(STEPS)
WALLS = [[bool(cell) for cell in row] for row in np.asarray(MAZE.walls)]
GOAL = tuple(float(place) + 0.5 for place in MAZE.goal)
SHAPES = ((mazes.NUM_OBSERVATIONS, HIDDEN), (HIDDEN,), (HIDDEN, 2), (2,))
SIZES = [math.prod(shape) for shape in SHAPES]
RAYS = np.array(mazes.RAY_ANGLES)[:, None]
FAR = np.arange(mazes.RAY_STEP, mazes.REACH + mazes.RAY_STEP / 2, mazes.RAY_STEP)


def is_wall(row: float, column: float) -> bool:
    return WALLS[math.floor(row)][math.floor(column)]


def numpy_walk(x: np.ndarray) -> tuple[float, float]:
    """Returns where the robot of a flat network ends."""
    parts = np.split(x, np.cumsum(SIZES)[:-1])
    w0, b0, w1, b1 = (
        part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)
    )
    walls = np.asarray(MAZE.walls)
    row, column = (float(place) + 0.5 for place in MAZE.start)
    heading = 0.0
    for _ in range(MAZE.num_steps):
        # a robot that has arrived stays, as in the compiled walk
        if math.hypot(row - GOAL[0], column - GOAL[1]) < mazes.RADIUS:
            break
        angles = heading + RAYS
        i = np.floor(row + np.sin(angles) * FAR).astype(int)
        j = np.floor(column + np.cos(angles) * FAR).astype(int)
        np.clip(i, 0, walls.shape[0] - 1, out=i)
        np.clip(j, 0, walls.shape[1] - 1, out=j)
        hit = walls[i, j]
        rays = np.where(hit.any(axis=1), hit.argmax(axis=1) / FAR.size, 1)
        bearing = math.atan2(GOAL[0] - row, GOAL[1] - column) - heading
        seen = np.concatenate([rays, [math.sin(bearing), math.cos(bearing)]])
        turn, drive = np.tanh(np.tanh(seen @ w0 + b0) @ w1 + b1)
        heading += mazes.TURN * turn
        length = mazes.SPEED * drive
        new = row + length * math.sin(heading)
        row = row if is_wall(new, column) else new
        new = column + length * math.cos(heading)
        column = column if is_wall(row, new) else new
    return row, column


KEPT: dict[tuple[int, ...], np.ndarray] = {}  # a worker's networks, by their seeds


def decoded(seeds: tuple[int, ...]) -> np.ndarray:
    """Returns the weights of a list of seeds: the first one draws, others add."""
    if seeds not in KEPT:
        noise = np.random.default_rng(seeds[-1]).normal(size=sum(SIZES))
        KEPT[seeds] = decoded(seeds[:-1]) + SIGMA * noise if seeds[:-1] else noise
    return KEPT[seeds]


def worker(seeds: tuple[int, ...]) -> float:
    row, column = numpy_walk(decoded(seeds))
    return math.hypot(row - GOAL[0], column - GOAL[1])


def numpy_side(generations: int) -> Callable[[], Any]:
    """Returns a call that runs the NumPy GA in as many processes as there are cores."""
    pool = multiprocessing.get_context("spawn").Pool(os.cpu_count())
    pool.map(worker, [(seed,) for seed in range(2 * (os.cpu_count() or 1))])
    draw = np.random.default_rng(0)

    def call() -> None:
        parents: list[tuple[int, ...]] = [()]
        for _ in range(generations):
            seeds = draw.integers(0, 2**32, POPULATION).tolist()
            rows = draw.integers(0, len(parents), POPULATION)
            children = [(*parents[i], s) for i, s in zip(rows, seeds, strict=True)]
            scores = pool.map(worker, children, chunksize=8)
            best = np.argsort(scores, kind="stable")[:PARENTS]
            parents = [children[i] for i in best]

    return call


def gfopt_side(generations: int) -> Callable[[], Any]:
    method = gfopt.DeepGA(
        POPULATION, PARENTS, SIGMA, max_generations=generations, initial_std=1.0
    )
    objective = MAZE.objective(continuous_action)

    @jax.jit
    def call(key: jax.Array) -> Any:
        found = gfopt.run(
            method, objective, policy(key), key=key, generations=generations
        )
        return found.history["fitness"]

    return lambda: call(jax.random.key(0))


def evosax_side(generations: int) -> Callable[[], Any]:
    """The first population is evaluated before the loop, which has one turn less."""
    objective = MAZE.objective(continuous_action)

    @jax.jit
    def call(key: jax.Array) -> Any:
        search = evosax.algorithms.SimpleGA(
            POPULATION, policy(key), std_schedule=optax.constant_schedule(SIGMA)
        )
        params = search.default_params
        first = jax.vmap(policy)(jax.random.split(key, POPULATION))
        score = jax.vmap(lambda x: objective.fun(x)[0])
        state = search.init(key, first, score(first), params)

        def turn(state: Any, key: jax.Array) -> Any:
            ask_key, tell_key = jax.random.split(key)
            population, state = search.ask(ask_key, state, params)
            fitness = score(population)
            state, _ = search.tell(tell_key, population, fitness, state, params)
            return state, jnp.min(fitness)

        return jax.lax.scan(turn, state, jax.random.split(key, generations - 1))[1]

    return lambda: call(jax.random.key(0))


def same_walk(count: int = 50) -> float:
    """Returns the share of robots that end at the same place on both sides."""
    walk = jax.jit(lambda x: MAZE.walk(continuous_action, x)[-1])
    same = []
    for seed in range(count):
        network = policy(jax.random.key(seed))
        flat = np.concatenate(
            [np.ravel(layer[name]) for layer in network for name in ("w", "b")]
        )
        same.append(np.abs(np.asarray(walk(network)) - numpy_walk(flat)).max() < 0.1)
    return float(np.mean(same))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument("--numpy-generations", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    given = parsed(parser, generations=1, numpy_generations=1, repeats=1)
    same = same_walk()
    print(f"walks that end at the same place in NumPy: {same:.2f}")
    sides = {
        "gfopt": (gfopt_side(given.generations), given.generations),
        "evosax": (evosax_side(given.generations), given.generations),
        "numpy": (numpy_side(given.numpy_generations), given.numpy_generations),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(given.repeats + 1):  # the first one compiles
        for name, (call, generations) in sides.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            rate = generations * POPULATION / (time.perf_counter() - began)
            if repeat:
                taken[name].append(rate)
    rows = []
    for name, rates in taken.items():
        ratios = np.array(taken["gfopt"]) / np.array(rates)
        rows.append([name, float(np.median(rates)), float(np.median(ratios)),
                     float(ratios.min()), float(ratios.max())])  # fmt: skip
    show(["side", "evaluations/s", "gfopt over it", "least", "most"], rows)
    save(
        "maze_throughput",
        ["jax", "evosax", "numpy"],
        {"same_walk": same, "evaluations_per_second": taken},
    )


if __name__ == "__main__":
    main()
