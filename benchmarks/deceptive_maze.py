"""A maze whose shortest way is a dead end: novelty against what follows the reward.

The deep GA with novelty, the same GA, OpenES and random search steer a robot by a small
network, with the same number of walks, 10 seeds each, all seeds in one compiled call.
Random search draws as the GA's first generation does. Solved is a run in which some
robot comes to the goal. Wanted: with novelty at least 9
of 10, by the reward at most 1, on our own maze and on 10 generated ones.

    python benchmarks/deceptive_maze.py
    python benchmarks/deceptive_maze.py --go-on     # keeps the cells that are there
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, parsed, save, show

import gfopt
from gfopt.problems.environments import maze as mazes
from gfopt.problems.environments.policies import continuous_action

SEEDS = 10
POPULATION, PARENTS, GENERATIONS, STEPS = 200, 20, 80, 400
HIDDEN = 16
SIGMA = 0.1


def policy(key: jax.Array) -> Any:
    """Returns a network of normal weights, small at the outputs."""
    sizes = (mazes.NUM_OBSERVATIONS, HIDDEN, 2)
    return gfopt.problems.mlp(key, sizes)


def methods() -> dict[str, Any]:
    ga = {
        "population_size": POPULATION,
        "num_parents": PARENTS,
        "sigma": SIGMA,
        "max_generations": GENERATIONS,
        "initial_std": 1.0,
    }
    return {
        "novelty": gfopt.Novelty(
            gfopt.DeepGA(**ga, elitism=False),
            num_descriptors=2,
            num_neighbours=15,
            probability=0.02,
            archive_size=1000,
        ),
        "deep_ga": gfopt.DeepGA(**ga),
        "open_es": gfopt.OpenES(POPULATION, sigma=SIGMA, learning_rate=0.05),
        "random_search": gfopt.RandomSearch(POPULATION, sigma=0.3),
    }


def program(method: Any, generations: int) -> Any:
    """Returns ``maze -> generation`` in which each seed's first robot arrives.

    It is -1 for never. One compiled program serves all mazes.
    """

    def one(maze: mazes.Maze, key: jax.Array) -> jax.Array:
        start, search = jax.random.split(key)
        objective = maze.objective(continuous_action)
        x0 = policy(start)
        found = gfopt.run(method, objective, x0, key=search, generations=generations)
        arrived = found.history["fitness"] < mazes.RADIUS
        return jnp.where(arrived.any(), jnp.argmax(arrived), -1)

    several = jax.jit(jax.vmap(one, in_axes=(None, 0)))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    return lambda maze: np.asarray(several(maze, keys))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mazes", type=int, default=10)
    parser.add_argument("--generations", type=int, default=GENERATIONS)
    parser.add_argument("--methods", nargs="*", default=list(methods()))
    parser.add_argument("--go-on", action="store_true")
    options = parsed(parser, mazes=1, generations=2)
    chosen = options.methods
    tasks = {"own": mazes.deceptive_maze(STEPS)}
    for seed in range(options.mazes):
        tasks[f"generated {seed}"] = mazes.random_maze(seed, num_steps=STEPS)
    cells: list[dict[str, Any]] = []
    if options.go_on:
        cells = json.loads((RESULTS / "deceptive_maze.json").read_text())["cells"]
    solvers = {name: program(methods()[name], options.generations) for name in chosen}
    for name, maze in tasks.items():
        there = {cell["method"] for cell in cells if cell["maze"] == name}
        for label, solved in solvers.items():
            if label in there:
                continue
            began = time.perf_counter()
            found = solved(maze)
            cell = {
                "maze": name,
                "gap": maze.deception().gap,
                "method": label,
                "solved": int((found >= 0).sum()),
                "generations": found.tolist(),
                "seconds": time.perf_counter() - began,
            }
            cells.append(cell)
            print(f"{name}, {label}: {cell['solved']} of {SEEDS}", flush=True)
        results = {
            "cells": cells,
            "seeds": SEEDS,
            "walks": POPULATION * options.generations,
        }
        save("deceptive_maze", ["jax", "numpy"], results)
    table = [
        (name, tasks[name].deception().gap)
        + tuple(cell["solved"] for cell in cells if cell["maze"] == name)
        for name in tasks
    ]
    table.sort(key=lambda row: row[2])
    show(("maze", "gap", *chosen), table)


if __name__ == "__main__":
    main()
