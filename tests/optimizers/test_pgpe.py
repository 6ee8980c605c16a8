"""PGPE and ClipUp beside their oracles."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from optimizers.peers import X0, turns, uneven

import gfopt
from gfopt import shaping


def drawn(optimizer: Any, population: Any) -> np.ndarray:
    """Returns the noise of each pair, ``[P / 2, D]``."""
    draw = jax.vmap(lambda seed: optimizer.noise.sample(jnp.zeros(len(X0)), seed))
    return np.asarray(jax.jit(draw)(population.members.seed[::2]), np.float64)


def value(step: int, row: int, x: np.ndarray) -> float:
    """An uneven quadratic; two failures, and ties."""
    if (step, row) in {(2, 1), (2, 4)}:
        return np.nan
    return round(uneven(x), 0 if step == 3 else 9)


@pytest.mark.parametrize("shape", ["ranks", "raw"])
@pytest.mark.parametrize("cached", [True, False])
def test_steps_as_its_oracle(shape: str, cached: bool) -> None:
    shapes = {
        "ranks": (shaping.centered_rank, oracles.centered_ranks),
        "raw": (shaping.raw, lambda fitness: -fitness),
    }
    ours, own = shapes[shape]
    optimizer = gfopt.PGPE(
        population_size=10,
        sigma=0.5,
        learning_rate=0.2,
        noise=gfopt.gaussian(cached),
        shaping=ours,
    )
    oracle = oracles.PGPE(X0, np.full(4, 0.5), oracles.ClipUp(0.2, 0.4), own)
    for turn in turns(optimizer, X0, 6, value):
        z = drawn(optimizer, turn.population)
        np.testing.assert_allclose(turn.solutions, oracle.candidates(z), 5e-4, 5e-4)
        oracle.tell(z, turn.fitness)
        np.testing.assert_allclose(turn.after.mean, oracle.mean, 1e-6, 1e-7)
        np.testing.assert_allclose(turn.after.std, oracle.std, 1e-6)
    assert np.ptp(oracle.std) > 1e-3


def test_no_deviation_changes_by_more_than_a_share() -> None:
    optimizer = gfopt.PGPE(std_learning_rate=1e4, max_std_change=0.125)
    (turn,) = turns(optimizer, X0, 1, value)
    ratio = turn.after.std / turn.before.std
    assert set(np.round(ratio, 6)) <= {0.875, 1.125}


def test_signs_hold_the_deviations() -> None:
    optimizer = gfopt.PGPE(population_size=10, sigma=0.5, noise=gfopt.rademacher())
    oracle = oracles.PGPE(
        X0, np.full(4, 0.5), oracles.ClipUp(0.1, 0.2), oracles.centered_ranks
    )
    for turn in turns(optimizer, X0, 3, value):
        oracle.tell(drawn(optimizer, turn.population), turn.fitness)
        np.testing.assert_allclose(turn.after.mean, oracle.mean, 1e-6, 1e-7)
        np.testing.assert_array_equal(turn.after.std, np.full(4, 0.5))
        np.testing.assert_allclose(oracle.std, 0.5)  # the paper's gradient is 0, too
    for cls in (gfopt.PGPE, gfopt.SNES):
        with pytest.raises(ValueError, match="std_learning_rate must be None.*0.1"):
            cls(noise=gfopt.rademacher(), std_learning_rate=0.1)


def test_clip_up_steps_as_its_oracle() -> None:
    with jax.enable_x64(True):
        optimizer, oracle = (
            gfopt.clip_up(0.1, 0.25, 0.8),
            oracles.ClipUp(0.1, 0.25, 0.8),
        )
        theta = {"w": jnp.asarray([[1.0, 2.0]]), "b": jnp.asarray(-3.0)}
        state = optimizer.init(theta)
        rng = np.random.default_rng(0)
        lengths = []
        for step in range(12):
            g = np.zeros(3) if step == 4 else rng.normal(size=3) + [5, 5, 0]
            gradient = {"w": jnp.asarray([g[:2]]), "b": jnp.asarray(g[2])}
            updates, state = optimizer.update(gradient, state, theta)
            found = np.append(updates["w"], updates["b"])
            np.testing.assert_allclose(found, oracle.step(g), 1e-12)
            lengths.append(np.linalg.norm(found))
        assert lengths[0] == pytest.approx(0.1)
        assert max(lengths) == pytest.approx(0.25)


def test_clip_up_is_an_optax_optimizer() -> None:
    assert gfopt.clip_up(0.1) is gfopt.clip_up(0.1)
    chained = optax.chain(gfopt.clip_up(0.1), optax.scale_by_schedule(lambda n: 0.5**n))
    state = chained.init(jnp.zeros(2))
    gradient = jnp.array([3.0, 4.0])
    first, state = chained.update(gradient, state)
    np.testing.assert_allclose(first, [-0.06, -0.08], rtol=1e-6)
    second, _ = chained.update(gradient, state)
    np.testing.assert_allclose(second, [-0.057, -0.076], rtol=1e-6)  # 1.9 / 2 of it
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="learning_rate must be"):
            gfopt.clip_up(wrong)
    with pytest.raises(ValueError, match="momentum must be"):
        gfopt.clip_up(0.1, momentum=1.5)
