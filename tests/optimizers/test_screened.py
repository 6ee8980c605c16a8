"""Only the best candidates by a cheap score are evaluated."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import cheap_jit

import gfopt
from gfopt.core.evaluate import decode_rows, judged
from gfopt.protocol import Optimizer

KEY = jax.random.key(2)
X0 = jnp.array([1.0, -0.5, 0.25])


def rough(x: Any) -> Any:
    """Near to what is wanted, and undefined in a corner."""
    return jnp.where(x[0] > 1.2, jnp.nan, jnp.sum((x - 0.1) ** 2))


METHODS: dict[str, Optimizer] = {
    "pairs": gfopt.OpenES(population_size=10, sigma=0.5),
    "seeds": gfopt.DeepGA(population_size=10, num_parents=3, sigma=0.5),
    "vectors": gfopt.CMAES(population_size=10, sigma=0.5),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_that_of_a_method_whose_other_candidates_failed(name: str) -> None:
    inner = METHODS[name]
    method = gfopt.Screened(inner, rough, share=0.35)

    @cheap_jit
    def step() -> Any:
        state = method.init(KEY, X0)
        population = method.ask(KEY, state)
        shown = decode_rows(method, state, population.members)
        values = jnp.sum(shown**2, axis=1)
        new, _ = method.tell(state, population, judged(values, population.active, ()))
        asked = inner.ask(KEY, state)
        candidates = decode_rows(inner, state, asked.members)
        chosen = jnp.argsort(jax.vmap(rough)(candidates))[:4]  # of ten, .35
        kept = jnp.zeros(10, bool).at[chosen].set(True)
        found = judged(jnp.sum(candidates**2, axis=1), kept, ())
        told, _ = inner.tell(state, asked, found)
        return population.active, shown[:4], candidates[chosen], new, told

    active, shown, best, new, told = step()
    assert active.tolist() == [True] * 4 + [False] * 6
    np.testing.assert_array_equal(shown, best)
    # sums over rows in another order: the last bit of a matrix may differ
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, new, told)


def test_it_saves_evaluations_where_the_score_says_something() -> None:
    def costly(x: Any) -> Any:
        return jnp.sum(x**2)

    def reached(method: Optimizer, generations: int) -> Any:
        @cheap_jit
        @jax.vmap
        def study(key: jax.Array) -> Any:
            x0 = jnp.full(8, 2.0)
            run = gfopt.run(method, costly, x0, key=key, generations=generations)
            return run.history["nfev"][-1], costly(run.recommended)

        return study(jax.random.split(KEY, 8))

    alone = gfopt.DeepGA(population_size=16, num_parents=4, sigma=0.1)
    wide = gfopt.DeepGA(population_size=64, num_parents=4, sigma=0.1)
    screened = gfopt.Screened(wide, lambda x: jnp.sum((x - 0.2) ** 2))
    count, plain = reached(alone, 20)
    other, found = reached(screened, 20)
    np.testing.assert_array_equal(count, other)
    assert np.max(found) < np.min(plain)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"inner": 1}, "inner"),
        ({"score": 1}, "score"),
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
    ],
)
def test_wrong_arguments(words: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{match}"):
        gfopt.Screened(**{"inner": gfopt.CMAES(), "score": rough} | words)
