"""lq-CMA-ES: fewer evaluations than CMA-ES, and never a wrong one told as true."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import cheap_jit
from scipy.stats import kendalltau

import gfopt
from gfopt.core.evaluate import judged
from gfopt.optimizers.cma import quadratic_model
from gfopt.optimizers.cma.lq_cma_es import LQCMAES


@pytest.fixture(autouse=True)
def double_precision() -> Any:
    with jax.enable_x64(True):
        yield


def sphere(x: jax.Array) -> jax.Array:
    return jnp.sum((x - 1) ** 2)


def mixed(size: int) -> np.ndarray:
    """Returns the root of an ellipsoid's matrix: partial sums, scales 1 to 100."""
    return np.tril(np.ones((size, size))) * 100 ** np.linspace(0, 1, size)[:, None]


def ellipsoid(x: jax.Array) -> jax.Array:
    return quadratic(x, mixed(x.size))


def quadratic(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.sum((matrix @ x) ** 2)


def test_needs_a_fraction_of_the_evaluations() -> None:
    """Medians of 8 runs in 4-D were 24 and 25; CMA-ES takes 500 and 900."""
    for matrix in (np.eye(4), mixed(4)):
        used = []
        for seed in range(8):
            result = gfopt.minimize(
                quadratic,
                np.full(4, 2.0),
                method=LQCMAES(),
                target=1e-8,
                seed=seed,
                args=(matrix,),  # one program for both
            )
            assert result.success
            used.append(result.nfev)
        assert np.median(used) < 45


def test_agreement_is_kendalls() -> None:
    optimizer = LQCMAES(population_size=8)
    rng = np.random.default_rng(0)
    points, fitness = rng.normal(size=(30, 3)), rng.normal(size=30)
    model = quadratic_model.fit(points, fitness, np.eye(3), 1.0)
    guess = np.asarray(quadratic_model.values(model, jnp.asarray(points)))
    for number, count in ((4, 15), (16, 15)):
        tau = optimizer._agreement(model, points, jnp.asarray(fitness), number, 8)
        expected = kendalltau(guess[:count], fitness[:count]).statistic
        np.testing.assert_allclose(tau, expected, atol=1e-12)
    fitness[2:] = np.inf
    assert optimizer._agreement(model, points, jnp.asarray(fitness), 2, 8) == 0


def walk(optimizer: LQCMAES, fun: Any, steps: int) -> list[tuple[Any, Any, Any]]:
    """Returns ``(state, population, fitness)`` of some steps."""
    ask, tell = cheap_jit(optimizer.ask), cheap_jit(optimizer.tell)
    decode = cheap_jit(jax.vmap(optimizer.decode, (None, 0)))
    state = optimizer.init(jax.random.key(0), jnp.ones(3))
    seen = []
    for step in range(steps):
        population = ask(jax.random.key(step), state)
        x = decode(state, population.members)
        fitness = jnp.where(population.active, jax.vmap(fun)(x), jnp.nan)
        seen.append((state, population, fitness))
        state, _ = tell(state, population, judged(fitness, population.active, ()))
    return seen


def test_a_generation_is_evaluated_to_its_end_where_the_model_is_wrong() -> None:
    """Noise cannot be ranked: every candidate is evaluated, once, and told as it is."""
    optimizer = LQCMAES(population_size=8, threshold=1.0)

    def noise(x: jax.Array) -> jax.Array:
        return jnp.sin(1e6 * jnp.sum(x))

    seen = walk(optimizer, noise, 60)
    opened = [i for i, (state, *_) in enumerate(seen) if state.num_wanted == 0]
    # the first generations, with few points, may be fitted by chance
    start, stop = opened[3], opened[4]
    active = sum(int(population.active.sum()) for _, population, _ in seen[start:stop])
    assert active == 8
    plain = gfopt.CMAES(population_size=8)
    last_state, population, fitness = seen[stop - 1]
    members = population.members
    told = np.where(population.active, fitness, members.fitness)
    whole = plain.ask(jax.random.key(0), last_state.cma)._replace(
        members=gfopt.optimizers.cma.cma_es.CMAESMember(members.z, members.y)
    )
    expected, _ = plain.tell(
        last_state.cma, whole, judged(jnp.asarray(told), whole.active, ())
    )
    np.testing.assert_allclose(seen[stop][0].cma.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(seen[stop][0].cma.sigma, expected.sigma, rtol=1e-12)


def test_candidates_of_a_step_are_those_that_the_model_ranks_first() -> None:
    for state, population, _ in walk(LQCMAES(population_size=12), ellipsoid, 40):
        members = population.members
        x = state.cma.mean + state.cma.sigma * members.y
        guess = np.where(
            members.is_evaluated, np.inf, quadratic_model.values(state.model, x)
        )
        active = np.asarray(population.active)
        assert active[0] and not np.any(active[1:] & ~active[:-1])
        assert not np.any(np.asarray(members.is_evaluated)[active])
        assert guess[active].max() <= guess[~active].min(initial=np.inf)


def test_failures_are_not_in_the_model() -> None:
    def half(x: jax.Array) -> jax.Array:
        return jnp.where(x[0] > 1.2, jnp.nan, sphere(x))

    seen = walk(LQCMAES(), half, 40)
    state = seen[-1][0]
    known = np.isfinite(state.fitness)
    failed = sum(
        int((population.active & ~jnp.isfinite(f)).sum()) for _, population, f in seen
    )
    asked = sum(int(population.active.sum()) for _, population, _ in seen)
    assert failed > 0 and known.sum() == min(asked - failed, known.size)
    np.testing.assert_allclose(
        state.fitness[known], jax.vmap(sphere)(state.points[known]), rtol=1e-10
    )
    result = gfopt.minimize(half, np.ones(3) * 1.1, method=LQCMAES(), target=1e-6)
    assert result.success


def test_batch_size_is_the_least_of_a_step() -> None:
    seen = walk(LQCMAES(population_size=10, batch_size=4), ellipsoid, 30)
    left = [int((~p.members.is_evaluated).sum()) for _, p, _ in seen]
    counts = [int(p.active.sum()) for _, p, _ in seen]
    assert all(count >= min(4, rest) for count, rest in zip(counts, left, strict=True))


def test_restarts_around_it_grow_its_population() -> None:
    def rastrigin(x: np.ndarray) -> float:
        x = np.asarray(x)  # on the host: the programs are half as large
        return float(10 * x.size + np.sum(x**2 - 10 * np.cos(2 * np.pi * x)))

    method = gfopt.Restarts(LQCMAES(sigma=2.0), bipop=False)
    results = [
        gfopt.minimize(rastrigin, [3.0, -2.0], method=method, budget=250, seed=seed)
        for seed in range(3)
    ]
    assert any(result.optimizer.tier > 0 for result in results)
    assert all(result.nfev == 250 for result in results)
    assert np.median([result.fun for result in results]) < 2.0
    assert np.median([rastrigin(result.recommended) for result in results]) < 4.0


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        LQCMAES(threshold=1.5)
    with pytest.raises(ValueError, match="batch_size"):
        LQCMAES(batch_size=0)
