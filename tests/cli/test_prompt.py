"""``gfopt prompt`` with a small model of words in the place of SmolLM2."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gfopt.cli import prompt_command
from gfopt.cli.main import main
from gfopt.problems import prompted, word_tokens
from gfopt.problems.language_models.language_models import Pretrained
from gfopt.problems.language_models.llama import Llama
from gfopt.problems.language_models.prompted_classification import (
    PromptedClassification,
)

WORDS = ["?", "Text:", "Label:", "good", "bad", "film", "fine", "poor", "plot", "dull"]
WORDS += [f"word{chr(97 + i)}" for i in range(20)]


class Tokenizer:
    """Words with a space before them."""

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        ids = [WORDS.index(w) if w in WORDS else 0 for w in text.split()]
        return SimpleNamespace(ids=ids)

    def decode(self, ids: list[int]) -> str:
        return "".join(f" {WORDS[number]}" for number in ids)

    def decode_batch(self, rows: list[list[int]]) -> list[str]:
        return [self.decode(row) for row in rows]


def small_model(name: str = "smollm2") -> Pretrained:
    """A Llama of one layer with random weights."""
    width, inner = 16, 24
    shapes = {
        "query": (width, width), "key": (8, width), "value": (8, width),
        "output": (width, width), "gate": (inner, width), "up": (inner, width),
        "down": (width, inner),
    }  # fmt: skip
    keys = iter(jax.random.split(jax.random.key(0), 9))
    layers = {n: jax.random.normal(next(keys), (1, *s)) / 3 for n, s in shapes.items()}
    layers |= {n: jnp.ones((1, width)) for n in ("attention_norm", "feed_forward_norm")}
    weights = {
        "embedding": jax.random.normal(next(keys), (len(WORDS), width)),
        "layers": layers,
        "norm": jnp.ones(width),
    }
    return Pretrained(Llama(4, 2), weights, Tokenizer())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(prompt_command, "load_model", small_model)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    lines = ["text,label,grade"]
    for number in range(30):
        word = ("good", "bad")[number % 2]
        lines.append(f"{' '.join(draw.choice(WORDS[5:], 4))} {word},{word},{number}")
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


SIZES = "--shots 4 --length 3 --budget 40".split()
OPTIONS = [*SIZES, *"--clusters 12 --kept 4".split()]


def called(capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["prompt", *map(str, arguments)])
    return caught.value.code, *capsys.readouterr()


def test_shows_the_best_prompts_and_what_they_cost(capsys: Any, table: Path) -> None:
    code, out, err = called(capsys, table, *OPTIONS, "--best", 3)
    assert code == 0
    assert "The best on 8 texts, 22 held out" in out
    lines = [line.split() for line in out.splitlines() if " 0." in line]
    losses = [float(line[-2]) for line in lines]
    assert len(lines) == 4 and losses[:3] == sorted(losses[:3])
    assert "(no prompt)" in out and losses[0] < losses[3]
    assert "cost: 40 queries to search and 4 to judge, " in out
    assert "done, 40 of 40 queries" in err
    assert "judging, 4 of 4 prompts on 22 texts" in err.splitlines()[-1]
    # the same command says the same
    assert called(capsys, table, *OPTIONS, "--best", 3)[1] == out


def test_what_was_scored_is_not_scored_again(
    capsys: Any, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    accuracy = PromptedClassification.accuracy

    def counted(self: Any, prompt: Any) -> Any:
        asked.append(len(self.labels))  # once for each shape that is compiled
        return accuracy(self, prompt)

    monkeypatch.setattr(PromptedClassification, "accuracy", counted)
    called(capsys, table, *OPTIONS, "--best", 3)
    assert asked == [22]  # the held-out texts alone


def test_ctrl_c_while_judging_shows_what_is_known(
    capsys: Any, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = prompt_command.ProgressLine.write

    def pressed(self: Any, line: str, is_last: bool = False) -> None:
        if line.startswith("judging, 1 of"):
            if not is_last:
                os.kill(os.getpid(), signal.SIGINT)
        write(self, line, is_last)

    monkeypatch.setattr(prompt_command.ProgressLine, "write", pressed)
    code, out, err = called(capsys, table, *OPTIONS, "--best", 3)
    assert code == 130 and "40 queries to search and 2 to judge" in out
    assert "judging, 2 of 4 prompts" in err and "(no prompt)" in out


@pytest.mark.parametrize("method", ["greedy_tokens", "random_tokens"])
def test_other_searches_and_words(capsys: Any, table: Path, method: str) -> None:
    words = "--words", "good=fine,bad=poor", "--method", method
    code, out, _ = called(capsys, table, *OPTIONS, *words)
    assert code == 0 and "cost: " in out


def test_goes_on_from_its_checkpoint(capsys: Any, table: Path, tmp_path: Path) -> None:
    words = *OPTIONS, "--checkpoint", tmp_path / "run"
    _, first, _ = called(capsys, table, *words)
    code, second, err = called(capsys, table, *words)
    assert code == 0 and second == first


@pytest.mark.parametrize("vocabulary", [["--clusters", 12], []])
def test_searches_without_pruning(
    capsys: Any, table: Path, tmp_path: Path, vocabulary: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if not vocabulary:  # all words by default
        monkeypatch.delattr(prompt_command, "cluster_vocabulary")
    words = *SIZES, *vocabulary, "--checkpoint", tmp_path / "run"
    code, out, err = called(capsys, table, *words)
    assert code == 0 and "pruning" not in err
    assert "cost: 40 queries to search and 6 to judge, " in out
    empty = next(line for line in out.splitlines() if "(no prompt)" in line)
    assert " 0." in empty and " - " not in empty  # its loss is one of the queries
    assert called(capsys, table, *words)[1] == out


@pytest.mark.parametrize("after", [2, 20])
def test_ctrl_c_gives_the_best_so_far(
    capsys: Any, table: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert threading.current_thread() is threading.main_thread()
    seen = []
    write = prompt_command.ProgressLine.write

    def pressed(self: Any, line: str, is_last: bool = False) -> None:
        seen.append(line)
        queries = int(line.split(", ")[1].split()[0])
        if queries >= after and not is_last and len(seen) < 100:
            seen.extend([line] * 100)
            os.kill(os.getpid(), signal.SIGINT)
        write(self, line, is_last)

    monkeypatch.setattr(prompt_command.ProgressLine, "write", pressed)
    code, out, err = called(capsys, table, *OPTIONS)
    assert code == 130
    assert "stopped by Ctrl-C: the best so far" in err and "stopped, " in err
    queries = int(out.split("cost: ")[1].split()[0])
    assert after <= queries < 40
    assert ("pruning" in seen[0]) and "(no prompt)" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "txt"], "--text must be one of 'text', 'label', 'grade'"),
        (["--label", "lable"], "did you mean 'label'"),
        (["--method", "cma_es"], "--method must be one of 'random_tokens'"),
        (["--budget", "5"], "--budget must be above what pruning takes"),
        (["--budget", "many"], "--budget must be a number from 1"),
        (["--kept", "13"], "--kept must be at most --clusters, 12"),
        (["--clusters", "0"], "--kept must be at most --clusters, 0; got 4"),
        (["--template", "no place"], "--template must have one {} for the text"),
        (["--words", "good"], "--words must be label=word"),
        (["--words", "good=fine"], "--words must have a word for the label 'bad'"),
        (["--words", "good=fine,bad=fine"], "words must be two or more that begin"),
        (["--words", "good=fine,best=poor"], "--words must be one of 'bad', 'good'"),
        (["--shots", "15"], "--shots must leave texts of each label to judge by"),
    ],
)
def test_a_wrong_argument_is_one_line(
    capsys: Any, table: Path, words: list[str], message: str
) -> None:
    code, out, err = called(capsys, table, *OPTIONS, *words)
    assert code == 2 and not out
    assert message in err.splitlines()[-1] and "Traceback" not in err


def test_a_wrong_file_is_one_line(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = called(capsys, tmp_path / "missing.csv")
    assert code == 2 and "No such file" in err
    path = tmp_path / "one.csv"
    path.write_text("text,label\nfine,good\n")
    code, _, err = called(capsys, path)
    assert code == 2 and "must have texts of two labels or more" in err
    path.write_bytes(b"text,label\n\xff,good\n")
    code, _, err = called(capsys, path)
    assert code == 2 and "must be UTF-8" in err
    monkeypatch.undo()
    path.write_text("text,label\n" + "fine,good\npoor,bad\n" * 20)
    code, _, err = called(capsys, path, "--model", "gpt")
    assert code == 2 and "--model must be smollm2 or a GGUF file; got 'gpt'" in err


def test_a_prompt_stands_before_the_text() -> None:
    found = small_model()
    texts, labels = ["good film", "bad"], [0, 1]
    task = prompted(found, texts, labels, [" good", " bad"], "Text: {} Label:")
    for ids in ([], [5], [10, 11, 12]):
        for order in (ids + [-1] * (3 - len(ids)), [-1] * (3 - len(ids)) + ids):
            p = task.probabilities(jnp.array(order, jnp.int32))
            for x, text in enumerate(texts):
                tokens = ids + found.tokenizer.encode(f"Text: {text} Label:").ids
                logits = found.model.logits(found.weights, jnp.array([tokens]))[0, -1]
                expected = jax.nn.softmax(logits[jnp.array([3, 4])])
                np.testing.assert_allclose(p[x], expected, rtol=1e-4)
            nll = -np.mean(np.log([p[0, 0], p[1, 1]]))
            np.testing.assert_allclose(task(jnp.array(order)), nll, rtol=1e-4)
            right = np.mean(np.asarray(p).argmax(axis=1) == labels)
            assert task.accuracy(jnp.array(order)) == right
            assert task.num_tokens(np.array(order)) == 4 + 3 + 2 * len(ids)
    assert word_tokens(found.tokenizer, 10).tolist() == [3, 4, 5, 6, 7, 8, 9]
