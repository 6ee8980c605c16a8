"""One meaning of a name: the same call through two doors, and the units of columns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt

X0 = jnp.array([1.0, -0.5])


def bowl(x: jax.Array) -> jax.Array:
    return jnp.sum((x - 0.5) ** 2)


@pytest.mark.parametrize("sense", [1, -1])
def test_both_doors_keep_the_same_history(sense: int) -> None:
    method = gfopt.CMAES(sigma=0.3)
    fun = gfopt.Objective(lambda x: sense * bowl(x), maximize=sense < 0)
    one = gfopt.run(method, fun, X0, key=jax.random.key(0), generations=8)
    other = gfopt.minimize(fun, X0, method=method, seed=0, budget=1 + 8 * 6)
    assert one.history.keys() == other.history.keys()
    for name, column in other.history.items():
        ours = np.asarray(one.history[name])
        if name == "nfev":  # minimize evaluates x0, too,
            np.testing.assert_array_equal(ours, column - 1)
        elif name == "best":  # which may be the best for a while
            first = sense * float(bowl(X0))
            better = np.fmin if sense > 0 else np.fmax
            np.testing.assert_array_equal(better(ours, np.float32(first)), column)
        else:
            np.testing.assert_array_equal(ours, column)
    np.testing.assert_array_equal(one.recommended, other.recommended)
    assert not hasattr(one, "x") and not hasattr(one, "status")


@pytest.mark.parametrize("name", ["cma_es", "sep_cma_es", "snes"])
@pytest.mark.parametrize("sigma0", [0.3, [0.1, 0.9]])
@pytest.mark.parametrize("bounds", [None, (-5, 5)])
def test_step_sizes_are_in_units_of_x(name, sigma0, bounds) -> None:
    words = {"sigma0": sigma0, "bounds": bounds, "seed": 0, "budget": 20}
    found = gfopt.minimize(lambda x: float(bowl(x)), [0, 0], method=name, **words)
    column = "sigma" if "sigma" in found.history else "max_std"
    assert 0.2 < found.history[column][0] < 0.45  # 0.3 is the geometric mean of both
