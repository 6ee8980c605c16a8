"""Best of K: what it selects, and how far it leads, beside exact distributions."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from gfopt.texts import BestOfK, best_of_k_divergence


def best_of(p: np.ndarray, k: int) -> np.ndarray:
    """The exact distribution of the best of K answers, from worst to best."""
    upto = np.append(0, np.cumsum(p))
    return np.diff(upto**k)


def divergence(q: np.ndarray, p: np.ndarray) -> float:
    kept = q > 0
    return float(np.sum(q[kept] * np.log(q[kept] / p[kept])))


@pytest.mark.parametrize("k", [2, 4, 32])
def test_the_bound_holds_and_is_met_without_ties(k: int) -> None:
    rng = np.random.default_rng(k)
    for size in (2, 5, 50):
        p = rng.dirichlet(np.ones(size))
        assert divergence(best_of(p, k), p) <= best_of_k_divergence(k)
    fine = np.full(100_000, 1e-5)
    assert divergence(best_of(fine, k), fine) == pytest.approx(
        best_of_k_divergence(k), rel=1e-3
    )


def test_rounds_lead_further_than_the_sum_of_their_divergences() -> None:
    p = np.full(100_000, 1e-5)
    q = best_of(best_of(p, 4), 8)
    rounds = BestOfK(3)
    for k in (4, 8):
        rounds.ask(3, k)
        rounds.tell(np.zeros((3, k)))
    exact = divergence(q, p)
    np.testing.assert_allclose(q, best_of(p, 32), atol=1e-9)
    assert exact == pytest.approx(rounds.divergence, rel=1e-3)
    assert sum(rounds.divergences) < exact <= rounds.divergence
    assert rounds.divergence == pytest.approx(math.log(32) - 31 / 32)


def test_the_best_of_k_normals_is_where_tables_have_it() -> None:
    for k, expected in ((4, 1.0294), (32, 2.0697)):
        rounds = BestOfK(20_000)
        rounds.ask(20_000, k)
        answers = np.random.default_rng(k).normal(size=(20_000, k))
        elites = rounds.tell(answers)
        found = answers[np.arange(20_000), elites].mean()
        assert found == pytest.approx(expected, abs=0.025)  # 4 standard errors


def test_only_the_order_of_a_prompts_rewards_counts() -> None:
    rewards = np.random.default_rng(0).normal(size=(7, 5))
    monotone = np.exp(rewards * np.linspace(0.1, 9, 7)[:, None]) - 100
    rounds = [BestOfK(7), BestOfK(7)]
    for each in rounds:
        each.ask(7, 5)
    np.testing.assert_array_equal(rounds[0].tell(rewards), rounds[1].tell(monotone))


def test_failed_answers_are_never_learnt() -> None:
    rounds = BestOfK(3)
    rounds.ask(3, 2)
    table = [[np.nan, -5.0], [np.inf, np.nan], [1.0, 1.0]]
    assert rounds.tell(table).tolist() == [1, -1, 0]
    assert (rounds.num_answers, rounds.num_failed) == (6, 3)


def test_all_prompts_have_their_turn_also_after_a_pickle() -> None:
    rounds, drawn = BestOfK(10, seed=3), []
    for _ in range(5):
        drawn += rounds.ask(4, 1).tolist()
        rounds = pickle.loads(pickle.dumps(rounds))
        rounds.tell(np.zeros((4, 1)))
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_misuse_is_refused() -> None:
    rounds = BestOfK(3)
    with pytest.raises(RuntimeError, match="ask for a round first"):
        rounds.tell([[1.0]])
    with pytest.raises(ValueError, match="num_prompts must be at most 3; got 4"):
        rounds.ask(4, 2)
    rounds.ask(2, 2)
    with pytest.raises(RuntimeError, match="must be told first"):
        rounds.ask(2, 2)
    with pytest.raises(ValueError, match=r"shape \(2, 2\) of the last ask"):
        rounds.tell([[1.0, 2.0]])
