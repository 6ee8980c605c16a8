"""The 24 functions as the branches of one program."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from gfopt.problems import bbob, bbob_batch
from gfopt.problems.bbob_suite import switch
from gfopt.problems.bbob_suite.functions import BBOB_FUNCTIONS

DIMENSION, INSTANCES = 3, [1, 4]
POINTS = np.random.default_rng(0).uniform(-5, 5, (2, DIMENSION))
STACKS = {
    number: switch.uniform(bbob_batch(number, DIMENSION, INSTANCES))
    for number in BBOB_FUNCTIONS
}
several = jax.vmap(switch.value, in_axes=(None, 0, 0))


@pytest.fixture(scope="module")
def program() -> jax.stages.Compiled:
    with jax.enable_x64(True):
        return jax.jit(several).lower(np.int32(1), STACKS[1], POINTS).compile()


@pytest.mark.parametrize("number", STACKS)
def test_one_program_has_all_the_values(program, number: int) -> None:
    with jax.enable_x64(True):
        values = program(np.int32(number), STACKS[number], POINTS)
        for value, instance, x in zip(values, INSTANCES, POINTS, strict=True):
            expected = bbob(number, DIMENSION, instance)(x)
            np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_only_one_formula_is_computed() -> None:
    """Mapped over instances and points the switch is still one, not a select of all."""
    jaxpr = jax.make_jaxpr(several)(np.int32(1), STACKS[1], POINTS)
    (switch,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "cond")
    assert len(switch.params["branches"]) == 24
