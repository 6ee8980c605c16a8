"""The (1+1)-ES beside its oracle, and its speed on the sphere."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from optimizers.peers import X0, turns, uneven
from programs import cheap_jit

import gfopt


def test_steps_as_its_oracle() -> None:
    optimizer = gfopt.OnePlusOneES(sigma=0.5, damping=1.5)
    oracle = None

    def value(step: int, row: int, x: np.ndarray) -> float:
        return np.nan if step in (0, 4, 5) else uneven(x)

    for step, turn in enumerate(turns(optimizer, X0, 40, value)):
        (fitness,) = turn.fitness
        if step == 1:  # the first value makes the first parent
            x = turn.solutions[0]
            oracle = oracles.OnePlusOneES(x, fitness, sigma=0.5, damping=1.5)
        elif step > 1:
            # the seed's noise, at the scale that the candidate was made with
            with jax.enable_x64(True):
                seed = turn.population.members.seed[0]
                z = np.asarray(gfopt.gaussian().sample(jnp.asarray(X0), seed))
            moved = (turn.solutions[0] - oracle.x) / oracle.sigma
            # sigma is rounded to 12 bits for the candidate
            np.testing.assert_allclose(moved, z, rtol=2**-12, atol=1e-9)
            oracle.tell(turn.solutions[0], fitness)
        if step == 0:
            np.testing.assert_array_equal(turn.after.parent, X0)
        if oracle is not None:
            np.testing.assert_array_equal(turn.after.parent, oracle.x)
            assert turn.after.fitness == oracle.fitness
            np.testing.assert_allclose(turn.after.sigma, oracle.sigma, 1e-12)
    assert oracle.fitness < uneven(X0)


def test_damping_is_the_root_of_the_dimension_by_default() -> None:
    first, second = turns(gfopt.OnePlusOneES(), X0, 2, lambda step, row, x: step)
    assert first.after.sigma == 0.3
    expected = 0.3 * np.exp(-0.2 / np.sqrt(len(X0) + 1))
    np.testing.assert_allclose(second.after.sigma, expected, 1e-12)


def test_many_failures_in_a_row_are_borne() -> None:
    """The start is the corner of a quarter where there are values."""

    def quarter(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.all(x > 1), jnp.sum((x - 1.5) ** 2), jnp.nan)

    x0 = np.full(2, 1.001)
    result = gfopt.minimize(quarter, x0, method="one_plus_one", sigma0=1.0)
    assert result.success and result.fun < 1e-15, result.message


def test_a_plateau_is_crossed_without_end() -> None:
    """Ties succeed, so sigma grows: up to its limit."""

    @cheap_jit
    def last(key: jax.Array) -> jax.Array:
        state = gfopt.run(
            gfopt.OnePlusOneES(sigma=1.0),
            lambda x: jnp.float32(0.0),
            jnp.ones(3),
            key=key,
            generations=400,
        ).state
        return jnp.append(state.parent, state.sigma)

    found = last(jax.random.key(0))
    assert np.all(np.isfinite(found)) and found[-1] == np.float32(1e20)


def test_converges_linearly_on_the_sphere() -> None:
    """BBOB 2009, f1 in 20-D to 1e-8, uniform starts: 1480 evaluations (Auger 2009)."""

    def hit(key: jax.Array) -> jax.Array:
        ends = jax.random.split(key)
        x0, x_opt = (jax.random.uniform(k, (20,), minval=-4, maxval=4) for k in ends)
        result = gfopt.run(
            gfopt.OnePlusOneES(sigma=2.0),
            lambda x: jnp.sum((x - x_opt) ** 2),
            x0,
            key=key,
            generations=2500,
        )
        return jnp.argmax(result.history["fitness"] <= 1e-8)

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 31)
        evaluations = np.asarray(cheap_jit(jax.vmap(hit))(keys))
    assert evaluations.min() > 0  # all arrived
    assert 0.8 < np.median(evaluations) / 1480 < 1.2
