"""A thousand numbers: evaluations to 1e-8, or the best within the budget.

Every method starts from the same point, uniform in [-4, 4]^D, with sigma 2, its default
population and double precision. The functions have condition 1e6; the turned ones see
``x`` through an orthogonal map (random signs and a discrete cosine transform), so that
their axes are not those of the numbers. Beside our methods stand

- ``crfmnes``, the package of CR-FM-NES' authors, where it is installed, with our
  population size;
- LM-MA-ES (Loshchilov, Glasmachers, Beyer 2017, arXiv 1705.06693), which is rotation
  invariant and was the other candidate for the package. It is written out below.

    python benchmarks/large_scale.py
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from common import parsed, save, show

import gfopt
from gfopt.noise import threefry
from gfopt.optimizers.cma.parameters import constants, recombination_weights
from gfopt.optimizers.gaussian import default_population_size

METHODS = ("cr_fm_nes", "sep_cma_es", "snes")
TARGET = 1e-8
SLICE = 500  # generations between two looks
Function = Callable[[Any], Any]


class LMMAESState(NamedTuple):
    """Mean, step size, its path and the directions ``[M, D]``."""

    step: jax.Array
    mean: jax.Array
    sigma: jax.Array
    path: jax.Array
    directions: jax.Array


@partial(jax.tree_util.register_dataclass, data_fields=["sigma"], meta_fields=["size"])
@dataclass(frozen=True)
class LMMAES:
    """LM-MA-ES on a vector: ``y = prod_j ((1 - c_j) I + c_j m_j m_j^T) z``."""

    size: int
    sigma: float

    def init(self, key: Any, x0: jax.Array) -> LMMAESState:
        """Starts with the identity."""
        zero, number = jnp.zeros_like(x0), jnp.asarray(self.sigma, x0.dtype)
        many = jnp.zeros((4 + int(3 * math.log(x0.size)), x0.size), x0.dtype)
        return LMMAESState(jnp.int32(0), x0, number, zero, many)

    def ask(self, key: Any, state: LMMAESState) -> gfopt.Population:
        """Bends normals along the directions there are."""
        shape = self.size, state.mean.size
        z = threefry.standard_normal(key, shape, state.mean.dtype)

        def bend(j: jax.Array, y: jax.Array) -> jax.Array:
            rate = jnp.where(j < state.step, 1 / (1.5**j * state.mean.size), 0)
            m = state.directions[j]
            return (1 - rate) * y + rate * (y @ m)[:, None] * m

        y = jax.lax.fori_loop(0, len(state.directions), bend, z)
        return gfopt.Population((z, y), jnp.ones(self.size, bool))

    def decode(self, state: LMMAESState, member: Any) -> jax.Array:
        """Returns ``m + sigma y``."""
        return state.mean + state.sigma * member[1]

    def tell(
        self, state: LMMAESState, population: gfopt.Population, found: gfopt.Evaluation
    ) -> tuple[LMMAESState, tuple[()]]:
        """Moves the mean, sigma and the directions, by whitened steps."""
        n, (z, y) = state.mean.size, population.members
        c = constants(n, self.size)
        table = np.maximum(c.weights, 0)
        weights, _ = recombination_weights(table, found, state.mean.dtype)
        rate = 2 * self.size / n
        pull = math.sqrt(c.mu_eff * rate * (2 - rate))
        path = (1 - rate) * state.path + pull * (weights @ z)
        rates = self.size / (4.0 ** jnp.arange(len(state.directions)) * n)
        pulls = jnp.sqrt(c.mu_eff * rates * (2 - rates))[:, None]
        directions = (1 - rates)[:, None] * state.directions + pulls * (weights @ z)
        sigma = state.sigma * jnp.exp(rate / 2 * (path @ path / n - 1))
        mean = state.mean + state.sigma * (weights @ y)
        return LMMAESState(state.step + 1, mean, sigma, path, directions), ()

    def recommend(self, state: LMMAESState) -> jax.Array:
        """Returns the mean."""
        return state.mean


def functions(dimension: int, xp: Any, dct: Any) -> dict[str, Function]:
    """Returns the functions, written with NumPy or JAX."""
    scales = 1e6 ** xp.linspace(0, 1, dimension)
    signs = xp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], dimension))

    def sphere(x):  # noqa: ANN001, ANN202
        return x @ x

    def ellipsoid(x):  # noqa: ANN001, ANN202
        return scales @ x**2

    def cigar(x):  # noqa: ANN001, ANN202
        return x[0] ** 2 + 1e6 * (x[1:] @ x[1:])

    def discus(x):  # noqa: ANN001, ANN202
        return 1e6 * x[0] ** 2 + x[1:] @ x[1:]

    def rosenbrock(x):  # noqa: ANN001, ANN202
        return xp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def turned(fun: Function) -> Function:
        return lambda x: fun(dct(signs * x, norm="ortho"))

    return {
        "sphere": sphere,
        "ellipsoid": ellipsoid,
        "cigar": cigar,
        "discus": discus,
        "rosenbrock": rosenbrock,
        "cigar, turned": turned(cigar),
        "ellipsoid, turned": turned(ellipsoid),
    }


def ours(optimizer: Any, fun: Function, x0: np.ndarray, seed: int) -> Iterator[float]:
    """Yields the best fitness of each generation, compiled a slice at a time."""
    key, x0 = jax.random.key(seed), jnp.asarray(x0)
    state = optimizer.init(key, x0)
    while True:
        result = gfopt.run(optimizer, fun, x0, key=key, generations=SLICE, state=state)
        state = result.state
        yield from np.asarray(result.history["fitness"]).tolist()


def authors(size: int, fun: Function, x0: np.ndarray, seed: int) -> Iterator[float]:
    """Yields the same for the authors' package."""
    from crfmnes import CRFMNES

    np.random.seed(seed)
    search = CRFMNES(
        x0.size,
        lambda x: fun(x[:, 0]),
        x0[:, None].copy(),
        2.0,
        size,
        use_constraint_violation=False,
    )
    while True:
        _, values, _ = search.one_iteration()
        yield float(values.min())


def outcome(
    values: Iterator[float], size: int, budget: int
) -> tuple[int | None, float]:
    """Returns evaluations to the target, or None, and the best fitness."""
    best = math.inf
    for generation in range(1, budget // size + 1):
        best = min(best, next(values))
        if best <= TARGET:
            return generation * size, best
    return None, best


def text(cell: dict[str, Any]) -> str:
    """Returns what the table shows of a cell."""
    if None in cell["evaluations"]:
        return f"({np.median(cell['best']):.1e})"
    return f"{np.median(cell['evaluations']):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dimension", type=int, default=1000)
    parser.add_argument("--budget", type=int, default=200, help="evaluations / D")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--functions", nargs="+")
    options = parsed(parser, dimension=20, budget=20, functions=["sphere"])
    d, budget = options.dimension, options.budget * options.dimension
    size = default_population_size(d)
    even = size + size % 2
    with jax.enable_x64(True):
        compiled = functions(d, jnp, jax.scipy.fft.dct)
        plain = functions(d, np, scipy.fft.dct)
        entries: dict[str, tuple[int, Any]] = {
            name: (
                even if name == "cr_fm_nes" else size,
                gfopt.method(name, {"sigma": 2.0}),
            )
            for name in METHODS
        }
        entries["lm_ma_es"] = size, LMMAES(size, 2.0)
        packages = ["gfopt", "jax", "numpy", "scipy"]
        if importlib.util.find_spec("crfmnes") is not None:
            entries["crfmnes"] = even, None
            packages.append("crfmnes")
        cells = []
        for function in options.functions or compiled:
            for name, (count, optimizer) in entries.items():
                found = []
                for seed in range(options.seeds):
                    x0 = np.random.default_rng(seed).uniform(-4, 4, d)
                    if optimizer is None:
                        values = authors(count, plain[function], x0, seed)
                    else:
                        values = ours(optimizer, compiled[function], x0, seed)
                    found.append(outcome(values, count, budget))
                evaluations, best = map(list, zip(*found, strict=True))
                cell = {"evaluations": evaluations, "best": best}
                cells.append({"function": function, "method": name} | cell)
                print(function, name, cell, flush=True)
    print("\nmedian of evaluations to 1e-8, or of the best within the budget\n")
    table = {(cell["function"], cell["method"]): text(cell) for cell in cells}
    rows = dict.fromkeys(function for function, _ in table)
    show(["", *entries], [[f, *(table[f, name] for name in entries)] for f in rows])
    save("large_scale", packages, {"options": vars(options), "cells": cells})


if __name__ == "__main__":
    main()
