"""Consensus hopping beside its oracle, and as a proximal step (C7)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from optimizers.peers import X0, turns, uneven

import gfopt


def test_steps_as_its_oracle() -> None:
    optimizer = gfopt.ConsensusHopping(
        population_size=8, sigma=lambda step: 0.5 * 0.9**step, alpha=20.0
    )

    def value(step: int, row: int, x: np.ndarray) -> float:
        return np.nan if row == step else uneven(x)

    consensus = X0
    for turn in turns(optimizer, X0, 10, value):
        np.testing.assert_allclose(turn.before.consensus, consensus, 1e-6, 1e-7)
        consensus = oracles.consensus(turn.solutions, turn.fitness, 20.0)
        np.testing.assert_allclose(turn.after.consensus, consensus, 1e-6, 1e-7)
    assert uneven(consensus) < uneven(X0)


def test_a_hop_is_a_proximal_step() -> None:
    """C7: ``c <- (I + alpha s^2 H)^{-1} c``; for linear f, ``-alpha s^2 grad f``."""
    size, alpha, s = 20_000, 5.0, 0.1
    curvature, start = np.array([1.0, 4.0, 10.0]), np.full(3, 0.3)
    slope = np.array([1.0, -2.0, 0.5])
    method = gfopt.ConsensusHopping(population_size=size, sigma=s, alpha=alpha)
    for fun, expected in (
        (lambda x: x @ (curvature * x) / 2, start / (1 + alpha * s**2 * curvature)),
        (lambda x: x @ slope, start - alpha * s**2 * slope),
    ):
        result = gfopt.run(
            method, fun, jnp.asarray(start), key=jax.random.key(0), generations=1
        )
        enough = float(result.history["effective_sample_size"][0])
        error = s / np.sqrt(enough)  # of a mean of so many samples
        assert np.all(np.abs(np.asarray(result.recommended) - expected) < 4 * error)
        assert np.any(np.abs(start - expected) > 8 * error)
