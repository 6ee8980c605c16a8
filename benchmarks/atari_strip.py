"""A strip of an episode: what the best network of a short Atari run does.

DeepGA trains the tiny network as in ``gfopt bench --suite atari``; the strip goes to
docs/images/atari.png. A minute on one core.

    pip install -e '.[atari,bench]'
    OMP_NUM_THREADS=1 python benchmarks/atari_strip.py
"""

from __future__ import annotations

import argparse
import base64
import io
from typing import Any

import jax
import numpy as np
from figures import draw_screens, kept
from matplotlib.image import imsave

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
    frames = int(result.context.num_steps) * FRAMES_PER_STEP
    data = {
        "title": f"{given.game}: {score:.0f} points, after {frames:,} frames",
        "steps": (places + 1).tolist(),
        "screens": [_packed(screens[place]) for place in places],
    }
    draw_screens("atari", kept("atari", data))
    print(f"{score:.0f} points")


def _packed(screen: np.ndarray) -> str:
    """Returns the PNG of a screen as text."""
    file = io.BytesIO()
    imsave(file, screen, format="png")
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main()
