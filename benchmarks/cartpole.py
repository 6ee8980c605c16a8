"""CartPole solved by OpenES, ten seeds in one compiled program.

A linear policy with normalised observations; each evaluation is the mean of eight
episodes of at most 500 steps, the same for all members of a generation. After
every five generations the mean policy plays 100 fresh episodes. 500 is perfect.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import common
import figures
import jax
import numpy as np

import gfopt
from gfopt.problems import CartPole, Rollout, discrete_action, mlp
from gfopt.research.statistics import bootstrap_interval

BLOCK = 5  # generations between two looks at the policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=16)
    settings = common.parsed(parser, seeds=2, blocks=2)
    task = Rollout(
        CartPole(), discrete_action, num_episodes=8, max_steps=500, normalise=True
    )
    method = gfopt.OpenES(population_size=32, sigma=0.2, learning_rate=0.1)

    def block(key, policy, state, context):
        """Trains for some generations from where the last block ended."""
        result = gfopt.run(
            method,
            replace(task.objective(), context=context),
            policy,
            key=key,
            state=state,
            generations=BLOCK,
            batches=task.episodes,
        )
        look = jax.random.fold_in(key, result.state.step)
        returns = task.returns(look, result.recommended, 100, result.context)
        return result.recommended, result.state, result.context, returns

    first_context = task.first_context()
    began = time.monotonic()
    keys = jax.random.split(jax.random.key(0), settings.seeds)
    policies = jax.vmap(lambda key: mlp(key, (4, 2)))(keys)
    states = jax.vmap(method.init)(keys, policies)
    contexts = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf, (settings.seeds, *leaf.shape)), first_context
    )
    train = jax.jit(jax.vmap(block))
    looks = []
    for _ in range(settings.blocks):
        policies, states, contexts, returns = train(keys, policies, states, contexts)
        looks.append(np.asarray(returns))
    seconds = time.monotonic() - began
    means = np.stack(looks).mean(axis=2)  # [blocks, seeds]
    final = means[-1]
    interval = bootstrap_interval(final)
    solved = [int(np.argmax(run >= 475) + 1) * BLOCK for run in means.T]
    common.show(
        ["seeds", "mean return", "worst seed", "lowest episode", "seconds"],
        [[settings.seeds, float(final.mean()), float(final.min()),
          float(looks[-1].min()), seconds]],
    )  # fmt: skip
    generations = BLOCK * np.arange(1, settings.blocks + 1)
    figures.curves(
        "cartpole",
        {"OpenES, mean policy": means.T},
        "generation",
        "return of 100 fresh episodes",
        generations,
    )
    results = {
        "generations": generations.tolist(),
        "population_size": method.population_size,
        "returns": means.T.round(1).tolist(),
        "mean": round(float(final.mean()), 2),
        "interval": [round(interval.low, 2), round(interval.high, 2)],
        "generations_to_475": solved,
        "seconds_with_compilation": round(seconds),
    }
    common.save("cartpole", ["jax"], results)


if __name__ == "__main__":
    main()
