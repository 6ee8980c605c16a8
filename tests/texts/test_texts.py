"""Searches over texts: the context that a proposer sees, the archive, the file."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gfopt.texts import Scored, TextResult, evolve

SYMBOLS = "0123456789+*-"


class Grammar:
    """Proposes by changing a symbol; keeps what it was told."""

    def __init__(self, seed: int = 0):
        self.draw, self.told = random.Random(seed), list[Any]()

    def __call__(self, parent: Scored | None, feedback: str, n: int) -> list[str]:
        self.told.append((parent, feedback, n))
        text = parent.text if parent else "1+1"
        places = [self.draw.randrange(3) for _ in range(n)]
        return [text[:i] + self.draw.choice(SYMBOLS) + text[i + 1 :] for i in places]


def value_of(text: str) -> tuple[float, str]:
    """The distance from 63 of an expression; what is none raises."""
    if len(text) != 3 or not (text[0] + text[2]).isdigit() or text[1].isdigit():
        raise SyntaxError(f"{text!r} is no expression")
    left, right = int(text[0]), int(text[2])
    found = {"+": left + right, "*": left * right, "-": left - right}[text[1]]
    return abs(63 - found), f"it is {found}"


def slow(
    propose: Callable[..., list[str]], rounds: int, size: int, elitist: bool
) -> tuple[str | None, str | None]:
    """The strategy in its plainest form: the best of all rounds, and the parent."""
    parent, archive, feedback = None, None, ""
    for number in range(rounds):
        found, failures = [], []
        for text in propose(parent, feedback, size):
            try:
                found.append(Scored(text, *value_of(text), number))
            except SyntaxError as error:
                why = f"SyntaxError: {error}"
                failures.append(f"This failed, {why}:\n{text}")
        if found:
            best = sorted(found, key=lambda one: one.value)[0]
            if not elitist or parent is None or best.value < parent.value:
                parent = best
            if archive is None or best.value < archive.value:
                archive = best
        told = [parent.feedback] if parent else []
        feedback = "\n\n".join(told + list(dict.fromkeys(failures)))
    return archive and archive.text, parent and parent.text


@pytest.mark.parametrize("elitist", [False, True])
def test_it_is_the_plain_strategy_whose_parent_may_be_worse(elitist: bool) -> None:
    worse = 0
    for seed in range(5):
        ours, other = Grammar(seed), Grammar(seed)
        found = evolve(ours, value_of, population_size=4, budget=60, elitist=elitist)
        expected = slow(other, 15, 4, elitist)
        assert (found.x, found.recommended) == expected
        assert ours.told == other.told[: len(ours.told)]
        assert (found.nfev, found.nit) == (60, 15)
        assert found.fun == min(one.value for one in found.ledger if not one.failed)
        values = [parent.value for parent, *_ in ours.told if parent]
        worse += sum(b > a for a, b in zip(values, values[1:], strict=False))
    assert (worse > 0) != elitist


def test_a_round_that_fails_is_repeated_from_the_same_context() -> None:
    told = []

    def propose(parent: Scored | None, feedback: str, n: int) -> list[str]:
        told.append((parent and parent.text, feedback))
        return ["bad", "worse"] if len(told) in (1, 3) else ["a good one", "bad"]

    def score(text: str) -> tuple[float, str]:
        if text in ("bad", "worse"):
            raise ZeroDivisionError(text.upper())
        return 1.0, "fine"

    found = evolve(propose, score, population_size=2, budget=8)
    bad, worse = (
        f"This failed, ZeroDivisionError: {text.upper()}:\n{text}"
        for text in ("bad", "worse")
    )
    assert told == [
        (None, ""),
        (None, f"{bad}\n\n{worse}"),
        ("a good one", f"fine\n\n{bad}"),
        ("a good one", f"fine\n\n{bad}\n\n{worse}"),
    ]
    assert found.failures == {
        "ZeroDivisionError: BAD": 4,
        "ZeroDivisionError: WORSE": 2,
    }
    assert found.recommended == found.x == "a good one"


def test_where_all_fails_there_is_no_answer() -> None:
    values = iter([math.nan, None, math.inf])
    found = evolve(lambda *_: ["a"], lambda _: next(values), budget=3)
    assert found.x is None and math.isnan(found.fun) and found.recommended is None
    assert [one.feedback for one in found.ledger] == [
        "returned nan",
        "returned no real number, such as None",
        "returned inf",
    ]


def test_a_start_is_the_first_parent_and_larger_may_be_better() -> None:
    grammar = Grammar()
    found = evolve(grammar, value_of, start="9-1", budget=9, population_size=5)
    assert [one.round for one in found.ledger] == [0] + 5 * [1] + 3 * [2]
    assert grammar.told[0][0] == Scored("9-1", 55.0, "it is 8")
    most = evolve(Grammar(), value_of, start="9-1", budget=200, maximize=True)
    assert most.fun == max(one.value for one in most.ledger if not one.failed) > 63


def test_batches_give_the_same_and_an_exception_in_one_is_a_failure() -> None:
    def outcome(text: str) -> Any:
        try:
            return value_of(text)
        except SyntaxError as error:
            return error

    def batch(texts: list[str]) -> list[Any]:
        return [outcome(text) for text in texts]

    one = evolve(Grammar(), value_of, budget=40)
    assert evolve(Grammar(), batch, budget=40, batched=True) == one

    def breaks(texts: list[str]) -> list[float]:
        raise MemoryError("no room")

    none = evolve(Grammar(), breaks, budget=40, batched=True)
    assert none.failures == {"MemoryError: no room": 40}


@pytest.mark.parametrize("killed_after", [0, 1, 6, 8])
def test_it_resumes_where_it_was_killed(tmp_path: Path, killed_after: int) -> None:
    def propose(parent: Scored | None, feedback: str, n: int) -> list[str]:
        return Grammar(len(feedback))(parent, feedback, n)  # no state of its own

    options: dict[str, Any] = {"population_size": 4, "start": "1+1"}
    whole = evolve(propose, value_of, budget=20, **options)
    count = 0

    def dies(text: str) -> tuple[float, str]:
        nonlocal count
        count += 1
        if count > killed_after:
            raise KeyboardInterrupt
        return value_of(text)

    path = tmp_path / "texts"
    with pytest.raises(KeyboardInterrupt):
        evolve(propose, dies, budget=20, checkpoint=path, **options)
    again = evolve(propose, value_of, budget=20, checkpoint=path, **options)
    assert again.ledger == whole.ledger and again.x == whole.x
    with pytest.raises(ValueError, match="maximize: expected True, found False"):
        evolve(propose, value_of, checkpoint=path, maximize=True, **options)
    content = path.read_bytes()
    path.write_bytes(content[:-9])  # the last evaluation, cut short
    with pytest.warns(UserWarning, match="19 evaluations are kept"):
        cut = evolve(propose, value_of, budget=20, checkpoint=path, **options)
    assert cut.ledger == whole.ledger


def test_a_callback_sees_each_round_and_may_end_the_search() -> None:
    seen: list[TextResult] = []
    calls = [seen.append, lambda found: found.nit == 2]
    found = evolve(Grammar(), value_of, population_size=3, budget=30, callbacks=calls)
    assert [one.nfev for one in seen] == [3, 6] and found == seen[-1]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ("a text", TypeError, "a list of texts; got 'a text'"),
        ([], ValueError, "from 1 to 2 texts; got 0"),
        (["a", "b", "c"], ValueError, "from 1 to 2 texts; got 3"),
        (["a", 1], TypeError, "propose's texts must be texts; got 1"),
    ],
)
def test_proposals_that_are_none_are_refused(
    answer: Sequence[Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        evolve(lambda *_: answer, value_of, population_size=2)
