"""Consensus-based optimization beside CBXpy: evaluations to success, and speed.

Sixteen problems in 20-D (``cbo_problems.py``): eight functions, standard, and shifted
and rotated with a starting box off the optimum. A success is a point with
``max |x - x_opt| < .25`` and ``f - f_opt < 1e-4``. The expected evaluations are those
of runs that are repeated, each given up after the number that makes the expectation
least, for everybody alike. Tuned is the best over the same grid of numbers on the same
problem: ours over three of the family, CBXpy over its CBO, CBOMemory and CBS. Tuning
and figures use different seeds. All start from a normal distribution with the mean and
the standard deviation of the box.

The speed is that of a step of 1,000 runs of 100 particles in 20-D, CBXpy's with all
runs in one array.

    pip install --no-deps cbx
    python benchmarks/cbo_side_by_side.py              # half an hour; can be resumed
    python benchmarks/cbo_side_by_side.py --only speed # on a quiet machine
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import cbx.dynamics
import jax
import jax.numpy as jnp
import numpy as np
from cbo_problems import DISTANCE, GAP, Problem, expected, hits_of, problems
from cbx.scheduler import effective_sample_size, multiply, scheduler
from common import RESULTS, parsed, save, show

import gfopt

# the same numbers for both; every combination is tried for each method
GRID = {
    "size": (30, 200),
    "alpha": (0.2, 0.4, 1e15),  # below 1: of effective sample size
    "diffusion": (1.1, 1.5),
    "dt": (0.2, 0.9),
}
OURS = ("anisotropic", "memory", "covariance")
THEIRS = ("CBO", "CBOMemory", "CBS")
Numbers = dict[str, float]


def grid(kind: str) -> Iterator[Numbers]:
    """Yields the combinations; CBS has no strength of its own in CBXpy."""
    for values in itertools.product(*GRID.values()):
        numbers = dict(zip(GRID, values, strict=True))
        if kind == "CBS" and numbers["diffusion"] != GRID["diffusion"][0]:
            continue
        yield numbers


def ours(kind: str, numbers: Numbers, where: Problem) -> gfopt.CBO:
    """Makes one of ours."""
    alpha: Any = numbers["alpha"]
    if alpha < 1:
        alpha = gfopt.consensus.EffectiveSampleSize(alpha)
    is_dense = kind == "covariance"
    return gfopt.CBO(
        population_size=int(numbers["size"]),
        sigma=where.start[1],
        alpha=alpha,
        diffusion=numbers["diffusion"],
        dt=numbers["dt"] * (2.5 if is_dense else 1),
        scaling="covariance" if is_dense else "anisotropic",
        integrator="exponential" if is_dense else "euler",
        memory="best" if kind == "memory" else None,
    )


def cbx_hits(
    kind: str, numbers: Numbers, where: Problem, runs: int, budget: int, seed: int
) -> np.ndarray:
    """Runs CBXpy, all runs in one array; returns evaluations until success."""
    size, dimension = int(numbers["size"]), len(where.optimum)
    rng = np.random.default_rng(seed)
    x0 = where.start[0] + where.start[1] * rng.standard_normal((runs, size, dimension))
    hits = np.full(runs, np.inf)
    count = 0

    def value(x: np.ndarray) -> np.ndarray:
        nonlocal count
        f = where.value(x)
        count += x.shape[1]
        is_hit = (np.abs(x - where.optimum).max(-1) < DISTANCE) & (f < GAP)
        hits[is_hit.any(1)] = np.minimum(hits[is_hit.any(1)], count)
        return f

    alpha = numbers["alpha"]
    options: dict[str, Any] = {"alpha": 1.0 if alpha < 1 else alpha}
    if "diffusion" in numbers:
        options |= {"sigma": numbers["diffusion"], "dt": numbers["dt"]}
    if kind == "CBS":
        options.pop("sigma", None)
        options["mode"] = "optimization"
    else:
        options["noise"] = numbers.get("noise", "anisotropic")
    with np.errstate(all="ignore"):
        dynamic = getattr(cbx.dynamics, kind)(
            value, f_dim="3D", check_f_dims=False, x=x0, verbosity=0, seed=seed,
            max_it=10**9, track_args={"names": []}, **options,
        )  # fmt: skip
        if alpha < 1:
            turns = scheduler([effective_sample_size(eta=alpha)])
        else:
            turns = scheduler([multiply(name="alpha", factor=numbers.get("growth", 1))])
        while count < budget and not np.isfinite(hits).all():
            try:
                dynamic.step()
            except np.linalg.LinAlgError:
                break
            turns.update(dynamic)
            if not np.isfinite(dynamic.x).all() or np.ptp(dynamic.x, axis=1).max() == 0:
                break
    return np.where(hits <= budget, hits, np.inf)


# what CBXpy's documentation shows: its defaults, and its first example
DOCUMENTED: dict[str, Numbers] = {
    "CBXpy, defaults": {"size": 20, "alpha": 1.0, "growth": 1.05, "noise": "isotropic"},
    "CBXpy, example": {
        "size": 100, "alpha": 30.0, "growth": 1.05, "diffusion": 1.0, "dt": 0.05,
        "noise": "anisotropic",
    },
}  # fmt: skip


def evaluations(
    runs: int, tuning_runs: int, budget: int, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measures the expected evaluations by problem and method, and keeps them."""
    tuned = {"gfopt, tuned": (OURS, ours_hits), "CBXpy, tuned": (THEIRS, cbx_hits)}
    plain: dict[str, Callable[[float], Any]] = {
        "gfopt, defaults": lambda s: gfopt.CBO(sigma=s),
        "gfopt, sampling": lambda s: gfopt.consensus.consensus_variant(
            "sampling_optimization", sigma=s
        ),
        "CMA-ES": lambda s: gfopt.CMAES(sigma=s),
        "differential evolution": lambda s: gfopt.DifferentialEvolution(sigma=s),
    }
    found = kept({"runs": runs, "tuning_runs": tuning_runs, "budget": budget})
    for name, where in problems():
        if name in found:
            continue
        row: dict[str, Any] = {}
        for label, (kinds, hits) in tuned.items():
            best = (np.inf, kinds[0], next(grid(kinds[0])))
            for kind in kinds:
                for numbers in grid(kind):
                    got = hits(kind, numbers, where, tuning_runs, budget // 4, 99)
                    cost = expected(got, budget // 4)
                    if cost < best[0]:
                        best = cost, kind, numbers
            # what no combination solved once in a quarter is not given the whole
            most = budget if np.isfinite(best[0]) else budget // 4
            row[label] = (
                hits(best[1], best[2], where, runs, most, 0),
                {"kind": best[1], **best[2]},
            )
        for label, make in plain.items():
            row[label] = hits_of(make(where.start[1]), where, runs, budget), {}
        for label, numbers in DOCUMENTED.items():
            row[label] = cbx_hits("CBO", numbers, where, runs, budget // 4, 0), numbers
        found[name] = {
            label: {
                "expected": expected(hits, budget),
                "solved": int(np.isfinite(hits).sum()),
                "of": len(hits),
                "numbers": numbers,
            }
            for label, (hits, numbers) in row.items()
        }
        keep(found)
        print(name, row["gfopt, tuned"][1], row["CBXpy, tuned"][1])
        print(name, {k: (v["expected"], v["solved"]) for k, v in found[name].items()})
    return found


def kept(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the problems that an earlier run with these options has finished."""
    path = RESULTS / "cbo_side_by_side.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    same = {k: v for k, v in old.get("options", {}).items() if k in options} == options
    same &= json.loads(json.dumps(GRID)) == old.get("grid")
    return old["problems"] if same else {}


def ours_hits(
    kind: str, numbers: Numbers, where: Problem, runs: int, budget: int, seed: int
) -> np.ndarray:
    """Runs ours; returns evaluations until success."""
    return hits_of(ours(kind, numbers, where), where, runs, budget, seed)


def speed(repeats: int = 21) -> dict[str, list[float]]:
    """Returns the seconds a step, turn by turn.

    Of 1,000 runs of 100 particles on the sphere in 20-D.
    """
    runs, size, dimension, steps = 1000, 100, 20, 20
    rng = np.random.default_rng(0)
    x0 = rng.uniform(-3, 3, (runs, size, dimension))
    peer = cbx.dynamics.CBO(
        lambda x: (x**2).sum(-1), f_dim="3D", check_f_dims=False, x=x0, verbosity=0,
        noise="anisotropic", sigma=1.0, dt=0.1, alpha=100.0, max_it=10**9,
        track_args={"names": []},
    )  # fmt: skip
    times: dict[str, list[float]] = {"CBXpy": []}
    programs = {}
    for noise in (gfopt.gaussian(), gfopt.rademacher()):
        method = gfopt.CBO(
            population_size=size, sigma=1.7, alpha=100.0, diffusion=1.0, dt=0.1,
            noise=noise,
        )  # fmt: skip

        @jax.jit
        def many(keys: Any, method: Any = method) -> Any:
            def one(key: Any) -> Any:
                fun = lambda x: jnp.sum(x**2)  # noqa: E731
                x = jnp.zeros(dimension)
                return gfopt.run(method, fun, x, key=key, generations=steps).recommended

            return jax.vmap(one)(keys)

        keys = jax.random.split(jax.random.key(0), runs)
        many(keys).block_until_ready()
        programs[noise.kind] = many, keys
        times[noise.kind] = []
    for _ in range(repeats):  # in turn, so that all see the same load
        start = time.perf_counter()
        for _ in range(4):
            peer.step()
        times["CBXpy"].append((time.perf_counter() - start) / 4)
        for kind, (many, keys) in programs.items():
            start = time.perf_counter()
            many(keys).block_until_ready()
            times[kind].append((time.perf_counter() - start) / steps)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=("speed", "evaluations"))
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--tuning-runs", type=int, default=2)
    parser.add_argument("--budget", type=int, default=60_000)
    options = parsed(parser, runs=2, tuning_runs=1, budget=500)
    packages = ["gfopt", "jax", "numpy", "cbx"]
    if options.only != "speed":

        def keep(found: dict[str, Any]) -> None:
            results = {"options": vars(options), "grid": GRID, "problems": found}
            save("cbo_side_by_side", packages, results)

        found = evaluations(options.runs, options.tuning_runs, options.budget, keep)
        labels = list(next(iter(found.values())))
        ratio = {
            name: row["gfopt, tuned"]["expected"] / row["CBXpy, tuned"]["expected"]
            for name, row in found.items()
        }
        order = sorted(found, key=lambda n: -np.nan_to_num(ratio[n], nan=-1))
        print("\nexpected evaluations (share of runs solved); losses first\n")
        show(
            ["problem", *labels, "ratio to CBXpy tuned"],
            [
                [
                    name,
                    *(
                        f"{c['expected']:.3g} ({c['solved'] / c['of']:.2f})"
                        for c in found[name].values()
                    ),
                    ratio[name],
                ]
                for name in order
            ],
        )
    if options.only != "evaluations":
        seconds = speed()
        rows = []
        for name, taken in seconds.items():
            ratios = np.array(seconds["CBXpy"]) / taken
            quartiles = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
            rows.append([name, float(np.median(taken)), *quartiles])
        header = ["a step of 1,000 runs", "seconds", "lower quartile", "times CBXpy's"]
        show([*header, "upper"], rows)
        save("cbo_speed", packages, {"seconds_a_step": seconds})


if __name__ == "__main__":
    main()
