"""The field's baselines on BBOB, side by side with their peers.

Each problem is an instance of one of ten functions, two of each group of BBOB. All
start at the same points (uniform in [-4, 4]^D, sigma 2) and have 1000 D evaluations;
what is counted is the share of the 51 targets f_opt + 10^2 .. 10^-8 that a run hits.
Ours are registered methods at their defaults, without restarts, as ``gfopt bench`` runs
them: all instances in one compiled program. The peers are

- ``scipy.optimize.differential_evolution`` on the C code of coco-experiment, without
  its polishing and its stopping rule: once with our population size, crossover rate
  and Gaussian start, generation-wise and with bounds far outside, which is the same
  algorithm; once at its defaults within [-5, 5]^D, which our side is not told;
- evosax's DifferentialEvolution and PSO, where evosax is installed, at their defaults
  in double precision, with our population size and start.

Our defaults were chosen on seven of these functions, those of the peers were not: only
"same start" compares like with like.

    python benchmarks/baselines.py
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import cocoex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from common import parsed, save, show

import gfopt
from gfopt.problems import bbob, bbob_batch
from gfopt.research.bbob_runs import run_bbob
from gfopt.research.plan import BBOB_FUNCTIONS, Batch, bbob_batches
from gfopt.research.statistics import TARGETS, paired_difference_interval, running_times

METHODS = (
    "differential_evolution",
    "particle_swarm",
    "cross_entropy",
    "nelder_mead",
    "one_plus_one",
    "random_search",
    "cma_es",
)
BUDGETS = (50, 100, 300, 1000)  # evaluations per dimension
Hits = np.ndarray  # [instances, targets], evaluations until each target, or infinity


class Enough(Exception):
    """Ends a run of scipy's."""


def ours(batch: Batch) -> Hits:
    """Runs a registered method."""
    runs = run_bbob(batch)
    return np.array([running_times(*np.array(r.trajectory).T) for r in runs])


def size_of(method: str, dimension: int) -> int:
    """Returns the population size of a method at its defaults."""
    optimizer = gfopt.method(method)
    state = jax.eval_shape(optimizer.init, jax.random.key(0), jnp.zeros(dimension))
    return jax.eval_shape(optimizer.ask, jax.random.key(0), state).active.shape[0]


def scipy_de(batch: Batch, is_same: bool) -> Hits:
    """Runs scipy's differential evolution, the same algorithm or at its defaults."""
    suite = cocoex.Suite(
        "bbob",
        f"instances: {','.join(map(str, batch.instances))}",
        f"dimensions: {batch.dimension}",
    )
    size, hits = size_of("differential_evolution", batch.dimension), []
    for instance in batch.instances:
        x0, seed = batch.start(instance)
        f_opt = float(bbob(batch.function, batch.dimension, instance).f_opt)
        problem = suite.get_problem_by_function_dimension_instance(
            batch.function, batch.dimension, instance
        )
        values: list[float] = []

        def value(x, problem=problem, values=values):  # noqa: ANN001
            if len(values) >= batch.budget:
                raise Enough
            values.append(problem(x))
            return values[-1]

        rng = np.random.default_rng(seed)
        options = {"bounds": [(-5, 5)] * batch.dimension}
        if is_same:
            options = {
                "bounds": [(-1e3, 1e3)] * batch.dimension,
                "init": x0 + 2 * rng.standard_normal((size, batch.dimension)),
                "updating": "deferred",
                "recombination": gfopt.DifferentialEvolution().crossover_rate,
            }
        try:
            scipy.optimize.differential_evolution(
                value, **options, rng=rng, tol=0, polish=False, maxiter=10**6
            )
        except Enough:
            pass
        count = np.arange(1, len(values) + 1)
        hits.append(running_times(count, np.array(values) - f_opt))
        problem.free()
    return np.array(hits)


def evosax(name: str, method: str) -> Callable[[Batch], Hits]:
    """Returns a peer of evosax's with the population size of one of ours."""
    from evosax.algorithms import algorithms

    def run(batch: Batch) -> Hits:
        with jax.enable_x64(True):
            problems = bbob_batch(batch.function, batch.dimension, batch.instances)
            starts = [batch.start(instance) for instance in batch.instances]
            size = size_of(method, batch.dimension)
            peer = algorithms[name](size, jnp.zeros(batch.dimension))
            params, generations = peer.default_params, batch.budget // size

            @jax.jit
            @jax.vmap
            def best(problem, x0, seed):  # noqa: ANN001, ANN202
                key, first = jax.random.split(jax.random.key(seed))
                x = x0 + 2 * jax.random.normal(first, (size, batch.dimension))
                fitness = jax.vmap(problem)(x)
                state = peer.init(key, x, fitness, params)

                def turn(state, key):  # noqa: ANN001, ANN202
                    x, state = peer.ask(key, state, params)
                    fitness = jax.vmap(problem)(x)
                    state, _ = peer.tell(key, x, fitness, state, params)
                    return state, fitness.min()

                keys = jax.random.split(key, generations - 1)
                _, lowest = jax.lax.scan(turn, state, keys)
                return jnp.append(fitness.min(), lowest) - problem.f_opt

            x0, seeds = (np.array(column) for column in zip(*starts, strict=True))
            values = np.asarray(best(problems, x0, seeds))
        count = size * np.arange(1, generations + 1)
        return np.array([running_times(count, row) for row in values])

    return run


def shares(hits: Hits, dimension: int) -> list[float]:
    """Returns the share of problems and targets within each budget."""
    return [float(np.mean(hits <= budget * dimension)) for budget in BUDGETS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = {"type": int, "nargs": "+"}
    parser.add_argument("--functions", default=list(BBOB_FUNCTIONS), **numbers)
    parser.add_argument("--dimensions", default=[5, 10], **numbers)
    parser.add_argument("--instances", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parsed(parser, functions=[1, 8], dimensions=[2], instances=2)
    instances = tuple(range(1, options.instances + 1))
    peers: dict[str, tuple[str, Callable[[Batch], Hits]]] = {
        "scipy DE, same start": ("differential_evolution", lambda b: scipy_de(b, True)),
        "scipy DE, defaults": ("differential_evolution", lambda b: scipy_de(b, False)),
    }
    packages = ["gfopt", "jax", "numpy", "scipy", "coco-experiment"]
    if importlib.util.find_spec("evosax") is not None:
        packages.append("evosax")
        for name, method in (
            ("DifferentialEvolution", "differential_evolution"),
            ("PSO", "particle_swarm"),
        ):
            peers[f"evosax {name}"] = method, evosax(name, method)
    found: dict[str, dict[int, list[Hits]]] = {}
    for d in options.dimensions:
        for f in options.functions:
            for batch in bbob_batches(
                functions=[f],
                dimensions=[d],
                instances=instances,
                methods=METHODS,
                budget=1000,
                seed=options.seed,
            ):
                method = batch.competitor.name
                found.setdefault(method, {}).setdefault(d, []).append(ours(batch))
            for name, (_, run) in peers.items():
                found.setdefault(name, {}).setdefault(d, []).append(run(batch))
            print(f"f{f} {d}-D done", flush=True)
    pairs = []
    for name, (method, _) in peers.items():
        for d in options.dimensions:
            # [functions, instances]: the share of targets on each problem
            both = found[method][d], found[name][d]
            a, b = (np.mean(np.isfinite(hits), axis=2) for hits in both)
            difference = paired_difference_interval(a.ravel(), b.ravel())
            pairs.append(
                {
                    "method": method,
                    "peer": name,
                    "dimension": d,
                    "solved": [float(a.mean()), float(b.mean())],
                    "difference": difference,
                    "by_function": {
                        str(f): [float(x.mean()), float(y.mean())]
                        for f, x, y in zip(options.functions, a, b, strict=True)
                    },
                }
            )
    pairs.sort(key=lambda pair: pair["difference"].estimate)
    print("\nshare of problems x targets within 1000 D; below 0 is a loss\n")
    show(
        ["method", "peer", "D", "ours", "peer's", "difference", "95 % interval"],
        [
            [
                pair["method"],
                pair["peer"],
                pair["dimension"],
                *pair["solved"],
                pair["difference"].estimate,
                "[{:+.3f}, {:+.3f}]".format(*pair["difference"][1:]),
            ]
            for pair in pairs
        ],
    )
    table = {
        f"{name} {d}-D": shares(np.array(hits), d)
        for d in options.dimensions
        for name, hits in ((who, cells[d]) for who, cells in found.items())
    }
    print("\nthe same, by budget in evaluations per dimension\n")
    show(
        ["", *map(str, BUDGETS)],
        [[name, *row] for name, row in sorted(table.items(), key=lambda r: -r[1][-1])],
    )
    results = {
        "options": vars(options),
        "num_targets": len(TARGETS),
        "pairs": pairs,
        "budgets_per_dimension": BUDGETS,
        "solved_by_budget": table,
    }
    save("baselines", packages, results)


if __name__ == "__main__":
    main()
