"""BEAST against other searches for a suffix: the score, and how readable it is.

A small language model learns the text of Python's own help. For 16 pairs of eight words
and four other words from its held-out part, each method looks for eight words between
them after which the four are likely. All score as many texts; the figures are nats a
word, the differences paired over the pairs.

    python benchmarks/beast_pareto.py
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import re
import time
from collections.abc import Callable
from functools import partial

import common
import jax
import jax.numpy as jnp
import numpy as np

import gfopt
from gfopt.problems import small_language_model
from gfopt.tokens import beam_search

PROMPT, TARGET = 8, 4
BUDGET = 448  # texts that are scored: 8 x 8 for each of 7 words
Method = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def help_text() -> str:
    """Returns the words of the help topics of the Python that runs this."""
    topics = pydoc_data.topics.topics
    text = " ".join(topics[name] for name in sorted(topics))
    return " ".join(re.findall("[a-z]+", text.lower()))


def trained(
    text: str, steps: int
) -> tuple[gfopt.tokens.CachedModel, np.ndarray, float]:
    """Returns the model, the held-out text in tokens, and its loss on it."""
    cut = int(0.9 * len(text))
    found = small_language_model(text[:cut], steps=steps, context=32)
    model = gfopt.tokens.CachedModel(found.model, found.weights)
    held = np.array(found.tokenizer.encode(text[cut:]).ids, np.int32)
    windows = jnp.asarray(held[: len(held) // 25 * 25].reshape(-1, 25)[:200])
    log_p = jax.nn.log_softmax(found.model.logits(found.weights, windows[:, :-1]))
    loss = -jnp.take_along_axis(log_p, windows[:, 1:, None], axis=-1).mean()
    return model, held, float(loss)


def pairs(held: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws prompts and targets, all of words that the model knows."""
    draw = np.random.default_rng(0)

    def windows(length: int) -> np.ndarray:
        known = [
            held[i : i + length]
            for i in draw.permutation(len(held) - length)[: 50 * count]
            if held[i : i + length].min() > 0
        ]
        return np.array(known[:count])

    return windows(PROMPT), windows(TARGET)


def searches(model: gfopt.tokens.CachedModel, length: int) -> dict[str, Method]:
    """Returns the methods: ``(key, prompt, target) -> suffix``."""
    size = model.embeddings.shape[0]
    steps = length - 1
    width = BUDGET // steps  # 64 where the suffix has eight words
    empty = jnp.full(length, -1)

    def beast(
        key: jax.Array,
        prompt: jax.Array,
        target: jax.Array,
        proposal: gfopt.tokens.LanguageModel = model,
        **options: int,
    ) -> jax.Array:
        method = gfopt.tokens.Beast(
            proposal, prompt, forbidden=jnp.array([0]), **options
        )
        score = gfopt.tokens.Targeted(model, prompt, target)
        result = gfopt.run(method, score, empty, key=key, generations=steps)
        # of full length, as all others; the method's own answer may be shorter
        return result.state.beams.tokens[jnp.argmin(result.state.fitness)]

    def best(prompt: jax.Array, target: jax.Array, rows: jax.Array) -> jax.Array:
        values = jax.vmap(gfopt.tokens.Targeted(model, prompt, target))(rows)
        return rows[jnp.argmin(values)]

    def likely(key: jax.Array, prompt: jax.Array, target: jax.Array) -> jax.Array:
        def draw(number: jax.Array, logits: jax.Array) -> jax.Array:
            known = logits.at[:, 0].set(-jnp.inf)
            return jax.random.categorical(jax.random.fold_in(key, number), known)

        many = beam_search.started(model, prompt, BUDGET, length)
        first = draw(jnp.int32(-1), many.logits)
        many = beam_search.grown(model, many, first, jnp.int32(length), draw)
        return best(prompt, target, many.tokens)

    def uniform(key: jax.Array, prompt: jax.Array, target: jax.Array) -> jax.Array:
        rows = jax.random.randint(key, (BUDGET, length), 1, size)
        return best(prompt, target, rows)

    def genetic(key: jax.Array, prompt: jax.Array, target: jax.Array) -> jax.Array:
        words = jnp.arange(1, size)
        method = gfopt.tokens.GeneticTokens(
            words, population_size=width, mutation_rate=0.15
        )
        score = gfopt.tokens.Targeted(model, prompt, target)
        start = jnp.ones(length, jnp.int32)
        return gfopt.run(method, score, start, key=key, generations=steps).recommended

    def gradient(key: jax.Array, prompt: jax.Array, target: jax.Array) -> jax.Array:
        """Swaps that the gradient by the words finds promising, ``width`` a step."""
        score = gfopt.tokens.Targeted(model, prompt, target)
        embedding = model.weights["embedding"]

        def loss(rows: jax.Array) -> jax.Array:
            # the suffix's vectors stand behind the vocabulary, as words of their own
            weights = {**model.weights, "embedding": jnp.concatenate([embedding, rows])}
            own = size + jnp.arange(length)
            text = jnp.concatenate([prompt, own, target[:-1]])
            logits = model.model.logits(weights, text[None])[0, -TARGET:, :size]
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(TARGET), target])

        def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
            text, value = carry
            slope = jax.grad(loss)(embedding[text]) @ embedding.T
            slope = slope.at[:, 0].set(jnp.inf)
            promising = jax.lax.top_k(-slope, 32)[1]
            where, which = jax.random.split(key)
            places = jax.random.randint(where, (width,), 0, length)
            words = jax.random.randint(which, (width,), 0, 32)
            swapped = jax.vmap(
                lambda place, word: text.at[place].set(promising[place, word])
            )(places, words)
            values = jax.vmap(score)(swapped)
            row = jnp.argmin(values)
            better = values[row] < value
            found = jnp.where(better, swapped[row], text)
            return (found, jnp.minimum(value, values[row])), None

        start = jax.random.randint(key, (length,), 1, size)
        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        (text, _), _ = jax.lax.scan(step, (start, score(start)), keys)
        return text

    flat = gfopt.tokens.FunctionModel(lambda w, tokens: jnp.zeros((tokens.size, size)))
    both = {"beam_width": 8, "num_candidates": 8}

    def split(k1: int, k2: int) -> Method:
        return partial(beast, beam_width=k1, num_candidates=k2)

    if length != 8:
        return {"BEAST 8 x 8": split(8, 8), "LM best of N": likely}
    return {
        "no suffix": lambda key, prompt, target: empty,
        "BEAST 8 x 8": split(8, 8),
        "BEAST 16 x 4": split(16, 4),
        "BEAST 4 x 16": split(4, 16),
        "greedy 1 x 64": split(1, 64),
        "BEAST 64 x 1": split(64, 1),
        "LM best of N": likely,
        "uniform best of N": uniform,
        "uniform beam 8 x 8": partial(beast, proposal=flat, **both),
        "genetic": genetic,
        "token gradients": gradient,
        "BEAST 4 x 4": split(4, 4),
        "BEAST 15 x 15": split(15, 15),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600)
    settings = common.parsed(parser, pairs=1, seeds=1, steps=20)
    began = time.monotonic()
    model, held, loss = trained(help_text(), settings.steps)
    print(f"trained in {time.monotonic() - began:.0f} s, {loss:.2f} nats a word")
    prompts, targets = pairs(held, settings.pairs)
    rows, table = [], {}
    for length in (8, 16):
        base = None
        for name, search in searches(model, length).items():

            @jax.jit
            def outcome(model, key, prompt, target, search=search):
                def one(key):
                    text = search(key, prompt, target)
                    score = gfopt.tokens.Targeted(model, prompt, target)
                    return score(text), gfopt.tokens.Fluency(model, prompt)(text)

                return jax.vmap(one)(jax.random.split(key, settings.seeds))

            found = [
                outcome(model, jax.random.key(number), prompt, target)
                for number, (prompt, target) in enumerate(
                    zip(prompts, targets, strict=True)
                )
            ]
            score, fluency = np.array(found).mean(axis=2).T
            base = score if name == "BEAST 8 x 8" else base
            entry = {"score": score.tolist(), "fluency": fluency.tolist()}
            table.setdefault(str(length), {})[name] = entry
            print(f"{length} {name}: {score.mean():.3f} {fluency.mean():.2f}")
        for name, entry in table[str(length)].items():
            apart = np.array(entry["score"]) - base
            error = apart.std(ddof=1) / np.sqrt(apart.size)
            entry |= {"difference": float(apart.mean()), "error": float(error)}
            mean = float(np.mean(entry["score"]))
            readable = float(np.mean(entry["fluency"]))
            rows.append(
                [
                    f"{name}, {length} words",
                    mean,
                    readable,
                    *map(float, (apart.mean(), error)),
                ]
            )
    common.show(["method", "target", "suffix", "to 8 x 8", "s.e."], rows)
    results = {"loss": loss, "pairs": settings.pairs, "seeds": settings.seeds}
    common.save("beast_pareto", ["gfopt", "jax"], results | {"table": table})


if __name__ == "__main__":
    main()
