"""Queries of a prompt search with SmolLM2-135M on short film reviews, and their store.

What the model has answered is kept in a file for each task, so that a prompt is read
once, whichever search asks for it, and a grid of searches goes on where it was stopped.
The searches' own ledgers count as if there were no file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from language_model import reviews

import gfopt
from gfopt.problems import Pretrained, prompted, small_language_model, smollm2
from gfopt.problems.language_models.prompted_classification import (
    PromptedClassification,
)

LENGTH = 5  # words of a prompt
LONGEST = 7  # tokens of a review
SHOTS, HELD_OUT = 8, 100  # of each class
TEMPLATE, ANSWERS = "\nReview: {} It was", (" terrible", " great")
WRITTEN = "Decide whether the review is positive or negative."
OPENING = "<|endoftext|>"  # what a text begins after
BATCH = 5  # prompts that are read at a time


class Queries:
    """The model's answers to prompts on a few texts, each read once.

    Args:
        task: the texts, and the model.
        lead: tokens between the prompt and every text, which are read with it.
        path: of the file with the answers, one a line.
    """

    def __init__(self, task: PromptedClassification, lead: jax.Array, path: Path):
        self.task, self.lead, self.path = task, lead, path
        self.known: dict[tuple[int, ...], np.ndarray] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.known[tuple(entry["prompt"])] = np.array(entry["log_p"])

    def log_probabilities(self, prompts: np.ndarray) -> np.ndarray:
        """Returns those of the answers, ``[n, X, Y]``, under prompts ``[n, L]``."""
        rows = [tuple(prompt) for prompt in np.asarray(prompts).tolist()]
        fresh = [row for row in dict.fromkeys(rows) if row not in self.known]
        size = BATCH if len(self.task.labels) <= 4 * SHOTS else 1
        for start in range(0, len(fresh), size):
            part = fresh[start : start + size]
            full = part + part[-1:] * (size - len(part))
            found = np.asarray(_answers(self.task, self.lead, jnp.asarray(full)))
            with self.path.open("a") as file:
                for row, log_p in zip(part, found, strict=False):
                    entry = {"prompt": row, "log_p": log_p.round(6).tolist()}
                    print(json.dumps(entry), file=file)
                    self.known[row] = np.array(entry["log_p"])
        return np.array([self.known[row] for row in rows])

    def losses(self, prompts: np.ndarray) -> np.ndarray:
        """Returns the mean cross-entropy of the labels, ``[n]``."""
        labels = np.asarray(self.task.labels)
        log_p = self.log_probabilities(prompts)
        return -log_p[:, np.arange(len(labels)), labels].mean(axis=1)

    def accuracies(self, prompts: np.ndarray) -> np.ndarray:
        """Returns the share of texts that are answered rightly, ``[n]``."""
        guesses = self.log_probabilities(prompts).argmax(axis=2)
        return np.mean(guesses == np.asarray(self.task.labels), axis=1)

    @property
    def num_tokens(self) -> int:
        """Tokens of a query, as ``prompted`` counts them."""
        return int(self.task.num_tokens(np.zeros(LENGTH + len(self.lead))))


@jax.jit
def _answers(
    task: PromptedClassification, lead: jax.Array, prompts: jax.Array
) -> jax.Array:
    def one(prompt: jax.Array) -> jax.Array:
        return task.log_probabilities(jnp.concatenate([prompt, lead]))

    return jax.vmap(one)(prompts)


class Reviews:
    """The tasks of all seeds, and what their searches share.

    Args:
        found: the model.
        texts: the reviews.
        labels: 0 or 1 for each, ``[n]``.
        words: what a prompt may consist of, ``int32[V]``.
        folder: for the answers.
        answers: what the model may say.
        template: around a text.
        opening: what a prompt begins after, where the model judges or proposes it.
    """

    def __init__(
        self, found: Pretrained, texts: list[str], labels: np.ndarray,
        words: np.ndarray, folder: Path, answers: tuple[str, str] = ANSWERS,
        template: str = TEMPLATE, opening: str = OPENING,
    ) -> None:  # fmt: skip
        self.found, self.words, self.folder = found, words, folder
        task = prompted(found, texts, labels, answers, template)
        bodies = np.asarray(task.bodies)
        # what all begin with is read once, at the end of the prompt
        same = int(np.argmin((bodies == bodies[0]).all(axis=0)))
        self.lead = jnp.asarray(bodies[0, :same])
        lengths = np.asarray(task.lengths) - same
        self.task = replace(task, bodies=bodies[:, same:], lengths=lengths)
        self.labels = labels
        self.opening = jnp.array(found.tokenizer.encode(opening).ids)

    def task_of(self, seed: int) -> tuple[Queries, Queries]:
        """Draws the texts of a seed: those to search with and those held out."""
        draw = np.random.default_rng(seed)
        few: list[int] = []
        held: list[int] = []
        for label in (0, 1):
            rows = draw.permutation(np.flatnonzero(self.labels == label))
            few += rows[:SHOTS].tolist()
            held += rows[SHOTS : SHOTS + HELD_OUT].tolist()
        parts = [
            Queries(
                self.task.at(np.array(rows)), self.lead, self.folder / f"{name}-{seed}"
            )
            for name, rows in (("few", few), ("held", held))
        ]
        return parts[0], parts[1]

    def clusters(self, seed: int, count: int) -> np.ndarray:
        """Returns words that stand for all, ``int32[at most count]``."""
        path = self.folder / f"clusters-{seed}-{count}.npy"
        if not path.exists():
            table = np.asarray(self.found.weights["embedding"])
            chosen = gfopt.prompts.cluster_vocabulary(
                table, count, ids=self.words, seed=seed
            )
            np.save(path, chosen)
        return np.load(path)

    @cached_property
    def model(self) -> gfopt.tokens.CachedModel:
        """The model as a proposal of words."""
        return gfopt.tokens.CachedModel(self.found.model, self.found.weights)

    def fluency(self, prompt: np.ndarray) -> float:
        """Returns how unlikely the model finds a prompt, in nats a word."""
        score = gfopt.tokens.Fluency(self.model, self.opening)
        return float(jax.jit(lambda score, row: score(row))(score, jnp.asarray(prompt)))

    def tokens(self, text: str) -> np.ndarray:
        """Returns a text's tokens, ``int32[1, L]``."""
        return np.array([self.found.tokenizer.encode(text).ids], np.int32)


def real_reviews(archive: Path, folder: Path) -> Reviews:
    """Returns those that SmolLM2 reads in a few tokens."""
    found = smollm2()
    texts, labels = reviews(archive)
    sizes = found.encode([f" {text}" for text in texts], add_special_tokens=False)[1]
    kept = np.flatnonzero(sizes <= LONGEST)
    words = gfopt.problems.word_tokens(found.tokenizer, len(found.weights["embedding"]))
    return Reviews(found, [texts[i] for i in kept], labels[kept], words, folder)


def toy_reviews(folder: Path) -> Reviews:
    """Returns reviews of one word, for a small model that trains in a moment."""
    text = "a warm film . it was great . a dull film . it was terrible . " * 20
    found = small_language_model(text, steps=30, width=16)
    count = SHOTS + HELD_OUT
    words = np.arange(1, len(found.weights["embedding"]), dtype=np.int32)
    texts = ["dull", "warm"] * count
    return Reviews(
        found, texts, np.tile([0, 1], count), words, folder,
        answers=("terrible", "great"), template="a {} film . it was", opening="great",
    )  # fmt: skip
