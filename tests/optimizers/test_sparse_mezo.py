"""Sparse MeZO beside its oracle, and which weights move."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.flatten_util import ravel_pytree
from programs import cheap_jit

import gfopt
from gfopt.core.evaluate import judged
from gfopt.lazy import lazy


def weights() -> dict[str, jax.Array]:
    """A matrix of five sizes, one of zeros, and a vector."""
    keys = jax.random.split(jax.random.key(3), 2)
    return {
        "w": jax.random.normal(keys[0], (10, 20)),
        "zeros": jnp.zeros((2, 3)),
        "bias": jax.random.normal(keys[1], (4,)),
    }


def loss(w: Any) -> Any:
    """Pulls every number to 1."""
    return sum(jnp.sum((leaf - 1) ** 2) for leaf in jax.tree.leaves(w))


@pytest.mark.parametrize(
    ("noise", "size"), [(gfopt.gaussian(), 2), (gfopt.rademacher(), 4)]
)
def test_steps_as_its_oracle(noise: gfopt.noise.Noise, size: int) -> None:
    rate, eps = 0.01, 2.0**-6
    method = gfopt.SparseMeZO(
        rate, eps=eps, moving=0.5, noise=noise, population_size=size
    )
    with jax.enable_x64(True):
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), weights())
        state = method.init(jax.random.key(0), start)
        tell = cheap_jit(method.tell)
        for count in range(3):
            population = method.ask(jax.random.key(count), state)
            theta = ravel_pytree(state.mean)[0]
            most = jax.tree.map(
                lambda leaf, h: jnp.full_like(leaf, h), state.mean, state.limits
            )
            limits = np.asarray(ravel_pytree(most)[0])
            fitness, seeds = [], population.members.seed
            for row in range(size):
                member = jax.tree.map(lambda leaf, r=row: leaf[r], population.members)
                made = lazy.materialise(method.decode(state, member))
                z = ravel_pytree(noise.sample(state.mean, seeds[row]))[0]
                change = np.where(np.abs(theta) <= limits, eps * z, 0)
                change = change * population.members.sign[row]
                moved = ravel_pytree(made)[0] - theta
                np.testing.assert_allclose(moved, change, rtol=1e-9, atol=1e-12)
                fitness.append(float(loss(made)))
            found = judged(jnp.asarray(fitness), population.active, ())
            total = np.zeros(theta.size)
            for i in range(0, size, 2):  # each direction alone, from the same weights
                z = np.asarray(ravel_pytree(noise.sample(start, seeds[i]))[0], float)
                pair = (fitness[i], fitness[i + 1])
                step = oracles.sparse_mezo_step(
                    np.asarray(theta), z, pair, eps, rate, limits
                )
                total += (step - theta) / (size // 2)
            state, info = tell(state, population, found)
            after = ravel_pytree(state.mean)[0]
            np.testing.assert_allclose(after, theta + total, rtol=1e-7, atol=1e-10)
            assert not info.skipped


def test_large_weights_keep_every_bit() -> None:
    start = weights()
    method = gfopt.SparseMeZO(3e-3, moving=0.25)
    result = gfopt.run(method, loss, start, key=jax.random.key(0), generations=200)
    moves = result.recommended["w"] != start["w"]
    order = jnp.argsort(jnp.abs(start["w"]).reshape(-1))
    assert set(np.flatnonzero(moves)) == set(np.asarray(order[: moves.sum()]))
    assert moves.sum() == 50
    assert jnp.all(result.recommended["zeros"] != 0) and jnp.all(
        result.recommended["bias"] != start["bias"]
    )
    assert loss(result.recommended) < loss(start) - 10
    # beyond its limit a weight stays: none of the small ones is far beyond
    assert (
        jnp.max(jnp.abs(result.recommended["w"][moves])) < 2 * result.state.limits["w"]
    )


def test_narrow_weights_are_rounded_at_random() -> None:
    start = {"w": jnp.full((64, 64), 0.5, jnp.bfloat16)}
    step = {}
    for rounding in ("nearest", "stochastic"):
        method = gfopt.SparseMeZO(
            1e-6, moving=1.0, rounding=rounding, noise=gfopt.rademacher()
        )
        state = method.init(jax.random.key(0), start)
        population = method.ask(jax.random.key(1), state)
        found = judged(jnp.array([0.1, -0.1]), population.active, ())
        mean = cheap_jit(method.tell)(state, population, found)[0].mean["w"]
        step[rounding] = int((mean != start["w"]).sum())
    assert step["nearest"] == 0 < step["stochastic"]


def test_refuses_what_it_cannot_do(tmp_path: Any) -> None:
    for wrong in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"moving must be .*got {wrong}"):
            gfopt.SparseMeZO(moving=wrong)
    with pytest.raises(TypeError, match="noise must be a gfopt.noise.Noise"):
        gfopt.SparseMeZO(noise=gfopt.low_rank())
    with pytest.raises(ValueError, match="method must move all weights to be logged"):
        gfopt.minimize(
            loss, weights(), method="sparse_mezo", budget=10, log=tmp_path / "run.log"
        )
