"""Integer codes as what is searched: QES beside QZO and MeZO at equal forward passes.

The network, the data and the search of the learning rate are those of ``qzo_digits``: a
perceptron 64-96-96-10 in 4 bits adapts to digits turned by 30 degrees. QES steps its
int4 codes, QZO its scales, MeZO all weights in float32. The rate of each falls to 0,
and is chosen on other seeds in runs of a quarter of the steps. A step of QES has a
generation of as many antithetic pairs as the others have directions. What is compared
are five seeds each, in pairs.

    python benchmarks/integer_codes.py
"""

from __future__ import annotations

import argparse
from typing import Any

import common
import jax
import numpy as np
import qzo_digits as digits

import gfopt

SIGMA = 0.02
METHODS = {
    "qzo": "int4, scales",
    "qes 8": "int4, codes, residual of 8 generations",
    "qes stored": "int4, codes, residual in int8",
    "mezo": "float32, all weights",
    "qes 0": "int4, codes, no residual",
}
WINDOWS = {"qes 8": 8, "qes stored": None, "qes 0": 0}
QES_RATES = np.geomspace(0.05, 0.4, 4)
RATES = np.geomspace(1e-2, 2.56, 9)  # of the others


def adapted(name: str, rate: Any, seed: Any, steps: int, directions: int) -> Any:
    """Returns accuracy before and after, and the share of codes that are others."""
    if name not in WINDOWS:
        return *digits.run(name, rate, seed, steps, directions)[:2], np.float32(0)
    key = jax.random.key(seed)
    codes, scales = gfopt.partition(digits.quantized(digits.trained(key)), codes=True)
    method = gfopt.QES(
        2 * directions,
        SIGMA,
        lambda step: rate * (1 - step / steps),
        window=WINDOWS[name],
    )
    found = gfopt.run(
        method,
        digits.turned_loss,
        codes,
        key=key,
        generations=steps,
        batches=digits.batches,
        frozen=scales,
    )
    before, after = (
        digits.accuracy(gfopt.merge(x, scales)) for x in (codes, found.recommended)
    )
    return before, after, found.history["moved_share"].mean()


def over_seeds(name: str, steps: int, directions: int) -> Any:
    """Returns a jitted ``(rates [r], seeds [s]) -> results [r, s]``."""

    def one(rate: Any, seed: Any) -> Any:
        return adapted(name, rate, seed, steps, directions)

    return jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--directions", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    given = common.parsed(
        parser, steps=8, directions=1, methods=["qzo", "qes 8"], seeds=1
    )
    seeds = np.arange(1, given.seeds + 1)
    runs: dict[str, Any] = {}
    for name in given.methods:
        rates = common.sized(QES_RATES if name in WINDOWS else RATES, RATES[:1])
        tuning = over_seeds(name, given.steps // 4, given.directions)
        tuned = tuning(rates, np.array(digits.TUNING_SEEDS))[1]
        tuned = np.nan_to_num(np.asarray(tuned)).mean(axis=1)
        rate = rates[tuned.argmax()]
        best = over_seeds(name, given.steps, given.directions)
        before, after, moved = (
            np.asarray(part)[0] for part in best(np.array([rate]), seeds)
        )
        runs[name] = {
            "what": METHODS[name],
            "rates": rates.tolist(),
            "tuned": tuned.tolist(),
            "rate": float(rate),
            "before": before.tolist(),
            "after": after.tolist(),
            "moved_share": float(moved.mean()),
        }
        reference = runs.get("qzo", runs[name])["after"]
        for row in runs.values():
            gaps = np.subtract(row["after"], reference)
            row["beyond_qzo"] = common.student_interval(gaps)
        print(name, runs[name], flush=True)
        settings = {"steps": given.steps, "directions": given.directions}
        passes = {"passes": 2 * given.directions * given.steps, "sigma": SIGMA}
        packages = ["jax", "optax", "scikit-learn"]
        common.save("integer_codes", packages, settings | passes | {"runs": runs})
    common.show(
        ["method", "before", "after", "beyond QZO"],
        [
            [name, float(np.mean(row["before"])), float(np.mean(row["after"])),
             "[{:+.3f}, {:+.3f}]".format(*row["beyond_qzo"][1:])]
            for name, row in runs.items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
