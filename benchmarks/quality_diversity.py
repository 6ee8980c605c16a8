"""CMA-ME, CMA-MAE and MAP-Elites beside pyribs on the toy domains of the papers.

Sphere and Rastrigin with linear projections, 20-D and 100-D, archives of 100 x 100
cells, 540 candidates a generation, five seeds. pyribs is set up as in its own
``examples/sphere.py``: 15 emitters of 36 with sigma 0.5; ``cma_me_imp``, which it
suggests, ``cma_me_imp_mu``, ``cma_mae`` with a result archive, and ``map_elites``. Ours
has the same emitters, batches and sigmas, and its defaults elsewhere. The QD score is
that of pyribs on both sides: values from 0 to 100, larger is better.

In our own deceptive maze, 16,000 walks and ten seeds as in ``deceptive_maze.py``, the
behaviour is where a robot ends, the grid that of the maze's cells: what share of the
free cells is reached, and in how many runs a robot comes to the goal.

Insertions a second are measured on the archives alone, batch by batch in turns, in
processor seconds; both must end with the same elites. Wanted: QD scores at least those
of pyribs at equal evaluations; 5 times its insertions a second.

    pip install ribs
    OMP_NUM_THREADS=1 python benchmarks/quality_diversity.py      # an hour
    python benchmarks/quality_diversity.py --only insertions      # a minute
    python benchmarks/quality_diversity.py --only maze            # some minutes
    python benchmarks/quality_diversity.py --only picture         # of the docs
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, parsed, save, show, sized
from figures import draw_elites, kept
from scipy import stats

import gfopt
from gfopt.optimizers.wrappers import elites as archives

CELLS = sized((100, 100), (10, 10))
EMITTERS, BATCH, SIGMA = 15, 36, 0.5
SEEDS = sized(5, 2)
DOMAINS = sized(
    [(name, d) for name in ("sphere", "rastrigin") for d in (20, 100)], [("sphere", 4)]
)
#: What is compared: ours, and the settings of pyribs that it stands beside.
PAIRS = {
    "CMA-ME": ("cma_me_imp", "cma_me_imp_mu"),
    "CMA-MAE": ("cma_mae",),
    "MAP-Elites": ("map_elites",),
}
RIBS_EMITTERS: dict[str, dict[str, str]] = {
    "cma_me_imp": {"ranker": "2imp", "selection_rule": "filter"},
    "cma_me_imp_mu": {"ranker": "2imp", "selection_rule": "mu"},
    "cma_mae": {"ranker": "imp", "selection_rule": "mu", "restart_rule": "basic"},
}


def ours(name: str, problem: Any) -> Any:
    """Returns one of our searches."""
    make = partial(
        gfopt.GridArchive,
        lower=problem.lower,
        upper=problem.upper,
        shape=CELLS,
        worst=problem.worst,
    )
    if name == "MAP-Elites":
        random = gfopt.RandomSearch(1, sigma=SIGMA)
        return make(random, num_emitters=EMITTERS * BATCH, patience=0)
    soft: dict[str, Any] = {"learning_rate": 0.01, "patience": None}
    cma = gfopt.CMAES(BATCH, sigma=SIGMA)
    return make(cma, num_emitters=EMITTERS, **(soft if name == "CMA-MAE" else {}))


def our_runs(name: str, problem: Any, generations: int) -> list[dict[str, Any]]:
    """Returns our scores, seed by seed with one program."""
    optimizer = ours(name, problem)

    def one(key: jax.Array) -> Any:
        objective = problem.objective
        found = gfopt.run(
            optimizer, objective, problem.x0, key=key, generations=generations
        )
        info = found.history
        return info["qd_score"][-1], info["coverage"][-1], info["best_fitness"][-1]

    program = jax.jit(one).lower(jax.random.key(0)).compile()
    runs = []
    for seed in range(SEEDS):
        began = time.process_time()
        qd, coverage, best = map(float, program(jax.random.key(seed)))
        seconds = time.process_time() - began
        scores = {"qd": qd, "coverage": coverage, "best": 100 - best}
        runs.append(scores | {"seconds": seconds})
    return runs


def valued(problem: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The domain in NumPy, as pyribs' example writes it: larger is better."""
    edge, shift, dimension = 5.12, 0.4 * 5.12, x.shape[1]

    def raw(u: np.ndarray) -> np.ndarray:
        if problem.function == "sphere":
            return np.sum(u**2, axis=1)
        return np.sum(10 + u**2 - 10 * np.cos(2 * np.pi * u), axis=1)

    worst = raw(np.full((1, dimension), -edge - shift))
    clipped = x.copy()
    is_out = np.abs(x) > edge
    clipped[is_out] = edge / x[is_out]
    halves = clipped[:, : dimension // 2], clipped[:, dimension // 2 :]
    behaviours = np.stack([half.sum(axis=1) for half in halves], axis=1)
    return 100 * (1 - raw(x - shift) / worst), behaviours


def ribs_run(name: str, problem: Any, generations: int, seed: int) -> dict[str, Any]:
    """Returns the scores of one run of pyribs."""
    from ribs.archives import GridArchive
    from ribs.emitters import EvolutionStrategyEmitter, GaussianEmitter
    from ribs.schedulers import Scheduler

    make = partial(
        GridArchive,
        solution_dim=problem.dimension,
        dims=CELLS,
        ranges=list(zip(problem.lower, problem.upper, strict=True)),
        seed=seed,
    )
    soft = {"threshold_min": 0, "learning_rate": 0.01} if name == "cma_mae" else {}
    archive, x0 = make(**soft), np.zeros(problem.dimension)
    if name == "map_elites":
        size = EMITTERS * BATCH
        emitters = [
            GaussianEmitter(archive, sigma=SIGMA, x0=x0, batch_size=size, seed=seed)
        ]
    else:
        seeds = np.random.SeedSequence(seed).spawn(EMITTERS)
        options: dict[str, Any] = RIBS_EMITTERS[name]
        emitters = [
            EvolutionStrategyEmitter(
                archive, x0=x0, sigma0=SIGMA, batch_size=BATCH, seed=one, **options
            )
            for one in seeds
        ]
    scheduler = Scheduler(archive, emitters, make() if soft else None)
    began = time.process_time()
    for _ in range(generations):
        scheduler.tell(*valued(problem, scheduler.ask()))
    found = scheduler.result_archive.stats
    return {
        "qd": float(found.qd_score),
        "coverage": float(found.coverage),
        "best": float(found.obj_max),
        "seconds": time.process_time() - began,
    }


def compared(
    cells: dict[str, Any], generations: int, found: dict[str, Any]
) -> list[dict[str, Any]]:
    """Runs what is missing of the cells, keeps them, and returns the rows of a table.

    The interval is Welch's, of the difference of the mean QD scores.
    """
    rows = []
    for name, peers in PAIRS.items():
        for function, dimension in DOMAINS:
            problem = gfopt.problems.LinearProjection(function, dimension)
            label = f"{function} {dimension}-D"
            key = f"{label}, {name}"
            if key not in cells:
                cells[key] = our_runs(name, problem, generations)
            mine = [run["qd"] for run in cells[key]]
            for peer in peers:
                key = f"{label}, {peer}"
                runs = cells.setdefault(key, [])
                for seed in range(len(runs), SEEDS):
                    runs.append(ribs_run(peer, problem, generations, seed))
                    keep(cells, generations, found)
                theirs = [run["qd"] for run in runs]
                test = stats.ttest_ind(mine, theirs, equal_var=False)
                low, high = test.confidence_interval()
                row = {
                    "domain": label,
                    "ours": name,
                    "peer": peer,
                    "our qd": float(np.mean(mine)),
                    "its qd": float(np.mean(theirs)),
                    "low": float(low),
                    "high": float(high),
                    "times its speed": float(
                        np.mean([run["seconds"] for run in runs])
                        / np.mean([r["seconds"] for r in cells[f"{label}, {name}"]])
                    ),
                }
                rows.append(row)
                print(row, flush=True)
    return rows


def insertions(num_batches: int, turns: int) -> list[dict[str, Any]]:
    """Returns insertions per processor second, of ours over pyribs', in turns."""
    rows = []
    for dimension in sized((20, 100), (4,)):
        rng = np.random.default_rng(0)
        size = EMITTERS * BATCH
        x, f, b = (
            rng.normal(size=(num_batches, size, *shape)).astype(np.float32)
            for shape in ((dimension,), (), (2,))
        )
        found: dict[str, list[float]] = {"ours": [], "ribs": []}
        for _ in range(turns):
            seconds, mine = _our_insertions(x, f, b)
            found["ours"].append(size * num_batches / seconds)
            seconds, theirs = _ribs_insertions(x, f, b)
            found["ribs"].append(size * num_batches / seconds)
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
        rates = {name: float(np.median(each)) for name, each in found.items()}
        ratios = np.divide(found["ours"], found["ribs"])
        low, high = np.quantile(ratios, (0, 1))
        times = {"times": rates["ours"] / rates["ribs"], "low": low, "high": high}
        rows.append({"dimension": dimension, **rates, **times})
        print(rows[-1], flush=True)
    return rows


def _our_insertions(x: Any, f: Any, b: Any) -> tuple[float, np.ndarray]:
    lower, upper, shape = (-1.0, -1.0), (1.0, 1.0), CELLS

    @partial(jax.jit, donate_argnums=0)
    def all_of_them(elites: Any, x: Any, f: Any, b: Any) -> Any:
        def step(elites: Any, batch: Any) -> Any:
            x, f, b = batch
            cell = archives.cell_of(b, lower, upper, shape)
            valid = jnp.isfinite(f)
            elites, _ = archives.insert(elites, x, f, b, cell, valid)
            return elites, (elites.coverage, elites.qd_score(0.0))

        return jax.lax.scan(step, elites, (x, f, b))

    def fresh() -> Any:
        return archives.empty(jnp.zeros(x.shape[2]), CELLS[0] * CELLS[1], 2, jnp.inf)

    batches = jax.device_put((x, -f, b))
    program = all_of_them.lower(fresh(), *batches).compile()
    start = jax.block_until_ready(fresh())
    began = time.process_time()
    elites, _ = jax.block_until_ready(program(start, *batches))
    seconds = time.process_time() - began
    return seconds, -np.asarray(elites.fitness)


def _ribs_insertions(x: Any, f: Any, b: Any) -> tuple[float, np.ndarray]:
    from ribs.archives import GridArchive

    archive = GridArchive(
        solution_dim=x.shape[2], dims=CELLS, ranges=[(-1, 1)] * 2, dtype=np.float32
    )
    archive.add(x[0], f[0], b[0])  # numba compiles
    archive.clear()
    began = time.process_time()
    for batch in zip(x, f, b, strict=True):
        archive.add(*batch)
    seconds = time.process_time() - began
    kept = np.full(CELLS[0] * CELLS[1], -np.inf, np.float32)
    kept[archive.data("index")] = archive.data("objective")
    return seconds, kept


def in_the_maze(generations: int) -> list[dict[str, Any]]:
    """Returns what two of our searches reach in the maze, all seeds in one program."""
    maze = gfopt.problems.deceptive_maze()
    num_free = int((~np.asarray(maze.walls)).sum())
    objective = maze.objective(gfopt.problems.continuous_action)
    grid: dict[str, Any] = {
        "lower": (0, 0),
        "upper": maze.walls.shape,
        "shape": maze.walls.shape,
        "worst": float(sum(maze.walls.shape)),
    }
    elites = gfopt.GridArchive(
        gfopt.RandomSearch(1, sigma=0.1), num_emitters=200, patience=0, **grid
    )
    cma = gfopt.SepCMAES(40, sigma=0.3)
    methods = {
        "MAP-Elites": elites,
        "CMA-ME": gfopt.GridArchive(cma, num_emitters=5, **grid),
    }
    rows = []
    for name, method in methods.items():

        def one(key: jax.Array, method: Any = method) -> Any:
            start, search = jax.random.split(key)
            x0 = gfopt.problems.mlp(start, (8, 16, 2))
            found = gfopt.run(
                method, objective, x0, key=search, generations=generations
            )
            return found.state.elites.fitness

        keys = jax.random.split(jax.random.key(0), sized(10, 2))
        fitness = np.asarray(jax.jit(jax.vmap(one))(keys))
        reached = np.isfinite(fitness).sum(axis=1) / num_free
        rows.append(
            {
                "search": name,
                "share of free cells": float(reached.mean()),
                "least": float(reached.min()),
                "solved": int((fitness.min(axis=1) < 0.5).sum()),
                "runs": len(keys),
            }
        )
        print(rows[-1], flush=True)
    return rows


def picture() -> None:
    """Draws a run of CMA-ME on the sphere in 20-D."""
    problem = gfopt.problems.LinearProjection("sphere", 20)
    optimizer = ours("CMA-ME", problem)
    result = gfopt.minimize(
        problem.objective, problem.x0, method=optimizer, budget=sized(540_000, 1_000)
    )
    drawn = slice(None, None, max(1, result.nit // 100))
    values = np.asarray(optimizer.heat_map(result.state).fitness)
    shown = {
        "evaluations": result.history["nfev"][drawn].tolist(),
        "coverage": result.history["coverage"][drawn].round(4).tolist(),
        "QD score": result.history["qd_score"][drawn].round().tolist(),
        "values": np.where(np.isfinite(values), values, -1).round().tolist(),
        "extent": [-problem.upper[0], problem.upper[0]] * 2,
    }
    draw_elites("grid_archive", kept("grid_archive", shown))


def keep(cells: dict[str, Any], generations: int, found: dict[str, Any]) -> None:
    """Writes what there is."""
    results = {"generations": generations, **found, "cells": cells}
    save("quality_diversity", ["jax", "numpy", "ribs"], results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", choices=("insertions", "scores", "maze", "picture"))
    options = parsed(parser, generations=20, batches=20, turns=2)
    if options.only == "picture":
        picture()
        return
    path = RESULTS / "quality_diversity.json"
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    same = before.get("generations") == options.generations
    cells: dict[str, Any] = before.get("cells", {}) if same else {}
    found = {part: before.get(part, []) for part in ("insertions", "maze", "scores")}
    if options.only in (None, "insertions"):
        found["insertions"] = insertions(options.batches, options.turns)
    if options.only in (None, "maze"):
        found["maze"] = in_the_maze(sized(80, 2))
    if options.only in (None, "scores"):
        found["scores"] = compared(cells, options.generations, found)
    keep(cells, options.generations, found)
    for rows in found.values():
        if rows:
            show(list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
