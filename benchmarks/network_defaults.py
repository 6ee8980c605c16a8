"""Methods for networks at their defaults: a 64-32-10 network that reads digits.

Every method has 19,200 evaluations, each on a mini-batch of 128 images, and no setting:
what ``minimize(method=name)`` would run. ``cbo`` alone refuses so many numbers without
settings, and has those that it asks for. Shown is the share of the held-out images that
the recommended network gets right, beside random search.

    python benchmarks/network_defaults.py       # 3 to 10 minutes
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np
from common import parsed, save, show

import gfopt
from gfopt.driver.setup.setup import setup
from gfopt.driver.step import population_size
from gfopt.problems import digits, mlp

METHODS = (
    "random_search", "open_es", "pgpe", "ars", "snes", "deep_ga", "consensus_hopping",
    "cr_fm_nes", "mezo", "cbo",
)  # fmt: skip
# what cbo asks for where there are so many numbers
SET = {"cbo": {"diffusion": 0.0, "floor": 0.05, "dt": 0.5}}
SIGMA = {"cbo": 0.05}


def accuracies(name: str, seeds: int, budget: int) -> list[float]:
    """Returns the held-out accuracy of each seed."""
    task = digits()
    shares = []
    for seed in range(seeds):
        network = mlp(jax.random.key(100 + seed), (64, 32, 10))
        made = setup(name, network, SIGMA.get(name), options=SET.get(name))
        optimizer = made.optimizer
        state = jax.eval_shape(optimizer.init, jax.random.key(0), made.x0)
        result = gfopt.run(
            optimizer,
            gfopt.Objective(task),
            made.x0,
            key=jax.random.key(seed),
            generations=budget // population_size(optimizer, state),
            batches=task.batches,
        )
        shares.append(float(task.accuracy(result.recommended)))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=19_200)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parsed(parser, seeds=1, budget=400, methods=",".join(METHODS[:2]))
    seeds, budget = options.seeds, options.budget
    rows = {}
    for name in options.methods.split(","):
        began = time.perf_counter()
        found = accuracies(name, seeds, budget)
        rows[name] = found
        seconds = time.perf_counter() - began
        print(f"{name}: {np.round(found, 3)} in {seconds:.0f} s", flush=True)
    show(
        ("method", "lowest", "mean"),
        [(name, min(found), float(np.mean(found))) for name, found in rows.items()],
    )
    if options.methods == ",".join(METHODS):
        settings = {"seeds": seeds, "budget": budget}
        save("network_defaults", ["gfopt", "jax"], settings | {"accuracy": rows})


if __name__ == "__main__":
    main()
