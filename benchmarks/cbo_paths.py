"""Consensus paths beside gradient descent and Langevin dynamics, as figures.

The experiment of "Gradient is all you need?" (Riedl, Klock, Geldhauser, Fornasier) on a
2-D landscape with a valley of many minima: from (8, 8), the mean and the spread of the
consensus of CBO and of consensus hopping (200 particles, 250 steps), of gradient
descent, and of overdamped Langevin dynamics; the numbers are those of the authors'
code, the landscape is our own. Then the identity behind it, numerically: a hop on a
quadratic is ``(I + alpha s^2 H)^{-1} c``. And a strip of pictures of the particles.

    python benchmarks/cbo_paths.py   # results/cbo_paths.png, cbo_cloud.png, .json
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from common import RESULTS, parsed, save, show

import gfopt

START, STEPS, PARTICLES = np.array([8.0, 8.0]), 250, 200


def canyon(x: Any) -> Any:
    """A bent valley with ripples; its minimum is 0 at the origin."""
    u, v = x[..., 0], x[..., 1]
    across = v - u - 1.5 * jnp.sin(u / 1.5)
    along = (u**2 + v**2) / 80
    ripples = 2 - jnp.cos(4 * u) - jnp.cos(4 * v)
    return 0.3 * jnp.log1p(4 * across**2) + along + 0.15 * ripples


def cbo_path(method: Any, key: Any) -> tuple[Any, Any]:
    """Returns the consensus, ``[G, 2]``, and the particles, ``[G, N, 2]``."""
    state = method.init(key, jnp.asarray(START, jnp.float32))

    def step(state: Any, key: Any) -> Any:
        population = method.ask(key, state)
        x = jax.vmap(lambda m: method.decode(state, m))(population.members)
        found = gfopt.Evaluation(canyon(x), population.active)
        state, _ = method.tell(state, population, found)
        return state, (method.recommend(state), x)

    return jax.lax.scan(step, state, jax.random.split(key, STEPS))[1]


def gradient_path(key: Any, rate: float, temperature: float) -> Any:
    """Gradient descent, or Langevin dynamics at a temperature: ``[G, 2]``."""

    def step(x: Any, key: Any) -> Any:
        noise = jnp.sqrt(2 * rate * temperature) * jax.random.normal(key, (2,))
        x = x - rate * jax.grad(canyon)(x) + noise
        return x, x

    keys = jax.random.split(key, STEPS)
    return jax.lax.scan(step, jnp.asarray(START, jnp.float32), keys)[1]


def proximal_errors() -> list[list[float]]:
    """Returns rows of hop, identity and error in standard errors, by curvature."""
    curvature, c, s, alpha = np.array([1.0, 4.0, 10.0]), 0.3, 0.1, 5.0
    method = gfopt.ConsensusHopping(population_size=20_000, sigma=s, alpha=alpha)
    result = gfopt.run(
        method,
        lambda x: x @ (curvature * x) / 2,
        jnp.full(3, c),
        key=jax.random.key(0),
        generations=1,
    )
    error = s / np.sqrt(float(result.history["effective_sample_size"][0]))
    expected = c / (1 + alpha * s**2 * curvature)
    return [
        [float(h), float(x), float(e), float((x - e) / error)]
        for h, x, e in zip(curvature, result.recommended, expected, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=50)
    options = parsed(parser, runs=2)
    keys = jax.random.split(jax.random.key(0), options.runs)
    cbo = gfopt.CBO(
        population_size=PARTICLES, sigma=0.5, alpha=100.0, dt=0.01, diffusion=1.6,
        scaling=gfopt.consensus.Isotropic(allow_divergence=True),
    )  # fmt: skip
    hopping = gfopt.ConsensusHopping(
        population_size=PARTICLES,
        sigma=lambda step: 0.7 * 0.98 ** jnp.floor(step / 100),
        alpha=100.0,
    )
    paths = {
        "CBO": jax.vmap(lambda k: cbo_path(cbo, k)[0])(keys),
        "consensus hopping": jax.vmap(lambda k: cbo_path(hopping, k)[0])(keys),
        "gradient descent": gradient_path(keys[0], 0.05, 0.0)[None],
        "Langevin": jax.vmap(lambda k: gradient_path(k, 0.05, 0.3))(keys),
    }
    side = np.linspace(-4, 11, 300)
    grid = np.stack(np.meshgrid(side, side), -1)
    heights = np.asarray(canyon(grid))
    figure, axes = plt.subplots(1, 4, figsize=(16, 4.2), sharex=True, sharey=True)
    results = {}
    for axis, (name, runs) in zip(axes, paths.items(), strict=True):
        runs = np.asarray(runs)
        axis.contourf(side, side, heights, 30, cmap="Greys")
        for run in runs[:10]:
            axis.plot(*run.T, color="tab:blue", alpha=0.3, linewidth=0.7)
        axis.plot(*np.vstack([START, runs.mean(axis=0)]).T, color="tab:red")
        axis.plot(0, 0, "*", color="gold", markersize=12)
        near = float(np.mean(np.linalg.norm(runs[:, -1], axis=1) < 0.5))
        axis.set_title(f"{name}: {near:.0%} reach it", fontsize=10)
        results[name] = {
            "near_the_minimum": near,
            "last_value": float(np.mean(canyon(runs[:, -1]))),
        }
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "cbo_paths.png", dpi=80)
    consensus, clouds = cbo_path(cbo, keys[0])
    figure, axes = plt.subplots(1, 6, figsize=(18, 3.2), sharex=True, sharey=True)
    for axis, step in zip(axes, (0, 10, 25, 50, 100, 200), strict=True):
        axis.contourf(side, side, heights, 30, cmap="Greys")
        axis.plot(*np.asarray(clouds[step]).T, ".", color="tab:blue", markersize=3)
        axis.plot(*np.asarray(consensus[step]), "x", color="tab:red")
        axis.set(title=f"step {step}", xlim=(-4, 11), ylim=(-4, 11))
    figure.tight_layout()
    figure.savefig(RESULTS / "cbo_cloud.png", dpi=80)
    show(
        ["", "runs near the minimum", "last value"],
        [[name, *row.values()] for name, row in results.items()],
    )
    proximal = proximal_errors()
    header = ["curvature", "hop", "(I + alpha s^2 H)^-1 c", "off, standard errors"]
    show(header, proximal)
    save("cbo_paths", ["gfopt", "jax"], {"paths": results, "proximal": proximal})


if __name__ == "__main__":
    main()
