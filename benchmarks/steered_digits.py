"""Feynman-Kac steering of a flow that draws digits, beside best-of-n and gradients.

Wanted are rare images: an eight drawn lightly, and what is a four as much as a nine. A
reward reads the classifier that guides; another one says whether an image is what was
wanted. A run makes one image from 8 particles of 32 stochastic steps, by the weights
and the resampling of ``gfopt.steering``, the code that steers texts. Claim (Singhal et
al. 2025, arXiv 2501.06848): a rare property becomes a frequent one, and 8 particles
beat the best of 8 draws, and gradients. All have 256 network passes, a backward pass
counted as two: following the gradient of the reward through the network leaves the best
of three draws (rounded up). Scales are chosen for each way on other keys, by the judged
share.

    python benchmarks/steered_digits.py  # 3 minutes of processor time
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import save, show, sized
from digit_flow import (
    Models,
    claimed,
    denoised,
    digits,
    moved,
    started,
    steps,
)

from gfopt import steering
from gfopt.problems.networks import network_outputs
from gfopt.research.statistics import bootstrap_interval

STEPS, PARTICLES = sized(32, 6), 8
RUNS = sized(64, 4)  # images of a seed
SCALES = sized((1.0, 3.0, 10.0, 30.0), (1.0,))
SLOPES = sized((1.0, 3.0, 10.0, 30.0, 100.0), (1.0,))
LARGEST = 10.0  # of t^2 / (1 - t), which is infinite at the first step
STEERED = {f"steering, {name}": name for name in steering.POTENTIALS}

Reward = Callable[[jax.Array], jax.Array]


def tasks(models: Models) -> dict[str, tuple[Reward, Reward]]:
    """Returns for each task the reward and the judgement of images ``[b, 64]``."""
    images, labels = digits()
    light = float(np.quantile(images[labels == 8].mean(axis=1), 0.2))

    def logs(network: Any, images: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(network_outputs(network, images))

    def eight(images: jax.Array) -> jax.Array:
        ink = jax.nn.log_sigmoid((light - images.mean(axis=1)) / 0.02)
        return logs(models.guide, images)[:, 8] + ink

    def is_eight(images: jax.Array) -> jax.Array:
        found = jnp.argmax(logs(models.judge, images), axis=1)
        return (found == 8) & (images.mean(axis=1) < light)

    def between(images: jax.Array) -> jax.Array:
        found = logs(models.guide, images)
        return found[:, 4] + found[:, 9]

    def is_between(images: jax.Array) -> jax.Array:
        found = jnp.exp(logs(models.judge, images))
        return jnp.minimum(found[:, 4], found[:, 9]) > 0.2

    return {
        "a light eight": (eight, is_eight),
        "four and nine": (between, is_between),
    }


def drawn(
    models: Models,
    reward: Reward,
    key: jax.Array,
    scale: Any,
    count: int = PARTICLES,
    potential: str = "",
    is_guided: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Draws ``count`` images by 32 steps.

    Args:
        models: of them the flow.
        reward: of clean images.
        key: of the run.
        scale: of the reward, or of its gradient.
        count: of particles.
        potential: how particles are weighed; empty for no resampling.
        is_guided: follow the gradient of the reward.

    Returns:
        images ``[count, 64]`` and their weights ``[count]``.
    """
    times = jnp.asarray(steps(STEPS))

    def step(carry: Any, place: Any) -> Any:
        x, kept = carry
        t, s, is_last = times[place], times[place + 1], place == STEPS - 1
        choice, fresh = jax.random.split(jax.random.fold_in(key, place))
        if is_guided:
            clean, pulled = jax.vjp(lambda x: denoised(models.flow, x, t), x)
            slope = jax.grad(lambda clean: reward(clean).sum())(clean)
            # E[x_0 | x_t, y] = E[x_0 | x_t] + t^2 / (1 - t) grad log p(y | x_t)
            gain = jnp.minimum(t**2 / jnp.maximum(1 - t, 1e-6), LARGEST)
            clean = clean + scale * gain * pulled(slope)[0]
        else:
            clean = denoised(models.flow, x, t)
        # what is drawn is rewarded: pixels in [-1, 1]
        clean = jnp.clip(clean, -1, 1)
        kept = kept.weighed(
            reward(clean),
            scale=0.0 if is_guided else scale,
            potential=potential or "difference",
            is_last=is_last,
        )
        threshold = jnp.where(is_last, 0.0, 0.5 if potential else 0.0)
        kept, ancestors, _ = kept.resampled(choice, threshold)
        noise = jax.random.normal(fresh, x.shape)
        x = moved(x[ancestors], clean[ancestors], t, s, noise)
        return (x, kept), None

    first = jax.random.normal(jax.random.fold_in(key, STEPS), (count, 64))
    begun = (first, steering.lineages(count))
    (images, kept), _ = jax.lax.scan(step, begun, jnp.arange(STEPS))
    return images, kept.weights


def chosen(
    models: Models, reward: Reward, judged: Reward, way: str, keys: Any, scale: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns the judged share and the mean reward of one image for each key."""

    def one(key: jax.Array) -> jax.Array:
        options: dict[str, Any] = {"potential": STEERED.get(way, "")}
        if way == "gradient, best of 3":
            options = {"count": 3, "is_guided": True}
        images, weights = drawn(models, reward, key, scale, **options)
        if way == "no guidance":
            return images[0]
        if way == "importance sampling":
            return images[jax.random.categorical(key, jnp.log(weights))]
        return images[jnp.argmax(reward(images))]

    images = jax.vmap(one)(keys)
    return judged(images).mean(), reward(images).mean()


def main() -> None:
    models, seeds = started(__doc__, seeds=8)
    grids = {
        "no guidance": (0.0,),
        "best of 8": (0.0,),
        "importance sampling": SCALES,
        "gradient, best of 3": SLOPES,
        **dict.fromkeys(STEERED, SCALES),
    }
    results: dict[str, Any] = {}
    claims = []
    for task, (reward, judged) in tasks(models).items():
        found: dict[str, Any] = {}
        for way, grid in grids.items():
            run = jax.jit(partial(chosen, models, reward, judged, way))
            tried = jax.random.split(jax.random.key(1000), 2 * RUNS)
            shares = [float(run(tried, scale)[0]) for scale in grid]
            scale = grid[int(np.argmax(shares))]
            runs = [
                run(jax.random.split(jax.random.key(seed), RUNS), scale)
                for seed in range(seeds)
            ]
            share, mean = np.asarray(runs).T
            found[way] = {"scale": scale, "tried": dict(zip(grid, shares, strict=True))}
            found[way] |= {"share": share.tolist(), "reward": mean.tolist()}
        results[task] = found
        print(f"\n{task}")
        rows = [
            (
                way,
                row["scale"],
                *bootstrap_interval(row["share"]),
                np.mean(row["reward"]),
            )
            for way, row in sorted(found.items(), key=lambda f: np.mean(f[1]["share"]))
        ]
        show(("way", "scale", "judged", "low", "high", "reward"), rows)
        ours = found["steering, difference"]["share"]
        claims += [
            claimed(f"{task}: difference steering above {way}", ours, row["share"])
            for way, row in found.items()
            if row["share"] is not ours
        ]
    results["claims"] = claims
    settings = {"steps": STEPS, "particles": PARTICLES, "runs": RUNS}
    save("steered_digits", ["jax", "optax", "scikit-learn"], settings | results)


if __name__ == "__main__":
    main()
