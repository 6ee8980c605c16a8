"""Noise that is cached against noise that is drawn again: one method, two forms."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.core.evaluate import decode_rows, judged

X0 = {"w": jnp.linspace(-1, 1, 130 * 70).reshape(130, 70), "b": jnp.ones(5000)}
METHODS = [
    gfopt.OpenES(population_size=12),
    gfopt.OpenES(population_size=7, antithetic=False, noise=gfopt.rademacher()),
    gfopt.PGPE(population_size=12),
    gfopt.SNES(population_size=7),
    gfopt.SNES(population_size=12, antithetic=True),
    gfopt.ARS(population_size=12),
]


def form(optimizer: Any, cached: bool) -> Any:
    """Returns the method in one of its forms."""
    noise = dataclasses.replace(optimizer.noise, cached=cached)
    return dataclasses.replace(optimizer, noise=noise)


@pytest.mark.parametrize("optimizer", METHODS, ids=lambda m: type(m).__name__)
def test_both_forms_agree(optimizer: Any) -> None:
    def step(optimizer: Any) -> Any:
        state = optimizer.init(jax.random.key(0), X0)
        population = optimizer.ask(jax.random.key(1), state)
        solutions = decode_rows(optimizer, state, population.members)
        fitness = jnp.sum(solutions["b"], axis=1) + jnp.sum(
            solutions["w"] ** 2, axis=(1, 2)
        )
        found = judged(fitness, population.active, ())
        state, _ = optimizer.tell(state, population, found)
        one = jax.vmap(lambda m: optimizer.decode(state, m))(population.members)
        return solutions, one, state

    step = jax.jit(step)
    held, drawn = step(form(optimizer, True)), step(form(optimizer, False))
    for a, b in zip(jax.tree.leaves(held[:2]), jax.tree.leaves(drawn[:2]), strict=True):
        # candidates: the same bits before the update, which rounds its sums its way
        np.testing.assert_allclose(a, b, 1e-6, 1e-6)
    np.testing.assert_array_equal(held[0]["w"], drawn[0]["w"])
    for a, b in zip(jax.tree.leaves(held[2]), jax.tree.leaves(drawn[2]), strict=True):
        np.testing.assert_allclose(a, b, 1e-6, 1e-6)
    assert np.any(held[2].mean["b"] != X0["b"])


def test_which_form_runs_is_said() -> None:
    small, large = jnp.zeros(1000), jax.ShapeDtypeStruct((1_000_000,), jnp.float32)
    method = gfopt.PGPE(population_size=64)
    assert method.noise_form(small) == "cached, 64 x 1000 numbers"
    assert method.noise_form(large) == "drawn again from seeds"
    assert form(method, False).noise_form(small) == "drawn again from seeds"
    assert form(method, True).noise_form(large).startswith("cached")
    signs = gfopt.OpenES(noise=gfopt.rademacher())
    assert signs.noise_form(small) == "cached, 64 x 1000 numbers"
    middle = jnp.zeros(20_000)
    assert signs.noise_form(middle) == "drawn again from seeds"
    result = gfopt.minimize(
        lambda x: jnp.sum(x**2), jnp.ones(3), method="open_es", budget=128
    )
    assert result.noise == "cached, 64 x 3 numbers"
    assert "noise  cached, 64 x 3" in str(result)
    plain = gfopt.minimize(
        lambda x: jnp.sum(x**2), jnp.ones(3), method="cma_es", budget=14
    )
    assert plain.noise is None and "noise" not in str(plain)
    with pytest.raises(TypeError, match="cached must be True, False or None; got 1"):
        gfopt.gaussian(cached=1)  # type: ignore[arg-type]
