"""Evolution of texts: a (1, K) strategy around whoever proposes them.

    texts    = propose(parent, feedback, K)
    parent  <- the best of this round, even where it is worse than the last one
    best    <- the best of all rounds, an archive that the proposer does not see

The parent, what the score said of it, and the failures of the last round are all that
the proposer is told. A language model, a grammar or a person can be the proposer. What
it is told follows from the ledger of evaluations alone, and so does the search.

Source: Ma et al. (2024), "Eureka", ICLR, arXiv 2310.12931, algorithm 1, and their code
for what the paper leaves open: the parent that may be worse, and a round that is
repeated where all of it failed. Deviation: the proposer also sees what failed in the
last round, and why; there it sees no failure but the parent's.
"""

from __future__ import annotations

import itertools
import math
import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gfopt import checks
from gfopt.core.host.failures import Failures
from gfopt.texts.ledger import Ledger, Scored

Propose = Callable[[Scored | None, str, int], Sequence[str]]


@dataclass(frozen=True)
class TextResult:
    """What a search over texts found.

    Attributes:
        x: the best text of all rounds; None where all failed.
        fun: its value, in the caller's sense; NaN where all failed.
        recommended: the parent of the next round, which may be worse.
        nfev: evaluations, failed ones included.
        nit: rounds.
        ledger: all that was evaluated, in order.
        failures: how often evaluations failed in this session, by reason.

    Example:
        >>> from gfopt.texts import evolve
        >>> found = evolve(lambda parent, feedback, n: ["a"] * n, len, budget=3)
        >>> found.x, found.fun, found.nfev
        ('a', 1.0, 3)
    """

    x: str | None
    fun: float
    recommended: str | None
    nfev: int
    nit: int
    ledger: tuple[Scored, ...] = field(repr=False)
    failures: Failures


def evolve(
    propose: Propose,
    score: Callable[..., Any],
    *,
    population_size: int = 16,
    budget: int = 80,
    start: str | None = None,
    maximize: bool = False,
    elitist: bool = False,
    batched: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    callbacks: Callable[[TextResult], object]
    | Iterable[Callable[[TextResult], object]] = (),
) -> TextResult:
    """Searches texts: those of a round are proposed from the best of the round before.

    Args:
        propose: ``(parent, feedback, n) -> texts``, from 1 to ``n`` of them. ``parent``
            is a ``Scored``, None as long as there is none; ``feedback`` is what the
            score said of it, then the failed texts of the last round with the reasons.
        score: ``text -> value``, or ``text -> (value, feedback)``. What raises, or has
            no finite value, failed.
        population_size: texts of a round, ``K``.
        budget: evaluations in all. A text that is proposed twice is evaluated twice;
            put ``functools.cache`` around a score that is certain and dear.
        start: a text that is evaluated first, alone, as the first parent.
        maximize: whether larger values are better.
        elitist: keep a parent that is better than all of its round.
        batched: ``score`` gets the list of a round's texts and returns a list; an
            exception in it is the failure of that text.
        checkpoint: file from which the same call resumes, also with a larger budget.
            The state of a proposer is its own affair.
        callbacks: called with a ``TextResult`` after each round; a true answer ends the
            search.

    Returns:
        A ``TextResult``.

    Raises:
        TypeError: for an argument of the wrong type, or proposals that are no texts.
        ValueError: for one out of range, another number of proposals, or a checkpoint
            of another search.

    Example:
        >>> import random
        >>> from gfopt.texts import evolve
        >>> draw = random.Random(0)
        >>> def propose(parent, feedback, n):
        ...     text = parent.text if parent else "....."
        ...     places = [draw.randrange(5) for _ in range(n)]
        ...     return [text[:i] + draw.choice("abc") + text[i + 1:] for i in places]
        >>> def score(text):
        ...     return sum(a == b for a, b in zip(text, "abcab"))
        >>> evolve(propose, score, budget=400, maximize=True).x
        'abcab'
    """
    checks.is_callable("propose", propose)
    checks.is_callable("score", score)
    checks.integer("population_size", population_size, 1)
    checks.integer("budget", budget, 1)
    if start is not None:
        checks.instance("start", start, str, "a text")
    calls = (callbacks,) if callable(callbacks) else tuple(callbacks)
    sense = {"maximize": maximize, "elitist": elitist}
    header = {"kind": "texts", "population_size": population_size, "start": start}
    failures = Failures()
    with Ledger(checkpoint, {**header, **sense}) as ledger:
        while (room := budget - len(ledger.texts)) > 0:
            if not ledger.left:
                parent, failed = _context(ledger.texts, **sense)
                size = min(population_size, room)
                if start is not None and not ledger.texts:
                    ledger.proposed([start])
                else:
                    told = _feedback(parent, failed)
                    ledger.proposed(_checked(propose(parent, told, size), size))
            texts = ledger.left[:room]
            for found in _evaluated(score, texts, ledger.round, batched, failures):
                ledger.scored(found)
            result = _result(ledger.texts, failures, **sense)
            if any([call(result) for call in calls]):
                break
    return _result(ledger.texts, failures, **sense)


def _context(
    texts: Sequence[Scored], maximize: bool, elitist: bool
) -> tuple[Scored | None, list[Scored]]:
    """Returns the parent of the next round, and the failures of the last one."""
    parent: Scored | None = None
    members: list[Scored] = []
    for _, group in itertools.groupby(texts, key=lambda one: one.round):
        members = list(group)
        if elitist and parent is not None:
            members = [parent, *members]
        # a round that failed as a whole leaves the parent as it is
        parent = _best(members, maximize) or parent
    return parent, [one for one in members if one.failed]


def _best(members: Iterable[Scored], maximize: bool) -> Scored | None:
    """Returns the best one that has a value, the first of equals."""
    sign = -1 if maximize else 1
    valid = [one for one in members if not one.failed]
    return min(valid, key=lambda one: sign * one.value, default=None)


def _feedback(parent: Scored | None, failed: Iterable[Scored]) -> str:
    parts = [parent.feedback] if parent is not None and parent.feedback else []
    reasons = {one.text: one.feedback for one in failed}
    parts += [f"This failed, {why}:\n{text}" for text, why in reasons.items()]
    return "\n\n".join(parts)


def _checked(texts: Sequence[str], size: int) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(
            f"propose must return a list of texts; got {checks.shown(texts)}"
        )
    if not 1 <= len(texts) <= size:
        raise ValueError(
            f"propose must return from 1 to {size} texts; got {len(texts)}"
        )
    for text in texts:
        checks.instance("propose's texts", text, str, "texts")
    return list(texts)


def _evaluated(
    score: Callable[..., Any],
    texts: list[str],
    number: int,
    batched: bool,
    failures: Failures,
) -> Iterable[Scored]:
    """Yields what the score says of each text; a failure is counted by its reason."""
    if batched:
        outcomes: Any = _called(score, texts)
        if isinstance(outcomes, Exception):
            outcomes = [outcomes] * len(texts)
        elif len(outcomes) != len(texts):
            raise ValueError(
                f"score must return a value for each of {len(texts)} texts; "
                f"got {len(outcomes)}"
            )
    else:
        outcomes = (_called(score, text) for text in texts)
    for text, outcome in zip(texts, outcomes, strict=True):
        value, feedback, trace = _read(outcome)
        if not math.isfinite(value):
            failures.add(feedback, trace)
        yield Scored(text, value, feedback, number)


def _called(score: Callable[..., Any], given: str | list[str]) -> Any:
    try:
        return score(given)
    except Exception as error:  # whatever it is, the text is what failed
        return error


def _read(outcome: Any) -> tuple[float, str, str]:
    """Returns a value, what is said of it, and the traceback if there is one."""
    if isinstance(outcome, Exception):
        trace = "".join(traceback.format_exception(outcome))
        return math.nan, f"{type(outcome).__name__}: {outcome}", trace
    value, feedback = outcome if isinstance(outcome, tuple) else (outcome, "")
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan, f"returned no real number, such as {value!r}", ""
    if not math.isfinite(number):
        return math.nan, f"returned {number}", ""
    return number, str(feedback), ""


def _result(
    texts: Sequence[Scored], failures: Failures, maximize: bool, elitist: bool
) -> TextResult:
    best = _best(texts, maximize)
    parent, _ = _context(texts, maximize, elitist)
    return TextResult(
        x=None if best is None else best.text,
        fun=math.nan if best is None else best.value,
        recommended=None if parent is None else parent.text,
        nfev=len(texts),
        nit=texts[-1].round + 1 if texts else 0,
        ledger=tuple(texts),
        failures=failures,
    )
