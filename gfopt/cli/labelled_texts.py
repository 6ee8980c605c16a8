"""Texts with labels: read from a file, split, and what a model answers for them."""

from __future__ import annotations

import csv
from collections import Counter
from typing import NamedTuple

import numpy as np

from gfopt import checks


class Sentences(NamedTuple):
    """Texts, the number of each one's label, and the labels."""

    texts: list[str]
    labels: np.ndarray
    names: list[str]


def read_sentences(path: str, text: str, label: str) -> Sentences:
    """Reads a CSV file with a head.

    Args:
        path: of the file, UTF-8.
        text: the column of the texts.
        label: the column of the labels.

    Raises:
        OSError: where it cannot be read.
        ValueError: for a missing column, an empty file, or fewer than two labels.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns = list(reader.fieldnames or [])
            rows = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8; {error.reason}") from None
    except csv.Error as error:
        raise ValueError(f"{path} must be a CSV file; {error}") from None
    for option, name in (("--text", text), ("--label", label)):
        checks.one_of(option, name, columns)
    whole = [row for row in rows if row[text] and row[label]]
    names = sorted({row[label].strip() for row in whole})
    if len(names) < 2:
        raise ValueError(
            f"{path} must have texts of two labels or more; got {checks.shown(names)}"
        )
    labels = np.array([names.index(row[label].strip()) for row in whole])
    return Sentences([row[text].strip() for row in whole], labels, names)


def label_words(text: str | None, names: list[str]) -> list[str]:
    """Reads what the model answers for each label."""
    if text is None:
        return [f" {name}" for name in names]
    words: dict[str, str] = {}
    for part in text.split(","):
        name, sign, word = part.partition("=")
        if not sign or not word.strip():
            raise ValueError(
                f"--words must be label=word, with commas between; got {part!r}"
            )
        checks.one_of("--words", name.strip(), names)
        words[name.strip()] = f" {word.strip()}"
    for name in names:
        if name not in words:
            raise ValueError(f"--words must have a word for the label {name!r}")
    return [words[name] for name in names]


def split(
    sentences: Sentences, shots: int, held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the texts to search with, as many of each label, and those to judge by."""
    counts = Counter(sentences.labels.tolist())
    for place, name in enumerate(sentences.names):
        if counts[place] <= shots:
            raise ValueError(
                f"--shots must leave texts of each label to judge by; label {name!r} "
                f"has {counts[place]}, got {shots}"
            )
    order = np.random.default_rng(seed).permutation(len(sentences.labels))
    few = [
        order[sentences.labels[order] == place][:shots]
        for place in range(len(sentences.names))
    ]
    rows = np.concatenate(few)
    return rows, order[~np.isin(order, rows)][:held_out]
