"""Draws every figure of the docs again, from the files in results/figures.

A script that makes one keeps there what it shows, so that nothing is run: some seconds,
and NumPy and matplotlib are all that is needed.

    python benchmarks/figures.py               # all of them
    python benchmarks/figures.py mnist novelty
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from typing import Any

import numpy as np
from common import IMAGES, RESULTS
from matplotlib.figure import Figure
from matplotlib.image import imread

KEPT = RESULTS / "figures"


def curves(
    name: str,
    lines: dict[str, Any],
    x_label: str,
    y_label: str,
    x: Any = None,
    marks: dict[str, float] | None = None,
) -> None:
    """Draws the mean over seeds of each ``[seeds, points]`` to docs/images/<name>.png.

    Every seed is a thin line, what is in ``marks`` a dashed one across. What is drawn
    is kept, see ``kept``.
    """
    points = next(iter(lines.values())).shape[1]
    across = range(1, points + 1) if x is None else x
    shown = {label: np.asarray(runs).tolist() for label, runs in lines.items()}
    words = {"lines": shown, "x": [*map(float, across)], "marks": marks or {}}
    draw_curves(name, kept(name, words | {"x_label": x_label, "y_label": y_label}))


def draw_curves(name: str, data: dict[str, Any]) -> None:
    """Draws what ``curves`` has kept."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axis = figure.subplots()
    for number, (label, rows) in enumerate(data["lines"].items()):
        runs = np.asarray(rows)
        axis.plot(data["x"], runs.T, f"C{number}", lw=0.6, alpha=0.35)
        axis.plot(data["x"], runs.mean(axis=0), f"C{number}", lw=2, label=label)
    for number, (label, height) in enumerate(data["marks"].items(), len(data["lines"])):
        axis.axhline(height, color=f"C{number}", ls="--", label=label)
    axis.set(xlabel=data["x_label"], ylabel=data["y_label"])
    axis.grid(alpha=0.3)
    axis.legend()
    picture(name, figure)


def kept(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """Keeps what a picture of the docs shows; ``figures.py`` draws it again."""
    text = json.dumps(data, separators=(",", ":"))
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(text + "\n")
    found: dict[str, Any] = json.loads(text)
    return found


def picture(name: str, figure: Any) -> None:
    """Writes docs/images/<name>.png."""
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png", dpi=80)
    print(f"wrote {IMAGES / name}.png")


def draw_lineages(name: str, data: dict[str, Any]) -> None:
    """Draws who came from whom, in colour the last elite's ancestors; and scores."""
    came_from, scores = np.array(data["parents"]), np.array(data["scores"])
    generations, parents = came_from.shape
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    path = [0]  # of the last elite, backwards
    for row in came_from[::-1]:
        path.append(int(row[path[-1]]))
    for generation, row in enumerate(came_from):
        for child in range(parents):
            ends = [int(row[child]), child]
            left.plot([generation, generation + 1], ends, color="0.8", lw=0.7)
    left.plot(range(generations + 1), path[::-1], color="#d9822b", lw=2)
    left.set(xlabel="generation", ylabel="place among the parents")
    left.invert_yaxis()
    places = np.repeat(np.arange(1, generations + 1), scores.shape[1])
    right.plot(places, np.ravel(scores), ".", ms=2, color="#9db8d6", label="children")
    best = np.minimum.accumulate(np.min(scores, axis=1))
    right.plot(range(1, generations + 1), best, color="#1f5fa8", label="elite")
    right.set(xlabel="generation", ylabel="score, lower is better", yscale="log")
    right.legend(frameon=False)
    picture(name, figure)


def draw_archives(name: str, data: dict[str, Any]) -> None:
    """Draws the archives, the older the darker."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (title, places) in zip(figure.subplots(1, 2), data.items(), strict=True):
        axes.scatter(*np.transpose(places), c=range(len(places)), cmap="viridis", s=8)
        axes.plot([1, 1], [-2, 2], color="k", lw=2)
        axes.plot(2, 0, "*", color="#d9822b", ms=12)
        axes.set_title(title, fontsize=10)
        axes.set_aspect("equal", "datalim")
    picture(name, figure)


def draw_screens(name: str, data: dict[str, Any]) -> None:
    """Draws screens side by side."""
    count = len(data["screens"])
    figure = Figure(figsize=(1.4 * count, 2.2), layout="constrained")
    pairs = zip(data["steps"], data["screens"], strict=True)
    for axis, (step, text) in zip(figure.subplots(1, count), pairs, strict=True):
        axis.imshow(imread(io.BytesIO(base64.b64decode(text))))
        axis.set_title(f"step {step}", fontsize=8)
        axis.axis("off")
    figure.suptitle(data["title"])
    picture(name, figure)


def draw_elites(name: str, data: dict[str, Any]) -> None:
    """Draws the scores of a search for elites, and their values by behaviour."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    coverage, score, elites = figure.subplots(1, 3)
    for axis, label in ((coverage, "coverage"), (score, "QD score")):
        axis.plot(data["evaluations"], data[label])
        axis.set(xlabel="evaluations", title=label)
        axis.locator_params(axis="x", nbins=4)
        axis.grid(alpha=0.3)
    # -1 where there is no elite
    values = np.ma.masked_less(np.array(data["values"]), 0)
    image = elites.imshow(
        values.T, origin="lower", extent=data["extent"], cmap="viridis_r"
    )
    elites.set_title("values by the two descriptors")
    figure.colorbar(image, ax=elites)
    picture(name, figure)


def main() -> None:
    draw = {
        "atari": draw_screens,
        "cartpole": draw_curves,
        "deep_ga": draw_lineages,
        "grid_archive": draw_elites,
        "language_model": draw_curves,
        "locomotion": draw_curves,
        "mnist": draw_curves,
        "novelty": draw_archives,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of figures; all by default")
    for name in parser.parse_args().names or draw:
        draw[name](name, json.loads((KEPT / f"{name}.json").read_text()))


if __name__ == "__main__":
    main()
