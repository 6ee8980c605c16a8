"""Unrolled problems: who goes on from where, and the system of influences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gfopt
from gfopt.problems import InfluenceBalancing, unrolled


@pytest.mark.parametrize("evaluator", [gfopt.vmapped(), gfopt.chunked(3)], ids=str)
def test_each_member_goes_on_from_its_own_state(evaluator) -> None:
    """Members count what they saw; an episode of three parts begins again."""

    def unroll(x, inner):
        return jnp.sum(x) * 0, {"sum": inner["sum"] + x}

    objective = unrolled(
        unroll, {"sum": jnp.zeros(2)}, population_size=8, num_unrolls=3
    )
    optimizer = gfopt.RandomSearch(population_size=8)
    for generations in (1, 2, 3, 4):
        result = gfopt.run(
            optimizer,
            objective,
            jnp.ones(2),
            key=jax.random.key(0),
            generations=generations,
            evaluator=evaluator,
        )
        inner = np.asarray(result.context.inner["sum"])
        assert inner.shape == (8, 2) and result.context.part == generations % 3
        if generations == 3:
            assert np.all(inner == 0)
        else:
            assert len(np.unique(inner[:, 0])) == 8


def test_a_row_is_what_a_context_is_indexed_by() -> None:
    objective = gfopt.Objective(
        lambda x, context, row: context[row] + 0 * jnp.sum(x),
        takes_row=True,
        context=jnp.arange(6.0)[::-1],
    )
    for evaluator in (gfopt.vmapped(), gfopt.chunked(1), gfopt.sharded()):
        result = gfopt.run(
            gfopt.OpenES(population_size=6),
            objective,
            jnp.ones(2),
            key=jax.random.key(0),
            generations=1,
            evaluator=evaluator,
        )
        assert result.history["fitness"][0] == 0
    found = gfopt.minimize(objective, jnp.ones(2), method="open_es", budget=64)
    assert found.fun == 0
    with pytest.raises(TypeError, match="objective must be a JAX function to take its"):
        gfopt.minimize(objective, jnp.ones(2), budget=10, evaluator=gfopt.host())


def test_influences_balance() -> None:
    problem = InfluenceBalancing()
    a = (np.eye(23) + np.eye(23, k=1)) / 2
    b = np.where(np.arange(23) < 10, 1.0, -1.0)
    state, losses = np.zeros(23), []
    for _ in range(30):
        state = a @ state + 0.3 * b
        losses.append((state[0] - 1) ** 2 / 2)
    found = problem.loss(jnp.float32(0.3), num_unrolls=3)
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)
    rest = np.linalg.solve(np.eye(23) - a, problem.answer * b)
    np.testing.assert_allclose(rest[0], 1)
    with pytest.raises(ValueError, match="num_positive must be a number from 1 to 3"):
        InfluenceBalancing(num_states=7, num_positive=4)
