"""ClaPS on handwritten digits: what pruning is worth to four searches, budgets equal.

A small attention model reads a digit and a prompt of five tokens out of 8,000. Trained
here, it knows six binary attributes of digits, each announced by any of four tokens;
all others mean nothing. A task is one attribute, shown by 16 images a class, and the
search may ask for the loss of 300 prompts in all, pruning included. Reported is the
accuracy on 597 images that neither the model nor the search saw.

The figure shows how it fails: where no cluster is represented by a token of the task,
pruning cannot bring it back. Fewer clusters make that frequent.

    python benchmarks/claps_digits.py                 # 4 models x 6 tasks
    python benchmarks/claps_digits.py --seeds 1
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import RESULTS, parsed, save, show
from sklearn.datasets import load_digits

import gfopt
from gfopt.research.statistics import paired_difference_interval

V, LENGTH, WIDTH, SLOTS = 8000, 5, 32, 8
SYNONYMS, SHOTS, BUDGET = 4, 16, 300
NUM_CLUSTERS, NUM_KEPT, HELD_OUT = 186, 20, 597
ATTRIBUTES = {
    "even": {0, 2, 4, 6, 8},
    "large": {5, 6, 7, 8, 9},
    "prime": {2, 3, 5, 7},
    "loop": {0, 6, 8, 9},
    "third": {0, 3, 6, 9},
    "straight": {1, 4, 7},
}
SEARCHES = {
    "random_tokens": {"population_size": 50},
    "genetic_tokens": {"population_size": 20, "mutation_rate": 0.2},
    "categorical_tokens": {"population_size": 20},
    "greedy_tokens": {"population_size": BUDGET // LENGTH, "num_sweeps": 20},
}
SPACES = ("full", "clusters", "claps", "random pruning")
FEWER_CLUSTERS = (23, 46, 93)
NOTHING = np.full(LENGTH, -1, np.int32)


def initial(key: jax.Array) -> dict[str, jax.Array]:
    """Draws the model's weights."""
    shapes = {
        "tokens": (V, WIDTH), "pixels": (64, 96), "slots": (96, SLOTS * WIDTH),
        "query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH), "value": (WIDTH, WIDTH),
        "gate": (WIDTH, WIDTH), "hidden": (WIDTH, WIDTH), "out": (WIDTH, 2),
    }  # fmt: skip
    keys = jax.random.split(key, len(shapes))
    return {"gate_bias": jnp.full(WIDTH, -0.25), "hidden_bias": jnp.zeros(WIDTH)} | {
        name: jax.random.normal(k, shape)
        * (0.2 if name == "tokens" else shape[0] ** -0.5)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def logits(w: dict[str, jax.Array], prompt: jax.Array, images: jax.Array) -> jax.Array:
    """Answers for images ``[n, 64]`` under one prompt ``[L]``: ``[n, 2]``.

    Each token looks for its features in the image and gates what it finds; the tokens'
    contributions are added. A token of -1 contributes nothing.
    """
    tokens = w["tokens"][jnp.maximum(prompt, 0)]
    features = jax.nn.relu(images @ w["pixels"]) @ w["slots"]
    features = features.reshape(-1, SLOTS, WIDTH)
    scores = jnp.einsum("lq,nsq->nls", tokens @ w["query"], features @ w["key"])
    shares = jax.nn.softmax(scores / WIDTH**0.5, axis=-1)
    seen = jnp.einsum("nls,nsv->nlv", shares, features @ w["value"])
    # a gate that is shut: most tokens learn to say exactly nothing
    gate = jax.nn.relu(tokens @ w["gate"] + w["gate_bias"])
    gated = seen * gate * (prompt >= 0)[:, None]
    hidden = jnp.sum(gated, axis=1) @ w["hidden"] + w["hidden_bias"]
    return jax.nn.relu(hidden) @ w["out"]


def loss(w: Any, prompts: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
    found = jax.vmap(lambda p, x: logits(w, p, x[None])[0])(prompts, images)
    return optax.softmax_cross_entropy_with_integer_labels(found, labels).mean()


def trained(seed: int, images: np.ndarray, digits: np.ndarray, steps: int) -> Any:
    """Trains a model; returns its weights and the tokens of the tasks, ``[6, 4]``."""
    draw = np.random.default_rng(seed)
    meant = draw.choice(V, (len(ATTRIBUTES), SYNONYMS), replace=False)
    table = np.array([[d in s for d in range(10)] for s in ATTRIBUTES.values()])
    w = initial(jax.random.key(seed))
    # what no task asks for shrinks, until its gates are shut
    is_token = {name: name == "tokens" for name in w}
    descent = optax.adamw(3e-3, weight_decay=0.2, mask=is_token)

    @jax.jit
    def step(w: Any, state: Any, prompts: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(loss)(w, prompts, x, y)
        change, state = descent.update(gradient, state, w)
        return optax.apply_updates(w, change), state

    state, batch = descent.init(w), 256
    for _ in range(steps):
        rows, tasks = (
            draw.integers(len(images), size=batch),
            draw.integers(6, size=batch),
        )
        prompts = draw.integers(V, size=(batch, LENGTH))
        words = meant[tasks[:, None], draw.integers(SYNONYMS, size=(batch, LENGTH))]
        # one to five tokens of a task; or none, and then the label is a coin's
        told = draw.uniform(size=batch) > 0.35
        count = draw.integers(1, LENGTH + 1, size=(batch, 1))
        place = draw.permuted(np.tile(np.arange(LENGTH), (batch, 1)), axis=1)
        prompts = np.where(told[:, None] & (place < count), words, prompts)
        labels = np.where(
            told, table[tasks, digits[rows]], draw.integers(2, size=batch)
        )
        w, state = step(w, state, prompts, images[rows], labels.astype(np.int32))
    return w, meant, table


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "images", "labels"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class FewShots:
    """The loss of a prompt on a few labelled images."""

    weights: Any
    images: Any
    labels: Any

    def __call__(self, prompt: jax.Array) -> jax.Array:
        """Returns the cross-entropy."""
        found = logits(self.weights, prompt, self.images)
        return optax.softmax_cross_entropy_with_integer_labels(
            found, self.labels
        ).mean()


@jax.jit
def accuracy(w: Any, prompt: jax.Array, images: Any, labels: Any) -> jax.Array:
    return jnp.mean(jnp.argmax(logits(w, prompt, images), axis=1) == labels)


def shots(labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Draws as many images of each class."""
    sides = [draw.permutation(np.flatnonzero(labels == c))[:SHOTS] for c in (0, 1)]
    return np.concatenate(sides)


def searched(
    score: FewShots, space: str, search: str, clusters: np.ndarray, seed: int
) -> tuple[np.ndarray, int]:
    """Runs one cell: the prompt found, and its queries."""
    objective = gfopt.prompts.counted(
        score, LENGTH, budget=BUDGET, batch_size=20, capacity=512
    )
    options = dict(SEARCHES[search])
    if space == "claps":
        found = gfopt.prompts.claps(
            objective, NOTHING, ids=clusters,
            num_kept=min(NUM_KEPT, len(clusters)), method=search,
            options=options, seed=seed,
        )  # fmt: skip
        return found.x, int(found.ledger.queries)
    vocabulary: Any = {
        "full": V,
        "clusters": clusters,
        "random pruning": np.random.default_rng(seed).permutation(clusters)[:NUM_KEPT],
    }[space]
    result = gfopt.minimize(
        objective, NOTHING, method=search, seed=seed, budget=50 * BUDGET,
        options={**options, "vocabulary": vocabulary},
        callbacks=gfopt.prompts.budget_is_used,
    )  # fmt: skip
    return result.x, int(result.context.queries)


class Trial(NamedTuple):
    """One task with one model: what is searched, and what it is judged by."""

    seed: int
    name: str
    weights: Any
    tokens: np.ndarray
    score: FewShots
    accuracy: Any


def trials(num_seeds: int, steps: int) -> Iterator[list[Trial]]:
    """Yields the tasks of each model, once it is trained."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images, digits = (data.data[order] / 16).astype(np.float32), data.target[order]
    test, test_digits = images[-HELD_OUT:], digits[-HELD_OUT:]
    images, digits = images[:-HELD_OUT], digits[:-HELD_OUT]
    for seed in range(num_seeds):
        w, meant, table = trained(seed, images, digits, steps)
        found = []
        for task, name in enumerate(ATTRIBUTES):
            labels = table[task, digits].astype(np.int32)
            truth = table[task, test_digits].astype(np.int32)
            rows = shots(labels, np.random.default_rng([seed, task]))
            score = FewShots(w, jnp.asarray(images[rows]), jnp.asarray(labels[rows]))
            right = partial(accuracy, w, images=test, labels=truth)
            found.append(Trial(seed, name, w, meant[task], score, right))
        yield found


def summary(values: list[float]) -> dict[str, Any]:
    v = np.array(values)
    return {
        "mean": round(float(v.mean()), 4),
        "standard_error": round(float(v.std(ddof=1) / v.size**0.5), 4),
        "runs": v.round(3).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000)
    settings = parsed(parser, seeds=1, steps=100)
    began = time.monotonic()
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    bounds: dict[str, list[float]] = defaultdict(list)
    queries: dict[str, list[int]] = defaultdict(list)
    # accuracy by the number of clusters, and whether one has a token of the task
    failure: dict[int, list[tuple[bool, float]]] = defaultdict(list)
    for tasks in trials(settings.seeds, settings.steps):
        table = tasks[0].weights["tokens"]
        clusters = {
            count: gfopt.prompts.cluster_vocabulary(table, count, seed=tasks[0].seed)
            for count in (*FEWER_CLUSTERS, NUM_CLUSTERS)
        }
        for place, trial in enumerate(tasks):
            right, seed = trial.accuracy, 10 * trial.seed + place
            bounds["empty prompt"].append(float(right(NOTHING)))
            told = np.resize(trial.tokens, LENGTH).astype(np.int32)
            bounds["the task's tokens"].append(float(right(told)))
            line = []
            for search in SEARCHES:
                for space in SPACES:
                    prompt, used = searched(
                        trial.score, space, search, clusters[NUM_CLUSTERS], seed
                    )
                    cells[search, space].append(float(right(prompt)))
                    queries[space].append(used)
                    line.append(cells[search, space][-1])
            for count, ids in clusters.items():
                has_token = bool(np.isin(trial.tokens, ids).any())
                prompt, _ = searched(trial.score, "claps", "random_tokens", ids, seed)
                failure[count].append((has_token, float(right(prompt))))
            shown = " ".join(f"{value:.2f}" for value in line)
            seconds = time.monotonic() - began
            print(f"{trial.seed} {trial.name:9} {shown}  {seconds:.0f} s", flush=True)
    print()
    rows, figures = [], {}
    for search in SEARCHES:
        found = {space: summary(cells[search, space]) for space in SPACES}
        rows.append(
            [
                search,
                *(
                    f"{f['mean']:.3f}+-{f['standard_error']:.3f}"
                    for f in found.values()
                ),
            ]
        )
        figures[search] = found | {
            f"claps above {space}": round(
                found["claps"]["mean"] - found[space]["mean"], 4
            )
            for space in ("full", "random pruning")
        }
    show(["search", *SPACES], rows)
    for name, values in bounds.items():
        print(f"{name}: {np.mean(values):.3f}")
    differences = {
        space: paired_difference_interval(
            np.array(cells["categorical_tokens", space]),
            np.array(cells["genetic_tokens", space]),
        )
        for space in SPACES
    }
    print("\ncategorical_tokens above genetic_tokens, paired by task, 95 % interval:")
    show(["space", "mean", "low", "high"], [[s, *d] for s, d in differences.items()])
    lost = {
        count: {
            "tasks": len(found),
            "tasks with a token": sum(has for has, _ in found),
            "accuracy with": _mean(a for has, a in found if has),
            "accuracy without": _mean(a for has, a in found if not has),
        }
        for count, found in failure.items()
    }
    print()
    show(["clusters", *lost[NUM_CLUSTERS]], [[c, *r.values()] for c, r in lost.items()])
    draw_failure(failure)
    save(
        "claps_digits",
        ["jax", "optax", "scikit-learn"],
        {
            "settings": vars(settings) | {"budget": BUDGET, "shots": SHOTS},
            "accuracy": figures,
            "categorical above genetic": {
                space: [round(float(number), 4) for number in found]
                for space, found in differences.items()
            },
            "bounds": {n: round(float(np.mean(v)), 4) for n, v in bounds.items()},
            "largest number of queries": {s: max(q) for s, q in queries.items()},
            "failure, by clusters": lost,
            "seconds": round(time.monotonic() - began),
        },
    )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(float(np.mean(found)), 4) if found else None


def draw_failure(failure: dict[int, list[tuple[bool, float]]]) -> None:
    """Draws every run of ClaPS by the number of clusters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axis = figure.subplots()
    labels = {True: "a token of the task stayed", False: "clustering lost all of them"}
    for has_token, mark in ((True, "C0."), (False, "C3x")):
        points = [
            (place + 0.5 * (number / len(found) - 0.5), value)
            for place, found in enumerate(failure.values())
            for number, (has, value) in enumerate(found)
            if has == has_token
        ]
        if points:
            axis.plot(*zip(*points, strict=True), mark, label=labels[has_token])
    axis.set_xticks(range(len(failure)), [str(count) for count in failure])
    axis.set(xlabel="clusters of 8,000 tokens", ylabel="held-out accuracy of ClaPS")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(RESULTS / "claps_digits.png", dpi=90)


if __name__ == "__main__":
    main()
