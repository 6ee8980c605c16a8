"""ARS beside its paper's three lines."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from optimizers.peers import X0, turns, uneven
from optimizers.test_pgpe import drawn

import gfopt


def value(step: int, row: int, x: np.ndarray) -> float:
    """An uneven quadratic with an offset, and two failures."""
    return np.nan if (step, row) in {(2, 1), (2, 4)} else 1e3 + uneven(x)


@pytest.mark.parametrize("noise", [gfopt.gaussian(), gfopt.rademacher()], ids=str)
@pytest.mark.parametrize("elites", [None, 1, 4, 5])
def test_steps_as_its_oracle(noise: gfopt.noise.Noise, elites: int | None) -> None:
    optimizer = gfopt.ARS(
        population_size=10,
        sigma=0.25,
        learning_rate=0.1,
        num_elites=elites,
        noise=noise,
    )
    theta = X0
    for turn in turns(optimizer, X0, 4, value):
        z = drawn(optimizer, turn.population)
        expected = [theta + s * 0.25 * row for row in z for s in (1, -1)]
        np.testing.assert_allclose(turn.solutions, expected, 1e-6, 1e-7)
        theta = oracles.ars_step(theta, z, turn.fitness, elites or 3, 0.1)
        np.testing.assert_allclose(turn.after.mean, theta, 1e-6, 1e-7)


def test_the_scale_of_the_fitness_does_not_matter() -> None:
    """An invariance that the ranks of other methods have, too, but for the order."""

    def answer(factor: float) -> np.ndarray:
        result = gfopt.run(
            gfopt.ARS(population_size=8),
            lambda x: factor * jnp.sum((x - 1) ** 2),
            jnp.zeros(3),
            key=jax.random.key(0),
            generations=5,
        )
        return np.asarray(result.recommended)

    np.testing.assert_array_equal(answer(1.0), answer(1024.0))
    assert np.any(answer(1.0) != 0)


def test_refuses_more_elites_than_pairs() -> None:
    with pytest.raises(ValueError, match="num_elites must be a number from 1 to 4"):
        gfopt.ARS(population_size=8, num_elites=5)
