"""A swimming robot of MuJoCo, steered by a linear policy of 18 numbers.

Swimmer-v5 through Gymnasium, called on the host in two processes; OpenES with
normalised observations, all members of a generation on the same episode. The policy at
the start is all zeros; beside it stands one with random actions. The answer is judged
on fresh episodes, with the moments that its search ended with.

    pip install -e '.[bench,gymnasium]'
"""

from __future__ import annotations

import argparse
import time
import warnings

import common
import figures
import jax
import numpy as np

import gfopt
from gfopt.problems import GymnasiumRollout, continuous_action, mlp
from gfopt.research.statistics import bootstrap_interval

NAME = "Swimmer-v5"
SIZES = (8, 2)
EPISODES = range(10_000, 10_010)  # seeds that no search draws


def train(seed: int, generations: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best return of each generation, and the answer's on fresh ones."""
    task = GymnasiumRollout(NAME, continuous_action, normalise=True)
    start = jax.tree.map(np.zeros_like, mlp(jax.random.key(0), SIZES))
    method = gfopt.OpenES(population_size=16, sigma=0.2, learning_rate=0.1)
    result = gfopt.minimize(
        task.objective(),
        start,
        method=method,
        budget=generations * method.population_size,
        workers=2,
        seed=seed,
        batches=task.episodes,
    )
    returns = task.returns(EPISODES, result.recommended, result.context)
    return result.history["fitness"], returns


def random_returns() -> np.ndarray:
    """Returns the returns of uniformly random actions."""
    draw = np.random.default_rng(0)

    def act(parameters: object, observation: np.ndarray) -> np.ndarray:
        return draw.uniform(-1, 1, SIZES[1])

    return GymnasiumRollout(NAME, act).returns(EPISODES, np.zeros(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--generations", type=int, default=25)
    settings = common.parsed(parser, seeds=1, generations=1)
    warnings.simplefilter("ignore")  # one deprecation in MuJoCo
    began = time.monotonic()
    found = [train(seed, settings.generations) for seed in range(settings.seeds)]
    seconds = time.monotonic() - began
    curves = np.stack([curve for curve, _ in found])
    final = np.array([returns.mean() for _, returns in found])
    chance = random_returns()
    trained, luck = bootstrap_interval(final), bootstrap_interval(chance)
    common.show(
        ["policy", "return", "low", "high"],
        [["random actions", *luck], ["trained, mean of seeds", *trained]],
    )
    figures.curves(
        "locomotion",
        {"best of each generation": curves},
        "generation",
        f"return of {NAME}",
        marks={"random actions": luck.estimate},
    )
    results = {
        "environment": NAME,
        "seeds": settings.seeds,
        "evaluations": settings.generations * 16,
        "returns": final.round(1).tolist(),
        "mean": round(trained.estimate, 1),
        "interval": [round(trained.low, 1), round(trained.high, 1)],
        "random_mean": round(luck.estimate, 1),
        "seconds": round(seconds),
    }
    common.save("locomotion", ["jax", "gymnasium", "mujoco"], results)


if __name__ == "__main__":
    main()
