"""What the published schemes of consensus-based optimization reach, and with what.

Rastrigin and a shifted sphere in 5-D from a normal distribution of standard deviation 2
around a point that is 2 off in every coordinate: the share of the seeds that come below
1e-2, with its own constants and with the defaults of CBO.

    python benchmarks/consensus_variants.py       # some minutes
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from common import parsed, save, show

import gfopt
from gfopt.consensus.variants import VARIANTS

DIMENSION = 5
PROBLEMS = {
    "sphere": lambda x: jnp.sum(x**2),
    "rastrigin": lambda x: 10 * x.size + jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x)),
}


def share_solved(method: gfopt.CBO, fun: object, seeds: int, budget: int) -> float:
    """Returns the share of the seeds whose best value is below 1e-2."""
    generations = budget // method.population_size

    @jax.jit
    @jax.vmap
    def study(key: jax.Array) -> jax.Array:
        start = jnp.full(DIMENSION, 2.0)
        found = gfopt.run(method, fun, start, key=key, generations=generations)
        return jnp.nanmin(found.history["fitness"])

    best = study(jax.random.split(jax.random.key(0), seeds))
    return float(np.mean(np.asarray(best) < 1e-2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=20_000)
    options = parsed(parser, seeds=2, budget=600)
    seeds, budget = options.seeds, options.budget
    names = ["cbo", *VARIANTS]
    rows = []
    for name in names[:2] if options.quick else names:
        for tuned in (False, True) if name != "cbo" else (True,):
            method = gfopt.CBO(sigma=2.0)
            if name != "cbo":
                method = gfopt.consensus.consensus_variant(name, tuned=tuned, sigma=2.0)
            row = {"variant": name, "constants": "defaults" if tuned else "own"}
            for problem, fun in PROBLEMS.items():
                row[problem] = share_solved(method, fun, seeds, budget)
            rows.append(row)
            print(row, flush=True)
    show(list(rows[0]), [list(row.values()) for row in rows])
    settings = {"seeds": seeds, "budget": budget, "dimension": DIMENSION}
    save("consensus_variants", ["gfopt", "jax"], settings | {"rows": rows})


if __name__ == "__main__":
    main()
