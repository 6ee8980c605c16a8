"""Novelty: distances against NumPy, the archive's ring, and what it is for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gfopt
from gfopt.optimizers.wrappers import archive as archives


def test_an_integer_line() -> None:
    """G8: with two neighbours, inside 1, at the ends 1.5."""
    points = jnp.arange(6.0)[:, None]
    found = archives.novelty(points, jnp.ones(6, bool), archives.empty(4, 1), 2)
    np.testing.assert_allclose(found, [1.5, 1, 1, 1, 1, 1.5])


def test_novelty_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 3)).astype(np.float32)
    kept = rng.normal(size=(5, 3)).astype(np.float32)
    valid = np.array([1, 1, 0, 1, 1, 1, 1], bool)
    archive = archives.insert(archives.empty(9, 3), kept, jnp.ones(5, bool))
    found = archives.novelty(jnp.asarray(points), jnp.asarray(valid), archive, 4)
    for row in range(7):
        others = np.concatenate([kept, np.delete(points, [2, row], axis=0)])
        near = np.sort(np.linalg.norm(others - points[row], axis=1))[:4]
        expected = near.mean() if valid[row] else 0
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points = jax.random.normal(jax.random.key(0), (10, 2))
    valid, archive = jnp.ones(10, bool), archives.empty(20, 2)
    whole = archives.novelty(points, valid, archive, 3)
    monkeypatch.setattr(archives, "BLOCK", 180)  # three rows at a time
    np.testing.assert_array_equal(archives.novelty(points, valid, archive, 3), whole)


def test_a_lone_behaviour_is_as_new_as_can_be() -> None:
    found = archives.novelty(
        jnp.zeros((2, 1)), jnp.array([True, False]), archives.empty(3, 1), 5
    )
    assert found[0] > 1e30 and found[1] == 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), max_size=6))
def test_the_ring_keeps_the_last(masks: list[list[bool]]) -> None:
    archive, told = archives.empty(3, 1), []
    for number, mask in enumerate(masks):
        rows = 4.0 * number + np.arange(4.0, dtype=np.float32)
        archive = archives.insert(archive, rows[:, None], jnp.array(mask))
        told += rows[np.array(mask)].tolist()
    assert archive.num_kept == len(told)
    kept = archive.descriptors[: min(3, len(told)), 0].tolist()
    assert sorted(kept) == sorted(told[-3:])


def objective(x: Any) -> Any:
    return jnp.sum(x**2), x


def test_a_behaviour_is_kept_with_the_probability() -> None:
    """G8: the count is within four standard deviations of a binomial's mean."""
    inner = gfopt.DeepGA(population_size=50, num_parents=5, elitism=False)
    optimizer = gfopt.Novelty(inner, num_descriptors=2, probability=0.1)
    result = gfopt.run(
        optimizer,
        gfopt.Objective(objective, has_aux=True),
        jnp.ones(2),
        key=jax.random.key(0),
        generations=40,
    )
    count, mean = int(result.state.archive.num_kept), 50 * 40 * 0.1
    assert abs(count - mean) < 4 * np.sqrt(mean * 0.9)


def test_novelty_spreads_and_the_fitness_gathers() -> None:
    inner = gfopt.DeepGA(population_size=40, num_parents=8, sigma=0.3, elitism=False)

    def reach(weight: float) -> tuple[float, float]:
        optimizer = gfopt.Novelty(
            inner, num_descriptors=2, probability=0.1, weight=weight
        )
        result = gfopt.run(
            optimizer,
            gfopt.Objective(objective, has_aux=True),
            jnp.ones(2),
            key=jax.random.key(1),
            generations=40,
        )
        parents = jnp.linalg.norm(result.state.inner.parents, axis=1).mean()
        best = result.state.best_fitness
        np.testing.assert_allclose(best, jnp.sum(result.recommended**2), rtol=1e-6)
        return float(parents), float(best)

    (far, _), (near, best) = reach(0.0), reach(1.0)
    assert far > 3 and near < 1 and best < 0.05


@pytest.mark.parametrize("evaluator", [gfopt.chunked(8), gfopt.sharded()])
def test_with_every_evaluator(evaluator: Any) -> None:
    inner = gfopt.DeepGA(population_size=24, num_parents=4, elitism=False)
    optimizer = gfopt.Novelty(inner, num_descriptors=2)
    fun = gfopt.Objective(objective, has_aux=True)
    found = [
        gfopt.run(
            optimizer,
            fun,
            jnp.ones(2),
            key=jax.random.key(0),
            generations=5,
            evaluator=one,
        ).state
        for one in (gfopt.vmapped(), evaluator)
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_descriptors_that_are_not_numbers_are_failures() -> None:
    def lost(x: Any) -> Any:
        return jnp.sum(x**2), jnp.where(x[0] > 1, jnp.nan, x)

    inner = gfopt.DeepGA(population_size=16, num_parents=4, elitism=False)
    result = gfopt.run(
        gfopt.Novelty(inner, num_descriptors=2),
        gfopt.Objective(lost, has_aux=True),
        jnp.ones(2),
        key=jax.random.key(0),
        generations=6,
    )
    assert np.all(np.asarray(result.history["num_valid"]) < 16)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.state))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"^inner must not keep an elite"):
        gfopt.Novelty(gfopt.DeepGA(), num_descriptors=2)
    inner = gfopt.OpenES(population_size=4)
    with pytest.raises(ValueError, match=r"^weight must"):
        gfopt.Novelty(inner, num_descriptors=2, weight=1.5)
    optimizer = gfopt.Novelty(inner, num_descriptors=3)
    with pytest.raises(ValueError, match=r"^descriptor must return 3 numbers"):
        gfopt.run(
            optimizer,
            gfopt.Objective(objective, has_aux=True),
            jnp.ones(2),
            key=jax.random.key(0),
            generations=1,
        )
