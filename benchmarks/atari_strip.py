"""A strip of an episode: what the best network of a short Atari run does.

DeepGA trains the tiny network as in ``gfopt bench --suite atari``; the strip goes to
docs/images/atari.png. A minute on one core.

    pip install -e '.[atari,bench]'
    OMP_NUM_THREADS=1 python benchmarks/atari_strip.py
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import numpy as np
from common import IMAGES
from matplotlib.figure import Figure

import gfopt
from gfopt.problems import Atari
from gfopt.problems.environments.atari_emulator import FRAMES_PER_STEP
from gfopt.research.atari_runs import SHORT
from gfopt.research.settings import optimizer_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="asterix")
    parser.add_argument("--frames", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--screens", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    steps = SHORT.max_steps
    task = Atari(given.game, "tiny", max_steps=steps, num_no_ops=SHORT.num_no_ops)

    def enough(result: Any) -> bool:
        return result.context.num_steps * FRAMES_PER_STEP >= given.frames

    result = gfopt.minimize(
        task.objective(),
        task.init(jax.random.key(given.seed)),
        method=optimizer_for("atari", "deep_ga", task.num_weights, given.frames),
        budget=given.frames // FRAMES_PER_STEP,
        seed=given.seed,
        workers=given.workers,
        callbacks=enough,
        progress=True,
    )
    weights = result.recommended
    score = task.returns([0], weights)[0]
    screens = [s for _, s in zip(range(steps), task.screens(0, weights), strict=False)]
    places = np.linspace(0, len(screens) - 1, given.screens).astype(int)
    figure = Figure(figsize=(1.4 * given.screens, 2.2), layout="constrained")
    for axis, place in zip(figure.subplots(1, given.screens), places, strict=True):
        axis.imshow(screens[place])
        axis.set_title(f"step {place + 1}", fontsize=8)
        axis.axis("off")
    frames = int(result.context.num_steps) * FRAMES_PER_STEP
    figure.suptitle(f"{given.game}: {score:.0f} points, after {frames:,} frames")
    figure.savefig(IMAGES / "atari.png", dpi=80)
    print(f"wrote {IMAGES / 'atari.png'}: {score:.0f} points")


if __name__ == "__main__":
    main()
