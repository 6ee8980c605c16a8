"""Methods for networks at their defaults, on a small network that reads digits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gfopt
from gfopt import registry
from gfopt.driver.setup.setup import setup
from gfopt.driver.step import population_size
from gfopt.problems import digits, mlp

BUDGET = 6400
RANDOM = 0.3  # what random search reaches at most, of three seeds
NETWORKS = [row.name for row in registry.METHODS.values() if "networks" in row.domain]


def learnt(name: str, **words: Any) -> float:
    """Returns the share of the held-out images that are read rightly in the end."""
    task = digits()
    made = setup(name, mlp(jax.random.key(7), (64, 32, 10)), **words)

    @jax.jit
    def accuracy(optimizer: Any, x0: Any) -> jax.Array:
        state = jax.eval_shape(optimizer.init, jax.random.key(0), x0)
        result = gfopt.run(
            optimizer,
            gfopt.Objective(task),
            x0,
            key=jax.random.key(1),
            generations=BUDGET // population_size(optimizer, state),
            batches=task.batches,
        )
        return task.accuracy(result.recommended)

    return float(accuracy(made.optimizer, made.x0))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_method_for_networks_trains_one_at_its_defaults(name: str) -> None:
    """A population of 1,000 left deep_ga 19 generations, and .39 of the digits."""
    assert learnt(name) > 2 * RANDOM


def test_random_search_does_not() -> None:
    assert learnt("random_search") < RANDOM


def test_what_moves_no_network_says_what_to_take() -> None:
    with pytest.raises(ValueError, match=r"method must.*'cbo'.*take consensus_hopping"):
        setup("cbo", jnp.zeros(1001))
    setup("cbo", jnp.zeros(1000))
    options = {"diffusion": 0.0, "floor": 0.05, "dt": 0.5}  # as the message says
    assert learnt("cbo", sigma0=0.05, options=options) > 2 * RANDOM
