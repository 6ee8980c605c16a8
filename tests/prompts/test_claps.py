"""Counting, clustering, influence, pruning, and ClaPS's reference checks R1 to R8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.prompts.ledger import Ledger
from gfopt.prompts.vocabulary import with_token

LENGTH = 3
WORTH = jnp.array([0.0, 2.0, -1.0, 0.5, 0.25, 3.0, 0.0, -4.0])
START = [-1] * LENGTH


def loss(prompt: jax.Array) -> jax.Array:
    """A prompt is as good as its tokens; -1 is an empty place."""
    return -jnp.sum(jnp.where(prompt < 0, 0.0, WORTH[prompt]))


class Calls:
    """A score in Python that counts its calls itself."""

    def __init__(self, fails: Any = ()) -> None:
        self.prompts: list[tuple[int, ...]] = []
        self.fails = set(fails)

    def __call__(self, prompt: np.ndarray) -> float:
        self.prompts.append(tuple(prompt.tolist()))
        if self.prompts[-1] in self.fails:
            raise RuntimeError("the line is dead")
        worth = np.asarray(WORTH)
        return -float(sum(worth[token] for token in prompt if token >= 0))


def counts(ledger: Ledger) -> list[int]:
    names = "queries", "scored_tokens", "distinct", "answered"
    return [int(getattr(ledger, name)) for name in names]


def search(objective: Any, **words: Any) -> gfopt.Result:
    given = {"method": "genetic_tokens", "options": {"vocabulary": 8}, **words}
    return gfopt.minimize(objective, START, **given)


def test_every_call_is_counted_and_none_is_made_twice() -> None:
    calls = Calls()
    host = search(
        gfopt.prompts.counted(calls, LENGTH, is_host=True, num_tokens=40),
        budget=160,
        seed=2,
    )
    compiled = search(
        gfopt.prompts.counted(loss, LENGTH, num_tokens=40), budget=160, seed=2
    )
    number = len(calls.prompts)
    assert number == len(set(calls.prompts)) < 160
    expected = [number, 40 * number, number, 160 - number]
    assert counts(host.context) == counts(compiled.context) == expected
    np.testing.assert_array_equal(host.x, compiled.x)
    assert host.nfev == compiled.nfev == 160


def test_a_batched_score_gets_the_new_prompts_only() -> None:
    seen = []

    def score(prompts: np.ndarray) -> np.ndarray:
        seen.append(len(prompts))
        return np.asarray(jax.vmap(loss)(prompts))

    result = search(
        gfopt.prompts.counted(score, LENGTH, is_host=True, batched=True),
        budget=160,
        seed=2,
    )
    assert sum(seen) == int(result.context.queries)
    traced = gfopt.prompts.counted(jax.vmap(loss), LENGTH, batched=True, batch_size=5)
    assert counts(search(traced, budget=160, seed=2).context) == counts(result.context)


def test_a_budget_is_met_to_the_query() -> None:
    for is_host, score in ((True, Calls()), (False, loss)):
        objective = gfopt.prompts.counted(score, LENGTH, budget=50, is_host=is_host)
        result = search(objective, budget=2000, callbacks=gfopt.prompts.budget_is_used)
        assert int(result.context.queries) == 50 and result.context.left == 0
        assert result.status == gfopt.Status.CALLBACK
        if is_host:
            assert len(score.prompts) == 50


def test_failed_calls_cost_and_are_asked_again() -> None:
    calls = Calls(fails=[(1, 1, 1)])
    objective = gfopt.prompts.counted(calls, LENGTH, is_host=True)
    prompts = [[1, 1, 1], [2, 2, 2], [1, 1, 1]]
    values, objective = gfopt.prompts.answers(objective, prompts)
    np.testing.assert_array_equal(values, [np.nan, 3.0, np.nan])
    assert counts(objective.context) == [2, 6, 1, 0]
    with pytest.raises(RuntimeError, match="the line is dead"):
        gfopt.prompts.answers(objective, [[1, 1, 1]])
    calls.fails.clear()
    values, objective = gfopt.prompts.answers(objective, prompts)
    np.testing.assert_array_equal(values, [-6.0, 3.0, -6.0])
    assert int(objective.context.queries) == 3


def test_the_ledger_forgets_the_oldest() -> None:
    objective = gfopt.prompts.counted(loss, LENGTH, capacity=2)
    for token, queries in ((1, 1), (2, 2), (1, 2), (3, 3), (2, 3), (1, 4)):
        values, objective = gfopt.prompts.answers(objective, [[token] * LENGTH])
        assert int(objective.context.queries) == queries
        assert values[0] == float(loss(jnp.full(LENGTH, token)))


@pytest.mark.parametrize("is_host", [True, False])
def test_counts_go_on_with_the_run(is_host: bool, tmp_path: Path) -> None:
    def objective() -> Any:
        return gfopt.prompts.counted(
            Calls() if is_host else loss, LENGTH, is_host=is_host
        )

    words = {"seed": 4, "checkpoint": tmp_path / "run"}
    search(objective(), budget=64, **words)
    resumed = search(objective(), budget=160, **words)
    straight = search(objective(), budget=160, seed=4)
    assert counts(resumed.context) == counts(straight.context)
    np.testing.assert_array_equal(resumed.context.values, straight.context.values)


def test_the_double_softmax_has_its_range() -> None:
    # R1: rewards of the reference are comparable within a number of classes only
    expected = {
        2: (-0.3133, -0.6931, -1.3133),
        3: (-0.5514, -1.0986, -1.5514),
        4: (-0.7437, -1.3863, -1.7437),
    }
    for classes, rewards in expected.items():
        best = np.eye(classes)[0]
        for p, reward in zip(
            (best, np.full(classes, 1 / classes), np.eye(classes)[1]),
            rewards,
            strict=True,
        ):
            assert abs(jax.nn.log_softmax(p)[0] - reward) < 1e-4


def test_influence_is_signed_or_a_divergence() -> None:
    # R2: nothing for the empty prompt, and for what changes no prediction
    objective = gfopt.prompts.counted(loss, LENGTH)
    ids = np.arange(8)
    found = gfopt.prompts.influence(objective, ids, START)
    np.testing.assert_allclose(found.values, WORTH, atol=1e-6)
    assert found.baseline == 0 and int(found.objective.context.queries) == 9
    again = gfopt.prompts.influence(found.objective, ids, START, batch_size=3)
    np.testing.assert_array_equal(again.values, found.values)
    assert int(again.objective.context.queries) == 9  # all were known
    empty = gfopt.prompts.influence(objective, [-1], START)
    assert empty.values.tolist() == [0.0]

    def predict(prompt: jax.Array) -> jax.Array:
        shift = jnp.sum(jnp.where(prompt < 0, 0.0, WORTH[prompt]))
        return jax.nn.softmax(jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(3)) * shift)

    found = gfopt.prompts.influence(objective, ids, START, predict=predict)
    assert np.all((found.values > 1e-6) == (np.asarray(WORTH) != 0))
    assert np.all(found.values > -1e-6)
    assert counts(found.objective.context)[:2] == [9, 27]
    p, q = (np.asarray(predict(jnp.array(x))) for x in ([3, -1, -1], START))
    np.testing.assert_allclose(found.values[3], np.sum(p * np.log(p / q)), rtol=1e-4)


def test_pruning_stops_at_the_budget() -> None:
    objective = gfopt.prompts.counted(loss, LENGTH, budget=4)
    found = gfopt.prompts.influence(objective, np.arange(8), START, batch_size=2)
    assert np.isfinite(found.values).sum() == 3
    found = gfopt.prompts.influence(
        objective, np.arange(8), START, predict=lambda prompt: jnp.ones((2, 2)) / 2
    )
    assert np.isfinite(found.values).sum() == 3 and found.objective.context.left == 0
    for predict in (None, lambda prompt: jnp.ones((2, 2)) / 2):
        with pytest.raises(ValueError, match=r"^start must have a value.*0 of 4"):
            gfopt.prompts.influence(found.objective, [1], [2, 2, 2], predict=predict)


def test_a_start_that_fails_has_no_influences() -> None:
    objective = gfopt.prompts.counted(
        lambda prompt: jnp.where(prompt[0] == START[0], jnp.nan, 1.0), LENGTH, budget=4
    )
    with pytest.raises(ValueError, match=r"^start must have a value.*3 of 4"):
        gfopt.prompts.influence(objective, [1, 2], START)


def test_pruning_keeps_a_fixed_share() -> None:
    # R3: n = 1000 distinct values above the 90th percentile are exactly 100
    values = np.random.default_rng(0).permutation(1000) * 1.0
    ids = np.arange(1000) + 5
    expected = ids[values > np.percentile(values, 90)]
    assert len(expected) == 100
    np.testing.assert_array_equal(gfopt.prompts.prune(ids, values, 100), expected)
    # where the reference keeps nothing: all values are the same
    assert gfopt.prompts.prune(ids, np.zeros(1000), 100).tolist() == ids[:100].tolist()
    assert gfopt.prompts.prune(ids, np.full(1000, np.nan), 3).size == 3
    with pytest.raises(ValueError, match="^num_kept must be at most.*1000"):
        gfopt.prompts.prune(ids, values, 1001)
    with pytest.raises(ValueError, match="^values must be one number for each"):
        gfopt.prompts.prune(ids, values[1:], 3)


def test_a_cluster_is_represented_by_its_middle() -> None:
    # R7: a token that is the mean stands for the cluster; as many as there are: all
    rng = np.random.default_rng(1)
    centers = 50 * rng.normal(size=(6, 4))
    offsets = rng.normal(size=(6, 3, 4))
    points = centers[:, None] + np.concatenate(
        [offsets, -offsets, np.zeros((6, 1, 4))], axis=1
    )
    table = points.reshape(42, 4)
    middles = np.arange(6) * 7 + 6
    np.testing.assert_array_equal(
        gfopt.prompts.cluster_vocabulary(table, 6, seed=3), middles
    )
    for many in (42, 100):
        np.testing.assert_array_equal(
            gfopt.prompts.cluster_vocabulary(table, many), np.arange(42)
        )
    chosen = gfopt.prompts.cluster_vocabulary(
        table, 3, ids=[1, 2, 3, 8, 9, 30, 31], seed=0
    )
    assert set(chosen) <= {1, 2, 3, 8, 9, 30, 31} and 1 <= len(chosen) <= 3
    same = np.ones((5, 2))
    assert gfopt.prompts.cluster_vocabulary(same, 3).size == 1
    with pytest.raises(ValueError, match="^ids must be token ids below the 42"):
        gfopt.prompts.cluster_vocabulary(table, 2, ids=[50])
    with pytest.raises(ValueError, match="^embeddings must be a matrix"):
        gfopt.prompts.cluster_vocabulary(np.ones(3), 2)


@pytest.mark.parametrize(
    "method", ["random_tokens", "greedy_tokens", "genetic_tokens", "particle_tokens"]
)
def test_claps_stays_within_budget_and_vocabulary(method: str) -> None:
    # R8, and pruning is paid from the same budget
    objective = gfopt.prompts.counted(loss, LENGTH, budget=40)
    found = gfopt.prompts.claps(
        objective, START, ids=8, num_kept=3, method=method, seed=1,
        options={"population_size": 8},
    )  # fmt: skip
    assert found.vocabulary.tolist() == [1, 3, 5] and found.pruning_queries == 9
    assert found.candidates.tolist() == list(range(8))
    assert np.isin(found.x, found.vocabulary).all()
    assert 9 < int(found.ledger.queries) <= 40
    assert found.fun == float(loss(jnp.asarray(found.x))) <= -7
    prompts = found.ledger.prompts[9 : int(found.ledger.distinct)]
    assert np.isin(prompts, [-1, 1, 3, 5]).all()


def test_claps_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "claps"

    class Killed(BaseException):
        pass

    class Dying(Calls):
        def __call__(self, prompt: np.ndarray) -> float:
            if len(self.prompts) == 6:
                raise Killed
            return super().__call__(prompt)

    def go(score: Any, **words: Any) -> gfopt.prompts.ClapsResult:
        objective = gfopt.prompts.counted(score, LENGTH, budget=30, is_host=True)
        return gfopt.prompts.claps(
            objective, START, ids=8, num_kept=3, batch_size=2, **words
        )

    first = Dying()
    with pytest.raises(Killed):
        go(first, checkpoint=path)
    second, whole = Calls(), Calls()
    resumed, straight = go(second, checkpoint=path), go(whole)
    # the two prompts of the block that it died in are asked again
    assert len(second.prompts) < len(whole.prompts) == int(straight.ledger.queries)
    assert resumed.x.tolist() == straight.x.tolist()
    assert counts(resumed.ledger) == counts(straight.ledger)
    third = Calls()
    assert go(third, checkpoint=path).fun == straight.fun and not third.prompts
    with pytest.raises(ValueError, match="is of another run"):
        objective = gfopt.prompts.counted(Calls(), LENGTH, budget=30, is_host=True)
        gfopt.prompts.claps(objective, START, ids=7, num_kept=3, checkpoint=path)


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (TypeError, {"objective": loss}, "^objective must be one that counts"),
        (ValueError, {"method": "cma_es"}, "^method must be one of.*genetic_tokens"),
        (ValueError, {"options": {"vocabulary": 3}}, "^options must not have a vocab"),
        (ValueError, {"ids": None}, "^ids must be given where there are no embeddings"),
        (ValueError, {"num_kept": 9}, "^num_kept must be at most the 8 tokens"),
        (
            ValueError,
            {"objective": gfopt.prompts.counted(loss, LENGTH, budget=9)},
            "^budget must be above what pruning takes",
        ),
        (ValueError, {"position": 3}, "^position must be below the prompt's length 3"),
    ],
)
def test_a_wrong_argument_is_named(kind: Any, words: Any, message: str) -> None:
    given = {
        "objective": gfopt.prompts.counted(loss, LENGTH, budget=40),
        "ids": 8,
        **words,
    }
    with pytest.raises(kind, match=message):
        gfopt.prompts.claps(given.pop("objective"), START, **{"num_kept": 3, **given})


def test_a_token_is_put_into_its_place() -> None:
    assert with_token([9, 8, 7], [1, 2], 1).tolist() == [[9, 1, 7], [9, 2, 7]]


def test_a_ledger_is_shared_by_searches() -> None:
    first = search(gfopt.prompts.counted(loss, LENGTH, budget=60), budget=40)
    objective = replace(gfopt.prompts.counted(loss, LENGTH), context=first.context)
    second = search(objective, budget=40, method="random_tokens")
    assert int(second.context.queries) > int(first.context.queries)
    assert second.context.left == 60 - int(second.context.queries)


def test_what_a_score_raises_is_shown_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    num_calls = 0

    def score(prompt: np.ndarray) -> float:
        nonlocal num_calls
        num_calls += 1
        if prompt[0] == 2:
            raise ArithmeticError(f"no twos, not before {prompt[1]}")
        return float(loss(prompt))

    objective = gfopt.prompts.counted(score, LENGTH, is_host=True)
    options = {"vocabulary": 8, "population_size": 16}
    found = gfopt.minimize(
        objective, START, method="genetic_tokens", options=options, budget=64, seed=1
    )
    raised = {k: n for k, n in found.failures.items() if k.startswith("Arithmetic")}
    assert raised and sum(found.failures.values()) == sum(raised.values())
    assert "no twos" in caplog.text and caplog.text.count("Traceback") == 1
    # a call that failed was a query, as any other
    assert int(found.context.queries) == num_calls < found.nfev
    caplog.clear()
    values, after = gfopt.prompts.answers(objective, [[2, 1, 1], [1, 1, 1], [2, 1, 1]])
    assert np.isnan(values).tolist() == [True, False, True]
    assert int(after.context.queries) == 2 and caplog.text.count("Traceback") == 1
