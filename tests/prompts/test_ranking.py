"""Ranking prompts by mutual information, beside NumPy loops."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.prompts import ranking

T, X, Y = 5, 40, 3
P = np.random.default_rng(0).dirichlet([0.6] * Y, size=(T, X))


def entropy(p: Any) -> float:
    return -sum(x * np.log(x) for x in p if x > 0)


def votes(p: Any) -> Any:
    return np.eye(Y)[np.argmax(p, axis=-1)]


def expected(method: str, p: Any) -> list[float]:
    """The scores of the paper's table, prompt by prompt."""
    local = [np.mean([entropy(row) for row in prompt]) for prompt in p]
    whole = [entropy(prompt.mean(axis=0)) for prompt in p]
    voted = [entropy(votes(prompt).mean(axis=0)) for prompt in p]
    together = {
        "agreement_of_log_probabilities": np.log(p),
        "agreement_of_probabilities": p,
        "agreement_of_votes": votes(p),
    }
    if method in together:
        all_of_them = together[method].mean(axis=0).argmax(axis=-1)
        return [np.mean(prompt.argmax(axis=-1) == all_of_them) for prompt in p]
    table = {
        "mutual_information": np.subtract(whole, local),
        "mutual_information_of_votes": np.subtract(voted, local),
        "global_entropy": whole,
        "global_entropy_of_votes": voted,
        "certainty": -np.array(local),
        "local_entropy": local,
    }
    return list(table[method])


@pytest.mark.parametrize("method", ranking.SCORES)
def test_scores_are_those_of_the_loop(method: str) -> None:
    found = gfopt.prompts.rank_prompts(P, method, calibration="none")
    np.testing.assert_allclose(found.scores, expected(method, P), rtol=1e-4, atol=1e-6)
    assert found.order[0] == np.argmax(found.scores)
    np.testing.assert_array_equal(found.chosen, np.full(X, found.order[0]))
    np.testing.assert_array_equal(found.answers, P.argmax(axis=-1))


def test_some_methods_choose_for_each_input() -> None:
    found = gfopt.prompts.rank_prompts(
        P, "mutual_information_by_input", calibration="none"
    )
    whole = [entropy(prompt.mean(axis=0)) for prompt in P]
    for x in range(X):
        table = [whole[t] - entropy(P[t, x]) for t in range(T)]
        assert found.chosen[x] == np.argmax(table)
    plain = gfopt.prompts.rank_prompts(P, calibration="none")
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-5)
    other = gfopt.prompts.rank_prompts(P, "mutual_information_of_votes_by_input")
    assert not np.array_equal(other.scores, found.scores)


def test_mutual_information_has_its_bounds() -> None:
    scores = gfopt.prompts.rank_prompts(P).scores
    assert np.all((scores >= 0) & (scores <= np.log(Y)))
    constant = np.tile(P[:, :1], (1, X, 1))  # does not depend on the input
    np.testing.assert_allclose(
        gfopt.prompts.rank_prompts(constant).scores, 0, atol=1e-6
    )
    certain = np.eye(Y)[np.arange(30) % Y][None]
    np.testing.assert_allclose(
        gfopt.prompts.rank_prompts(certain).scores, np.log(Y), rtol=1e-6
    )


def test_the_order_of_inputs_and_answers_does_not_matter() -> None:
    draw = np.random.default_rng(1)
    mixed = P[:, draw.permutation(X)][:, :, draw.permutation(Y)]
    for calibration in ranking.CALIBRATIONS:
        first, second = (
            gfopt.prompts.rank_prompts(p, calibration=calibration).scores
            for p in (P, mixed)
        )
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


def test_calibration_makes_every_answer_as_frequent() -> None:
    q = gfopt.prompts.calibrate(P, "none")
    np.testing.assert_allclose(np.mean(q, axis=1), 1, rtol=1e-5)
    constant = np.tile(P[:, :1], (1, X, 1))
    np.testing.assert_allclose(gfopt.prompts.calibrate(constant, "none"), 1, rtol=1e-5)
    for normalisation in ("softmax", "sum"):
        total = np.sum(gfopt.prompts.calibrate(P, normalisation), axis=-1)
        np.testing.assert_allclose(total, 1, rtol=1e-5)
    never = P * np.array([1.0, 1.0, 0.0])
    assert np.all(gfopt.prompts.calibrate(never, "none")[..., 2] == 0)
    assert np.all(np.isfinite(gfopt.prompts.calibrate(0 * P, "sum")))


def test_calibration_mends_a_stubborn_prompt() -> None:
    # it is right about which of two inputs is the likelier first answer, always says it
    draw = np.random.default_rng(2)
    labels = draw.integers(2, size=200)
    margin = 1.5 + np.where(labels == 0, 1.0, -1.0) + 0.3 * draw.normal(size=200)
    first = 1 / (1 + np.exp(-margin))
    p = np.stack([first, 1 - first], axis=-1)[None]

    def accuracy(calibration: str) -> float:
        found = gfopt.prompts.rank_prompts(p, calibration=calibration)
        return float(np.mean(found.answers[0] == labels))

    assert accuracy("none") < 0.7 and accuracy("selection") < 0.7
    assert accuracy("answers") > 0.95 and accuracy("both") > 0.95


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"probabilities": P[0]}, r"^probabilities must be an array \[T, X, Y\]"),
        ({"probabilities": P - 1}, "^probabilities must be.*from 0 to 1"),
        ({"method": "mutual"}, "^method must be one of"),
        ({"calibration": "all"}, "^calibration must be one of"),
        ({"normalisation": "max"}, "^normalisation must be one of"),
    ],
)
def test_a_wrong_argument_is_named(words: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gfopt.prompts.rank_prompts(**{"probabilities": jnp.asarray(P), **words})
