"""Recovering hidden prompts: queries of ClaPS against a genetic search, 20 targets.

The model is that of ``claps_digits.py``, of 8,000 tokens. A hidden prompt of five holds
tokens of two attributes and fillers; what is known of it is what the model answers to
64 images under it, and the loss of a prompt is the divergence of its answers from
those. The optimum is what a search guided by token gradients finds: the tokens that the
gradient of the embedding promises most of are tried, and the best swap stays; it sees
the model from inside, and starts from the largest embeddings.
Counted are the queries until 95 % of the way from the empty prompt to it.

    python benchmarks/hidden_prompt.py
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from claps_digits import (
    ATTRIBUTES,
    LENGTH,
    NOTHING,
    NUM_CLUSTERS,
    SYNONYMS,
    V,
    logits,
    trained,
)
from common import parsed, save, show
from sklearn.datasets import load_digits

import gfopt

IMAGES, TRIED, ROUNDS, RESTARTS = 64, 64, 40, 4
GENETIC = {"population_size": 20, "mutation_rate": 0.2}
CLAPS = {
    "claps, genetic": ("genetic_tokens", GENETIC),
    "claps, greedy": ("greedy_tokens", {"num_sweeps": 50}),
    "claps, categorical": ("categorical_tokens", {"population_size": 20}),
}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["weights", "images", "hidden"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Divergence:
    """How far a prompt's answers are from those under the hidden prompt."""

    weights: Any
    images: Any
    hidden: Any

    def answers(self, weights: Any, prompt: jax.Array) -> jax.Array:
        """Returns log probabilities ``[n, 2]``."""
        return jax.nn.log_softmax(logits(weights, prompt, self.images))

    def __call__(self, prompt: jax.Array) -> jax.Array:
        """Returns the mean of ``KL(p(. | x, hidden) || p(. | x, prompt))``."""
        right = self.answers(self.weights, self.hidden)
        found = self.answers(self.weights, prompt)
        return jnp.mean(jnp.sum(jnp.exp(right) * (right - found), axis=1))


@jax.jit
def guided(score: Divergence, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Swaps tokens as the gradient says; the best prompt and its loss."""
    table = score.weights["tokens"]

    def at(rows: jax.Array) -> jax.Array:
        # the prompt's tokens as the first rows of a table of their own
        weights = score.weights | {"tokens": rows}
        right = score.answers(score.weights, score.hidden)
        found = score.answers(weights, jnp.arange(LENGTH))
        return jnp.mean(jnp.sum(jnp.exp(right) * (right - found), axis=1))

    def turn(state: Any, key: jax.Array) -> Any:
        prompt, loss = state
        slope = jax.grad(at)(table[prompt])
        promised = slope @ table.T  # [L, V], the least is the best
        _, tokens = jax.lax.top_k(-promised, TRIED)
        place, which = jax.random.split(key)
        places = jax.random.randint(place, (TRIED,), 0, LENGTH)
        picks = jax.random.randint(which, (TRIED,), 0, TRIED)
        swaps = jnp.tile(prompt, (TRIED, 1))
        swaps = swaps.at[jnp.arange(TRIED), places].set(tokens[places, picks])
        losses = jax.vmap(score)(swaps)
        best = jnp.argmin(losses)
        is_better = losses[best] < loss
        prompt = jnp.where(is_better, swaps[best], prompt)
        return (prompt, jnp.minimum(losses[best], loss)), None

    def one(key: jax.Array) -> Any:
        start, rest = jax.random.split(key)
        # among the largest embeddings: the gates of most others are shut, and there
        # the gradient is zero
        _, large = jax.lax.top_k(jnp.linalg.norm(table, axis=1), TRIED)
        prompt = jax.random.choice(start, large, (LENGTH,))
        keys = jax.random.split(rest, ROUNDS)
        return jax.lax.scan(turn, (prompt, score(prompt)), keys)[0]

    prompts, losses = jax.lax.map(one, jax.random.split(key, RESTARTS))
    return prompts[jnp.argmin(losses)], losses.min()


def hidden_prompts(
    meant: np.ndarray, count: int, draw: np.random.Generator
) -> np.ndarray:
    """Draws prompts: three tokens of one attribute or of two, and two fillers."""
    found = []
    for _ in range(count):
        first, second = draw.choice(len(ATTRIBUTES), 2, replace=False)
        tokens = [
            *meant[first, draw.integers(SYNONYMS, size=2)],
            meant[second, draw.integers(SYNONYMS)],
            *draw.integers(V, size=2),
        ]
        found.append(draw.permutation(tokens))
    return np.array(found, np.int32)


def queries(
    score: Divergence, goal: float, clusters: np.ndarray, seed: int, limit: int
) -> dict[str, int]:
    """Returns how many queries each search took to the goal, at most ``limit``."""

    # without a sign: a token that is right beside others may be wrong alone
    def predict(prompt: jax.Array) -> jax.Array:
        return jnp.exp(score.answers(score.weights, prompt))

    def is_there(result: gfopt.Result) -> bool:
        return result.fun <= goal

    found = {}
    objective = gfopt.prompts.counted(
        score, LENGTH, budget=limit, batch_size=20, capacity=limit
    )
    result = gfopt.minimize(
        objective, NOTHING, method="genetic_tokens", seed=seed, budget=50 * limit,
        options={**GENETIC, "vocabulary": V},
        callbacks=(is_there, gfopt.prompts.budget_is_used),
    )  # fmt: skip
    found["genetic, all tokens"] = _number(result.fun, result.context, goal)
    for name, (method, options) in CLAPS.items():
        made = gfopt.prompts.claps(
            objective, NOTHING, ids=clusters, num_kept=20, method=method,
            options=options, seed=seed, callbacks=is_there, predict=predict,
        )  # fmt: skip
        found[name] = _number(made.fun, made.ledger, goal)
    return found


def _number(fun: float, ledger: gfopt.prompts.Ledger, goal: float) -> int:
    return int(ledger.queries) if fun <= goal else int(ledger.budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--limit", type=int, default=4000, help="queries of a search")
    settings = parsed(parser, targets=1, steps=100, limit=100)
    began = time.monotonic()
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images, digits = (data.data[order] / 16).astype(np.float32), data.target[order]
    w, meant, _ = trained(0, images[:1200], digits[:1200], settings.steps)
    clusters = gfopt.prompts.cluster_vocabulary(w["tokens"], NUM_CLUSTERS)
    draw = np.random.default_rng(1)
    seen = jnp.asarray(images[1200 : 1200 + IMAGES])
    rows = []
    for number, hidden in enumerate(hidden_prompts(meant, settings.targets, draw)):
        score = Divergence(w, seen, jnp.asarray(hidden))
        empty = float(score(jnp.asarray(NOTHING)))
        _, optimum = guided(score, jax.random.key(number))
        goal = empty - 0.95 * (empty - float(optimum))
        line = {"empty": round(empty, 4), "gradient": round(float(optimum), 5)}
        rows.append(line | queries(score, goal, clusters, number, settings.limit))
        print(rows[-1], f"{time.monotonic() - began:.0f} s", flush=True)
    names = ["genetic, all tokens", *CLAPS]
    table = {name: np.array([row[name] for row in rows]) for name in names}
    summary = {
        name: {
            "median": float(np.median(values)),
            "mean": float(values.mean()),
            "reached": int((values < settings.limit).sum()),
            "ratio of means": round(float(values.mean() / table[names[0]].mean()), 3),
        }
        for name, values in table.items()
    }
    print()
    show(["search", *summary[names[0]]], [[n, *s.values()] for n, s in summary.items()])
    results = {"settings": vars(settings), "summary": summary, "targets": rows}
    save("hidden_prompt", ["jax", "optax", "scikit-learn"], results)


if __name__ == "__main__":
    main()
