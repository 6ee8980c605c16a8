"""The cross-entropy method beside its oracle."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from optimizers.peers import X0, falling, turns, uneven

import gfopt


def floor(step: float) -> float:
    """Decaying extra noise, as the floor of the deviations."""
    return 0.3 * 0.8 ** (1.0 * step)


def dynamic(step: float) -> float:
    """Dynamic smoothing of the deviations: ``b - b (1 - 1 / t)^q``."""
    return 0.8 - 0.8 * (1 - 1 / (step + 1.0)) ** 5


def test_steps_as_its_oracle() -> None:
    optimizer = gfopt.CrossEntropy(
        population_size=12,
        sigma=0.5,
        elite_fraction=0.34,
        learning_rate=0.7,
        std_learning_rate=dynamic,
        min_std=floor,
    )
    oracle = oracles.CrossEntropy(X0, 0.5, num_elites=4)

    def value(step: int, row: int, x: np.ndarray) -> float:
        return uneven(x)

    for step, turn in enumerate(turns(optimizer, X0, 12, value)):
        candidates = oracle.candidates(np.asarray(turn.population.members))
        np.testing.assert_allclose(turn.solutions, candidates, 1e-12, 1e-12)
        oracle.tell(candidates, turn.fitness, 0.7, dynamic(step), floor(step))
        np.testing.assert_allclose(turn.after.mean, oracle.mean, 1e-10, 1e-12)
        np.testing.assert_allclose(turn.after.std, oracle.std, 1e-10)
    assert uneven(oracle.mean) < uneven(X0) / 4


def test_failures_are_no_candidates() -> None:
    """With 6 of 12 left, the elites are a third of the 6."""
    optimizer = gfopt.CrossEntropy(
        population_size=12, elite_fraction=0.34, learning_rate=0.7
    )

    def value(step: int, row: int, x: np.ndarray) -> float:
        return np.nan if row % 2 else uneven(x)

    (turn,) = turns(optimizer, X0, 1, value)
    best = np.argsort(turn.fitness)[:2]  # NaN stands last
    expected = X0 + 0.7 * (turn.solutions[best].mean(axis=0) - X0)
    np.testing.assert_allclose(turn.after.mean, expected, 1e-12)


def test_ties_share_their_weight() -> None:
    """On a plateau the elites are everybody: the deviations do not collapse."""
    optimizer = gfopt.CrossEntropy(population_size=400, std_learning_rate=1.0)
    *_, turn = turns(optimizer, X0, 4, lambda step, row, x: 1.0)
    np.testing.assert_allclose(turn.after.std, 1.0, atol=0.2)


@pytest.mark.parametrize("min_std", [0.0, 0.1])
def test_stops_where_its_deviations_are_tiny(min_std: float) -> None:
    options = {"min_std": min_std}
    result = gfopt.minimize(
        lambda x: jnp.sum((x - 1) ** 2),
        np.zeros(3),
        method="cross_entropy",
        options=options,
        budget=8_000,
    )
    assert result.success == (min_std == 0)
    assert ("tol_x" in result.message) == (min_std == 0)
    np.testing.assert_allclose(result.recommended, 1.0, atol=10 * min_std + 1e-6)


def test_a_search_that_runs_away_stays_finite() -> None:
    state = falling(gfopt.CrossEntropy(population_size=8, sigma=1e29), 60)
    assert np.all(np.isfinite(state.mean)) and np.all(np.isfinite(state.std))
